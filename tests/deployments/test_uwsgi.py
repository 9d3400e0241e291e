"""uWSGI: the app loaded in the master and in the workers, with and without threads."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from contracts.deployment import DeploymentContract, Run
from support.deployment import WebDeployment

from identity_client.server import IdentityServer

# Up to 2.0.26 threads were off by default. With threads, that pyuwsgi hangs on Python 3.12 as soon
# as a worker is replaced, whatever the app does.
THREADS_BY_DEFAULT = tuple(map(int, version("pyuwsgi").split(".")[:3])) >= (2, 0, 27)

PRELOADED = [pytest.param("", id="loaded by the master")]
if THREADS_BY_DEFAULT:
    PRELOADED += [
        pytest.param("--threads=4", id="loaded by the master, several threads for requests"),
        pytest.param("--py-call-uwsgi-fork-hooks", id="loaded by the master, with fork hooks"),
    ]
LOADED_BY_EACH = pytest.param("--lazy-apps", id="loaded by each")


@pytest.fixture(params=[*PRELOADED, LOADED_BY_EACH])
def options(request: pytest.FixtureRequest) -> str:
    given: str = request.param
    return given


@pytest.fixture
def run(options: str, environment: dict[str, str], tmp_path: Path) -> Run:
    def run(workers: int, *, recycle_after: int = 0, **settings: str) -> WebDeployment:
        command = (
            f"uwsgi --http-socket={{address}} --master --processes={workers} {options} "
            f"--max-requests={recycle_after} --min-worker-lifetime=0 --die-on-term --need-app "
            # Or a reload starts the interpreter that the virtual environment was made from.
            f"--binary-path={sys.executable} --pythonpath=. --module=deployments.app:application"
        )
        return WebDeployment(command, {**environment, **settings}, tmp_path / "log")

    return run


class TestUwsgi(DeploymentContract):
    """What is true under every server."""


@pytest.mark.parametrize("options", PRELOADED)
def test_workers_inherit_what_was_had_before_the_fork(run: Run, api: IdentityServer) -> None:
    with run(2, IDENTITY_CREDENTIAL_STORE="memory:", WAIT_AT_BOOT="yes") as server:
        server.pids_of_all(2)
    assert api.backend.requests == {"api": 1, "register": 1, "token": 1}


@pytest.mark.parametrize(
    ("options", "without_threads"),
    [
        pytest.param("", 1, id="loaded by the master"),
        pytest.param("--lazy-apps", 3, id="loaded by each"),
        pytest.param("--enable-threads", 0, id="with threads"),
        pytest.param("--threads=2", 0, id="with several threads for requests"),
    ],
)
def test_a_process_that_makes_a_service_without_threads_is_warned_once(
    run: Run, without_threads: int
) -> None:
    with run(3) as server:
        server.pids_of_all(3)
    expected = 0 if THREADS_BY_DEFAULT else without_threads
    assert server.log.count("set 'enable-threads = true'") == expected
