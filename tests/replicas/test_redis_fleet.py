"""Replicas that share a Redis server, and one that stops, comes back empty and fails over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from contracts.fleet import (
    FleetContract,
    MakeReplicas,
    figures,
    rejected_requests,
    tokens_of,
)
from support.redis_server import RedisServer

from identity_client.server import IdentityServer


class TestRedisFleet(FleetContract):
    @pytest.fixture
    def own_redis(self) -> Iterator[RedisServer]:
        with RedisServer() as server:
            yield server

    @pytest.fixture
    def url(self, own_redis: RedisServer) -> str:
        return own_redis.url

    @pytest.fixture
    def empty(self, own_redis: RedisServer) -> Callable[[], object]:
        flush: Callable[[], object] = own_redis.client.flushall
        return flush

    @pytest.mark.timeout(180)
    def test_a_server_that_stops_for_30_s_and_restarts_empty_costs_nobody_a_token(
        self, api: IdentityServer, own_redis: RedisServer, replicas: MakeReplicas
    ) -> None:
        backend: Any = api.backend
        backend.change(token_lifetime=6.0)
        running, starting, late = (replicas(count, refresh_ratio=0.5) for count in (4, 2, 2))
        tokens_of(running.do("token", timeout=30), api)
        backend.secrets_made = 0
        running.send("serve", seconds=45.0)
        assert not threading.Event().wait(1.0)
        own_redis.stop()
        starting.send("token", timeout=60)
        assert not threading.Event().wait(30.0)
        own_redis.start()
        while not own_redis.client.hexists(*_record(own_redis)):  # within one token's life
            assert not threading.Event().wait(0.05)
        tokens_of(late.do("token", timeout=30), api)
        tokens_of(starting.collect(), api)
        replies = running.collect()
        calls = sum(reply["calls"] for reply in replies)
        print(f"\nRedis away for 30 s, then empty: {calls} calls, {figures(api)}")
        for reply in replies:
            assert reply["errors"] == []
            assert reply["expired"] == 0
        # Those who start while the store is empty cannot know the secret; whoever is first needs
        # a new one, unless one of those who know it came first.
        assert backend.secrets_made <= 1

    @pytest.mark.timeout(180)
    def test_another_server_that_takes_over_empty_is_filled_by_those_who_run(
        self, api: IdentityServer, own_redis: RedisServer, replicas: MakeReplicas
    ) -> None:
        backend: Any = api.backend
        group, late = replicas(8), replicas(4)
        tokens_of(group.do("token", timeout=30), api)
        backend.secrets_made = 0
        own_redis.stop()
        with RedisServer(port=own_redis.port):
            tokens_of(group.do("refresh", timeout=10), api)
            while not own_redis.client.hexists(*_record(own_redis)):
                assert not threading.Event().wait(0.05)
            api.backend.log.clear()
            replies = late.do("token", timeout=30)
        tokens_of(replies, api)
        assert rejected_requests(api) == []
        assert backend.secrets_made == 0


def _record(server: RedisServer) -> tuple[bytes, str]:
    """Return the key and the field to look for, once there is a record."""
    keys = list(server.client.scan_iter("identity-client:*:credentials"))
    return (keys or [b"none"])[0], "document"
