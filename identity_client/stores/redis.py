"""`redis://`, `rediss://`, `unix://`, for replicas: a hash, and a lock with a lease."""

from __future__ import annotations

import os
import re
import secrets
import ssl
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlsplit

import redis
from attrs import evolve
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.retry import Retry

from .._frames import hide_frames
from .._http.failures import chain, speaks_no_tls, system_reason
from ..errors import ConfigurationError, CredentialStoreError
from ..models import StoredCredentials
from .document import RecordCodec

_POLL = 0.05
_COMMAND_TIMEOUT = 2.0
# For a save that is tried twice, and connects each time.
_LEASE_MARGIN = 4 * _COMMAND_TIMEOUT + 2.0

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

_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then redis.call('del', KEYS[1]) end"

# Runs each command of the store once: a user that may not run one of them would take the lock, and
# neither save nor release it. Not every server names the command, so that the script does.
_TRY_COMMANDS = """
for _, command in ipairs({
    {'hset', KEYS[1], 'version', 0}, {'hget', KEYS[1], 'version'}, {'pexpire', KEYS[1], 1000},
    {'del', KEYS[1]}, {'set', KEYS[1], '', 'px', 1000}, {'get', KEYS[1]}, {'del', KEYS[1]},
}) do
    local reply = redis.pcall(unpack(command))
    if type(reply) == 'table' and reply.err then
        if reply.err:find('permission') or reply.err:find('run this command') then
            return redis.error_reply("NOPERM the '" .. command[1] .. "' command")
        end
        return reply
    end
end
"""

_SETTING = "credential_store (IDENTITY_CREDENTIAL_STORE)"
_CHECK = "check that it is running and that IDENTITY_CREDENTIAL_STORE is correct"
_ENCODE = "in a password write # as %23, / as %2F, ? as %3F"
# The others would change what the store counts on, such as its timeouts, or are not text.
_OPTIONS = (
    "db",
    "username",
    "password",
    "client_name",
    "protocol",
    "health_check_interval",
    "max_connections",
    "socket_keepalive",
)
_NOT_A_URL = (
    "is not a URL that redis-py understands, such as redis://:password@host:6379/0; " + _ENCODE
)


