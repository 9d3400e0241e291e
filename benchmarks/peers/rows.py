"""The rows of the tables: what stands in them, in which order, and for which library."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace

from .adapters import Peer

Figures = dict[str, float]
Runs = list[Figures]


@dataclass(frozen=True)
class Column:
    """One figure of a row.

    Attributes:
        key: its name in the JSON file.
        title: its name in the table.
        unit: "" for a count.
        slack: a difference that means nothing, beside the relative one.
        tolerance: the relative difference that means nothing.
        ranks: whether libraries are ranked by it.
    """

    key: str
    title: str
    unit: str = ""
    slack: float = 0.5
    tolerance: float = 0.3
    ranks: bool = True


@dataclass(frozen=True)
class Row:
    """What is measured once for each library.

    Attributes:
        id: stable; the documentation points to ``peers-<id>``.
        title: what it is called.
        text: how it is measured.
        columns: its figures; less is better, the first that differs decides.
        scenario: the function that measures it.
        repeats: how often; the medians stand in the table.
        alone: whether nothing else may run meanwhile, because the figures are of processor time.
        floor: whether the floor is measured, too.
        needs_auth: whether it needs an auth class.
    """

    id: str
    title: str
    text: str
    columns: tuple[Column, ...]
    scenario: str
    repeats: int = 3
    alone: bool = False
    floor: bool = False
    needs_auth: bool = False

    def not_for(self, peer: type[Peer]) -> str:
        """Return why the row makes no sense for a library, or nothing."""
        if self.needs_auth and not (peer.signs or (self.id == "always-401" and _calls(peer))):
            return "no auth class for requests or httpx"
        if peer.name == "floor" and not self.floor:
            return "no refresh, no retry"
        return ""


def _calls(peer: type[Peer]) -> bool:
    return peer.call is not Peer.call


_REQUESTS = Column("requests", "Requests", tolerance=1.0)
_FAILED = Column("failed", "Failed calls")
_STALLED = Column("stalled", "Stalled calls")
_SECONDS = Column("seconds", "Until all have it", "s", 0.3)
_RATIO = Column("ratio", "x floor", "x", 0.08)
_NS = Column("ns", "A call", "ns", 30)

ROWS = (
    Row(
        "cached-1",
        "A cached token, 1 thread",
        "One thread takes a token that is cached and fresh. The floor compares a deadline and "
        "returns an attribute.",
        (_RATIO, _NS),
        "cost",
        alone=True,
        floor=True,
    ),
    Row(
        "cached-8",
        "A cached token, 8 threads",
        "The same in 8 threads at once; time per call over all threads.",
        (_RATIO, _NS),
        "cost",
        alone=True,
        floor=True,
    ),
    Row(
        "cached-64",
        "A cached token, 64 threads",
        "The same in 64 threads at once.",
        (_RATIO, _NS),
        "cost",
        alone=True,
        floor=True,
    ),
    Row(
        "header",
        "The header of a request",
        "What the auth class adds to an unsent request with a cached token, beyond a class that "
        "sets a constant header.",
        (Column("us", "Over a constant header", "µs", 0.15),),
        "cost",
        alone=True,
        floor=True,
        needs_auth=True,
    ),
    Row(
        "first-token",
        "The first token",
        "The client is made and gives its first token; the floor is a bare POST on a new session "
        "of requests, over TLS where the library insists on TLS.",
        (Column("ratio", "x bare POST", "x", 0.08), Column("ms", "Time", "ms", ranks=False)),
        "first_token",
        alone=True,
        floor=True,
    ),
    Row(
        "import",
        "Import and memory",
        "Processor time of a fresh interpreter until a client is made, of that the import alone, "
        "and the memory it takes. The floor is the import of the four dependencies of this "
        "package.",
        (
            Column("made_ms", "Until a client is made", "ms", 5),
            Column("import_ms", "Import alone", "ms", 5),
            Column("mib", "Memory", "MiB", 1),
        ),
        "import",
        alone=True,
        floor=True,
    ),
    Row(
        "stampede-64",
        "64 threads without a token",
        "64 threads ask for a first token at once; the endpoint takes 0.2 s. What has not come "
        "back after 5 s counts as failed.",
        (_FAILED, _REQUESTS, _SECONDS),
        "stampede_64",
        alone=True,
        floor=True,
    ),
    Row(
        "stampede-1000",
        "1,000 threads without a token",
        "The same with 1,000 threads. How many of them ask is chance, unless a library lets one "
        "ask for all.",
        (_FAILED, replace(_REQUESTS, tolerance=4.0), _SECONDS),
        "stampede_1000",
        alone=True,
        floor=True,
    ),
    Row(
        "processes-64",
        "64 processes without a token",
        "64 processes, forked after the client was made, ask for a first token at once; the "
        "endpoint takes 0.2 s.",
        (_FAILED, _REQUESTS, _SECONDS),
        "processes",
        alone=True,
        floor=True,
    ),
    Row(
        "failing-start",
        "A start while the endpoint fails",
        "64 threads ask for a first token at once; the endpoint answers 503 after 0.2 s. All "
        "calls have to fail; how soon, and after how many requests?",
        (
            Column("unfinished", "Hanging after 15 s"),
            _REQUESTS,
            Column("seconds", "Until all know", "s", 0.3),
        ),
        "failing_start",
    ),
    Row(
        "slow-refresh",
        "A slow refresh of a usable token",
        "A token becomes due for its refresh, but is valid for many seconds more; the endpoint "
        "takes 2 s. 8 threads call ten times a second each. A call of more than 0.5 s has stalled.",
        (_FAILED, _STALLED, _REQUESTS, Column("seconds", "Slowest call", "s", 0.3)),
        "slow_refresh",
    ),
    Row(
        "failing-refresh",
        "A failing refresh of a usable token",
        "The same, but the endpoint answers 503, for five seconds.",
        (_FAILED, _STALLED, _REQUESTS, Column("seconds", "Slowest call", "s", 0.3)),
        "failing_refresh",
    ),
    Row(
        "outage-past-end",
        "An outage past the end of the token",
        "The endpoint answers 503 for 16 s, the token expires after 8 s of them. 8 threads call "
        "ten times a second each.",
        (Column("expired", "Expired tokens served"), _REQUESTS),
        "outage_past_end",
    ),
    Row(
        "recovery",
        "The return after an outage",
        "The endpoint answers 503 for 12 to 18 s to a client without a token, and works again. 8 "
        "threads call ten times a second each. A library that asks more often returns sooner, and "
        "burdens the endpoint meanwhile.",
        (
            Column("seconds", "To the next token", "s", 1.0),
            Column("requests", "Requests in the outage", ranks=False),
        ),
        "recovery",
        repeats=5,
    ),
    Row(
        "always-401",
        "A resource server that always answers 401",
        "4 threads call a resource server ten times a second each, for ten seconds, through the "
        "auth class; each answer is a 401. No token request at all means that the library does not "
        "react to a 401.",
        (
            Column("requests", "Token requests", tolerance=1.0),
            Column("calls", "Calls answered", ranks=False),
        ),
        "always_401",
        needs_auth=True,
    ),
)

BY_ID = {row.id: row for row in ROWS}


def precedes(row: Row, one: Runs, other: Runs) -> bool:
    """Tell whether a library is better than another beyond doubt.

    The first column decides in which their medians differ by more than noise; and it does so only
    if no run of the one came near any run of the other.
    """
    for column in row.columns:
        if column.ranks and not near(column, *sorted((median(column, one), median(column, other)))):
            return max(run[column.key] for run in one) < min(run[column.key] for run in other)
    return False


def near(column: Column, less: float, more: float) -> bool:
    return more - less <= max(column.tolerance * less, column.slack)


def ranking(row: Row, runs: dict[str, Runs]) -> list[tuple[int, str]]:
    """Return ranks and libraries, the best first; who differs by no more than noise shares a rank.

    Within a rank the order is that of the alphabet.
    """
    columns = tuple(column for column in row.columns if column.ranks)
    groups = _grouped(sorted(runs), columns, runs)
    ranked, position = [], 1
    for group in groups:
        ranked += [(position, name) for name in group]
        position += len(group)
    return ranked


def _grouped(
    names: list[str], columns: tuple[Column, ...], runs: dict[str, Runs]
) -> list[list[str]]:
    if not columns or len(names) < 2:
        return [sorted(names)]
    column, groups = columns[0], list[list[str]]()
    for name in sorted(names, key=lambda name: median(column, runs[name])):
        if groups and near(column, median(column, runs[groups[-1][0]]), median(column, runs[name])):
            groups[-1].append(name)
        else:
            groups.append([name])
    return [part for group in groups for part in _grouped(group, columns[1:], runs)]


def median(column: Column, runs: Runs) -> float:
    return statistics.median(run[column.key] for run in runs)
