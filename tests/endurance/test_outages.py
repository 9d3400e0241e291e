"""Outages of the token endpoint: how soon calls work again, and what it is asked meanwhile."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise

import pytest
from support.canned import Asked, reply, token_reply
from support.scripted import numbered_tokens
from support.services import MakeService, StartCanned

from identity_client import IdentityBootstrapService, IdentityError

LIFETIME = 20.0
# The median of eight draws of a pause would be above its limit once in a dozen runs.
SERVICES = 100


class Caller:
    """A thread that asks a service for its token all the time."""

    def __init__(self, service: IdentityBootstrapService, is_over: threading.Event) -> None:
        self.served_again = threading.Event()
        self.served_at = 0.0
        self._service = service
        self._is_over = is_over
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _call(self) -> None:
        while not self._stopped.wait(0.1):
            was_over = self._is_over.is_set()
            with suppress(IdentityError):
                self._service.get_access_token()
                if was_over and not self.served_again.is_set():
                    self.served_at = time.monotonic()
                    self.served_again.set()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [60, 180])
def test_calls_work_again_within_half_a_minute_of_an_outage(
    make_service: MakeService, canned: StartCanned, seconds: int
) -> None:
    endpoint = canned(token_reply())
    numbered_tokens(endpoint, LIFETIME)
    is_over = threading.Event()
    callers = []
    for number in range(SERVICES):
        service = make_service(
            "http://127.0.0.1:9",
            client_id=f"orders-{number}",
            client_secret="a-client-secret",
            token_endpoint=f"{endpoint.url}/token",
            base_retry_delay=5.0,  # the defaults of the package
            max_retry_delay=300.0,
        )
        service.start()
        callers.append(Caller(service, is_over))
    requests: defaultdict[str, list[float]] = defaultdict(list)

    def fail(asked: Asked) -> None:
        requests[asked.form["client_id"]].append(time.monotonic())

    endpoint.answers[0] = reply({"error": "temporarily_unavailable"}, 503)
    endpoint.before_answer = fail
    endpoint.answers[0] = reply({"error": "temporarily_unavailable"}, 503)
    time.sleep(seconds)
    ended = time.monotonic()
    numbered_tokens(endpoint, LIFETIME)
    is_over.set()
    for caller in callers:
        assert caller.served_again.wait(60)
        caller.stop()
    delays = [caller.served_at - ended for caller in callers]
    most = max(map(len, requests.values()))
    print(
        f"{seconds} s: tokens again after {statistics.median(delays):.1f} s in the median, "
        f"{max(delays):.1f} s at the latest; at most {most} requests of a service"
    )
    assert len(requests) == SERVICES
    assert max(delays) <= 33  # the longest pause, and what a slow machine adds to it
    assert statistics.median(delays) <= 15
    for history in requests.values():
        # Pauses are drawn between half and whole: 1 s, 2 s, 4 s, … 30 s, once with the token that
        # is still usable and once more when it has expired.
        eleventh = zip(history, history[10:], strict=False)
        assert all(later - earlier >= 10 for earlier, later in eleventh)
        late = [moment for moment in history if moment - history[0] > 70]
        assert all(later - earlier >= 14.5 for earlier, later in pairwise(late))
