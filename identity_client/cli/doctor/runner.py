"""Runs checks in order; those whose needs failed are skipped, not failed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from ..output import patience
from .model import Check, Facts, Finding, Outcome, Status, skip

_BLOCKING = (Status.FAILED, Status.SKIPPED, Status.CRASHED)


def select(checks: Sequence[Check], prefix: str) -> list[Check]:
    """Return the checks whose id begins so, with all that they need, in order."""
    wanted = {check.id for check in checks if check.id.startswith(prefix)}
    for check in reversed(checks):  # what is needed comes before
        if check.id in wanted:
            wanted.update(check.needs)
    return [check for check in checks if check.id in wanted]


def run(checks: Sequence[Check], facts: Facts) -> Iterator[Outcome]:
    """Run the checks and yield the outcome of each that applies."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    for check in checks:
        blocking = _blocking(check, outcomes)
        if blocking is not None:
            reason = _reason(blocking)
            about = f"{check.subject}: " if check.subject else ""
            outcome = Outcome(check, skip(f"{about}not tried: {reason}"), 0.0, reason)
        else:
            began = time.perf_counter()
            finding = _look(check, facts)
            if finding is None:
                continue
            outcome = Outcome(check, finding, time.perf_counter() - began)
        outcomes[check.id, check.subject] = outcome
        yield outcome


def _blocking(check: Check, outcomes: dict[tuple[str, str], Outcome]) -> Outcome | None:
    """Return what keeps a check from being tried: of its own subject, where it has one."""
    for (check_id, subject), outcome in outcomes.items():
        concerns = check_id in check.needs and (not check.subject or subject in ("", check.subject))
        if concerns and outcome.finding.status in _BLOCKING:
            return outcome
    return None


def _reason(blocking: Outcome) -> str:
    """Name the check at the root of it."""
    if blocking.cause is not None:
        return blocking.cause
    skipped = blocking.finding.status is Status.SKIPPED
    return f"{blocking.check.id} {'found nothing' if skipped else 'failed'}"


def _look(check: Check, facts: Facts) -> Finding | None:
    about = f"{check.id} {check.subject}".strip()
    try:
        with patience(f"{about}: {check.title} ..."):
            return check.look(facts, check.subject)
    except Exception as error:  # noqa: BLE001  # one that breaks must not keep the others from running
        kind = type(error).__name__
        return Finding(Status.CRASHED, f"the check itself failed ({kind})", "please report it")
