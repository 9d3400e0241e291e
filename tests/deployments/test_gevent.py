"""gevent outside of a server: a process that forks, and starts other programs, goes on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.services import INTERNAL_TOKEN

from identity_client.server import IdentityServer

# gevent handles SIGCHLD from its first look at a child on, which comes after the fork: it would
# never hear of a child that has ended by then, so it is asked to do so before.
PROCESS = """
from gevent import get_hub, monkey
monkey.patch_all()
get_hub().loop.install_sigchld()
import os, subprocess, sys, threading
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

with IdentityBootstrapService(IdentityBootstrapConfig.from_env()) as service:
    assert service.wait_for_ready(10)

    def start_another_program():
        assert subprocess.run(["true"]).returncode == 0

    def fork():
        child = os.fork()
        if child == 0:
            os._exit(0 if service.get_access_token(10) else 1)
        assert os.waitpid(child, 0)[1] == 0

    go_on = {"subprocess.run": start_another_program, "os.fork": fork}[sys.argv[1]]
    for _ in range(int(sys.argv[2])):
        old = service.get_access_token()
        service.invalidate_token(old, was_accepted=True)
        got = []
        waiter = threading.Thread(target=lambda: got.append(service.get_access_token(10)))
        waiter.start()
        while not (service._cache.in_flight or got):
            threading.Event().wait(0.001)
        go_on()  # while a caller waits for the worker
        waiter.join(20)
        assert got and got[0] != old, got
    worker = service._worker._thread
    assert worker is not None and worker.is_alive()
print("done")
"""


def _run(code: str, *arguments: str, api: IdentityServer) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose environment names the server."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={
            **os.environ,
            "IDENTITY_API_URL": api.url,
            "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "IDENTITY_BASE_RETRY_DELAY": "0.05",
            "SERVICE_NAME": "orders",
        },
    )


@pytest.mark.parametrize(("latency", "rounds"), [(0.2, 5), (2.5, 2)])
@pytest.mark.parametrize("what", ["subprocess.run", "os.fork"])
def test_a_worker_that_is_a_greenlet_outlives_a_fork(
    what: str, latency: float, rounds: int, api: IdentityServer
) -> None:
    api.backend.change(token_latency=latency)
    done = _run(PROCESS, what, str(rounds), api=api)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    # Each process once in each round at most: none took the other's answer.
    assert api.backend.requests["token"] <= 1 + rounds * 2


FORKS_WHILE_OTHERS_ARE_BUSY = """
from gevent import monkey
monkey.patch_all()
import gevent, os, time
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

def work():
    for _ in range(5):
        until = time.monotonic() + 1
        while time.monotonic() < until:
            pass
        gevent.sleep(0)

with IdentityBootstrapService(IdentityBootstrapConfig.from_env()) as service:
    assert service.wait_for_ready(10)
    gevent.spawn(work)
    child = os.fork()
    if child == 0:
        monkey.get_original("time", "sleep")(0.5)  # time for the parent to begin to watch
        os._exit(0)
    with gevent.Timeout(10):
        assert os.waitpid(child, 0)[1] == 0
print("done")
"""


def test_the_end_of_a_child_is_noticed_while_other_greenlets_are_busy(api: IdentityServer) -> None:
    done = _run(FORKS_WHILE_OTHERS_ARE_BUSY, api=api)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
