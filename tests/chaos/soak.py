"""A soak: processes full of threads that ask for tokens while the way to the server suffers.

``python -m chaos.soak`` takes half an hour, with ``--short`` two minutes. Prints the figures,
and exits with 1 when a usable token was kept back, an expired one served, or something leaked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import attrs
from attrs import define, frozen
from support.keycloak import Admin, Keycloak, Realm, claims
from support.load import Load, Seen, expiry
from support.toxiproxy import FAULTS, Proxy, Toxiproxy

from identity_client import IdentityBootstrapConfig, IdentityBootstrapService
from identity_client.server import AppServer, IdentityServer, ServerSettings, create_app

INTERNAL_TOKEN = "internal-token-of-the-soak"
LIFETIME = 10
# One comes when the last is due: at 95 % of the 9 s for which it is used, less 5 % of chance.
IDEAL_INTERVAL = 8.12


@frozen
class Plan:
    """How long everything takes, in seconds; down is longer than a token lives."""

    rest: float
    fault: float
    down: float
    cycles: int

    def phases(self) -> Generator[tuple[str, float], None, None]:
        for _ in range(self.cycles):
            for fault in FAULTS:
                if fault != "nothing":
                    yield "nothing", self.rest
                    yield fault, self.down if fault == "down" else self.fault
        yield "nothing", 2 * IDEAL_INTERVAL


FULL = Plan(rest=20, fault=15, down=25, cycles=8)
SHORT = Plan(rest=5, fault=11, down=14, cycles=1)


@define
class Footprint:
    """What a process holds."""

    threads: int
    files: int
    memory: int  # MiB

    @classmethod
    def now(cls) -> Footprint:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return cls(
            threading.active_count(),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            pages * os.sysconf("SC_PAGE_SIZE") // 2**20,
        )


@contextmanager
def on_keycloak(proxies: Toxiproxy) -> Generator[tuple[str, str, Proxy], None, None]:
    """An identity-api in front of Keycloak: its address, that of the keys, and the way between."""
    with tempfile.TemporaryDirectory() as folder:
        keycloak: Keycloak | None = None
        if "KEYCLOAK_URL" in os.environ:
            admin = Admin.from_env()
        else:
            keycloak = Keycloak(Path(folder))
            keycloak.start()
            admin = keycloak.admin
        realm = Realm(admin, f"soak-{os.getpid()}")
        try:
            realm.create()
            realm.change(accessTokenLifespan=LIFETIME)
            proxy = proxies.between("token", admin.url)
            certs = f"{realm.issuer}/protocol/openid-connect/certs"
            with AppServer(create_app(INTERNAL_TOKEN, realm.backend(url=proxy.url))) as server:
                yield server.url, certs, proxy
            realm.delete()
        finally:
            if keycloak is not None:
                keycloak.stop()


@contextmanager
def embedded(proxies: Toxiproxy) -> Generator[tuple[str, str, Proxy], None, None]:
    """The embedded server, in the same terms."""
    with IdentityServer(INTERNAL_TOKEN, settings=ServerSettings(token_lifetime=LIFETIME)) as server:
        proxy = proxies.between("token", server.url)
        yield proxy.url, f"{server.url}/realms/xema/protocol/openid-connect/certs", proxy


def work(url: str, name: str, certs: str, threads: int, parent: Connection) -> None:
    """Be one process of a service, until the parent says that it is over."""
    tokens: dict[str, float] = {}

    def ends_at(token: str) -> float:
        return tokens.get(token) or tokens.setdefault(token, expiry(token))

    service = IdentityBootstrapService(
        IdentityBootstrapConfig(
            service_name=name,
            identity_api_url=url,
            identity_api_internal_token=INTERNAL_TOKEN,
            request_timeout=2.0,
            base_retry_delay=0.5,
            max_retry_delay=2.0,
        )
    )
    assert service.wait_for_ready(30)
    with Load(service, threads, pause=0.05, ends_at=ends_at) as load:
        parent.recv()
        before = Footprint.now()
        parent.recv()
        after = Footprint.now()
    wrong = 0
    for token in tokens:
        read = claims(certs, token)
        wrong += read["azp"] != name or "micro-service" not in read["realm_access"]["roles"]
    status = service.status()
    service.close()
    seen = attrs.asdict(load.seen)
    parent.send((seen, before, after, status.tokens_issued, status.token_requests_failed, wrong))


def soak(plan: Plan, server: Any, processes: int, threads: int) -> bool:
    """Run it all, print the figures, and return whether they are what they have to be."""
    spawned = multiprocessing.get_context("spawn")
    with Toxiproxy() as proxies, server(proxies) as (url, certs, proxy):
        workers = []
        for number in range(processes):
            here, there = spawned.Pipe()
            process = spawned.Process(
                target=work, args=(url, f"soak-{number}", certs, threads, there), daemon=True
            )
            process.start()
            workers.append((process, here))
        time.sleep(2 * IDEAL_INTERVAL)  # until all are ready, and every token was replaced once
        began = time.monotonic()
        for _, pipe in workers:
            pipe.send("look at yourself")
        for fault, seconds in plan.phases():
            print(f"{time.monotonic() - began:7.1f} s  {fault}", flush=True)
            proxy.infect(fault)
            time.sleep(seconds)
        took = time.monotonic() - began
        for _, pipe in workers:
            pipe.send("come to an end")
        results = [pipe.recv() for _, pipe in workers]
        for process, _ in workers:
            process.join(30)
    return report(results, took, threads)


def report(results: list[Any], took: float, threads: int) -> bool:
    """Print what was seen, and judge it."""
    seen = Seen()
    issued = failed = wrong = 0
    leaks = []
    for one, before, after, tokens_issued, requests_failed, tokens_wrong in results:
        seen.add(Seen(**one))
        issued, failed, wrong = (
            issued + tokens_issued,
            failed + requests_failed,
            wrong + tokens_wrong,
        )
        print(f"a process at its start and end: {before}, {after}")
        leaks.append(
            after.threads > before.threads
            or after.files > before.files + 4
            or after.memory > before.memory + 20
        )
    ideal = len(results) * (took + 2 * IDEAL_INTERVAL) / IDEAL_INTERVAL
    figures = {
        "processes x threads": f"{len(results)} x {threads}",
        "seconds": round(took),
        "calls": seen.calls,
        "calls that failed without a usable token": seen.failed - seen.failed_with_usable_token,
        "calls that failed with a usable token": seen.failed_with_usable_token,
        "expired tokens served": seen.expired,
        "least that a token had left, seconds": round(seen.least_left, 3),
        "slowest call, seconds": round(seen.slowest, 3),
        "tokens issued": issued,
        "token requests that failed": failed,
        "token requests without any fault": round(ideal),
        "tokens that were not as they should be": wrong,
        "failures": dict(seen.failures),
    }
    print(json.dumps(figures, indent=2))
    bad = seen.failed_with_usable_token + seen.expired + wrong
    return seen.calls > 0 and not bad and not any(leaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="two minutes")
    parser.add_argument("--server", choices=("keycloak", "embedded"), default="keycloak")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=32)
    options = parser.parse_args()
    server = on_keycloak if options.server == "keycloak" else embedded
    plan = SHORT if options.short else FULL
    sys.exit(0 if soak(plan, server, options.processes, options.threads) else 1)


if __name__ == "__main__":
    main()
