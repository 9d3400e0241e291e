"""The store on a Redis server: its contract, its lease, and a server that fails."""

from __future__ import annotations

import logging
import os
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from attrs import evolve
from contracts.stores import StoreContract
from cryptography.fernet import Fernet
from replicas.holders import KEY, LOCK
from support.canned import CannedServer, reply
from support.credentials import credentials, save, store_at
from support.redis_server import PASSWORD, RedisServer

from identity_client import ConfigurationError, CredentialStoreError, StoredCredentials

RUNNING = "check that it is running and that IDENTITY_CREDENTIAL_STORE is correct"


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


class TestRedisStore(StoreContract):
    """What is true of all shared stores."""


def test_services_do_not_share_their_keys(url: str, redis_server: RedisServer) -> None:
    save(store_at(url), "of orders")
    save(store_at(url, service_name="billing"), "of billing")
    save(store_at(url, identity_api_url="http://other"), "of orders elsewhere")
    assert len(list(redis_server.client.scan_iter())) == 3
    stored = store_at(url, identity_api_url="http://identity-api:3053/").load()
    assert stored.credentials == credentials("of orders")


def test_the_keys_are_those_that_operators_look_for(url: str, redis_server: RedisServer) -> None:
    store = store_at(url, timeout=2.0)
    with store.lock(1):
        began = time.monotonic()
        store.save(StoredCredentials())
        assert set(redis_server.client.scan_iter()) == {KEY.encode(), LOCK.encode()}
        # It outlasts two registrations, a token request, and a save that is tried twice.
        lease = 3 * 2000 + 10_000
        left = redis_server.client.pttl(LOCK)
        assert lease - 1000 * (time.monotonic() - began) - 1 <= left <= lease
    assert set(redis_server.client.scan_iter()) == {KEY.encode()}


def test_the_lock_of_a_holder_that_died_ends_with_its_lease(url: str) -> None:
    dead: Any = store_at(url)
    dead._lease = 0.3
    lock = dead.lock(1)
    began = time.monotonic()
    lock.__enter__()
    with store_at(url).lock(5):
        assert time.monotonic() - began >= 0.29


def test_a_lock_is_seen_without_being_taken(url: str) -> None:
    store: Any = store_at(url)
    other: Any = store_at(url)
    assert not other.is_locked()
    with store.lock(1):
        assert other.is_locked()
    assert not other.is_locked()


def test_a_holder_whose_lease_has_ended_saves_nothing(url: str, redis_server: RedisServer) -> None:
    store, other = store_at(url), store_at(url)
    with store.lock(1):
        seen = store.load()
        redis_server.client.delete(LOCK)
        with pytest.raises(CredentialStoreError, match="modified concurrently"):
            store.save(evolve(seen, credentials=credentials("of nobody")))
        with other.lock(1):
            with pytest.raises(CredentialStoreError, match="modified concurrently"):
                store.save(evolve(seen, credentials=credentials("of the former holder")))
            saved = other.save(evolve(other.load(), credentials=credentials("of the holder")))
    assert store.load() == saved


def test_leaving_a_lock_that_was_lost_does_not_free_that_of_another(
    url: str, redis_server: RedisServer
) -> None:
    store, other = store_at(url), store_at(url)
    lock = store.lock(1)
    lock.__enter__()
    redis_server.client.delete(LOCK)
    with other.lock(1):
        lock.__exit__(None, None, None)
        assert redis_server.client.exists(LOCK)


def test_each_save_renews_the_lease(url: str, redis_server: RedisServer) -> None:
    store = store_at(url)
    with store.lock(1):
        redis_server.client.pexpire(LOCK, 5000)
        saved = store.save(store.load())
        assert redis_server.client.pttl(LOCK) > 30_000
        store.save(saved)


