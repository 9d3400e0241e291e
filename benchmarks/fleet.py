"""A fleet that booted in the same second: its requests per second, with and without jitter.

    python benchmarks/fleet.py [--replicas N] [--json] [--plot FILE]

The replicas are real down to the HTTP transport. Simulated are the time, the network, and the two
servers, which answer at once and bear any load. Without jitter nothing is drawn: a token is due at
exactly 90 % of its lifetime, each pause is the least that it can be.
"""

from __future__ import annotations

import argparse
import heapq
import json
import logging
import math
import os
import platform
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import backoff
from attrs import asdict, define, field, fields, frozen

from identity_client import IdentityBootstrapConfig
from identity_client._http.failures import HttpError
from identity_client._http.transport import HttpResponse, HttpTransport
from identity_client._tokens import cache as token_cache
from identity_client._tokens.cache import TokenCache
from identity_client._tokens.registration import RegistrationSource
from identity_client._tokens.worker import Worker
from identity_client.events import EventEmitter

MINUTES = 40
LIFETIME = 300
BUCKET = 20  # seconds, in the plot

CONFIG = IdentityBootstrapConfig(
    service_name="orders",
    identity_api_url="http://identity-api:3053",
    identity_api_internal_token="token",
)
REGISTERED = HttpResponse(
    201,
    {},
    b'{"data": {"id": "1", "clientId": "orders", "clientSecret": "secret", "roles": [],'
    b' "tokenEndpoint": "http://keycloak/token", "alreadyExisted": false,'
    b' "secretRegenerated": false}}',
)
ISSUED = HttpResponse(
    200,
    {},
    b'{"access_token": "token", "token_type": "Bearer", "expires_in": %d}' % LIFETIME,
)


@frozen
class Scenario:
    """A trouble, and the phases that are looked at; times in seconds since the boot."""

    name: str
    story: str
    phases: dict[str, tuple[float, float]]
    trouble: tuple[float, float] = (0.0, 0.0)
    answer: HttpResponse | None = None  # what both servers answer meanwhile; None: nobody listens


SCENARIOS = [
    Scenario(
        "boot",
        "All boot in the same second",
        {"minute 1": (0, 60), "minutes 2 to 15": (60, 900), "minutes 16 to 40": (900, 2400)},
    ),
    Scenario(
        "outage",
        "Both servers are down from minute 15 to minute 25",
        {
            "the outage": (900, 1500),
            "6 minutes after it": (1500, 1860),
            "the rest": (1860, 2400),
        },
        trouble=(900, 1500),
    ),
    Scenario(
        "overload",
        "503 with Retry-After: 30 to everybody for the first 80 seconds",
        {"second 1": (0, 1), "up to minute 4": (1, 240), "the rest": (240, 2400)},
        trouble=(0, 80),
        answer=HttpResponse(503, {"Retry-After": "30"}, b""),
    ),
]


@define
class Clock:
    """The one clock of the fleet. Nobody waits on it: who wants to is woken by the simulation."""

    now: float = 0.0
    nap: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def wait(self, condition: threading.Condition, timeout: float) -> None:  # noqa: ARG002  # the protocol's
        self.nap = timeout


@define
class Servers:
    """identity-api and the token endpoint: they count what they are asked."""

    clock: Clock
    scenario: Scenario
    requests: Counter[int] = field(factory=Counter)  # by second

    def send(self, method: str, url: str, **_: object) -> HttpResponse:  # noqa: ARG002  # the transport's
        now, (begin, end) = self.clock.now, self.scenario.trouble
        self.requests[int(now)] += 1
        if begin <= now < end:
            if self.scenario.answer is None:
                raise HttpError("connection refused")
            return self.scenario.answer
        return REGISTERED if url.endswith("/register") else ISSUED


class Replica:
    """What a service is made of, without its thread."""

    def __init__(self, clock: Clock) -> None:
        report = EventEmitter(CONFIG.service_name)
        self._clock = clock
        self._cache = TokenCache(clock)
        self._worker = Worker(
            CONFIG, clock, self._cache, RegistrationSource(CONFIG, clock, report), report
        )

    @property
    def has_token(self) -> bool:
        return self._cache.usable_seconds() > 0

    def run(self) -> float:
        """Do what the worker's thread does when it wakes; return how long it would sleep then."""
        self._worker.refresh_inline(math.inf)
        self._clock.nap = 0.0
        attempt = self._cache.wait_for_refresh(lambda: not self._clock.nap)
        assert attempt is None  # noqa: S101  # else something would be due again at once
        return self._clock.nap


@frozen
class Run:
    """What was seen of one scenario."""

    scenario: str
    jitter: bool
    peaks: dict[str, int]  # requests in the busiest second of each phase
    total: int
    all_served_after: float  # seconds from the end of the trouble until all had a token
    requests: list[int] = field(repr=False)  # by second