class RedisStore:
    """Keeps the credentials in a Redis server.

    The lease of the lock outlasts all that happens under it, and each save renews it. Should it
    end all the same, or the server forget it, its former holder saves nothing any more. It may have
    saved before, and not know it, when the answer was lost: that is an error, too.

    Of redis-py's options, the URL's query may have those that begin with ``ssl_``, such as
    ``ssl_ca_certs``, and ``db``, ``username``, ``password``, ``client_name``, ``protocol``,
    ``health_check_interval``, ``max_connections`` and ``socket_keepalive``. The Redis user needs
    the keys ``identity-client:*`` and the commands EVAL, GET, SET, DEL, HMGET, HGET, HSET and
    PEXPIRE.
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
        if problem := _url_problem(url):
            raise ConfigurationError(f"{_SETTING} {problem}")
        self._url = url
        self._command_timeout = min(timeout, _COMMAND_TIMEOUT)
        # Two registrations and a token request, each of which takes at most this timeout.
        self._lease = 3 * timeout + _LEASE_MARGIN
        self._codec = RecordCodec(
            str(self), service_name=service_name, identity_api_url=identity_api_url, key=key
        )
        # Braces: all keys have to live in the same place of a cluster.
        owner = f"{quote(service_name)}@{quote(identity_api_url.rstrip('/'))}"
        self._key = f"identity-client:{{{owner}}}:credentials"
        self._lock_key = f"identity-client:{{{owner}}}:lock"
        self._test_key = f"identity-client:{{{owner}}}:test"
        self._lock_token = ""
        self._client: Any = None
        self._pid = 0
        self._has_permissions = False
        try:
            pool = self._connect().connection_pool
            # An unused connection: what the first one imports may not be imported in the worker.
            pool.connection_class(**pool.connection_kwargs)
        except (ValueError, TypeError, RedisError):
            raise ConfigurationError(f"{_SETTING} {_NOT_A_URL}") from None

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        return f"the store at {parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @hide_frames
    def load(self) -> StoredCredentials:
        with self._translate_errors():
            version, document = self._connect().hmget(self._key, "version", "document")
        stored = StoredCredentials() if document is None else self._codec.read(document)
        try:
            return evolve(stored, version=int(version or 0))
        except ValueError:
            raise CredentialStoreError(
                f"{self} holds a version that is not a number; delete its key {self._key}"
            ) from None

    @contextmanager
    def lock(self, timeout: float) -> Generator[None, None, None]:
        token, pid = secrets.token_hex(16), os.getpid()
        with self._translate_errors():
            client = self._connect()
            if not self._has_permissions:
                client.eval(_TRY_COMMANDS, 1, self._test_key)
                self._has_permissions = True
            lock = client.lock(self._lock_key, timeout=self._lease, sleep=_POLL, thread_local=False)
            is_held = lock.acquire(blocking_timeout=timeout, token=token)
            if not is_held:  # or the reply that granted it was lost, and nobody would free it
                client.eval(_RELEASE, 1, self._lock_key, token)
        if not is_held:
            raise CredentialStoreError(
                f"timed out after {timeout:.1f} s waiting for the lock on {self}"
            )
        self._lock_token = token
        try:
            yield
        finally:
            if pid == os.getpid():  # a greenlet that a fork copied has its parent's lock
                self._lock_token = ""
                with suppress(RedisError, OSError):  # the lease ends by itself
                    client.eval(_RELEASE, 1, self._lock_key, token)

    def is_locked(self) -> bool:
        """Return whether a process holds the lock."""
        with self._translate_errors():
            return self._connect().get(self._lock_key) is not None

    @hide_frames
    def save(self, stored: StoredCredentials) -> StoredCredentials:
        before, stored = stored.version, evolve(stored, version=stored.version + 1)
        with self._translate_errors():
            saved = self._connect().eval(
                _SAVE,
                2,
                self._key,
                self._lock_key,
                self._lock_token,
                before,
                stored.version,
                self._codec.write(stored),
                int(self._lease * 1000),
            )
        if not saved:
            raise CredentialStoreError(
                f"could not save to {self}: modified concurrently (version conflict or lost lock)"
            )
        return stored

    def clear(self) -> None:
        with self._translate_errors():
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
                # After a failover an old connection leads to what is a replica by then.
                retry_on_error=[ReadOnlyError],
            )
        return self._client

    @contextmanager
    def _translate_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (RedisError, OSError) as error:
            failure = f"{self} cannot be used: {_explain(error, self._url, self._command_timeout)}"
        else:
            return
        raise CredentialStoreError(failure)


def _url_problem(url: str) -> str | None:
    try:
        parts = urlsplit(url)
    except ValueError:
        return _NOT_A_URL
    if "#" in url:
        return f"must not contain a #; {_ENCODE}"
    # A / or ? in a password ends the host: redis-py would connect to another, or to none.
    if "@" in parts.path or (parts.hostname is None and "@" in parts.query):
        return _NOT_A_URL
    if url.endswith("?"):
        return f"ends with a question mark that no option follows; {_ENCODE}"
    options = parse_qs(parts.query, keep_blank_values=True)
    refused = [name for name in options if not name.startswith("ssl_") and name not in _OPTIONS]
    if refused:
        if "@" in parts.query:  # what precedes it may be a part of the password
            return _NOT_A_URL
        known = f"{', '.join(_OPTIONS)} and those that begin with ssl_"
        return f"must not set {', '.join(refused)} in its query; its options are {known}"
    if parts.scheme == "unix":
        return None if parts.path else "must name a socket, such as unix:///run/redis.sock?db=0"
    if not re.fullmatch(r"/?|/[0-9]+", parts.path):
        return "must end with the number of a database, such as redis://:password@host:6379/0"
    return None


def _explain(error: Exception, url: str, timeout: float) -> str:
    """Say why a command failed, and what to do; not in the server's words, which may quote."""
    text = str(error)
    if isinstance(error, AuthenticationError):
        return (
            "the server rejects the user or the password; correct them in IDENTITY_CREDENTIAL_STORE"
        )
    if isinstance(error, BusyLoadingError):
        return "the server is loading its data (LOADING); the store works once it has finished"
    if text == "max number of clients reached":
        return "the server has reached its maxclients; raise it, or close other connections"
    if isinstance(error, NoPermissionError):
        return _missing_permission(text)
    if text.startswith("DB index"):
        number = urlsplit(url).path.strip("/")
        return (
            f"the server has no database {number}; correct the number at the end of "
            "IDENTITY_CREDENTIAL_STORE"
        )
    if isinstance(error, ResponseError):
        code = text.partition(" ")[0] if type(error) is ResponseError else type(error).__name__
        # A reply begins with its code, unless that was ERR, which redis-py takes away.
        is_code = code.isupper() or type(error) is not ResponseError
        return f"the server returned {code if is_code else 'an error'}; {_CHECK}"
    return _connection_failure(error, url, timeout)


def _missing_permission(text: str) -> str:
    command = re.search(r"'(\w+)' command", text)
    if command is None:
        return (
            "its Redis user may not access the keys of the store; grant it ~identity-client:* "
            "(ACL SETUSER)"
        )
    return f"its Redis user may not run {command[1].upper()}; grant it +{command[1]} (ACL SETUSER)"


def _connection_failure(error: Exception, url: str, timeout: float) -> str:
    is_plain = url.startswith("redis:")
    reason, advice = system_reason(error), _CHECK
    if speaks_no_tls(error):
        advice = "use redis:// in IDENTITY_CREDENTIAL_STORE"
    elif any("handshake" in str(link) for link in chain(error) if isinstance(link, TimeoutError)):
        # A Redis server waits for the end of a line, which the start of a handshake has not.
        reason = f"the TLS handshake timed out after {timeout:.3g} s"
        advice = (
            "if the server speaks no TLS at this port, use redis:// in IDENTITY_CREDENTIAL_STORE"
        )
    elif isinstance(error, redis.TimeoutError):
        reason = f"timed out after {timeout:.3g} s"
    elif any(isinstance(link, ssl.SSLCertVerificationError) for link in chain(error)):
        advice = (
            "add ssl_ca_certs=FILE to the query of IDENTITY_CREDENTIAL_STORE, or correct its host"
        )
    elif is_plain and any(isinstance(link, ConnectionResetError) for link in chain(error)):
        advice = "if the server speaks TLS at this port, use rediss:// in IDENTITY_CREDENTIAL_STORE"
    return f"{reason or 'the connection was closed'}; {advice}"
