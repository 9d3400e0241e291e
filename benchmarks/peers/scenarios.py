"""The measurements; each runs in a process of its own and prints one JSON object.

python -m peers.scenarios <scenario> <library> <realm> <ports as JSON>
"""

from __future__ import annotations

import gc
import json
import os
import random
import select
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

from .adapters import PEERS, Peer, bare_post, constant_header
from .load import SteadyLoad, all_at_once

Figures = dict[str, float]

LATENCY = 0.2
SLOW_LATENCY = 2.0
LIMIT = 10.0
STAMPEDE_LIMIT = 5.0
FAILURE_LIMIT = 15.0
OUTAGES = (12.0, 18.0)
SHORT_LIFETIME = 8


class Bench:
    """A library and its realm of the endpoint."""

    def __init__(self, peer: type[Peer], realm: str, ports: dict[str, int]) -> None:
        scheme = "https" if peer.tls else "http"
        self.kind = peer
        self.url = f"{scheme}://127.0.0.1:{ports[scheme]}/{realm}"
        self.plain_url = f"http://127.0.0.1:{ports['http']}/{realm}"

    def make(self) -> Peer:
        return self.kind(self.url)

    def control(self, **faults: object) -> None:
        self._ask("control", json.dumps(faults).encode())

    def requests(self) -> int:
        return int(self._ask("counters")["requests"])

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.plain_url}/{path}", body, timeout=10) as answer:  # noqa: S310
            document: dict[str, Any] = json.load(answer)
        return document


# --- what a call costs ---


def cost(bench: Bench) -> dict[str, Figures]:
    """A cached token in 1, 8 and 64 threads, beside the floor, and the header of a request."""
    peer, floor = bench.make(), PEERS["floor"](bench.url)
    peer.get()
    floor.get()
    figures = {f"cached-{threads}": _cached(peer, floor, threads) for threads in (1, 8, 64)}
    if peer.signs:
        figures["header"] = {"us": _header(peer)}
    return figures


def _cached(peer: Peer, floor: Peer, threads: int, rounds: int = 7) -> Figures:
    count = max(int(0.03 / _time_calls(peer.get, 200)), 640)
    pairs = [
        (_in_threads(floor.get, threads, count), _in_threads(peer.get, threads, count))
        for _ in range(rounds)
    ]
    # The least of each: what else the machine does only adds to it.
    least, mine = (min(column) for column in zip(*pairs, strict=True))
    return {"ns": mine * 1e9, "ratio": mine / least}


