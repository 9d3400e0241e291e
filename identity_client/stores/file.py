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
from .document import RecordCodec

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
        self._path = _path_of(url)
        self._tmp_path = self._path.with_name(f"{self._path.name}.tmp")
        self._codec = RecordCodec(
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
        with self._translate_errors("read"):
            try:
                with _open(self._path) as file:
                    stored = self._codec.read(_content(file, self._path))
                    # Only now: a file of another program keeps its mode.
                    if _has_modes() and os.fstat(file.fileno()).st_mode & 0o077:
                        os.fchmod(file.fileno(), 0o600)
            except FileNotFoundError:
                return StoredCredentials()
        return stored

    def _check_owner(self, path: Path) -> None:
        """Raise `CredentialStoreError` if there is a file that this store did not write."""
        with suppress(FileNotFoundError), _open(path) as file:
            self._codec.check_owner(_content(file, path), f"the file {path}")

    def _remove(self, path: Path) -> None:
        self._check_owner(path)
        path.unlink(missing_ok=True)

    @contextmanager
    def lock(self, timeout: float) -> Generator[None, None, None]:
        # A new one each time: a lock that a forked child inherits is its parent's.
        # And none made of files that stay when their process dies, where the system has no locks.
        lock: Any = FileLock(
            f"{self._path}.lock", mode=0o600, thread_local=False, fallback_to_soft=False
        )
        with self._translate_errors("locked"):
            self._check_owner(self._path)  # before there is a lock beside another program's file
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

    def is_locked(self) -> bool:
        """Return whether a process holds the lock; makes no file, and delays no other process."""
        try:
            import fcntl
        except ImportError:  # Windows
            return False
        try:
            with open(f"{self._path}.lock", "rb") as file:  # noqa: PTH123  # the lock's own name
                # A shared lock, for a moment: who wants the other kind tries again at once.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    @hide_frames
    def save(self, stored: StoredCredentials) -> StoredCredentials:
        if not self._locked or self.load().version != stored.version:
            raise CredentialStoreError(
                f"could not save to {self}: modified concurrently (version conflict)"
            )
        stored = evolve(stored, version=stored.version + 1)
        with self._translate_errors("written"):
            # Only the holder of the lock writes, so what is there was left by one that died.
            self._remove(self._tmp_path)
            descriptor = os.open(self._tmp_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(self._codec.write(stored))
                file.flush()
                os.fsync(file.fileno())
            self._tmp_path.replace(self._path)
        return stored

    def clear(self) -> None:
        with self._translate_errors("removed"):
            self._remove(self._tmp_path)
            self._remove(self._path)

    def close(self) -> None:
        pass

    @contextmanager
    def _translate_errors(self, what: str) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise CredentialStoreError(
                f"{self} cannot be {what}: {(error.strerror or type(error).__name__).lower()}; "
                "check directory permissions and free disk space"
            ) from None


def _path_of(url: str) -> Path:
    setting = "credential_store (IDENTITY_CREDENTIAL_STORE)"
    if "#" in url or "?" in url:
        raise ConfigurationError(f"{setting} must write # as %23 and ? as %3F")
    parts = urlsplit(url)
    path = url2pathname(parts.path)
    is_absolute = parts.path.startswith("/") and not parts.path.endswith("/")
    if parts.netloc or not is_absolute or "\0" in path:
        raise ConfigurationError(
            f"{setting} must name a file by its absolute path, such as "
            "file:///run/orders/credentials.json"
        )
    return Path(path)


def _open(path: Path) -> BinaryIO:
    if path.is_symlink():
        raise _misplaced(path, "is a symbolic link")
    return open(path, "rb", opener=_open_safely)  # Path.open has no opener


def _content(file: BinaryIO, path: Path) -> bytes:
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        raise _misplaced(path, "is not a regular file")
    content = file.read(_MAX_SIZE + 1)  # not by its size: files of /proc have none
    if len(content) > _MAX_SIZE:
        raise _misplaced(path, "is larger than 1 MiB")
    return content


def _misplaced(path: Path, problem: str) -> CredentialStoreError:
    return CredentialStoreError(
        f"the file {path} {problem}; set IDENTITY_CREDENTIAL_STORE to a file of its own"
    )


def _open_safely(path: str, flags: int) -> int:
    # Neither waits for the writer of a FIFO nor follows a link; Windows has neither.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))


def _has_modes() -> bool:
    """Whether a file's mode says which users may read it: where users have ids, as on POSIX."""
    return hasattr(os, "geteuid")
