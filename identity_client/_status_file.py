"""The file in which a service says how it stands, for probes and for ``identity-client status``.

A listener for events writes it, in the worker's thread after the token was published, so no caller
waits for a disk. A process that is killed leaves its file behind; a reader knows that by the
process id, and by the time at which that process started, since ids are given out again.
"""

from __future__ import annotations

import glob
import json
import logging
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from ._files import FileId, read_file, remove_file, replace_file
from .errors import ConfigurationError
from .events import ServiceEvent, ServiceState, ServiceStatus

_log = logging.getLogger("identity_client")

# What is raised by reading a file that something else has written.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError)

_USABLE = (ServiceState.READY.value, ServiceState.DEGRADED.value)


class StatusFile:
    """Writes the status with each event, atomically and with mode 0600; removes it on close.

    Args:
        name: the file; ``{pid}`` in it stands for the process id.
        status: a method that returns the status; kept weakly, as its object keeps this.
    """

    def __init__(self, name: str, status: Callable[[], ServiceStatus]) -> None:
        self._name = name
        self._status = weakref.WeakMethod(status)
        self._has_failed = False
        self._written: tuple[int, FileId | None] = (0, None)

    def __call__(self, _: ServiceEvent) -> None:
        """Write the current status."""
        current = self._status()
        if current is None:
            return
        path = Path(self._name.replace("{pid}", str(os.getpid())))
        if current().state is not ServiceState.CLOSED:
            self._write(path, current())
        # Looked at again: another thread may have closed the service while this one wrote.
        if current().state is ServiceState.CLOSED:
            self._remove(path)

    def _remove(self, path: Path) -> None:
        """Remove the file unless another process, or another service of this one, wrote it."""
        pid, written = self._written
        if pid == os.getpid():
            remove_file(path, written)

    def _write(self, path: Path, status: ServiceStatus) -> None:
        try:
            written = replace_file(path, json.dumps(_document(status)).encode())
        except OSError as error:
            if not self._has_failed:
                _log.warning(
                    "%s: the status file %s cannot be written: %s; check IDENTITY_STATUS_FILE",
                    status.service_name,
                    path,
                    (error.strerror or type(error).__name__).lower(),
                )
            self._has_failed = True
        else:
            self._written = (os.getpid(), written)
            self._has_failed = False


@frozen
class FileStatus:
    """What a status file says, and whether it still holds.

    Attributes:
        members: the members of the file.
        is_alive: whether the process that wrote it runs.
    """

    members: dict[str, Any]
    is_alive: bool

    @property
    def state(self) -> str:
        """The state by now: a process may have been stopped since it wrote the file."""
        state = str(self.members.get("state"))
        if not self.is_alive:
            return "ENDED"
        expires_at = self.members.get("token_expires_at") or 0.0
        return "UNAVAILABLE" if state in _USABLE and expires_at <= time.time() else state

    def is_ready(self, *, strict: bool) -> bool:
        """Whether there is a usable token; strictly, whether the last refresh succeeded, too."""
        return self.state in (_USABLE[:1] if strict else _USABLE)

    def to_dict(self) -> dict[str, Any]:
        """Return the members, with the state by now."""
        return {**self.members, "state": self.state}


def read_status_files(name: str) -> list[FileStatus]:
    """Read the file of that name, or all, where ``{pid}`` stands for the process id.

    One of several that is removed meanwhile is skipped: workers come and go.

    Raises:
        ConfigurationError: a file cannot be read, or is something else.
    """
    pattern = "*".join(glob.escape(part) for part in name.split("{pid}"))
    paths = sorted(glob.glob(pattern))  # noqa: PTH207  # any path
    found = [_read(path, may_be_gone="{pid}" in name) for path in paths]
    return [status for status in found if status is not None]


def _document(status: ServiceStatus) -> dict[str, Any]:
    """Return the status with moments in place of durations, which would go stale."""
    now, members = time.time(), status.to_dict()
    remaining, pause = members.pop("token_expires_in"), members.pop("next_attempt_in")
    return {
        **members,
        "token_expires_at": round(now + status.token_expires_in, 3) if remaining else None,
        "next_attempt_at": round(now + (status.next_attempt_in or 0.0), 3) if pause else None,
        "written_at": round(now, 3),
        "pid": os.getpid(),
        "process_started": _started(os.getpid()),
    }


def _read(path: str, *, may_be_gone: bool) -> FileStatus | None:
    try:
        members = json.loads(read_file(path).decode())
        status = FileStatus(members, _is_alive(members["pid"], members["process_started"]))
        status.to_dict()  # a member of another type shows here
    except _UNREADABLE as error:
        if may_be_gone and isinstance(error, FileNotFoundError):
            return None
        reason = getattr(error, "strerror", None) or "it is not a status file"
        raise ConfigurationError(
            f"{path} cannot be read: {reason.lower()}; check IDENTITY_STATUS_FILE"
        ) from None
    return status


def _is_alive(pid: int, started: str | None) -> bool:
    if started is not None:
        return _started(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _started(pid: int) -> str | None:
    """Return when a process started, as Linux counts it; None elsewhere, or without a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()
    # A zombie has ended, though its parent has not waited for it yet.
    return None if state == "Z" else fields[18]
