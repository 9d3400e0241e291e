"""What is true of a service under every server."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from support.deployment import Deployment

from identity_client.server import IdentityServer

Run = Callable[..., Deployment]

WORKERS = 8


class DeploymentContract:
    """Tests for a fixture `run(workers, *, recycle_after=0, **environment)`.

    In all of them every answer comes in time, no token is rejected, nothing is logged with a
    traceback, and the server ends in time when it is told to.
    """

    def test_every_worker_answers_with_one_registration(
        self, run: Run, api: IdentityServer
    ) -> None:
        with run(WORKERS) as server:
            server.pids_of_all(WORKERS)
        assert api.backend.requests["register"] == 1

    def test_every_worker_answers_after_a_graceful_reload(
        self, run: Run, api: IdentityServer
    ) -> None:
        with run(WORKERS) as server:
            before = server.pids_of_all(WORKERS)
            server.tell_to_reload()
            server.pids_of_all(WORKERS, without=before)
        assert api.backend.requests["register"] == 1

    def test_the_replacement_of_a_killed_worker_answers(
        self, run: Run, api: IdentityServer
    ) -> None:
        with run(WORKERS) as server:
            before = server.pids_of_all(WORKERS)
            victim = min(before)
            os.kill(victim, signal.SIGKILL)
            after = server.pids_of_all(WORKERS, without={victim})
            assert len(after - before) == 1
        assert api.backend.requests["register"] == 1

    def test_workers_that_are_recycled_answer(self, run: Run, api: IdentityServer) -> None:
        with run(WORKERS, recycle_after=10) as server:
            server.pids_of_all(2 * WORKERS)
            server.kill()  # what is being replaced may miss the signal to end
        assert api.backend.requests["register"] == 1

    def test_workers_replace_their_tokens(self, run: Run, api: IdentityServer) -> None:
        # Due after 2 s, and usable for long after that, however slow the machine is.
        api.backend.change(token_lifetime=20.0)
        with run(2, IDENTITY_REFRESH_RATIO="0.1") as server:
            server.pids_of_all(2)
            end = time.monotonic() + 6.0
            while time.monotonic() < end:
                server.ask()
                time.sleep(0.05)  # so that workers have nothing to do between requests
        assert 4 <= api.backend.requests["token"] <= 30