def simulate(scenario: Scenario, replicas: int, *, jitter: bool) -> Run:
    """Let a fleet live through a scenario."""
    random.seed(1)
    clock = Clock()
    servers = Servers(clock, scenario)
    fleet = [Replica(clock) for _ in range(replicas)]
    agenda = [(number / replicas, number) for number in range(replicas)]
    last_served = 0.0
    draw: Callable[[float], float] = backoff.full_jitter if jitter else (lambda _: 0.0)
    with (
        patch.object(HttpTransport, "send", servers.send),
        patch.object(backoff, "full_jitter", draw),
        patch.object(
            token_cache, "RECHECK_INTERVAL", math.inf
        ),  # no machine sleeps here: wake when due only
    ):
        while agenda[0][0] < MINUTES * 60:
            clock.now, number = agenda[0]
            replica = fleet[number]
            has_ever_been_ready = replica.has_token
            nap = max(replica.run(), 0.001)  # sums of moments and naps are not exact
            if replica.has_token and not has_ever_been_ready:
                last_served = clock.now
            heapq.heapreplace(agenda, (clock.now + nap, number))
    requests = [servers.requests[second] for second in range(MINUTES * 60)]
    return Run(
        scenario=scenario.name,
        jitter=jitter,
        peaks={name: max(requests[int(a) : int(b)]) for name, (a, b) in scenario.phases.items()},
        total=sum(requests),
        all_served_after=round(max(last_served - scenario.trouble[1], 0.0), 1),
        requests=requests,
    )


def show(runs: list[Run], replicas: int) -> None:
    """Print the figures as a table."""
    due = CONFIG.refresh_ratio * LIFETIME
    print(
        f"{replicas} replicas, {MINUTES} minutes. At an even pace: {replicas / due:.0f} requests/s "
        f"and {replicas * (2 + int(MINUTES * 60 / due))} requests in all.\n"
    )
    print(f"{'':40} {'without jitter':>15} {'with jitter':>15}")
    for scenario in SCENARIOS:
        without, drawn = (run for run in runs if run.scenario == scenario.name)
        print(scenario.story)
        rows: list[tuple[str, float, float]] = [
            (f"requests/s at most, {phase}", without.peaks[phase], drawn.peaks[phase])
            for phase in scenario.phases
        ]
        rows.append(("requests in all", without.total, drawn.total))
        rows.append(("s until all have a token", without.all_served_after, drawn.all_served_after))
        for name, before, after in rows:
            print(f"  {name:38} {before:15,} {after:15,}")


THEMES = {
    "light": {"text": "#1f2328", "with": "#0969da", "without": "#f4a582", "trouble": "#e8e8e8"},
    "dark": {"text": "#e6edf3", "with": "#58a6ff", "without": "#9a5b3c", "trouble": "#2d333b"},
}


def plot(runs: list[Run], replicas: int, folder: Path) -> None:
    """Draw the figures for the light and the dark pages."""
    for theme, colours in THEMES.items():
        _plot(runs, replicas, colours, folder / f"fleet-{theme}.svg")


def _plot(runs: list[Run], replicas: int, colours: dict[str, str], file: Path) -> None:
    """Draw requests per second over time, the busiest second of each bucket."""
    import matplotlib as mpl
    from matplotlib import pyplot

    of_text = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "fleet", "font.size": 9}
        | {"font.family": "sans-serif"}
        | dict.fromkeys(of_text, colours["text"])
    )
    figure, panels = pyplot.subplots(len(SCENARIOS), sharex=True, sharey=True, figsize=(8, 7.5))
    minutes = [second / 60 for second in range(0, MINUTES * 60 + 1, BUCKET)]
    even = replicas / (CONFIG.refresh_ratio * LIFETIME)
    for panel, scenario in zip(panels, SCENARIOS, strict=True):
        for run in runs:
            if run.scenario == scenario.name:
                peaks = [
                    max(run.requests[begin : begin + BUCKET])
                    for begin in range(0, MINUTES * 60, BUCKET)
                ]
                kind = "with" if run.jitter else "without"
                panel.stairs(
                    peaks,
                    minutes,
                    baseline=0.5,
                    fill=True,
                    color=colours[kind],
                    label=f"{kind} jitter",
                )
        pace = f"an even pace ({even:.0f}/s)"
        panel.axhline(even, color=colours["text"], linewidth=0.8, linestyle=":", label=pace)
        begin, end = (moment / 60 for moment in scenario.trouble)
        panel.axvspan(begin, end, color=colours["trouble"], linewidth=0, zorder=0)
        panel.set_facecolor("none")
        panel.set_title(scenario.story, loc="left", fontsize=10)
        panel.set_yscale("log")
        panel.set_ylim(1, 3 * replicas)
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.minorticks_off()
        panel.set_xlim(-0.2, MINUTES)
        panel.set_ylabel("requests/s")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(loc="upper right", ncols=3, frameon=False, bbox_to_anchor=(1, 1.25))
    panels[-1].set_xlabel("minutes since the boot")
    figure.tight_layout()
    figure.savefig(file, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument(
        "--plot", metavar="FOLDER", type=Path, help="draw them, too; needs matplotlib"
    )
    options = parser.parse_args()
    logging.disable()
    began = time.perf_counter()
    runs = [
        simulate(scenario, options.replicas, jitter=jitter)
        for scenario in SCENARIOS
        for jitter in (False, True)
    ]
    if options.plot:
        plot(runs, options.replicas, options.plot)
    if options.json:
        curve = fields(Run).requests
        print(json.dumps([asdict(run, filter=lambda name, _: name is not curve) for run in runs]))
        return
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.machine()}, "
        f"{time.perf_counter() - began:.0f} s"
    )
    show(runs, options.replicas)


if __name__ == "__main__":
    main()
