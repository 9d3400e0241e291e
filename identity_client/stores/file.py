"""`file:///path`, for the processes of one machine: a file of mode 0600 and a lock beside it."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from attrs import evolve
from filelock import FileLock, Timeout

from .._eager import import_eagerly
from .._frames import hide_frames
from ..errors import ConfigurationError, CredentialStoreError
from ..models import StoredCredentials
from .document import Documents

_log = logging.getLogger("identity_client")

_POLL = 0.05
_MAX_SIZE = 1024 * 1024

# The store is used in the worker and in forked children, where an import may hang.
import_eagerly("filelock")


class FileStore:
    """Keeps the credentials in a file, which is replaced as a whole.

    The operating system frees the lock of a process that dies. The file system has to know locks,
    which not every network file system does. A folder that is missing is made. Where files have no
    modes (Windows), the folder's permissions have to protect the credentials; a warning says so.
    """

    def __init__(
        self,
        url: str,
        *,
        service_name: str,
        identity_api_url: str,
        key: str | None = None,
        timeout: float = 10.0,  # noqa: ARG002  # there is no lease
    ) -> None:
        parts = urlsplit(url)
        if parts.netloc or not parts.path.startswith("/") or parts.path.endswith("/"):
            raise ConfigurationError(
                "credential_store (IDENTITY_CREDENTIAL_STORE) must name a file by its absolute "
                "path, such as file:///run/orders/credentials.json"
            )
        self._path = Path(url2pathname(parts.path))
        self._unfinished = self._path.with_name(f"{self._path.name}.tmp")
        self._documents = Documents(
            str(self), service_name=service_name, identity_api_url=identity_api_url, key=key
        )
        self._locked = False
        if not _has_modes():
            _log.warning(
                "%s: this system has no file modes, so only the permissions of its folder protect "
                "the credentials; set IDENTITY_CREDENTIAL_STORE_KEY to encrypt them",
                self,
            )

    def __str__(self) -> str:
        return f"the file {self._path}"

    @hide_frames
    def load(self) -> StoredCredentials:
        with self._telling("read"):
            try:
                with self._open() as file:
                    stored = self._documents.read(self._content(file))
                    # Only now: a file of another program keeps its mode.
                    if _has_modes() and os.fstat(file.fileno()).st_mode & 0o077:
                        os.fchmod(file.fileno(), 0o600)
            except FileNotFoundError:
                return StoredCredentials()
        return stored

    def _open(self) -> BinaryIO:
        if self._path.is_symlink():
            raise self._misplaced("is a symbolic link")
        return open(self._path, "rb", opener=_open_safely)  # Path.open has no opener

    def _content(self, file: BinaryIO) -> bytes:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise self._misplaced("is not a regular file")
        content = file.read(_MAX_SIZE + 1)  # not by its size: files of /proc have none
        if len(content) > _MAX_SIZE:
            raise self._misplaced("is larger than 1 MiB")
        return content

    def _misplaced(self, problem: str) -> CredentialStoreError:
        return CredentialStoreError(
            f"{self} {problem}; set IDENTITY_CREDENTIAL_STORE to a file of its own"
        )

    @contextmanager
    def lock(self, timeout: float) -> Generator[None, None, None]:
        # A new one each time: a lock that a forked child inherits is its parent's.
        # And none made of files that stay when their process dies, where the system has no locks.
        lock: Any = FileLock(
            f"{self._path}.lock", mode=0o600, thread_local=False, fallback_to_soft=False
        )
        with self._telling("locked"):
            try:
                lock.acquire(timeout=timeout, poll_interval=_POLL)
            except Timeout:
                raise CredentialStoreError(
                    f"timed out after {timeout:.1f} s waiting for the lock on {self}"
                ) from None
        self._locked = True
        try:
            yield
        finally:
            self._locked = False
            lock.release()

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        if not self._locked or self.load().version != stored.version:
            raise CredentialStoreError(
                f"could not save to {self}: modified concurrently (version conflict)"
            )
        stored = evolve(stored, version=stored.version + 1)
        with self._telling("written"):
            # Only the holder of the lock writes, so what is there was left by one that died.
            self._unfinished.unlink(missing_ok=True)
            descriptor = os.open(self._unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._documents.write(stored))
                file.flush()
                os.fsync(file.fileno())
            self._unfinished.replace(self._path)
        return stored

    def clear(self) -> None:
        with self._telling("removed"):
            with suppress(FileNotFoundError), self._open() as file:
                self._documents.check_owner(self._content(file))
            self._path.unlink(missing_ok=True)
            self._unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        pass

    @contextmanager
    def _telling(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise CredentialStoreError(
                f"{self} cannot be {what}: {(error.strerror or type(error).__name__).lower()}; "
                "check directory permissions and free disk space"
            ) from None


def _open_safely(path: str, flags: int) -> int:
    # Neither waits for the writer of a FIFO nor follows a link; Windows has neither.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def _has_modes() -> bool:
    """Whether a file's mode says which users may read it: where users have ids, as on POSIX."""
    return hasattr(os, "geteuid")
