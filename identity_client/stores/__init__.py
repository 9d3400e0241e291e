"""Where the processes and replicas of one service share its credentials.

====================================== ============================== ===========
URL                                    shared by                      extra
====================================== ============================== ===========
``memory:``                            one process                    none
``file:///path``                       the processes of one machine   ``file``
``redis://host``, ``rediss://host``    replicas on many machines      ``redis``
``unix:///path``                       the same, by Redis's socket    ``redis``
====================================== ============================== ===========

Another package adds a scheme with an entry point of the group
``identity_client.credential_stores``: its name is the scheme, its object is called with the
arguments of `open_store` and returns a `CredentialStore`. ``RecordCodec`` of
``identity_client.stores.document`` encrypts for it, and ``identity_client.testing`` has the tests
that it must pass.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Protocol, cast

from .._frames import hide_frames
from .._public import public
from ..errors import ConfigurationError
from ..models import StoredCredentials
from .memory import MemoryStore

ENTRY_POINTS = "identity_client.credential_stores"

# Scheme: module, class, and the extra that they need, which may be missing.
_BUILT_IN = {
    "file": ("file", "FileStore", "file"),
    "redis": ("redis", "RedisStore", "redis"),
    "rediss": ("redis", "RedisStore", "redis"),
    "unix": ("redis", "RedisStore", "redis"),
}


@public
class CredentialStore(Protocol):
    """Keeps the credentials of one service; ``str()`` tells where, without any secret.

    Used by one thread at a time, by any number of processes, and in children that were forked
    after it was made. All methods raise `CredentialStoreError` when the store cannot be used.
    """

    def load(self) -> StoredCredentials:
        """Return what is stored; version 0 and no credentials where there is nothing."""
        ...

    def lock(self, timeout: float) -> AbstractContextManager[object]:
        """Return a context in which no other process saves.

        The lock of a process that dies is free again by itself, at once or after a lease.

        Args:
            timeout: seconds to wait for the lock at most, 0 or more.

        Raises:
            CredentialStoreError: on entry, when another process holds the lock for all that time.
        """
        ...

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        """Replace what is stored, under the lock, and renew a lease that the lock may have.

        Args:
            stored: what to keep; its version is that of what it replaces.

        Returns:
            What was stored, with the next version.

        Raises:
            CredentialStoreError: also when the lock was lost or the version is another by now;
                nothing was overwritten then.
        """
        ...

    def clear(self) -> None:
        """Forget what is stored."""
        ...

    def close(self) -> None:
        """Close the connections; the other methods open them again."""
        ...


_Factory = Callable[..., CredentialStore]


@hide_frames
def open_store(
    url: str,
    *,
    service_name: str,
    identity_api_url: str,
    key: str | None = None,
    timeout: float = 10.0,
) -> CredentialStore:
    """Make the store that a URL names. Nothing is contacted yet.

    Args:
        url: the store's URL.
        service_name: with the next, whose credentials are kept.
        identity_api_url: the address of the identity-api that knows the service.
        key: a Fernet key to encrypt with, or several with commas between, of which the first
            encrypts and all decrypt; None to store as plain text.
        timeout: seconds that one request to identity-api may take, after which a lease ends soon.

    Raises:
        ConfigurationError: the URL or the key cannot be used, or a package is missing.
    """
    store: CredentialStore = _factory(url.partition(":")[0])(
        url,
        service_name=service_name,
        identity_api_url=identity_api_url,
        key=key,
        timeout=timeout,
    )
    return store


def _factory(scheme: str) -> _Factory:
    setting = "credential_store (IDENTITY_CREDENTIAL_STORE)"
    if scheme == "memory":
        return MemoryStore
    if scheme in _BUILT_IN:
        module, name, extra = _BUILT_IN[scheme]
        try:
            return cast("_Factory", getattr(import_module(f".{module}", __package__), name))
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                f"{setting}: {scheme}: needs the package {error.name!r}; "
                f"pip install 'xemahq-identity-client[{extra}]'"
            ) from None
    from importlib.metadata import entry_points  # takes long, and few need it

    for entry_point in entry_points(group=ENTRY_POINTS, name=scheme):
        return cast("_Factory", entry_point.load())
    if "sentinel" in scheme:
        raise ConfigurationError(
            f"{setting}: Redis Sentinel is not supported; use redis://, rediss:// or unix:// with "
            "an address that always leads to the primary"
        )
    raise ConfigurationError(
        f"{setting} names a store that is not known, {scheme}:; known are "
        f"memory:, {', '.join(f'{name}:' for name in _BUILT_IN)} and what other packages bring"
    )
