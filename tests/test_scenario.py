"""Scenarios: faults from a file, at their times."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests
from support.services import INTERNAL_TOKEN

from identity_client import ConfigurationError, IdentityApiClient
from identity_client.server import EmbeddedBackend, IdentityServer, Scenario, ServerSettings

OUTAGE = """
settings:
  token_lifetime: 30
steps:
  - {at: 10, token_outage: true, for: 20}
  - {at: 15, token_latency: 1.5, api_error_rate: 1}
  - {at: 0, rotate_secret: orders}
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    """A file for a scenario."""
    return tmp_path / "outage.yaml"


def test_steps_are_ordered_and_end_with_the_value_at_the_beginning(scenario: Path) -> None:
    scenario.write_text(OUTAGE)
    loaded = Scenario.load(scenario)
    assert loaded.settings == {"token_lifetime": 30}
    assert [(change.at, change.name, change.value) for change in loaded.changes] == [
        (0, "rotate_secret", "orders"),
        (10, "token_outage", True),
        (15, "token_latency", 1.5),
        (15, "api_error_rate", 1),
        (30, "token_outage", None),
    ]


def test_json_is_yaml_too(scenario: Path) -> None:
    scenario.write_text('{"steps": [{"at": 1, "disable_client": "orders"}]}')
    assert Scenario.load(scenario).changes[0].name == "disable_client"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it must be a mapping of names to values"),
        ("[]", "it must be a mapping of names to values"),
        ("a: b: c", "is not YAML: mapping values are not allowed here"),
        ("!!python/object:os.system {}", "is not YAML: could not determine a constructor"),
        ("step: []", "cannot be used: 'step' is not known; use settings, steps"),
        ("steps: {}", "cannot be used: steps must be a list"),
        ("settings: {token_outtage: true}", "'token_outtage' is not known; use api_error_rate,"),
        ("settings: {token_lifetime: 0}", "the token lifetime must be above 0"),
        ("settings: {token_lifetime: .nan}", "the token lifetime must be above 0"),
        ("settings: {token_outage: 1}", "token_outage must be true or false"),
        ("settings: {api_latency: true}", "api_latency must be a number"),
        ("steps: [{at: 1}]", "step 1: it changes nothing"),
        ("steps: [{at: 1, api_outage: true}, {}]", "step 2: at must be a number"),
        (
            "steps: [{at: .inf, api_outage: true}]",
            "step 1: at must be a number of seconds, 0 to 86400",
        ),
        ("steps: [{at: 0, for: -1, api_outage: true}]", "for must be a number of seconds, 0 to"),
        (
            f"steps: [{{at: 1{'0' * 400}, api_outage: true}}]",
            "at must be a number of seconds, 0 to",
        ),
        (f"settings: {{token_lifetime: 1{'0' * 400}}}", "the token lifetime must be above 0"),
        ("steps: [{at: 0, for: 1, rotate_secret: a}]", "rotate_secret has no end; remove 'for'"),
        ("steps: [{at: 0, rotate_secret: 7}]", "rotate_secret must be the name of a client"),
    ],
)
def test_a_file_that_is_not_a_scenario_is_an_error_that_says_where(
    scenario: Path, text: str, problem: str
) -> None:
    scenario.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Scenario.load(scenario)
    assert str(caught.value).startswith(f"the scenario {scenario} ")
    assert problem in str(caught.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        Scenario.load(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff")
    with pytest.raises(ConfigurationError, match="cannot be used: 'utf-8' codec"):
        Scenario.load(tmp_path / "bytes.yaml")


def test_the_settings_at_the_beginning_leave_the_others_as_they_are() -> None:
    backend = EmbeddedBackend(ServerSettings(token_lifetime=7, api_latency=0.1))
    Scenario({"token_lifetime": 9.0}, ()).play(backend, threading.Event())
    assert backend.settings == ServerSettings(token_lifetime=9, api_latency=0.1)


def test_clients_are_disabled_enabled_and_deleted(caplog: pytest.LogCaptureFixture) -> None:
    steps = [
        {"at": 0.0, "disable_client": "orders"},
        {"at": 0.1, "enable_client": "orders"},
        {"at": 0.2, "delete_client": "orders"},
        {"at": 0.3, "rotate_secret": "orders"},
    ]
    with IdentityServer(INTERNAL_TOKEN) as api:
        with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
            client.register_service(name="orders", display_name="Orders")
        with caplog.at_level(logging.INFO, "identity_client.server"):
            Scenario.parse({"steps": steps}).play(api.backend, threading.Event())
        assert api.backend.client("orders") is None
    assert [r.getMessage() for r in caplog.records if r.message.startswith("scenario")] == [
        "scenario: at 0 s: disable_client = orders",
        "scenario: at 0.1 s: enable_client = orders",
        "scenario: at 0.2 s: delete_client = orders",
        "scenario: at 0.3 s: rotate_secret = orders (no such client)",
    ]


def test_a_server_plays_its_scenario_and_stops_in_the_middle_of_it() -> None:
    class BackendThatIsCalledAtEachChange(EmbeddedBackend):
        def change(self, **settings: Any) -> ServerSettings:
            changed = super().change(**settings)
            if "api_outage" in settings:
                call()
            return changed

    def call() -> None:
        url = f"{api.url}/internal/organizations/system/a"
        headers = {"Authorization": f"Bearer {INTERNAL_TOKEN}"}
        requests.get(url, headers=headers, timeout=60)

    steps = [{"at": 0.3, "api_outage": True, "for": 0.3}, {"at": 1000, "token_outage": True}]
    api = IdentityServer(
        INTERNAL_TOKEN,
        backend=BackendThatIsCalledAtEachChange(),
        scenario=Scenario.parse({"steps": steps}),
    )
    with api:
        outage = api.backend.log.wait_for(lambda logged: logged.status == 503, 60)
        end_of_it = api.backend.log.wait_for(lambda logged: logged.status == 404, 60)
    assert outage.number < end_of_it.number
    deadline = time.monotonic() + 10
    while any(thread.name == "identity-api scenario" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
