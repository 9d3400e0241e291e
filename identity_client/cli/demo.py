"""The demo: the whole job over real HTTP on loopback, told, watched and checked step by step."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Self, cast

import requests
from attrs import frozen
from joserfc import jwt
from joserfc.jwk import KeySet
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..config import IdentityBootstrapConfig
from ..errors import IdentityError
from ..events import EventKind, ServiceEvent
from ..service import IdentityBootstrapService
from .stages import Embedded, Server, Stage

THREADS = 200
LATENCY = 0.2
BASE_DELAY = 0.5


@frozen
class Check:
    """One thing that was claimed, and what was seen."""

    claim: str
    seen: str
    holds: bool


class NotSeenError(Exception):
    """Something that the story goes on with did not happen."""


class Callers:
    """Threads that ask for the token all the time, as the threads of a service do.

    Args:
        ask: returns a token.
        expires_at: reads when a token expires, in seconds since the epoch.
    """

    def __init__(self, ask: Callable[[], str], expires_at: Callable[[str], float]) -> None:
        self.calls: int = 0
        self.failed: int = 0
        self.expired: int = 0
        self.slowest: float = 0.0
        self._ask = ask
        self._expires_at = expires_at
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._call_on) for _ in range(8)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _call_on(self) -> None:
        while not self._stopped.wait(0.005):
            began = time.perf_counter()
            failed = expired = False
            try:
                expired = self._expires_at(self._ask()) < time.time()
            except IdentityError:
                failed = True
            with self._lock:
                self.calls += 1
                self.slowest = max(self.slowest, time.perf_counter() - began)
                self.failed += failed
                self.expired += expired


class Demo:
    """The story and what was seen of it.

    Args:
        console: where it is told.
        stage: where it plays.
    """

    def __init__(self, console: Console, stage: Stage) -> None:
        self.checks: list[Check] = []
        self._console = console
        self._lifetime = stage.lifetime
        self._stage = stage
        self._began = time.perf_counter()
        self._events: list[tuple[float, ServiceEvent]] = []
        self._happened = threading.Condition()
        self._internal_token = secrets.token_urlsafe(24)
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self._port = reserved.getsockname()[1]
        self._service = IdentityBootstrapService(
            IdentityBootstrapConfig(
                service_name=stage.service,
                identity_api_url=f"http://127.0.0.1:{self._port}",
                identity_api_internal_token=self._internal_token,
                base_retry_delay=BASE_DELAY,
                max_retry_delay=4.0,
            )
        )
        self._service.on_event(self._note)

    def run(self) -> bool:
        """Run it and return whether every step succeeded."""
        self._console.print(
            Panel.fit(
                f"{self._stage.title}\n"
                f"Tokens live {self._lifetime:g} s here, so that you see them end.",
                title="identity-client demo",
                border_style="cyan",
            )
        )
        try:
            self._tell_all()
        except (NotSeenError, IdentityError) as error:
            self._check("the story comes to its end", str(error), holds=False)
        self._summarize()
        return all(check.holds for check in self.checks)

    # --- the chapters ---

    def _tell_all(self) -> None:
        with ExitStack() as stack:
            stack.callback(self._service.close)
            self._start_while_identity_api_is_down()
            server = stack.enter_context(self._stage.serve(self._internal_token, self._port))
            self._register(server)
            expires_at = self._look_at_the_token(server)
            self._serve_a_crowd(server)
            callers = stack.enter_context(Callers(self._service.get_access_token, expires_at))
            self._refresh_ahead(server, callers)
            self._outlive_an_outage(server, callers)
            self._follow_a_rotated_secret(server, callers)
            self._check(
                "calls that failed or got an expired token",
                f"{callers.failed + callers.expired} of {callers.calls}",
                callers.calls > 0 and callers.failed == callers.expired == 0,
            )

    def _start_while_identity_api_is_down(self) -> None:
        self._chapter("The service starts while identity-api is down", "nothing listens there yet")
        began = time.perf_counter()
        self._service.start()
        took = time.perf_counter() - began
        self._check("start() does not wait", f"{took * 1000:.1f} ms", took < 0.1)
        pauses: list[float] = []
        for attempt in range(1, 4):
            event = self._wait_for(EventKind.REGISTRATION_FAILED, attempt)
            pauses.append(event.next_attempt_in or 0.0)
            self._tell(f"attempt {attempt}: connection refused, next in {pauses[-1]:.2f} s")
        self._check(
            "pauses double, with jitter",
            ", ".join(f"{pause:.2f} s" for pause in pauses),
            all(0.5 <= pause / (BASE_DELAY * 2**n) <= 1 for n, pause in enumerate(pauses)),
        )

    def _register(self, server: Server) -> None:
        self._chapter("identity-api comes up", f"it listens on {server.url} now")
        ready = self._service.wait_for_ready(10)
        self._tell(f"registered: the client {self._service.get_client_id()!r}")
        asked = server.backend.requests
        self._check(
            "as few requests as can be",
            f"{asked['register']} registration, {asked['token']} token request",
            ready and asked["register"] == asked["token"] == 1,
        )

    def _look_at_the_token(self, server: Server) -> Callable[[str], float]:
        self._chapter("The first token", "a JWT, verified with the keys that the server publishes")
        realm = f"{server.url}/realms/{self._stage.realm}/protocol/openid-connect"
        keys = cast(Any, KeySet).import_key_set(requests.get(f"{realm}/certs", timeout=5).json())
        seen: dict[str, dict[str, Any]] = {}

        def claims_of(token: str) -> dict[str, Any]:
            if token not in seen:
                seen[token] = jwt.decode(token, keys).claims
            return seen[token]

        claims = claims_of(self._service.get_access_token())
        for name in ("iss", "azp", "realm_access", "scope"):
            self._tell(f"{name:>12}  {claims[name]}")
        self._check(
            "signed, and issued to this service",
            f"azp {claims['azp']}",
            claims["azp"] == self._stage.service,
        )
        return lambda token: float(claims_of(token)["exp"])

    def _serve_a_crowd(self, server: Server) -> None:
        self._chapter(
            f"{THREADS} threads at once, and no token",
            f"the endpoint takes {LATENCY * 1000:.0f} ms",
        )
        server.backend.change(token_latency=LATENCY)
        before = server.backend.requests["token"]
        answers: list[tuple[str, float]] = []
        gate = threading.Barrier(THREADS + 1)

        def ask() -> None:
            gate.wait()
            began = time.perf_counter()
            token = self._service.get_access_token()
            answers.append((token, time.perf_counter() - began))

        current = self._service.get_access_token()
        threads = [threading.Thread(target=ask) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        self._service.invalidate_token(current)
        gate.wait()
        for thread in threads:
            thread.join()
        made = server.backend.requests["token"] - before
        server.backend.change(token_latency=0.0)
        tokens = {token for token, _ in answers}
        slowest = max(took for _, took in answers)
        self._check(
            f"{THREADS} threads, one token request",
            f"{made} request, {len(answers)} answers",
            made == len(tokens) == 1 and len(answers) == THREADS,
        )
        self._check(
            "all served within its time plus 150 ms",
            f"slowest {slowest * 1000:.0f} ms",
            slowest < LATENCY + 0.15,
        )

    def _refresh_ahead(self, server: Server, callers: Callers) -> None:
        self._chapter(
            "Background refresh",
            f"8 threads ask every 5 ms, the endpoint takes {LATENCY * 1000:.0f} ms",
        )
        server.backend.change(token_latency=LATENCY)
        age = self._age_when_replaced(callers)
        self._tell("that moment is left to chance, so that a fleet does not refresh in step")
        server.backend.change(token_latency=0.0)
        self._check(
            "refreshed before it expires",
            f"asked for at {age / self._lifetime:.1%} of its life",
            0.42 <= age / self._lifetime <= 0.92,
        )
        self._check(
            "no call waits for that",
            f"slowest {callers.slowest * 1000:.1f} ms of {callers.calls} calls",
            callers.slowest < LATENCY / 2,
        )

    def _outlive_an_outage(self, server: Server, callers: Callers) -> None:
        self._chapter("The token endpoint fails", "while the token is still usable")
        issued = self._count(EventKind.TOKEN_ISSUED)
        server.backend.change(token_outage=True)
        with self._watching(callers):
            for attempt in (1, 2):
                self._wait_for(EventKind.TOKEN_REQUEST_FAILED, attempt)
                self._tell(f"attempt {attempt}: returned HTTP 503")
        self._tell(f"the endpoint is back; the service is {self._service.status().state.value}")
        server.backend.change(token_outage=False)
        self._wait_for(EventKind.TOKEN_ISSUED, issued + 1)
        self._check(
            "a new token in time, 0 failed calls",
            f"{self._count(EventKind.TOKEN_REQUEST_FAILED)} failed requests, "
            f"{callers.failed} failed calls",
            callers.failed == 0,
        )

    def _follow_a_rotated_secret(self, server: Server, callers: Callers) -> None:
        self._chapter("The secret is rotated", "the one that the service holds is dead now")
        server.backend.rotate_secret(self._stage.service)
        with self._watching(callers):
            self._wait_for(EventKind.CREDENTIALS_REJECTED, 1)
        self._tell("the token endpoint rejects the client")
        # Delivered after the token that came with it was published.
        self._wait_for(EventKind.SECRET_REGENERATED, 1)
        self._tell("registered again; the old token was served meanwhile")
        status = self._service.status()
        self._check(
            "it recovers by itself, 0 failed calls",
            f"{status.secrets_regenerated} secret regenerated, {callers.failed} failed calls",
            status.registrations == 2 and status.secrets_regenerated == 1 and not callers.failed,
        )

    # --- telling and watching ---

    def _chapter(self, title: str, text: str) -> None:
        self._console.print(Text.assemble("\n", (title, "bold cyan"), (f"  {text}", "dim")))

    def _tell(self, text: str) -> None:
        moment = time.perf_counter() - self._began
        self._console.print(Text.assemble((f"{moment:6.1f} s  ", "blue"), text))

    def _check(self, claim: str, seen: str, holds: bool) -> None:
        self.checks.append(Check(claim, seen, holds))
        self._console.print(Text.assemble("       ", _sign(holds), f"  {claim}: ", (seen, "bold")))

    def _note(self, event: ServiceEvent) -> None:
        with self._happened:
            self._events.append((time.perf_counter(), event))
            self._happened.notify_all()

    def _all(self, kind: EventKind) -> list[tuple[float, ServiceEvent]]:
        return [(moment, event) for moment, event in self._events if event.kind is kind]

    def _count(self, kind: EventKind) -> int:
        return len(self._all(kind))

    def _wait_for(self, kind: EventKind, count: int) -> ServiceEvent:
        """Wait until there were so many events of a kind, and return that one."""
        limit = 2 * self._lifetime
        with self._happened:
            if not self._happened.wait_for(lambda: self._count(kind) >= count, limit):
                raise NotSeenError(f"{kind.value} number {count} did not come within {limit:g} s")
            return self._all(kind)[count - 1][1]

    def _age_when_replaced(self, callers: Callers) -> float:
        """Watch until the current token is replaced, and return its age when that was asked for."""
        known = self._count(EventKind.TOKEN_ISSUED)
        with self._watching(callers):
            self._wait_for(EventKind.TOKEN_ISSUED, known + 1)
        moments = [moment for moment, _ in self._all(EventKind.TOKEN_ISSUED)]
        return moments[known] - moments[known - 1]

    @contextmanager
    def _watching(self, callers: Callers) -> Generator[None, None, None]:
        """Show the token's age meanwhile; on a terminal only, as it is transient."""
        with Live(
            get_renderable=lambda: self._picture(callers),
            console=self._console,
            refresh_per_second=12,
            transient=True,
        ):
            yield

    def _picture(self, callers: Callers) -> Group:
        usable = 0.95 * self._lifetime
        age = usable - self._service.status().token_expires_in
        row = Table.grid(padding=(0, 2))
        row.add_row(
            "          token",
            ProgressBar(total=self._lifetime, completed=age, width=40),
            f"{age:4.1f} s old",
        )
        figures = f"{callers.calls} calls, slowest {callers.slowest * 1000:.1f} ms"
        return Group(row, Text(f"          {figures}", style="dim"))

    def _summarize(self) -> None:
        table = Table(title="\nWhat was seen", title_justify="left", title_style="bold")
        table.add_column("")
        table.add_column("claim")
        table.add_column("seen", style="bold")
        for check in self.checks:
            table.add_row(Text.assemble(_sign(check.holds)), check.claim, Text(check.seen))
        self._console.print(table)
        failed = sum(not check.holds for check in self.checks)
        took = time.perf_counter() - self._began
        verdict = f"{failed} of {len(self.checks)} checks failed" if failed else "all checks passed"
        self._console.print(f"{verdict}, in {took:.0f} s")


def _sign(holds: bool) -> tuple[str, str]:
    return ("✓", "bold green") if holds else ("✗", "bold red")


def run(console: Console | None = None, lifetime: float = 10.0, stage: Stage | None = None) -> bool:
    """Run the demo and return whether every step succeeded.

    Args:
        console: where it is told; the terminal by default.
        lifetime: seconds that its tokens live, if it plays on the embedded server.
        stage: where it plays, if not there.
    """
    # What the service warns of is part of the story, and told there; the server may be busy.
    for name in ("identity_client", "waitress.queue"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    return Demo(console or Console(highlight=False), stage or Embedded(lifetime)).run()