def test_with_a_key_nothing_is_readable(url: str, redis_server: RedisServer) -> None:
    key = Fernet.generate_key().decode()
    saved = save(store_at(url, key=key))
    assert store_at(url, key=key).load() == saved
    document = redis_server.client.hgetall(KEY)[b"document"]
    assert b"a-client-secret" not in document
    with pytest.raises(CredentialStoreError, match="IDENTITY_CREDENTIAL_STORE_KEY"):
        save(store_at(url))


def test_a_truncated_document_counts_as_none_and_is_replaced(
    url: str, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    save(store_at(url))
    redis_server.client.hset(KEY, "document", b'{"service"')
    assert store_at(url).load() == StoredCredentials(version=1)
    assert "ignoring corrupt data in the store at redis://" in caplog.text
    assert save(store_at(url)).version == 2


def test_a_version_without_a_document_is_replaced(url: str, redis_server: RedisServer) -> None:
    save(store_at(url))
    redis_server.client.hdel(KEY, "document")
    assert store_at(url).load() == StoredCredentials(version=1)
    assert save(store_at(url)).version == 2


def test_a_version_that_is_not_a_number_is_a_clear_error(
    url: str, redis_server: RedisServer
) -> None:
    redis_server.client.hset(KEY, "version", "first")
    with pytest.raises(CredentialStoreError, match=r"not a number; delete its key identity-client"):
        store_at(url).load()


def test_a_key_of_another_type_is_left_alone(url: str, redis_server: RedisServer) -> None:
    redis_server.client.set(KEY, "something")
    with pytest.raises(CredentialStoreError, match="WRONGTYPE"):
        store_at(url).load()


ENCODE = "in a password write # as %23, / as %2F, ? as %3F"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        pytest.param("redis://host:port", "is not a URL that redis-py understands", id="port"),
        pytest.param("redis://h?db=first", "is not a URL that redis-py", id="option"),
        pytest.param("redis://h?color=hunter", "must not set color in its query", id="unknown"),
        pytest.param("redis://h:1?hunter=2@host/0", ENCODE, id="a question mark after a port"),
        *(
            pytest.param(f"redis://h?{name}=1", f"must not set {name} in its query", id=name)
            for name in (
                "socket_timeout",
                "socket_connect_timeout",
                "decode_responses",
                "encoding",
                "retry_on_timeout",
                "cache_config",
                "single_connection_client",
            )
        ),
        pytest.param("redis://:hunter#2@host:6379/0", f"must not contain a #; {ENCODE}", id="#"),
        pytest.param("redis://:hunter/2@host:6379/0", ENCODE, id="a slash"),
        pytest.param("redis://:hunter?2@host:6379/0", ENCODE, id="a question mark"),
        pytest.param("redis://:1234/hunter@host/0", ENCODE, id="a slash after digits"),
        pytest.param("redis://:1234?hunter@host/0", ENCODE, id="a question mark after digits"),
        pytest.param("redis://[::1/0", "is not a URL that redis-py understands", id="bracket"),
        pytest.param("redis://host/0#", "must not contain a #", id="bare #"),
        pytest.param("redis://host/0?", "ends with a question mark", id="bare ?"),
        pytest.param("redis://host/zero", "must end with the number of a database", id="a name"),
        pytest.param("redis://host/0/1", "must end with the number of a database", id="two"),
        pytest.param("unix://", "must name a socket", id="no socket"),
        pytest.param("redis+sentinel://host/mymaster", "Redis Sentinel is not", id="sentinel"),
        pytest.param("sentinel://host:26379/mymaster", "Redis Sentinel is not", id="sentinels"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match="IDENTITY_CREDENTIAL_STORE") as caught:
        store_at(url)
    assert problem in caught.value.message
    assert "hunter" not in caught.value.message


def test_options_that_change_nothing_that_the_store_counts_on_are_passed_on(url: str) -> None:
    options = "db=1&client_name=orders&protocol=2&health_check_interval=1&max_connections=1"
    store = store_at(f"{url}?{options}&socket_keepalive=true")
    saved = save(store)
    assert store.load() == saved
    assert store_at(f"{url.removesuffix('0')}1").load() == saved


def test_a_password_with_any_character_is_used_as_it_is() -> None:
    password = "p#/?@%:&+ ä"
    with RedisServer("--requirepass", password) as server:
        store = store_at(server.url.replace("redis://", f"redis://:{quote(password, safe='')}@"))
        assert save(store).version == 1


@pytest.mark.enable_socket  # of the file system, too
def test_a_socket_of_the_file_system_is_a_store_too(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with RedisServer("--unixsocket", str(path)):
        store = store_at(f"unix://{path}?db=1")
        saved = save(store)
        assert store_at(f"unix://{path}?db=1").load() == saved
        assert store_at(f"unix://{path}").load() == StoredCredentials()
        assert str(store) == f"the store at unix://{path}"
    with pytest.raises(CredentialStoreError, match=r"cannot be used: (connection refused|no such)"):
        store.load()


def test_a_lock_whose_grant_was_lost_on_the_way_is_freed(
    url: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire_unheard(lock: Any, *, blocking_timeout: float, token: str) -> bool:
        assert lock.redis.set(lock.name, token, nx=True, px=60_000)
        return lock.redis.set(lock.name, token, nx=True, px=60_000) is True  # the second try

    monkeypatch.setattr("redis.lock.Lock.acquire", acquire_unheard)
    store: Any = store_at(url)
    with pytest.raises(CredentialStoreError, match="timed out"), store.lock(0.2):
        pass
    assert not store.is_locked()


def test_an_old_connection_to_what_is_a_replica_by_now_is_made_anew(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(own_redis.url)
    save(store)
    operator = own_redis.client
    operator.replicaof("127.0.0.1", 1)
    connection_class: Any = redis.Connection
    connect = connection_class._connect

    def connect_to_the_new_primary(connection: object) -> Any:
        operator.replicaof("NO", "ONE")
        return connect(connection)

    monkeypatch.setattr(connection_class, "_connect", connect_to_the_new_primary)
    save(store, "after the failover")
    assert store.load().credentials == credentials("after the failover")


def test_a_child_has_a_connection_of_its_own(url: str) -> None:
    store = store_at(url)
    saved = save(store)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, b"same" if store.load() == saved else b"other")
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"same"
    assert store.load() == saved


# --- a server that fails ---


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_the_copy_of_a_holder_in_a_child_leaves_the_lock_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # gevent copies greenlets with the process, and what is raised in a copy unwinds it.
    store: Any = store_at(url)
    pid = os.getpid()
    with monkeypatch.context() as patch, store.lock(5):
        patch.setattr(os, "getpid", lambda: pid + 1)
    assert store.is_locked()


def test_a_server_that_is_down_is_a_clear_error(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url)
    saved = save(store)
    own_redis.stop()
    for call in (store.load, store.clear, lambda: save(store)):
        with pytest.raises(CredentialStoreError) as caught:
            call()
        assert caught.value.message == (
            f"the store at {own_redis.url} cannot be used: connection refused; {RUNNING}"
        )
        assert caught.value.__cause__ is None
    own_redis.start()
    assert store.load() == StoredCredentials() != saved


def test_a_server_that_goes_away_while_the_lock_is_held_is_a_clear_error(
    own_redis: RedisServer,
) -> None:
    store = store_at(own_redis.url)
    with store.lock(1):
        own_redis.stop()
        with pytest.raises(CredentialStoreError, match="cannot be used"):
            store.save(StoredCredentials())


def test_a_server_that_restarts_between_two_commands_is_not_noticed(
    own_redis: RedisServer,
) -> None:
    store = store_at(own_redis.url)
    save(store)
    own_redis.stop()
    own_redis.start()
    assert store.load() == StoredCredentials()


def test_a_server_that_says_nothing_is_a_clear_error_in_time(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url, timeout=1.0)
    save(store)
    own_redis.freeze()
    began = time.monotonic()
    with pytest.raises(CredentialStoreError, match=r"timed out after 1 s"):
        store.load()
    assert time.monotonic() - began < 8


def test_a_command_waits_for_a_silent_server_a_few_seconds_only(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url, timeout=10.0)
    save(store)
    own_redis.freeze()
    began = time.monotonic()
    with pytest.raises(CredentialStoreError, match=r"timed out after \d(\.\d)? s"):
        store.load()
    assert time.monotonic() - began < 8  # at most two tries of two seconds


def test_a_wrong_password_is_a_clear_error_without_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer("--requirepass", PASSWORD) as server:
        for user in ("", ":wrong-password@", "bob:wrong-password@"):
            with pytest.raises(CredentialStoreError) as caught:
                store_at(server.url.replace("redis://", f"redis://{user}")).load()
            assert caught.value.message == (
                f"the store at {server.url} cannot be used: the server rejects the user or the "
                "password; correct them in IDENTITY_CREDENTIAL_STORE"
            )
        right = store_at(server.url.replace("redis://", f"redis://:{PASSWORD}@"))
        save(right)
        assert PASSWORD not in str(right)
    assert "password" not in caplog.text


def test_a_server_that_takes_no_writes_is_a_clear_error() -> None:
    with RedisServer("--min-replicas-to-write", "1") as server:
        store = store_at(server.url)
        with pytest.raises(CredentialStoreError) as caught:
            save(store)
    assert caught.value.message == (
        f"the store at {server.url} cannot be used: the server returned NOREPLICAS; {RUNNING}"
    )


def test_a_server_without_a_command_is_a_clear_error() -> None:
    with RedisServer("--rename-command", "HMGET", "") as server:
        assert _message_at(server.url) == f"the server returned an error; {RUNNING}"


class _RefusingHandler(socketserver.StreamRequestHandler):
    """Returns an error to HMGET, and OK to what opens a connection."""

    def handle(self) -> None:
        for line in self.rfile:  # the number of words, and then each with its length before it
            words = [self.rfile.readline() and self.rfile.readline() for _ in range(int(line[1:]))]
            error: bytes = self.server.error  # type: ignore[attr-defined]  # set below
            self.wfile.write(b"-%s\r\n" % error if words[0] == b"HMGET\r\n" else b"+OK\r\n")


@contextmanager
def _refusing_server(error: bytes) -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _RefusingHandler) as server:
        server.daemon_threads = True
        server.error = error  # type: ignore[attr-defined]  # for the handler
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"redis://127.0.0.1:{server.server_address[1]}/0?protocol=2"
        server.shutdown()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            b"LOADING Redis is loading the dataset in memory",
            "the server is loading its data (LOADING); the store works once it has finished",
        ),
        (
            b"ERR max number of clients reached",
            "the server has reached its maxclients; raise it, or close other connections",
        ),
    ],
)
def test_a_server_that_is_not_ready_is_told(error: bytes, says: str) -> None:
    with _refusing_server(error) as url:
        assert _message_at(url) == says


