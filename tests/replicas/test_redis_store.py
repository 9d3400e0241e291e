"""The store on a Redis server: its contract, its lease, and a server that fails."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import evolve
from contracts.stores import StoreContract
from cryptography.fernet import Fernet
from replicas.holders import KEY, LOCK
from support.credentials import credentials, save, store_at
from support.redis_server import PASSWORD, RedisServer

from identity_client import ConfigurationError, CredentialStoreError, StoredCredentials


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
        store.save(StoredCredentials())
        assert set(redis_server.client.scan_iter()) == {KEY.encode(), LOCK.encode()}
        # It outlasts two registrations, a token request, and a save that is tried twice.
        assert 3 * 2000 + 8000 < redis_server.client.pttl(LOCK) <= 3 * 2000 + 10_000
    assert set(redis_server.client.scan_iter()) == {KEY.encode()}


def test_the_lock_of_a_holder_that_died_ends_with_its_lease(url: str) -> None:
    dead: Any = store_at(url)
    dead._lease = 0.3
    lock = dead.lock(1)
    lock.__enter__()
    began = time.monotonic()
    with store_at(url).lock(5):
        assert 0.2 < time.monotonic() - began < 1.0


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
        redis_server.client.pexpire(LOCK, 500)
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


@pytest.mark.parametrize("url", ["redis://host:port", "redis://host?socket_timeout=soon"])
def test_a_url_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a URL that redis-py understands"):
        store_at(url)


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


def test_a_server_that_is_down_is_a_clear_error(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url)
    saved = save(store)
    own_redis.stop()
    for call in (store.load, store.clear, lambda: save(store)):
        with pytest.raises(CredentialStoreError) as caught:
            call()
        assert caught.value.message == (
            f"the store at {own_redis.url} cannot be used (ConnectionError); check that it runs, "
            "can be reached, and accepts the user and password of IDENTITY_CREDENTIAL_STORE"
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
    store = store_at(own_redis.url, timeout=0.3)
    save(store)
    own_redis.freeze()
    began = time.monotonic()
    with pytest.raises(CredentialStoreError, match="TimeoutError"):
        store.load()
    assert time.monotonic() - began < 1.5


def test_a_command_waits_for_a_silent_server_a_few_seconds_only(own_redis: RedisServer) -> None:
    store = store_at(own_redis.url, timeout=10.0)
    save(store)
    own_redis.freeze()
    began = time.monotonic()
    with pytest.raises(CredentialStoreError, match="TimeoutError"):
        store.load()
    assert time.monotonic() - began < 8  # at most two tries of two seconds


def test_a_wrong_password_is_a_clear_error_without_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with RedisServer("--requirepass", PASSWORD) as server:
        wrong = server.url.replace("redis://", "redis://:wrong-password@")
        with pytest.raises(CredentialStoreError, match=r"\(AuthenticationError\)") as caught:
            store_at(wrong).load()
        assert "wrong-password" not in caught.value.message
        right = store_at(server.url.replace("redis://", f"redis://:{PASSWORD}@"))
        save(right)
        assert PASSWORD not in str(right)
    assert "password" not in caplog.text


def test_a_server_that_takes_no_writes_is_a_clear_error() -> None:
    with RedisServer("--min-replicas-to-write", "1") as server:
        store = store_at(server.url)
        with pytest.raises(CredentialStoreError, match="NOREPLICAS"):
            save(store)
