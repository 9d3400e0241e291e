"""The file in which a service says how it stands, and the command that reads it."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.canned import reply, token_reply
from support.cli import clean_environment, invoke
from support.recorder import Recorder
from support.services import INTERNAL_TOKEN, MakeService, Preconfigured, StartCanned

from identity_client import EventKind, ServiceEvent, ServiceState
from identity_client._status_file import StatusFile, read_status_files
from identity_client.server import IdentityServer


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "status.json"


def wait_until_written(path: Path, state: str = "READY") -> dict[str, Any]:
    """Wait until the worker has written a state, and return the members."""
    while not path.exists() or json.loads(path.read_text())["state"] != state:
        time.sleep(0.01)
    members: dict[str, Any] = json.loads(path.read_text())
    return members


def ended_process() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def written(path: Path, **members: Any) -> None:
    """Write a file as a process that runs would, with other members."""
    stat = Path(f"/proc/{os.getpid()}/stat").read_text(encoding="utf-8")
    known = {
        "service_name": "orders",
        "state": "READY",
        "token_expires_at": time.time() + 60,
        "pid": os.getpid(),
        "process_started": stat.rpartition(")")[2].split()[19],
    }
    path.write_text(json.dumps({**known, **members}))


# --- the service writes it ---


def test_a_service_writes_its_status_and_removes_it_on_close(
    api: IdentityServer, make_service: MakeService, path: Path
) -> None:
    service = make_service(api, status_file=str(path))
    service.start()
    members = wait_until_written(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert members["pid"] == os.getpid()
    assert members["service_name"] == members["client_id"] == "orders"
    assert 250 < members["token_expires_at"] - time.time() < 300
    assert members["next_attempt_at"] is None
    service.close()
    assert list(path.parent.iterdir()) == []


def test_the_file_follows_the_state(preconfigured: Preconfigured, path: Path) -> None:
    refusal = reply({}, 503, Retry_After="60")
    service, endpoint = preconfigured(
        token_reply(), refusal, status_file=str(path), max_retry_delay=60.0
    )
    service.start()
    wait_until_written(path)
    service.invalidate_token("a-token")
    members = wait_until_written(path, "DEGRADED")
    assert "returned HTTP 503" in members["last_error"]
    assert members["next_attempt_at"] > members["written_at"] - 1
    endpoint.answers[0] = token_reply("b-token")
    service._cache.reset_failure()
    wait_until_written(path)


def test_a_link_that_another_user_has_planted_is_not_followed(
    preconfigured: Preconfigured, tmp_path: Path
) -> None:
    service, _ = preconfigured()
    victim = tmp_path / "victim"
    victim.write_text("of another program")
    planted = tmp_path / f".status.{os.getpid()}.{threading.get_ident()}"
    planted.symlink_to(victim)
    event = ServiceEvent(kind=EventKind.TOKEN_ISSUED, service_name="orders", message="")
    StatusFile(str(tmp_path / "status"), service.status)(event)
    assert victim.read_text() == "of another program"
    assert {path.name for path in tmp_path.iterdir()} == {"status", "victim"}
    assert (tmp_path / "status").stat().st_mode & 0o777 == 0o600


def test_a_status_is_written_without_starting_another_worker(
    preconfigured: Preconfigured, path: Path
) -> None:
    service, _ = preconfigured(token_reply(), status_file=str(path))
    service.start()
    thread = service._worker._thread
    wait_until_written(path)
    assert service._worker._thread is thread


def test_each_process_has_a_file_of_its_own_where_the_name_says_so(
    preconfigured: Preconfigured, tmp_path: Path
) -> None:
    service, _ = preconfigured(token_reply(), status_file=str(tmp_path / "status-{pid}.json"))
    service.start()
    wait_until_written(tmp_path / f"status-{os.getpid()}.json")


def test_a_folder_that_is_missing_is_one_warning_and_delays_nobody(
    preconfigured: Preconfigured, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = str(path / "no" / "status.json")
    service, _ = preconfigured(token_reply("a"), token_reply("b"), status_file=name)
    assert service.get_access_token() == "a"
    service.invalidate_token("a")
    assert service.get_access_token() == "b"
    service.close()
    warnings = [r.getMessage() for r in caplog.records if "status file" in r.getMessage()]
    reason = "no such file or directory; check IDENTITY_STATUS_FILE"
    assert warnings == [f"orders: the status file {name} cannot be written: {reason}"]


def test_the_file_of_another_process_is_left_alone(
    preconfigured: Preconfigured, path: Path
) -> None:
    service, _ = preconfigured(token_reply(), status_file=str(path))
    recorder = Recorder(service)
    service.start()
    recorder.wait_for(EventKind.STATE_CHANGED)  # the last event, after which nothing is written
    written(path, pid=1)
    service.close()
    assert json.loads(path.read_text())["pid"] == 1


def test_the_file_of_another_service_of_this_process_is_left_alone(
    preconfigured: Preconfigured, path: Path
) -> None:
    first, _ = preconfigured(token_reply(), status_file=str(path), service_name="first")
    second, _ = preconfigured(token_reply(), status_file=str(path), service_name="second")
    for service in (first, second):
        recorder = Recorder(service)
        service.start()
        recorder.wait_for(EventKind.STATE_CHANGED)  # as above
    first.close()
    assert json.loads(path.read_text())["service_name"] == "second"
    second.close()
    assert not path.exists()


def test_a_service_that_is_collected_writes_no_more(
    preconfigured: Preconfigured, path: Path
) -> None:
    service, _ = preconfigured(token_reply(), status_file=str(path))
    (listener,) = service._events._listeners.values()
    gone: Any = listener
    gone._status = lambda: None
    service.start()
    service.close()
    assert not path.exists()


# --- the command reads it ---


def test_status_shows_what_a_service_that_runs_has_written(path: Path) -> None:
    written(path)
    result = invoke({"IDENTITY_STATUS_FILE": str(path)}, "status")
    assert result.exit_code == 0
    assert "state             READY\n" in result.stdout


@pytest.mark.parametrize(
    ("state", "code", "strict_code"),
    [
        ("PENDING", 1, 1),
        ("READY", 0, 0),
        ("DEGRADED", 0, 1),
        ("UNAVAILABLE", 1, 1),
        ("FAILED", 1, 1),
    ],
)
def test_the_exit_code_says_whether_there_is_a_usable_token(
    path: Path, state: str, code: int, strict_code: int
) -> None:
    written(path, state=state)
    assert invoke({}, "status", "--file", str(path)).exit_code == code
    assert invoke({}, "status", "--file", str(path), "--strict").exit_code == strict_code


def test_a_token_that_has_expired_since_is_not_usable(path: Path) -> None:
    written(path, token_expires_at=time.time() - 1)
    result = invoke({}, "status", "--json", "--file", str(path))
    assert result.exit_code == 1
    assert json.loads(result.stdout)[0]["state"] == ServiceState.UNAVAILABLE.value


@pytest.mark.parametrize("started", ["1", None], ids=["with its start", "without it"])
def test_the_file_of_a_process_that_has_ended_is_recognised(
    path: Path, started: str | None
) -> None:
    written(path, pid=ended_process(), process_started=started)
    result = invoke({}, "status", "--file", str(path))
    assert result.exit_code == 1
    assert "state             ENDED\n" in result.stdout
    assert f"every process that wrote {path} has ended" in result.stderr


def test_a_process_that_has_ended_counts_as_ended_before_its_parent_waits_for_it(
    path: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        stat = Path(f"/proc/{process.pid}/stat")
        started = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        written(path, pid=process.pid, process_started=started)
        assert [status.state for status in read_status_files(str(path))] == ["READY"]
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert [status.state for status in read_status_files(str(path))] == ["ENDED"]


def test_a_process_id_that_was_given_out_again_is_recognised(path: Path) -> None:
    written(path, process_started="1")
    assert invoke({}, "status", "--file", str(path)).exit_code == 1


@pytest.mark.parametrize("refuse", [False, True], ids=["its own", "another user's"])
def test_where_the_start_of_a_process_is_unknown_its_id_counts(
    path: Path, monkeypatch: pytest.MonkeyPatch, refuse: bool
) -> None:
    def kill(pid: int, number: int) -> None:
        if refuse:
            raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    written(path, process_started=None)
    assert invoke({}, "status", "--file", str(path)).exit_code == 0


def test_all_processes_that_run_must_have_a_token(tmp_path: Path) -> None:
    name = str(tmp_path / "status-{pid}.json")
    written(tmp_path / "status-1.json", pid=ended_process(), process_started=None, state="FAILED")
    written(tmp_path / "status-2.json")
    assert invoke({}, "status", "--file", name).exit_code == 0
    written(tmp_path / "status-3.json", state="PENDING")
    assert invoke({}, "status", "--file", name).exit_code == 1
    assert [status.state for status in read_status_files(name)] == ["ENDED", "READY", "PENDING"]


def test_a_file_that_is_removed_before_it_is_read_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path / "status-1.json")
    gone, name = tmp_path / "status-2.json", str(tmp_path / "status-{pid}.json")
    matched = glob.glob

    def and_one_that_is_gone(pattern: str) -> list[str]:
        return [*matched(pattern), str(gone)]

    monkeypatch.setattr(glob, "glob", and_one_that_is_gone)
    assert invoke({}, "status", "--file", name).exit_code == 0
    (tmp_path / "status-1.json").unlink()
    result = invoke({}, "status", "--file", name)
    assert result.exit_code == 1
    assert f"no service has written {name}" in result.stderr
    result = invoke({}, "status", "--file", str(gone))  # one name, which the settings gave
    assert result.exit_code == 2
    assert f"{gone} cannot be read: no such file or directory" in result.stderr


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"pid": 1}',
        "\udcff",
        "[" * 100_000,
        f'{{"pid": {2**70}, "process_started": null}}',
        json.dumps(
            {
                "pid": os.getpid(),
                "process_started": None,
                "state": "READY",
                "token_expires_at": "soon",
            }
        ),
    ],
    ids=range(7),
)
def test_another_file_is_a_clear_error(path: Path, content: str) -> None:
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    result = invoke({}, "status", "--file", str(path))
    assert result.exit_code == 2
    assert f"{path} cannot be read: it is not a status file" in result.stderr


def test_a_fifo_is_a_clear_error_at_once(path: Path) -> None:
    os.mkfifo(path)
    result = invoke({}, "status", "--file", str(path))
    assert result.exit_code == 2
    assert f"{path} cannot be read: it is not a status file" in result.stderr


def test_without_a_file_there_is_nothing_to_show(path: Path) -> None:
    assert invoke({}, "status").exit_code == 2
    result = invoke({}, "status", "--file", str(path))
    assert result.exit_code == 1
    assert f"no service has written {path}" in result.stderr


def test_a_trial_does_not_replace_the_file_of_the_service(canned: StartCanned, path: Path) -> None:
    environ = {
        "SERVICE_NAME": "orders",
        "SERVICE_CLIENT_ID": "orders",
        "SERVICE_CLIENT_SECRET": INTERNAL_TOKEN,
        "SERVICE_TOKEN_ENDPOINT": canned(token_reply()).url,
        "IDENTITY_STATUS_FILE": str(path),
    }
    for name in ("try", "token", "wait"):
        assert invoke(environ, name).exit_code == 0
    assert not path.exists()
