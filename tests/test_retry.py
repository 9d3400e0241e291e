"""The backoff schedule, and Retry-After."""

from __future__ import annotations

import pytest

from identity_client._http.retry import (
    Backoff,
    equal_jitter,
    parse_retry_after,
    retry_after_with_jitter,
)

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def test_pauses_double_up_to_the_cap_each_between_half_and_whole() -> None:
    scheduled = [5, 10, 20, 40, 80, 160, 300, 300, 300]
    for _ in range(200):
        pauses = Backoff(5.0, 300.0)
        for delay in scheduled:
            assert delay / 2 <= pauses.next() <= delay


def test_pauses_are_drawn_anew_each_time() -> None:
    assert len({Backoff(5.0, 300.0).next() for _ in range(50)}) > 40


def test_equal_jitter_draws_between_half_and_whole() -> None:
    drawn = sorted(equal_jitter(8.0) for _ in range(400))
    assert 4 <= drawn[0] < 4.2
    assert 7.8 < drawn[-1] <= 8


@pytest.mark.parametrize(
    ("retry_after", "least", "most"),
    [
        pytest.param(0, 0, 0, id="nothing asked for"),
        pytest.param(30, 30, 45, id="up to half as long again"),
        pytest.param(200, 200, 300, id="as much as there is room for"),
        pytest.param(280, 280, 300, id="within the cap"),
        pytest.param(300, 150, 300, id="the cap itself: before it"),
        pytest.param(86400, 150, 300, id="a day: the cap"),
    ],
)
def test_what_a_server_asks_for_is_honoured_and_spread(
    retry_after: float, least: float, most: float
) -> None:
    drawn = sorted(retry_after_with_jitter(retry_after, 300.0) for _ in range(400))
    margin = (most - least) / 20
    assert least <= drawn[0] <= least + margin
    assert most - margin <= drawn[-1] <= most


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        pytest.param(None, None, id="absent"),
        pytest.param("120", 120.0, id="seconds"),
        pytest.param(" 7 ", 7.0, id="seconds with blanks"),
        pytest.param("0", 0.0, id="at once"),
        pytest.param("99999999999999999999", 86400.0, id="huge: a day"),
        pytest.param("Tue, 14 Nov 2023 22:14:20 GMT", 60.0, id="a date"),
        pytest.param("Tue, 14 Nov 2023 22:12:20 GMT", 0.0, id="a date that has passed"),
        pytest.param("Fri, 31 Dec 9999 23:59:59 GMT", 86400.0, id="a date far away"),
        pytest.param("soon", None, id="garbage"),
        pytest.param("-5", None, id="negative"),
        pytest.param("1.5", None, id="a fraction"),
        pytest.param("", None, id="empty"),
        pytest.param("²", None, id="a digit that is none"),
        pytest.param("Tue, 99 Nov 2023 22:14:20 GMT", None, id="no such date"),
    ],
)
def test_retry_after_is_read_as_the_standard_says(
    header: str | None, seconds: float | None
) -> None:
    assert parse_retry_after(header, NOW) == seconds