def _message_at(url: str, timeout: float = 10.0) -> str:
    store = store_at(url, timeout=timeout)
    with pytest.raises(CredentialStoreError) as caught:
        store.load()
    assert caught.value.__cause__ is None
    said = caught.value.message
    assert said.startswith(f"{store} cannot be used: ")
    return said.removeprefix(f"{store} cannot be used: ")


def test_a_host_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert _message_at("redis://redis:6379/0") == f"the host name cannot be resolved; {RUNNING}"


def test_a_database_that_does_not_exist_is_told(redis_server: RedisServer) -> None:
    assert _message_at(redis_server.url.replace("/0", "/99")) == (
        "the server has no database 99; correct the number at the end of IDENTITY_CREDENTIAL_STORE"
    )


def test_rediss_against_a_server_without_tls_is_told(redis_server: RedisServer) -> None:
    assert _message_at(redis_server.url.replace("redis:", "rediss:"), timeout=0.5) == (
        "the TLS handshake timed out after 0.5 s; if the server speaks no TLS at this port, use "
        "redis:// in IDENTITY_CREDENTIAL_STORE"
    )


def test_rediss_against_another_server_without_tls_is_told() -> None:
    with CannedServer(reply({})) as server:
        assert _message_at(server.url.replace("http:", "rediss:")) == (
            "the server speaks no TLS at this port; use redis:// in IDENTITY_CREDENTIAL_STORE"
        )


