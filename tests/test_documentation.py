"""The pages say what the code does: names, messages, settings, figures and diagrams."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from peers import readme
from peers.rows import BY_ID

import identity_client
from identity_client import IdentityBootstrapConfig, errors

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.rst", *sorted(DOCS.glob("**/*.rst"))]
README = (ROOT / "README.rst").read_text(encoding="utf-8")

# The exports that the README of @xemahq/identity-client lists.
XEMAHQ = """
    IdentityApiClient IdentityApiError IdentityBootstrapModule IdentityBootstrapService
    IDENTITY_BOOTSTRAP_CONFIG IdentityApiClientOptions IdentityBootstrapConfig
    IdentityBootstrapModuleAsyncOptions RegisterServiceRequest RegisterServiceResponse
    ServiceCredentials ServiceType VerifyMembershipParams VerifyMembershipResponse
    EnsureSystemOrgRequest Organization ApiEnvelope
"""

# Variables of the server in front of Keycloak, of ``exec``, of the tests and of frameworks.
OTHER_VARIABLES = re.compile(
    r"IDENTITY_(ACCESS_TOKEN\w*|KEYCLOAK_\w+|CLIENT_TEST_\w+|BOOTSTRAP_CONFIG|AUTOSTART|SERVICE|CLIENT)$"
)

# What the operating system says in messages.
OF_THE_SYSTEM = {"connection refused", "connection reset by peer"}


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def test_the_readme_has_at_most_130_lines() -> None:
    assert len(README.splitlines()) <= 130


def test_the_comparison_of_the_readme_has_the_figures_of_the_last_run_or_none() -> None:
    file = readme.FIGURES / "peers.json"
    table = readme.TABLE.search(README)
    if table is None:
        assert not file.exists(), "python -m peers.readme writes the table"
    else:
        results = json.loads(file.read_text(encoding="utf-8"))
        assert table[0].rstrip() == readme.comparison(results).rstrip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_references_to_the_benchmark_name_rows_that_exist(page: Path) -> None:
    ids = re.findall(r":ref:`peers-([\w-]+)`", page.read_text(encoding="utf-8"))
    assert set(ids) <= BY_ID.keys()


def test_each_sentence_of_the_comparison_has_its_row() -> None:
    answers = re.findall(
        r"^     - ((?:.+\n)(?:       .+\n)*)", text_of("explanation/comparison.rst"), re.MULTILINE
    )
    assert len(answers) > 5
    assert [a for a in answers[1:] if ":ref:`peers-" not in a] == []


def names_on_pages() -> set[str]:
    directive = re.compile(r"\.\. (?:autoclass|autoexception|autofunction|autodata):: ([\w.]+)")
    found = [directive.findall(page.read_text(encoding="utf-8")) for page in PAGES]
    return {name for names in found for name in names}


def test_each_public_name_is_on_a_page_and_nothing_else() -> None:
    # The other public modules are compared when the site is built (docs/_ext/door_modules.py).
    documented = {
        name.removeprefix("identity_client.")
        for name in names_on_pages()
        if re.fullmatch(r"identity_client\.\w+", name)
    }
    assert documented == set(identity_client.__all__)


@pytest.mark.parametrize("name", [n for n in dir(errors) if n.endswith(("Error", "Timeout"))])
def test_each_error_has_an_anchor_in_troubleshooting(name: str) -> None:
    assert f".. _error-{name}:" in text_of("troubleshooting.rst")


def messages_of_the_package() -> Iterator[str]:
    """Yield the strings of the package; ``…`` stands where a value is put in."""
    for path in (ROOT / "identity_client").glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.sub(r"%(\.\d)?[a-z]", "…", node.value)
            if isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )


def test_the_messages_in_troubleshooting_are_those_of_the_code() -> None:
    known = "\n".join(messages_of_the_package())
    quoted = re.findall(r"^   \* - ``(.+)``$", text_of("troubleshooting.rst"), re.MULTILINE)
    assert len(quoted) > 40
    missing = []
    for message in quoted:
        for part in re.split(r"…|: |; |\(|\)|\d{3}", message):
            words = part.strip()
            if len(words) > 12 and words not in known and words not in OF_THE_SYSTEM:
                missing.append((words, message))
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_variable_on_a_page_is_a_setting(page: Path) -> None:
    fields = attrs.fields(IdentityBootstrapConfig)
    known = {field.metadata[key] for field in fields for key in ("env", "alias")} - {None}
    found = re.findall(
        r"\b(?<!_)(?:IDENTITY|SERVICE)_[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")
    )
    unknown = {name for name in found if not {name, name.removesuffix("_FILE")} & known}
    assert {name for name in unknown if not OTHER_VARIABLES.match(name)} == set()


def test_each_export_of_the_typescript_package_has_its_place() -> None:
    page = text_of("coming-from-xemahq.rst")
    assert [name for name in XEMAHQ.split() if f"   * - ``{name}``\n" not in page] == []


def test_the_diagrams_are_those_that_the_script_draws(tmp_path: Path) -> None:
    script = [sys.executable, str(DOCS / "diagrams" / "draw.py"), str(tmp_path)]
    subprocess.run(script, check=True)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 8
    for path in drawn:
        kept = DOCS / "diagrams" / path.name
        assert kept.read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_picture_has_a_text_and_each_light_one_its_dark_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"^\.\. (?:image|figure):: (\S+)\n((?:   .*\n)*)", text, re.MULTILINE)
    assert [name for name, options in pictures if ":alt: " not in options] == []
    modes = {mode: set(re.findall(rf":: (\S+)-{mode}\.", text)) for mode in ("light", "dark")}
    assert modes["light"] == modes["dark"]
    for name, options in pictures:
        for mode in ("light", "dark"):
            assert (f"-{mode}." in name) == (f"only-{mode}" in options), name


@pytest.mark.parametrize("picture", sorted(DOCS.glob("**/*.svg")), ids=lambda path: path.name)
def test_no_picture_shows_a_folder_of_a_machine_or_a_token(picture: Path) -> None:
    text = picture.read_text(encoding="utf-8")
    assert re.findall(r"/(?:tmp|home|root|Users)/|eyJ\w+|client_secret", text) == []


def test_few_blocks_of_the_pages_are_skipped_and_each_says_why() -> None:
    skips = [
        line
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if line.strip().startswith(".. skip:")
    ]
    assert len(skips) <= 3
    assert [line for line in skips if "reason=" not in line] == []


def test_the_pages_in_the_readme_exist() -> None:
    base = "https://github.com/xemahq/identity-client-python/blob/main/"
    paths = re.findall(rf"{re.escape(base)}([\w/.-]+)", README)
    assert len(paths) > 10
    generated = {"docs/benchmarks/peers.rst"}
    assert [p for p in paths if p not in generated and not (ROOT / p).exists()] == []