def _time_calls(call: Callable[[], object], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def _in_threads(call: Callable[[], object], threads: int, count: int) -> float:
    """Return seconds per call, over all threads."""
    if threads == 1:
        return _time_calls(call, count)
    gate = threading.Barrier(threads + 1)

    def work() -> None:
        gate.wait()
        _time_calls(call, count // threads)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    gate.wait()
    began = time.perf_counter()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - began) / (count // threads * threads)


def _header(peer: Peer, rounds: int = 15) -> float:
    """Return microseconds that a signed request costs beyond one with a constant header."""
    pairs = [
        (_sign_all(constant_header, peer.signs), _sign_all(peer.sign, peer.signs))
        for _ in range(rounds)
    ]
    return (min(mine for _, mine in pairs) - min(least for least, _ in pairs)) * 1e6


def _sign_all(sign: Callable[[Any], object], client: str) -> float:
    requests = [_request(client) for _ in range(500)]
    began = time.perf_counter()
    for request in requests:
        sign(request)
    return (time.perf_counter() - began) / len(requests)


def _request(client: str) -> Any:
    """Return a request that was not signed before: hooks would pile up on one that was."""
    if client == "httpx":
        import httpx

        return httpx.Request("GET", "http://api.test/")
    import requests

    request = requests.PreparedRequest()
    request.prepare_method("GET")
    request.url = "http://api.test/"
    request.prepare_headers({})
    hooks: dict[Any, Any] = {"response": []}
    request.hooks = hooks
    return request


# --- the start ---


def first_token(bench: Bench) -> Figures:
    """A client made and its first token, beside a bare POST on a new session."""
    takes: dict[Callable[[Bench], float], list[float]] = {_bare: [], _first: []}
    for _ in range(8):
        for measure in (_bare, _first, _first, _bare):
            gc.collect()
            takes[measure].append(measure(bench))
    bare, mine = (_lower_quartile(seconds[2:]) for seconds in takes.values())
    return {"ratio": mine / bare, "ms": mine * 1e3}


def _lower_quartile(values: list[float]) -> float:
    """Return what is robust where others use the machine, which only ever adds to a time."""
    return statistics.quantiles(values, n=4)[0]


def _bare(bench: Bench) -> float:
    return _time_calls(lambda: bare_post(f"{bench.url}/token"), 1)


def _first(bench: Bench) -> float:
    peers: list[Peer] = []

    def make() -> None:
        peers.append(bench.make())
        peers[0].get()

    seconds = _time_calls(make, 1)
    peers[0].forget()
    return seconds


def failing_start(bench: Bench) -> Figures:
    """64 threads ask for a first token while the endpoint answers 503."""
    peer = bench.make()
    bench.control(latency=LATENCY, outage=True)
    return _stampede(bench, peer, 64, FAILURE_LIMIT)


def processes(bench: Bench) -> Figures:
    """64 processes, forked after the client was made, ask for a first token at once."""
    peer = bench.make()
    bench.control(latency=LATENCY)
    before = bench.requests()
    gate, results = os.pipe(), os.pipe()
    children = [_fork(peer, gate, results[1]) for _ in range(64)]
    os.close(gate[0])
    began = time.monotonic()
    os.close(gate[1])
    answers = _read(results[0], len(children), began + LIMIT)
    seconds = time.monotonic() - began
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return {
        "failed": 64 - answers.count(b"+"),
        "requests": bench.requests() - before,
        "seconds": seconds,
    }


def _fork(peer: Peer, gate: tuple[int, int], results: int) -> int:
    child = os.fork()
    if child:
        return child
    os.close(gate[1])
    os.read(gate[0], 1)
    try:
        peer.get()
        os.write(results, b"+")
    finally:
        os.write(results, b"-")
        time.sleep(2 * LIMIT)  # until the parent, which has read the first byte, ends it
    return 0


def _read(results: int, count: int, deadline: float) -> bytes:
    """Return the answers of ``count`` children, or of those that answered in time."""
    answers = b""
    while answers.count(b"-") < count:
        ready, _, _ = select.select([results], [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            break
        answers += os.read(results, 1024)
    return answers


# --- many threads ---


def stampede_64(bench: Bench) -> Figures:
    """64 threads ask for a first token at once."""
    peer = bench.make()
    bench.control(latency=LATENCY)
    return _stampede(bench, peer, 64, STAMPEDE_LIMIT)


def stampede_1000(bench: Bench) -> Figures:
    """1,000 threads ask for a first token at once."""
    peer = bench.make()
    bench.control(latency=LATENCY)
    return _stampede(bench, peer, 1000, STAMPEDE_LIMIT)


def _stampede(bench: Bench, peer: Peer, threads: int, limit: float) -> Figures:
    before = bench.requests()
    calls, seconds = all_at_once(peer.get, threads, limit)
    return {
        "requests": bench.requests() - before,
        "failed": calls.failed + threads - calls.finished,
        "unfinished": threads - calls.finished,
        "seconds": seconds,
    }


# --- faults ---


def slow_refresh(bench: Bench) -> Figures:
    """A usable token becomes due while the endpoint takes two seconds for an answer."""
    return _refresh(bench, latency=SLOW_LATENCY)


def failing_refresh(bench: Bench) -> Figures:
    """A usable token becomes due while the endpoint answers 503."""
    return _refresh(bench, outage=True)


def _refresh(bench: Bench, **faults: object) -> Figures:
    peer = bench.make()
    bench.control(lifetime=bench.kind.lifetime or 3600)
    peer.get()
    bench.control(lifetime=3600, **faults)
    before = bench.requests()
    load = SteadyLoad(peer.get)
    time.sleep(bench.kind.due + 5)
    requests = bench.requests() - before
    calls = load.stop()
    return {
        "failed": calls.failed,
        "stalled": calls.slow,
        "requests": requests,
        "seconds": calls.slowest,
    }


def outage_past_end(bench: Bench) -> Figures:
    """An outage that outlasts the token."""
    peer = bench.make()
    bench.control(lifetime=SHORT_LIFETIME)
    peer.get()
    bench.control(outage=True)
    before = bench.requests()
    load = SteadyLoad(peer.get)
    time.sleep(2 * SHORT_LIFETIME)
    requests = bench.requests() - before
    return {"expired": load.stop().expired, "requests": requests}


def recovery(bench: Bench) -> Figures:
    """The time from the end of an outage to the next token."""
    peer = bench.make()
    bench.control(outage=True)
    before = bench.requests()
    load = SteadyLoad(peer.get)
    # Not the same in each run: else one that falls just before a library's next attempt decides.
    outage = random.uniform(*OUTAGES)  # noqa: S311  # no secret
    time.sleep(outage)
    requests = bench.requests() - before
    load.calls.first_success = None
    bench.control(outage=False)
    ended = time.monotonic()
    while load.calls.first_success is None and time.monotonic() < ended + 2 * outage:
        time.sleep(0.01)
    first = load.calls.first_success
    return {"seconds": 2 * outage if first is None else first - ended, "requests": requests}


def always_401(bench: Bench) -> Figures:
    """A resource server that answers 401 to each token, for ten seconds."""
    peer = bench.make()
    peer.get()
    before = bench.requests()
    load = SteadyLoad(lambda: peer.call(f"{bench.plain_url}/resource"), threads=4)
    time.sleep(10)
    requests = bench.requests() - before
    return {"requests": requests, "calls": load.stop().finished}


SCENARIOS: dict[str, Callable[[Bench], Any]] = {
    scenario.__name__: scenario
    for scenario in (
        cost,
        first_token,
        failing_start,
        processes,
        stampede_64,
        stampede_1000,
        slow_refresh,
        failing_refresh,
        outage_past_end,
        recovery,
        always_401,
    )
}


def main(scenario: str, peer: str, realm: str, ports: str) -> None:
    figures = SCENARIOS[scenario](Bench(PEERS[peer], realm, json.loads(ports)))
    print(json.dumps(figures), flush=True)
    os._exit(0)  # threads that are still in a call are of no interest


if __name__ == "__main__":
    main(*sys.argv[1:])
