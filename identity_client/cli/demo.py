"""The demo: the package at work over real HTTP on loopback, checked step by step."""

from __future__ import annotations

import logging
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, cast

import requests
from joserfc import jwt
from joserfc.jwk import KeySet
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..config import IdentityBootstrapConfig
from ..errors import IdentityError
from ..events import EventKind
from ..service import IdentityBootstrapService
from .demo_environments import DemoEnvironment, EmbeddedEnvironment, RunningServer
from .demo_load import DemoStepTimeout, EventRecorder, LoadGenerator
from .demo_report import Report

THREADS = 200
LATENCY = 0.2
# One after the other, 200 requests would take 40 s; the threads of a busy machine take a while.
HERD_LIMIT = 1.0
BASE_DELAY = 0.5
# Tokens of 10 s are short: a refresh at 90 % would leave half a second for a failure and a retry.
REFRESH_RATIO = 0.8


class Demo:
    """The steps of the demo.

    Args:
        console: where to print.
        environment: where to run.
    """

    def __init__(self, console: Console, environment: DemoEnvironment) -> None:
        self._report = Report(console)
        self._environment = environment
        self._lifetime = environment.lifetime
        self._events = EventRecorder(timeout=2 * self._lifetime)
        self._internal_token = secrets.token_urlsafe(24)
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self._port = reserved.getsockname()[1]
        self._service = IdentityBootstrapService(
            IdentityBootstrapConfig(
                service_name=environment.service,
                identity_api_url=f"http://127.0.0.1:{self._port}",
                identity_api_internal_token=self._internal_token,
                base_retry_delay=BASE_DELAY,
                max_retry_delay=4.0,
                refresh_ratio=REFRESH_RATIO,
            )
        )
        self._service.on_event(self._events.record)

    def run(self) -> bool:
        """Run all steps and return whether every check passed."""
        self._report.title(
            f"{self._environment.title}\nTokens expire after {self._lifetime:g} s here, "
            "so that you see it happen."
        )
        try:
            self._run_steps()
        except (DemoStepTimeout, IdentityError) as error:
            self._report.check("demo completed", str(error), holds=False)
        return self._report.summarize()

    def _run_steps(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._service.close)
            self._start_without_identity_api()
            server = stack.enter_context(self._environment.serve(self._internal_token, self._port))
            self._register(server)
            expires_at = self._first_token(server)
            self._stampede(server)
            load = stack.enter_context(LoadGenerator(self._service.get_access_token, expires_at))
            self._background_refresh(server, load)
            self._outage(server, load)
            self._secret_rotation(server, load)
            self._report.check(
                "no failed call, no expired token",
                f"{load.failed + load.expired} of {load.calls} calls",
                load.calls > 0 and load.failed == load.expired == 0,
            )

    def _start_without_identity_api(self) -> None:
        self._report.section("Start while identity-api is down", "nothing listens there yet")
        began = time.perf_counter()
        self._service.start()
        took = time.perf_counter() - began
        self._report.check("start() returns at once", f"{took * 1000:.1f} ms", took < 0.5)
        delays: list[float] = []
        for attempt in range(1, 4):
            event = self._events.wait_for(EventKind.REGISTRATION_FAILED, attempt)
            delays.append(event.next_attempt_in or 0.0)
            self._report.say(
                f"registration attempt {attempt}: connection refused; "
                f"retrying in {delays[-1]:.2f} s"
            )
        self._report.check(
            "retry delays double, with jitter",
            ", ".join(f"{delay:.2f} s" for delay in delays),
            all(0.5 <= delay / (BASE_DELAY * 2**n) <= 1 for n, delay in enumerate(delays)),
        )

    def _register(self, server: RunningServer) -> None:
        self._report.section("identity-api comes up", f"at {server.url}")
        with self._report.progress(lambda: "waiting for the next registration attempt"):
            ready = self._service.wait_for_ready(10)
        self._report.say(f"registered as client {self._service.get_client_id()!r}")
        counts = server.backend.requests
        self._report.check(
            "no request more than needed",
            f"{counts['register']} registration, {counts['token']} token request",
            ready and counts["register"] == counts["token"] == 1,
        )

    def _first_token(self, server: RunningServer) -> Callable[[str], float]:
        self._report.section("First token", "a JWT, verified with the server's keys (JWKS)")
        realm = f"{server.url}/realms/{self._environment.realm}/protocol/openid-connect"
        keys = cast(Any, KeySet).import_key_set(requests.get(f"{realm}/certs", timeout=5).json())
        seen: dict[str, dict[str, Any]] = {}

        def claims_of(token: str) -> dict[str, Any]:
            if token not in seen:
                seen[token] = jwt.decode(token, keys).claims
            return seen[token]

        claims = claims_of(self._service.get_access_token())
        for name in ("iss", "azp", "realm_access", "scope"):
            self._report.say(f"{name:>12}  {claims[name]}")
        self._report.check(
            "signed, and issued to this service",
            f"azp {claims['azp']}",
            claims["azp"] == self._environment.service,
        )
        return lambda token: float(claims_of(token)["exp"])

    def _stampede(self, server: RunningServer) -> None:
        self._report.section(
            f"Thundering herd: {THREADS} threads, no token",
            f"token endpoint takes {LATENCY * 1000:.0f} ms",
        )
        server.backend.change(token_latency=LATENCY)
        before = server.backend.requests["token"]
        results: list[tuple[str, float]] = []
        gate = threading.Barrier(THREADS + 1)

        def call() -> None:
            gate.wait()
            began = time.perf_counter()
            token = self._service.get_access_token()
            results.append((token, time.perf_counter() - began))

        current = self._service.get_access_token()
        threads = [threading.Thread(target=call) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        self._service.invalidate_token(current)
        gate.wait()
        for thread in threads:
            thread.join()
        made = server.backend.requests["token"] - before
        server.backend.change(token_latency=0.0)
        slowest = max(took for _, took in results)
        self._report.check(
            "single-flight: one token request",
            f"{made} request, {len(results)} calls served",
            made == len({token for token, _ in results}) == 1 and len(results) == THREADS,
        )
        self._report.check(
            f"all served within {HERD_LIMIT:g} s",
            f"slowest {slowest * 1000:.0f} ms",
            slowest < HERD_LIMIT,
        )

    def _background_refresh(self, server: RunningServer, load: LoadGenerator) -> None:
        self._report.section(
            "Background refresh", f"8 threads call; token endpoint takes {LATENCY * 1000:.0f} ms"
        )
        server.backend.change(token_latency=LATENCY)
        known = self._events.count(EventKind.TOKEN_ISSUED)
        with self._progress(load):
            self._events.wait_for(EventKind.TOKEN_ISSUED, known + 1)
        issued = self._events.moments(EventKind.TOKEN_ISSUED)
        age = (issued[known] - issued[known - 1]) / self._lifetime
        self._report.say("the moment is random, so that a fleet does not refresh in step")
        server.backend.change(token_latency=0.0)
        self._report.check(
            "refreshed before expiry", f"after {age:.1%} of its lifetime", 0.35 <= age <= 0.9
        )
        self._report.check(
            "no call waits for the refresh",
            f"slowest {load.slowest * 1000:.1f} ms of {load.calls} calls",
            load.slowest < LATENCY,
        )

    def _outage(self, server: RunningServer, load: LoadGenerator) -> None:
        self._report.section("Token endpoint outage", "while the token is still valid")
        issued = self._events.count(EventKind.TOKEN_ISSUED)
        server.backend.change(token_outage=True)
        with self._progress(load):
            self._events.wait_for(EventKind.TOKEN_REQUEST_FAILED, 1)
        self._report.say("token request: returned HTTP 503; the cached token is served")
        self._report.say(f"outage ends; the service is {self._service.status().state.value}")
        server.backend.change(token_outage=False)
        with self._progress(load):
            self._events.wait_for(EventKind.TOKEN_ISSUED, issued + 1)
        self._report.check(
            "new token in time, no failed call",
            f"{self._events.count(EventKind.TOKEN_REQUEST_FAILED)} failed request, "
            f"{load.failed} failed calls",
            load.failed == 0,
        )

    def _secret_rotation(self, server: RunningServer, load: LoadGenerator) -> None:
        self._report.section("Secret rotation", "an administrator replaces the client secret")
        server.backend.rotate_secret(self._environment.service)
        with self._progress(load):
            self._events.wait_for(EventKind.CREDENTIALS_REJECTED, 1)
        self._report.say("client credentials rejected by the token endpoint")
        with self._progress(load):
            # Delivered after the token that came with it was published.
            self._events.wait_for(EventKind.SECRET_REGENERATED, 1)
        self._report.say("registered again; the cached token was served meanwhile")
        status = self._service.status()
        self._report.check(
            "recovers by itself, no failed call",
            f"{status.secrets_regenerated} secret rotated, {load.failed} failed calls",
            status.registrations == 2 and status.secrets_regenerated == 1 and not load.failed,
        )

    def _progress(self, load: LoadGenerator) -> AbstractContextManager[None]:
        """Show the token's age and the load while waiting."""
        usable = 0.95 * self._lifetime

        def age() -> float:
            return usable - self._service.status().token_expires_in

        def figures() -> str:
            return f"{load.calls} calls, slowest {load.slowest * 1000:.1f} ms"

        def draw() -> Group:
            row = Table.grid(padding=(0, 2))
            bar = ProgressBar(total=self._lifetime, completed=age(), width=40)
            row.add_row("          token", bar, f"{age():4.1f} s old")
            return Group(row, Text(f"          {figures()}", style="dim"))

        return self._report.progress(lambda: f"token {age():.1f} s old; {figures()}", draw)


def run(
    console: Console | None = None,
    lifetime: float = 10.0,
    environment: DemoEnvironment | None = None,
) -> bool:
    """Run the demo and return whether every check passed.

    Args:
        console: where to print; standard output by default.
        lifetime: seconds until its tokens expire, on the embedded server.
        environment: where to run, if not on the embedded server.
    """
    # The demo reports by itself what the service warns of.
    logging.getLogger("identity_client").addHandler(logging.NullHandler())
    return Demo(console or _stdout(), environment or EmbeddedEnvironment(lifetime)).run()


def _stdout() -> Console:
    with suppress(AttributeError):  # what a test or an embedding program put there may lack it
        # The name of a realm may have characters that the encoding does not.
        cast(Any, sys.stdout).reconfigure(errors="backslashreplace")
    return Console(highlight=False)
