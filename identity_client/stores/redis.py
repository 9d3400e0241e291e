"""`redis://` and `rediss://`, for replicas on many machines: a hash, and a lock with a lease."""

from __future__ import annotations

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, cast
from urllib.parse import quote, urlsplit

import redis
from attrs import evolve
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from .._frames import hide_frames
from ..errors import ConfigurationError, CredentialStoreError
from ..models import StoredCredentials
from .document import Documents

_POLL = 0.05
_MAX_COMMAND_TIMEOUT = 2.0
# For a save that is tried twice, and connects each time.
_LEASE_MARGIN = 4 * _MAX_COMMAND_TIMEOUT + 2.0

# Saves only for the holder of the lock, only over the version that it saw, and renews its lease.
# A save whose answer was lost comes again, and finds its own work.
_SAVE = """
if redis.call('get', KEYS[2]) ~= ARGV[1] then return 0 end
local version = redis.call('hget', KEYS[1], 'version') or '0'
local document = redis.call('hget', KEYS[1], 'document')
if version == ARGV[3] and document == ARGV[4] then return 1 end
if version ~= ARGV[2] then return 0 end
redis.call('hset', KEYS[1], 'version', ARGV[3], 'document', ARGV[4])
redis.call('pexpire', KEYS[2], ARGV[5])
return 1
"""


class RedisStore:
    """Keeps the credentials in a Redis server.

    The lease of the lock outlasts all that happens under it, and each save renews it. Should it
    end all the same, or the server forget it, its former holder saves nothing any more. It may have
    saved before, and not know it, when the answer was lost: that is an error, too.

    Options in the URL's query are redis-py's, such as ``ssl_ca_certs``.
    """

    def __init__(
        self,
        url: str,
        *,
        service_name: str,
        identity_api_url: str,
        key: str | None = None,
        timeout: float = 10.0,
    ) -> None:
        self._url = url
        self._command_timeout = min(timeout, _MAX_COMMAND_TIMEOUT)
        # Two registrations and a token request, each of which takes at most this timeout.
        self._lease = 3 * timeout + _LEASE_MARGIN
        self._documents = Documents(
            str(self), service_name=service_name, identity_api_url=identity_api_url, key=key
        )
        # Braces: both keys have to live in the same place of a cluster.
        owner = f"{quote(service_name)}@{quote(identity_api_url.rstrip('/'))}"
        self._key = f"identity-client:{{{owner}}}:credentials"
        self._lock_key = f"identity-client:{{{owner}}}:lock"
        self._lock_token = ""
        self._client: Any = None
        self._pid = 0
        try:
            pool = self._connect().connection_pool
            # One that is not used: what the first one imports may not be imported in the worker.
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError, RedisError):
            raise ConfigurationError(
                "credential_store (IDENTITY_CREDENTIAL_STORE) is not a URL that redis-py "
                "understands, such as redis://:password@host:6379/0"
            ) from None

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        return f"the store at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @hide_frames
    def load(self) -> StoredCredentials:
        with self._telling():
            version, document = self._connect().hmget(self._key, "version", "document")
        stored = StoredCredentials() if document is None else self._documents.read(document)
        try:
            return evolve(stored, version=int(version or 0))
        except ValueError:
            raise CredentialStoreError(
                f"{self} holds a version that is not a number; delete its key {self._key}"
            ) from None

    @contextmanager
    def lock(self, timeout: float) -> Generator[None, None, None]:
        token = secrets.token_hex(16)
        with self._telling():
            lock = self._connect().lock(
                self._lock_key, timeout=self._lease, sleep=_POLL, thread_local=False
            )
            held = lock.acquire(blocking_timeout=timeout, token=token)
        if not held:
            raise CredentialStoreError(
                f"timed out after {timeout:.1f} s waiting for the lock on {self}"
            )
        self._lock_token = token
        try:
            yield
        finally:
            self._lock_token = ""
            with suppress(RedisError, OSError):  # the lease ends by itself
                lock.release()

    def save(self, stored: StoredCredentials) -> StoredCredentials:
        before, stored = stored.version, evolve(stored, version=stored.version + 1)
        with self._telling():
            saved = self._connect().eval(
                _SAVE,
                2,
                self._key,
                self._lock_key,
                self._lock_token,
                before,
                stored.version,
                self._documents.write(stored),
                int(self._lease * 1000),
            )
        if not saved:
            raise CredentialStoreError(
                f"could not save to {self}: modified concurrently (version conflict or lost lock)"
            )
        return stored

    def clear(self) -> None:
        with self._telling():
            self._connect().delete(self._key)

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and self._pid == os.getpid():
            client.close()

    def _connect(self) -> Any:
        """Return this process's client; a forked child makes one of its own."""
        if self._client is None or self._pid != os.getpid():
            self._pid = os.getpid()
            self._client = cast(Any, redis.Redis).from_url(
                self._url,
                socket_timeout=self._command_timeout,
                socket_connect_timeout=self._command_timeout,
                retry=Retry(NoBackoff(), 1),
            )
        return self._client

    @contextmanager
    def _telling(self) -> Generator[None, None, None]:
        try:
            yield
        except (RedisError, OSError) as error:
            # The first word of a reply is its code; the rest may quote what was sent.
            code = str(error).partition(" ")[0] if type(error) is ResponseError else ""
            kind = type(error).__name__
        else:
            return
        raise CredentialStoreError(
            f"{self} cannot be used ({code or kind}); check that it runs, can be reached, and "
            "accepts the user and password of IDENTITY_CREDENTIAL_STORE"
        )
