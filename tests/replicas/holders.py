"""Holders of the lock of a Redis store, and the store with a defect sown into it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import redis
from attrs import evolve
from support.credentials import credentials, store_at

from identity_client import CredentialStoreError
from identity_client.stores import redis as redis_store
from identity_client.stores.redis import RedisStore

KEY = "identity-client:{orders@http%3A//identity-api%3A3053}:credentials"
LOCK = "identity-client:{orders@http%3A//identity-api%3A3053}:lock"
REFUSED = -1


def save_what_is_there(store: Any, name: str, wait: float) -> int:
    """Load under the lock and save; return the version that was replaced, or `REFUSED`."""
    try:
        with store.lock(wait):
            stored = store.load()
            store.save(evolve(stored, credentials=credentials(name)))
    except CredentialStoreError:
        return REFUSED
    return int(stored.version)


def save_what_was_there(store: Any, name: str, wait: float) -> int:
    """The same of a careless holder, who has loaded before it has the lock."""
    try:
        stored = store.load()
        with store.lock(wait):
            store.save(evolve(stored, credentials=credentials(name)))
    except CredentialStoreError:
        return REFUSED
    return int(stored.version)


CAREFUL, CARELESS = save_what_is_there.__name__, save_what_was_there.__name__
Turn = Callable[[Any, str, float], int]
TURNS: dict[str, Turn] = {CAREFUL: save_what_is_there, CARELESS: save_what_was_there}


# --- defects ---

TOKEN_CHECK = "if redis.call('get', KEYS[2]) ~= ARGV[1] then return 0 end\n"
VERSION_CHECK = "if version ~= ARGV[2] then return 0 end\n"
WRITE = "redis.call('hset', KEYS[1], 'version', ARGV[3], 'document', ARGV[4])\n"
LOST_ANSWER = "if version == ARGV[3] and document == ARGV[4] then return 1 end\n"


def _without(line: str) -> str:
    assert redis_store._SAVE.count(line) == 1, "the script has changed"
    return redis_store._SAVE.replace(line, "")


def _sow_in_script(line: str) -> Callable[[], None]:
    def sow() -> None:
        redis_store._SAVE = _without(line)

    return sow


def _sow_a_second_command() -> None:
    redis_store._SAVE = _without(WRITE)
    save = RedisStore.save

    def checked_save(store: Any, stored: Any) -> Any:
        stored = save(store, stored)
        record = {"version": stored.version, "document": store._codec.write(stored)}
        store._connect().hset(KEY, mapping=record)
        return stored

    cast(Any, RedisStore).save = checked_save


NONE = "none"
NO_TOKEN = "the lock is not checked"
NO_VERSION = "the version is not checked"
TWO_COMMANDS = "check and write are two commands"
ANSWER_LOST = "a save whose answer was lost counts as refused"
DEFECTS: dict[str, Callable[[], None]] = {
    NONE: lambda: None,
    NO_TOKEN: _sow_in_script(TOKEN_CHECK),
    NO_VERSION: _sow_in_script(VERSION_CHECK),
    TWO_COMMANDS: _sow_a_second_command,
    ANSWER_LOST: _sow_in_script(LOST_ANSWER),
}


# --- processes that are started anew, and used many times ---

_sown: set[str] = set()


def take_turn(url: str, name: str, turn: str, defect: str) -> None:
    """Try for the lock once, and leave in Redis what came of it."""
    if defect not in _sown:
        DEFECTS[defect]()
        _sown.add(defect)
    version = TURNS[turn](store_at(url), name, 0)
    client: Any = redis.Redis.from_url(url)
    client.set(f"outcome of {name}", version)
    client.close()


def end_lease(url: str) -> None:
    client: Any = redis.Redis.from_url(url)
    client.delete(LOCK)
    client.close()
