"""A resource server that always rejects, and what it costs the token endpoint and others."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

import pytest
import requests
from support.canned import Canned, reply
from support.scripted import numbered_tokens
from support.services import Preconfigured, StartCanned

SECONDS = 60
THREADS = 8
LIFETIME = 900.0  # no refresh for its end within the time of the test


@pytest.mark.parametrize(
    ("outage", "most_requests"),
    [
        pytest.param(False, 8, id="endpoint up"),
        # Those of any outage: the shortest pauses are 0.5 s, 1 s, 2 s, … 15 s.
        pytest.param(True, 10, id="endpoint down"),
    ],
)
def test_a_server_that_always_rejects_costs_few_token_requests_and_no_other_server(
    preconfigured: Preconfigured,
    canned: StartCanned,
    caplog: pytest.LogCaptureFixture,
    outage: bool,
    most_requests: int,
) -> None:
    service, endpoint = preconfigured(
        base_retry_delay=5.0,
        max_retry_delay=300.0,  # the defaults of the package
    )
    numbered_tokens(endpoint, LIFETIME)
    service.start()
    if outage:
        endpoint.before_answer = lambda asked: None
        endpoint.answers[0] = reply({"error": "temporarily_unavailable"}, 503)
    strict, lenient = canned(Canned(401, b"no")), canned(Canned(200, b"done"))
    auth = service.auth()
    statuses: Counter[int] = Counter()
    until = time.monotonic() + SECONDS

    def call() -> None:
        with requests.Session() as session:
            while time.monotonic() < until:
                assert session.get(strict.url, auth=auth, timeout=10).status_code == 401
                statuses[session.get(lenient.url, auth=auth, timeout=10).status_code] += 1
                time.sleep(0.01)  # leaves the machine to the servers

    with caplog.at_level(logging.WARNING, "identity_client"):
        threads = [threading.Thread(target=call) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    service.close()
    warnings = [message for message in caplog.messages if "rejects each new" in message]
    print(f"{len(endpoint.asked)} token requests, {statuses[200]} calls, {caplog.messages}")
    assert set(statuses) == {200}
    assert len(endpoint.asked) <= most_requests
    assert len(warnings) == 1 or (outage and not warnings)
