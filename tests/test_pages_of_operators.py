"""The pages for operators say what the code does: commands and options, check ids, log records."""

from __future__ import annotations

import ast
import json
import logging
import logging.config
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.recorder import Recorder
from support.services import MakeService

from identity_client import EventKind
from identity_client.cli.commands import cli
from identity_client.cli.doctor.checks import CHECKS
from identity_client.server import IdentityServer

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs"
PLACEHOLDER = re.compile(r"%(?:s|r|d|g|\.\d+f)")


def page(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def sections(text: str) -> dict[str, str]:
    """Return the text under each heading that is underlined with dashes."""
    parts = re.split(r"^(\S.*)\n-+\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


# --- the command line ---


def commands() -> Iterator[tuple[str, click.Command]]:
    assert isinstance(cli, click.Group)
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if name not in ("serve", "demo"):
            yield name, command


@pytest.mark.parametrize(("name", "command"), list(commands()), ids=lambda value: str(value)[:20])
def test_each_command_has_a_section_with_its_options_and_an_example(
    name: str, command: click.Command
) -> None:
    text = page("reference/command-line.rst")
    section = sections(text)[name]
    assert re.search(rf"^   .*identity-client {name}\b", section, re.MULTILINE)
    common = text.partition("\ntoken\n-----")[0]
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--"):
                assert f"``{option}``" in section + common


def test_the_list_of_commands_says_what_each_command_says_of_itself() -> None:
    for name, command in commands():
        assert command.help, name
        assert len(command.help.splitlines()[0]) <= 90


def test_no_example_puts_a_token_into_an_argument() -> None:
    text = page("reference/command-line.rst") + page("guides/doctor.rst")
    assert not re.search(r"\$\(identity-client token|-H .?Authorization|--header .?Auth", text)


# --- the doctor ---


def test_each_check_has_an_anchor_and_each_anchor_a_check() -> None:
    text = page("guides/doctor.rst")
    titles = dict(re.findall(r"^\.\. _doctor-id\d+:\n\n(ID\d+): (.*)\n~+$", text, re.MULTILINE))
    anchors = re.findall(r"^\.\. _doctor-(id\d+):$", text, re.MULTILINE)
    assert titles == {check.id: check.title for check in CHECKS}
    assert [anchor.upper() for anchor in anchors] == list(titles)


def test_the_recorded_doctor_shows_checks_that_exist_and_the_failure_of_its_page() -> None:
    text = (PAGES / "diagrams" / "doctor-light.svg").read_text(encoding="utf-8")
    shown = set(re.findall(r"\bID\d{3}\b", text))
    assert len(shown) > 10
    assert shown <= {check.id for check in CHECKS}
    assert "401" in text


# --- log records ---


def templates() -> set[str]:
    """Return the texts in the code that log records are made of."""
    found: set[str] = set()
    for path in sorted((ROOT / "identity_client").rglob("*.py")):
        if {"cli", "server"} & set(path.relative_to(ROOT).parts):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if PLACEHOLDER.search(node.value) and " " in node.value.strip():
                    found.add(node.value)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                first = node.args[0] if node.args else None
                if node.func.attr == "warning" and isinstance(first, ast.Constant):
                    found.add(str(first.value))
    return found


def test_each_log_record_is_in_the_table_and_no_other() -> None:
    rows = re.findall(
        r"^   \* - (\w+).*\n     - ``(.+)``\n     - \S", page("reference/logs.rst"), re.MULTILINE
    )
    documented = {template for _, template in rows}
    without_placeholder = (
        "client secret regenerated; instances that hold the old secret will be rejected until "
        "they reload it"
    )
    assert documented == templates() | {without_placeholder}
    levels = {level for level, _ in rows}
    assert levels == {"DEBUG", "INFO", "WARNING", "ERROR"}


def test_while_all_is_well_info_has_registration_and_state_only(
    api: IdentityServer, make_service: MakeService, caplog: pytest.LogCaptureFixture
) -> None:
    api.backend.change(token_lifetime=2.0)
    with caplog.at_level(logging.INFO, "identity_client"):
        service = make_service(api)
        recorder = Recorder(service)
        service.start()
        recorder.wait_for(EventKind.TOKEN_ISSUED, 3)
        service.close()
    ours = [record for record in caplog.records if record.name == "identity_client"]
    assert [(record.levelname, record.getMessage()) for record in ours] == [
        ("INFO", "orders: registered with identity-api: client 'orders' (created)"),
        ("INFO", "orders: state PENDING -> READY"),
        ("INFO", "orders: state READY -> CLOSED"),
    ]


def test_the_example_of_json_logs_writes_the_fields_of_records(
    api: IdentityServer,
    make_service: MakeService,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = ROOT / "examples" / "logging"
    monkeypatch.syspath_prepend(folder)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        logging.config.dictConfig(json.loads((folder / "logging.json").read_text()))
        service = make_service(api)
        service.get_access_token()
        service.close()
        logging.getLogger("other").error("failed", exc_info=ValueError("why"))
    finally:
        root.handlers[:], root.level = before, level
        sys.modules.pop("json_formatter", None)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    ours = [line for line in lines if line["logger"] == "identity_client"]
    assert ours[0]["identity_event"] == "registered"
    assert ours[0]["identity_service"] == "orders"
    assert {line["level"] for line in ours} == {"INFO"}
    assert "ValueError: why" in lines[-1]["exception"]
