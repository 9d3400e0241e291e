"""When to try again: the backoff schedule, and what a server says in Retry-After."""

from __future__ import annotations

import math
import re
from email.utils import parsedate_to_datetime

import backoff


class Backoff:
    """Pauses between attempts: doubling from ``base`` up to ``cap``, with equal jitter.

    The wait itself is not done here: it happens where ``close()`` can end it.
    """

    def __init__(self, base: float, cap: float) -> None:
        self._delays = backoff.expo(factor=base, max_value=cap)
        next(self._delays)  # backoff's generators begin with an empty step

    def next(self) -> float:
        """Return the next pause in seconds."""
        return equal_jitter(next(self._delays))


def equal_jitter(delay: float) -> float:
    """Draw between half of a delay and the whole of it."""
    half = delay / 2
    return half + backoff.full_jitter(half)


def retry_after_with_jitter(retry_after: float, cap: float) -> float:
    """Draw the pause that a Retry-After asks for, so that not all come back in the same second.

    It is not shorter than asked for, and up to half as long again, within ``cap``. One that is
    longer than ``cap`` counts as ``cap``.
    """
    if retry_after >= cap:
        return equal_jitter(cap)
    return retry_after + backoff.full_jitter(min(retry_after / 2, cap - retry_after))


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Read a Retry-After header (RFC 9110 section 10.2.3).

    Args:
        value: the header, seconds or an HTTP date; None where there was none.
        now: the wall clock in seconds since the epoch, against which a date is read.

    Returns:
        Seconds from now, between 0 and one day; None for anything that cannot be read.
    """
    if value is None:
        return None
    value = value.strip()
    if re.fullmatch(r"[0-9]+", value):
        seconds = float(value) if len(value) < 10 else math.inf
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError, TypeError):
            return None
    return min(max(seconds, 0.0), 86400.0)