def test_redis_against_a_server_with_tls_is_told(certificate: str) -> None:
    with RedisServer(certificate=certificate) as server:
        assert _message_at(server.url.replace("rediss:", "redis:")) == (
            "connection reset by peer; if the server speaks TLS at this port, use rediss:// in "
            "IDENTITY_CREDENTIAL_STORE"
        )


def test_a_server_that_hangs_up_is_told() -> None:
    def hang_up() -> None:
        while True:
            try:
                listener.accept()[0].close()
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=hang_up, daemon=True).start()
        said = _message_at(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        listener.shutdown(socket.SHUT_RDWR)
    # It depends on which side is faster.
    assert said.startswith(("the connection was closed; check", "connection reset by peer; if"))


def test_a_certificate_has_to_be_trusted(certificate: str) -> None:
    with RedisServer(certificate=certificate) as server:
        assert _message_at(server.url) == (
            "the TLS connection failed (self-signed certificate in certificate chain); add "
            "ssl_ca_certs=FILE to the query of IDENTITY_CREDENTIAL_STORE, or correct its host"
        )
        assert save(store_at(f"{server.url}?ssl_ca_certs={certificate}")).version == 1


# --- a Redis user that may not do all that the store does ---

GRANTED = {"+eval", "+get", "+set", "+del", "+hmget", "+hget", "+hset", "+pexpire"}


@pytest.fixture
def restricted(own_redis: RedisServer) -> Callable[..., str]:
    def make(*rights: str) -> str:
        rules = ("on", f">{PASSWORD}", "-@all", "+hello", "+client", "+select", *rights)
        own_redis.client.execute_command("ACL", "SETUSER", "orders", *rules)
        return own_redis.url.replace("redis://", f"redis://orders:{PASSWORD}@")

    return make


def test_these_rights_of_a_redis_user_are_enough(restricted: Callable[..., str]) -> None:
    store = store_at(restricted(*GRANTED, "~identity-client:*"))
    assert save(store).version == 1
    with store.lock(0):
        pass
    store.clear()


@pytest.mark.parametrize("missing", sorted(GRANTED - {"+hmget"}))
def test_a_redis_user_without_a_right_is_refused_before_the_lock_is_taken(
    missing: str, restricted: Callable[..., str], own_redis: RedisServer
) -> None:
    store = store_at(restricted(*GRANTED - {missing}, "~identity-client:*"))
    with pytest.raises(CredentialStoreError) as caught, store.lock(1):
        pass
    assert caught.value.message == (
        f"{store} cannot be used: its Redis user may not run {missing[1:].upper()}; grant it "
        f"{missing} (ACL SETUSER)"
    )
    assert own_redis.client.keys("*lock") == []


def test_a_redis_user_without_the_keys_is_refused(restricted: Callable[..., str]) -> None:
    store = store_at(restricted(*GRANTED, "~other:*"))
    for call in (store.load, store.lock(1).__enter__):
        with pytest.raises(CredentialStoreError) as caught:
            call()
        assert caught.value.message == (
            f"{store} cannot be used: its Redis user may not access the keys of the store; grant "
            "it ~identity-client:* (ACL SETUSER)"
        )
