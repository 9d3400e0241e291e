"""Runs a command beside a file with a valid access token."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from .._files import FileId, remove_file, replace_file
from ..errors import ConfigurationError
from .access_token import fetch
from .console import echo
from .exec import IGNORED_BY_PYTHON, give_up_on_command
from .failures import reason_of
from .output import progress

if TYPE_CHECKING:
    from ..events import ServiceEvent
    from ..service import IdentityBootstrapService

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
# Where a library's thread has swallowed SIGCHLD, the end of the command is seen after this.
_POLL = 1.0
_UNKNOWN = 1  # the exit status where it cannot be had
_FROM_KERNEL = 0x80  # SI_KERNEL: of the terminal, which sends it to the command as well


def supervise(
    service: IdentityBootstrapService,
    command: tuple[str, ...],
    environ: Mapping[str, str],
    token_file: str,
    *,
    timeout: float | None,
    min_ttl: float,
) -> int:
    """Run a command, keep a valid token in a file, and return the exit status.

    Signals are blocked in all threads and taken by one call, so that none is lost, whenever it
    comes; the worker's thread inherits that from the thread that starts it.
    """
    if not hasattr(signal, "sigtimedwait"):
        raise ConfigurationError("--token-file needs a system with sigtimedwait(2), such as Linux")
    _check_token_file(token_file)
    watched = {signal.Signals[name] for name in _NAMES} | {signal.SIGCHLD}
    # Where it is ignored, which a parent may hand down, the command would leave no exit status.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with closing(service), _mask(signal.SIG_BLOCK, watched):
        service.is_ready()  # starts the worker
        with _mask(signal.SIG_UNBLOCK, watched), progress(service):
            token = fetch(service, timeout, min_ttl)
        with TokenFile(token_file, service) as file:
            file.write(token.value)
            return _run(command, environ, watched, file.repair)


def _check_token_file(name: str) -> None:
    """Refuse to replace what is not a regular file, such as a device, before any request."""
    if not name or "\0" in name:
        raise ConfigurationError(f"--token-file {name!r} is not the name of a file; name one")
    try:
        mode = Path(name).stat().st_mode  # of what a link names
    except OSError:
        return  # it does not exist, or the first write says what is wrong
    if not stat.S_ISREG(mode):
        target = Path(name).resolve()
        what = f"names {target}, which" if Path(name).is_symlink() else "exists and"
        raise ConfigurationError(
            f"--token-file {name} {what} is not a regular file; name a file, or a new name in a "
            "folder of the command"
        )


class TokenFile:
    """A file with the current token, mode 0600, which is replaced as a whole."""

    def __init__(self, name: str, service: IdentityBootstrapService) -> None:
        self._path = Path(name)
        self._service = service
        # The worker's thread writes beside this one, and may be at it when the command has ended.
        self._lock = threading.Lock()
        self._is_removed = False
        self._written: FileId | None = None
        self._is_stale = False

    def __enter__(self) -> Self:
        self._stop = self._service.on_event(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        with self._lock:
            self._is_removed = True
            remove_file(self._path, self._written)

    def write(self, token: str) -> None:
        """Write a token, unless the file has been removed for good.

        Raises:
            ConfigurationError: the file cannot be written.
        """
        with self._lock:
            if not self._is_removed:
                self._replace(token)

    def repair(self) -> None:
        """Write the current token if the last write failed."""
        if self._is_stale:
            self._renew()

    def _replace(self, token: str) -> None:
        try:
            self._written = replace_file(self._path, token.encode("ascii"))
        except OSError as error:
            reason = reason_of(error)
            raise ConfigurationError(
                f"the token file {self._path} cannot be written: {reason}; check its folder and "
                "the free disk space"
            ) from None

    def _on_event(self, event: ServiceEvent) -> None:
        from ..events import EventKind

        if event.kind is EventKind.TOKEN_ISSUED:
            self._renew()

    def _renew(self) -> None:
        """Write the current token; one message for as long as that fails."""
        with self._lock:
            # Taken under the lock, so that an older token does not replace a newer one.
            token = self._service.peek_token()
            if token is None or self._is_removed:
                return
            try:
                self._replace(token.value)
            except ConfigurationError as error:
                if not self._is_stale:
                    echo(f"identity-client: {error.message}; retrying", err=True)
                self._is_stale = True
            else:
                self._is_stale = False


def _run(
    command: tuple[str, ...],
    environ: Mapping[str, str],
    watched: set[signal.Signals],
    wake: Callable[[], None],
) -> int:
    try:
        child = os.posix_spawnp(
            command[0], command, environ, setsigmask=(), setsigdef=IGNORED_BY_PYTHON
        )
    except OSError as error:
        give_up_on_command(command[0], error)
    while True:
        info = signal.sigtimedwait(watched, _POLL)
        status = reap(child)
        if status is not None:
            return status
        if info and info.si_signo != signal.SIGCHLD and info.si_code != _FROM_KERNEL:
            os.kill(child, info.si_signo)
        wake()


def reap(child: int) -> int | None:
    """Wait for what has ended, orphans included where this is process 1; return the status."""
    status = None
    while True:
        try:
            pid, wait_status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            # Without a child, the command has ended, and other code has taken its status.
            return _UNKNOWN if status is None else status
        if pid == 0:
            return status
        if pid == child:
            code = os.waitstatus_to_exitcode(wait_status)
            status = 128 - code if code < 0 else code


@contextmanager
def _mask(how: int, signals: set[signal.Signals]) -> Generator[None, None, None]:
    before = signal.pthread_sigmask(how, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
