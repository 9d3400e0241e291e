"""The fixtures beside other plugins, and beside tools that change the time of the process."""

from __future__ import annotations

import pytest

SUITE = """
import datetime
import time

import pytest
import time_machine
from freezegun import freeze_time
from identity_client import TokenEndpointError
from identity_client.testing import FakeIdentityService, IdentityServer

@pytest.mark.parametrize("number", range(8))
def test_servers_of_workers_do_not_meet(identity_server, identity_service, number):
    assert identity_service.get_access_token()
    assert identity_server.requests["register"] == 1

@pytest.mark.parametrize("number", range(8))
def test_fakes(fake_identity, number):
    fake_identity.fail_with(TokenEndpointError("simulated"))
    with pytest.raises(TokenEndpointError):
        fake_identity.get_access_token()

@freeze_time("2020-01-01")
def test_the_fake_has_its_own_time_under_freezegun(fake_identity):
    token = fake_identity.get_access_token()
    fake_identity.clock.advance(300)
    assert fake_identity.get_access_token() != token

def test_a_fake_begins_at_the_frozen_time():
    with freeze_time("2020-01-01"), FakeIdentityService() as fake:
        assert fake.get_token().expires_at == time.time() + 300

def test_the_fake_has_its_own_time_under_time_machine(fake_identity):
    with time_machine.travel(datetime.datetime(2040, 1, 1), tick=False):
        token = fake_identity.get_access_token()
        assert fake_identity.get_access_token() == token

def test_a_real_service_works_under_freezegun(identity_service):
    with freeze_time("2020-01-01"):
        assert identity_service.get_access_token(timeout=10)

def test_a_real_service_works_under_time_machine(identity_service):
    with time_machine.travel(datetime.datetime(2040, 1, 1)):
        assert identity_service.get_access_token(timeout=10)

@pytest.mark.asyncio
async def test_a_coroutine_gets_a_token_of_the_fake(fake_identity):
    assert await fake_identity.aget_access_token() == fake_identity.tokens[0]

@pytest.mark.asyncio
async def test_a_coroutine_gets_a_real_token(identity_service):
    assert await identity_service.aget_access_token()

@pytest.mark.asyncio
async def test_a_server_starts_inside_of_an_event_loop():
    with IdentityServer() as server, server.service() as service:
        assert await service.aget_access_token()
"""


@pytest.mark.parametrize(
    "options", [("-pno:randomly",), ("-pno:randomly", "-n2"), ("-prandomly", "-n2")]
)
def test_the_fixtures_work_beside_other_plugins(
    pytester: pytest.Pytester, options: tuple[str, ...]
) -> None:
    pytester.makeini("""
        [pytest]
        asyncio_default_fixture_loop_scope = function
        usefixtures = no_identity_threads
    """)
    pytester.makepyfile(SUITE)
    result = pytester.runpytest_subprocess(
        *options,
        "-Werror",
        "--strict-markers",
        "--disable-socket",
        "--allow-unix-socket",
        "--allow-hosts=127.0.0.1",
    )
    result.assert_outcomes(passed=24)


def test_an_application_is_covered_and_so_are_its_imports(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("COVERAGE_FILE", "COVERAGE_RCFILE"):  # of this project
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(
        application="""
            import identity_client

            def headers(identity):
                return {"Authorization": f"Bearer {identity.get_access_token()}"}
        """,
        test_application="""
            import application

            def test_it(fake_identity):
                assert application.headers(fake_identity)
        """,
    )
    result = pytester.runpytest_subprocess(
        "-pno:asyncio", "--cov=application", "--cov-branch", "--cov-fail-under=100", "-Werror"
    )
    result.assert_outcomes(passed=1)
