"""Many threads, one token request."""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable

import pytest
from support.canned import reply, token_reply
from support.services import Preconfigured

from identity_client import IdentityBootstrapService, IdentityError, TokenEndpointError

THREADS = 200


def ask_together(
    service: IdentityBootstrapService, count: int = THREADS
) -> tuple[list[str | IdentityError], float]:
    """Let threads ask at the same moment; return what each got, and the time the slowest took."""
    outcomes: list[str | IdentityError] = []
    slowest = [0.0]
    gate = threading.Barrier(count)

    def ask() -> None:
        gate.wait()
        began = time.perf_counter()
        try:
            outcome: str | IdentityError = service.get_access_token()
        except IdentityError as error:
            outcome = error
        slowest[0] = max(slowest[0], time.perf_counter() - began)
        outcomes.append(outcome)

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes, slowest[0]


def the_least_of_three(round_of_calls: Callable[[], float], enough: float) -> float:
    """Measure until a time is below `enough`: what else the machine does only adds to a time."""
    least = math.inf
    for _ in range(3):
        least = min(least, round_of_calls())
        if least < enough:
            break
    return least


def test_200_threads_on_a_cold_cache_make_one_token_request(
    preconfigured: Preconfigured,
) -> None:
    delay = 1.0

    def round_of_calls() -> float:
        service, endpoint = preconfigured()
        endpoint.before_answer = lambda asked: time.sleep(delay)
        outcomes, slowest = ask_together(service)
        assert outcomes == ["a-token"] * THREADS
        assert len(endpoint.asked) == 1
        return slowest

    limit = 2 * delay  # a second request takes that long
    assert the_least_of_three(round_of_calls, limit) < limit


def test_200_threads_share_one_failure(preconfigured: Preconfigured) -> None:
    document = {"error": "server_error", "error_description": "out of order"}
    failure = reply(document, 500, Retry_After="60")
    delay = 1.0

    def round_of_calls() -> float:
        service, endpoint = preconfigured(failure, max_retry_delay=300.0)
        endpoint.before_answer = lambda asked: time.sleep(delay)
        outcomes, slowest = ask_together(service)
        assert len(endpoint.asked) == 1
        assert {type(outcome) for outcome in outcomes} == {TokenEndpointError}
        # The same but for the seconds that are left until the next attempt.
        assert len({re.sub(r"[\d.]+ s$", "", str(outcome)) for outcome in outcomes}) == 1
        assert len({id(outcome) for outcome in outcomes}) == THREADS
        return slowest

    limit = 2 * delay  # a second request takes that long
    assert the_least_of_three(round_of_calls, limit) < limit


def test_200_threads_that_come_after_a_failure_get_it_at_once_and_make_no_request(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured(
        reply({"error": "server_error"}, 500, Retry_After="60"), max_retry_delay=300.0
    )
    with pytest.raises(TokenEndpointError):
        service.get_access_token()
    outcomes, slowest = ask_together(service)
    assert len(endpoint.asked) == 1
    for outcome in outcomes:
        assert isinstance(outcome, TokenEndpointError)
        assert outcome.retry_after is not None
        assert 0 < outcome.retry_after <= 90
    assert slowest < 5  # the next attempt is a minute away, and a caller would wait 10 s


@pytest.mark.slow
def test_16_threads_never_wait_for_a_slow_refresh_of_a_usable_token(
    preconfigured: Preconfigured,
) -> None:
    # Due 1.5 s to 3 s after it was asked for, usable until 19 s.
    service, endpoint = preconfigured(
        token_reply("first", expires_in=20), token_reply("second"), refresh_ratio=0.15
    )
    endpoint.before_answer = lambda asked: time.sleep(8.0 if len(endpoint.asked) > 1 else 0.0)
    service.start()
    longest = [0.0] * 16
    calls = [0] * 16

    def ask(index: int) -> None:
        token = "first"
        while token == "first":
            began = time.perf_counter()
            token = service.get_access_token()
            longest[index] = max(longest[index], time.perf_counter() - began)
            calls[index] += 1
            time.sleep(0.002)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(endpoint.asked) == 2
    assert service.get_access_token() == "second"
    assert max(longest) < 4.0  # half of the refresh
    assert min(calls) > 100


def test_racing_rejections_of_one_token_cause_one_refresh(
    preconfigured: Preconfigured,
) -> None:
    service, endpoint = preconfigured(token_reply("first"), token_reply("second"))
    token = service.get_access_token()
    gate = threading.Barrier(50)

    def reject() -> None:
        gate.wait()
        service.invalidate_token(token)
        assert service.get_access_token() == "second"

    threads = [threading.Thread(target=reject) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    service.invalidate_token(token)
    assert service.get_access_token() == "second"
    assert len(endpoint.asked) == 2
    assert service.status().tokens_invalidated == 1
