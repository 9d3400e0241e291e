"""`memory:`, for a process that shares its credentials with no other."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from attrs import evolve

from ..models import StoredCredentials


class MemoryStore:
    """Keeps the credentials of one service object; its one thread needs no lock."""

    def __init__(self, *_: object, **__: object) -> None:
        self._stored = StoredCredentials()

    def __str__(self) -> str:
        return "memory:"

    def load(self) -> StoredCredentials:
        return self._stored

    def lock(self, timeout: float) -> AbstractContextManager[object]:  # noqa: ARG002  # never waits
        return nullcontext()

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        self._stored = evolve(stored, version=stored.version + 1)
        return self._stored

    def clear(self) -> None:
        self._stored = StoredCredentials()

    def close(self) -> None:
        pass
