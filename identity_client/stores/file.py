"""`file:///path`, for the processes of one machine: a file of mode 0600 and a lock beside it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import evolve
from filelock import FileLock, Timeout

from ..errors import ConfigurationError, CredentialStoreError, sealed
from ..models import StoredCredentials
from .document import Documents

_POLL = 0.05


class FileStore:
    """Keeps the credentials in a file, which is replaced as a whole.

    The operating system frees the lock of a process that dies. The file system has to know locks,
    which not every network file system does. A folder that is missing is made.
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
        self._path = Path(unquote(parts.path))
        self._unfinished = self._path.with_name(f"{self._path.name}.tmp")
        self._documents = Documents(
            str(self), service_name=service_name, identity_api_url=identity_api_url, key=key
        )
        self._locked = False

    def __str__(self) -> str:
        return f"the file {self._path}"

    @sealed
    def load(self) -> StoredCredentials:
        with self._telling("read"):
            try:
                with self._path.open("rb") as file:
                    if os.fstat(file.fileno()).st_mode & 0o077:
                        os.fchmod(file.fileno(), 0o600)
                    document = file.read()
            except FileNotFoundError:
                return StoredCredentials()
        return self._documents.read(document)

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
                    f"another process holds the lock of {self} for {timeout:.1f} s already"
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
                f"{self} was not written: another process has changed it meanwhile"
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
                "see to its folder, its owner and the space on the disk"
            ) from None
