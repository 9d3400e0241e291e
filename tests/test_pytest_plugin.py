"""The pytest plugin, as the test suite of an application meets it."""

from __future__ import annotations

import re
import subprocess
import sys
import threading

import pytest

STRICT = (
    "-Werror",
    "--strict-markers",
    "--strict-config",
    "--disable-socket",
    "--allow-hosts=127.0.0.1",
)

APPLICATION = """
import os
import pytest
import requests
from identity_client import IdentityBootstrapConfig, IdentityBootstrapService, TokenEndpointError

def test_the_fake(fake_identity):
    token = fake_identity.get_access_token()
    fake_identity.expire()
    fake_identity.fail_with(TokenEndpointError("simulated"), times=1)
    with pytest.raises(TokenEndpointError):
        fake_identity.get_access_token()
    fake_identity.clock.advance(30)
    assert fake_identity.get_access_token() != token

@pytest.mark.identity(token_lifetime=60, service_name="billing", claims={"aud": "orders"})
def test_settings_of_the_fake(fake_identity):
    assert fake_identity.get_token().expires_in == 60
    assert fake_identity.get_client_id() == "billing"

@pytest.mark.identity(token_lifetime=60)
class TestServer:
    def test_a_real_service(self, identity_server, identity_service):
        assert not identity_service.status().started
        assert identity_service.get_token().expires_in == 60
        identity_server.rotate_secret()
        identity_service.invalidate_token(identity_service.get_access_token())
        assert identity_service.get_access_token()
        assert identity_server.requests["register"] >= 2

    @pytest.mark.identity(token_lifetime=30, service_name="billing")
    def test_the_closest_marker_wins(self, identity_service):
        assert identity_service.get_token().expires_in == 30
        assert identity_service.get_client_id() == "billing"

@pytest.mark.identity(service_name="billing", allow_secret_regeneration=False)
def test_the_environment(identity_environment):
    config = IdentityBootstrapConfig.from_env()
    assert config.service_name == os.environ["SERVICE_NAME"] == "billing"
    assert not config.allow_secret_regeneration
    with IdentityBootstrapService(config) as service:
        assert service.get_access_token()

def test_faults(identity_server, identity_service):
    with identity_server.outage():
        assert not identity_service.wait_for_ready(0.1)
    assert identity_service.wait_for_ready(10)
"""

UNITTEST = """
import unittest
from identity_client.testing import FakeIdentityService, IdentityServer

class FakeTest(unittest.TestCase):
    def setUp(self):
        self.identity = self.enterContext(FakeIdentityService(service_name="billing"))

    def test_the_token(self):
        token = self.identity.get_access_token()
        self.identity.clock.advance(300)
        self.assertNotEqual(self.identity.get_access_token(), token)

class ServerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = cls.enterClassContext(IdentityServer(token_lifetime=60))

    def test_the_token(self):
        with self.server.service() as service:
            self.assertEqual(service.get_token().expires_in, 60)
"""

THIRTY = """
import threading
import pytest
import requests
from identity_client import TokenEndpointError

def fetch_orders(identity):
    request = requests.Request("GET", "http://orders/", auth=identity.auth()).prepare()
    return request.headers["Authorization"]

@pytest.mark.parametrize("number", range(10))
def test_the_token_is_sent(fake_identity, number):
    assert fetch_orders(fake_identity) == f"Bearer {fake_identity.tokens[0]}"

@pytest.mark.parametrize("number", range(10))
def test_an_outage_is_reported(fake_identity, number):
    fake_identity.fail_with(TokenEndpointError("simulated"))
    with pytest.raises(TokenEndpointError):
        fetch_orders(fake_identity)

@pytest.mark.parametrize("number", range(9))
def test_an_hour_passes(fake_identity, number):
    fake_identity.start()
    fake_identity.clock.advance(3600)
    assert fetch_orders(fake_identity) == f"Bearer {fake_identity.tokens[-1]}"

def test_no_thread_is_left():
    assert threading.enumerate() == [threading.main_thread()]
"""


def test_all_fixtures_work_under_strict_settings(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(APPLICATION)
    before = set(threading.enumerate())
    pytester.runpytest_inprocess(*STRICT).assert_outcomes(passed=6)
    assert set(threading.enumerate()) <= before


def test_the_environment_is_as_it_was_after_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IDENTITY_CLIENT_TEST_WHEEL", raising=False)
    monkeypatch.setenv("IDENTITY_SERVICE_NAME", "of-the-developer")
    monkeypatch.setenv("SERVICE_CLIENT_SECRET_FILE", "/run/secret")
    monkeypatch.setenv("SERVICE_PORT", "of-something-else")
    pytester.makepyfile("""
        import os
        import pytest

        def those():
            return {name for name in os.environ if name.startswith(("IDENTITY_", "SERVICE_"))}

        BEFORE = those()

        def test_with(identity_environment):
            assert those() == {*identity_environment, "SERVICE_PORT"}

        def test_without():
            assert those() == BEFORE
    """)
    pytester.runpytest_inprocess("-prandomly", "-pno:randomly", *STRICT).assert_outcomes(passed=2)


def test_a_positional_argument_of_the_marker_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.identity("billing")
        def test_it(fake_identity):
            pass
    """)
    result = pytester.runpytest_inprocess(*STRICT)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*@pytest.mark.identity takes keyword arguments only*")


def test_an_unknown_setting_of_the_marker_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import pytest

        @pytest.mark.identity(token_lifetme=5)
        def test_it(identity_service):
            pass
    """)
    result = pytester.runpytest_inprocess(*STRICT)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines("*unknown setting 'token_lifetme'*")


def test_the_fixtures_and_the_marker_are_documented(pytester: pytest.Pytester) -> None:
    fixtures = pytester.runpytest_inprocess("--fixtures")
    for name in ("server", "service", "environment", "settings"):
        fixtures.stdout.re_match_lines([rf"identity_{name} -- .*", r"    \S+"])
    fixtures.stdout.re_match_lines([r"fake_identity -- .*", r"    A service without network.*"])
    markers = pytester.runpytest_inprocess("--markers")
    markers.stdout.re_match_lines([r"@pytest\.mark\.identity\(\*\*settings\): settings of .*"])


def test_the_plugin_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(fake_identity): pass")
    result = pytester.runpytest_inprocess("-pno:identity_client")
    result.stdout.fnmatch_lines("*fixture 'fake_identity' not found*")


def test_settings_for_many_tests_come_from_an_overridden_fixture(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest("""
        import pytest

        @pytest.fixture
        def identity_settings(identity_settings):
            return {"service_name": "billing", **identity_settings}
    """)
    pytester.makepyfile("""
        def test_it(fake_identity):
            assert fake_identity.status().service_name == "billing"
    """)
    pytester.runpytest_inprocess(*STRICT).assert_outcomes(passed=1)


def test_a_service_that_a_test_leaves_running_fails_it(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nusefixtures = no_identity_threads")
    pytester.makepyfile("""
        import pytest

        left = []

        @pytest.fixture(scope="module")
        def shared(tmp_path_factory):
            from identity_client.testing import IdentityServer
            with IdentityServer() as server, server.service() as service:
                yield service

        def test_that_leaves(identity_server):
            left.append(identity_server.service(service_name="orders"))
            left[0].get_access_token()

        def test_that_closes(identity_server, identity_service):
            left.pop().close()
            with identity_server.service(service_name="billing") as service:
                assert service.get_access_token() and identity_service.get_access_token()

        def test_that_forgets(identity_server):
            assert identity_server.service().get_access_token()

        def test_that_shares(shared):
            assert shared.get_access_token()
    """)
    result = pytester.runpytest_inprocess("-pno:randomly", *STRICT)
    result.assert_outcomes(passed=4, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_that_leaves*", "services are still running: orders; close() *"]
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "identity_service, no_identity_threads",
        "no_identity_threads, identity_service",
        "identity_environment, own, no_identity_threads",
    ],
)
def test_a_service_of_a_fixture_is_closed_before_it_is_looked_for(
    pytester: pytest.Pytester, arguments: str
) -> None:
    pytester.makepyfile(f"""
        import pytest
        from identity_client import IdentityBootstrapConfig, IdentityBootstrapService

        @pytest.fixture
        def own(identity_environment):
            with IdentityBootstrapService(IdentityBootstrapConfig.from_env()) as service:
                yield service

        def test_it({arguments}):
            service = {"own" if "own" in arguments else "identity_service"}
            assert service.get_access_token()
    """)
    pytester.runpytest_inprocess(*STRICT).assert_outcomes(passed=1)


def test_it_can_be_named_where_plugins_are_not_loaded_by_themselves(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makepyfile("def test_it(fake_identity): assert fake_identity.get_access_token()")
    pytester.runpytest_subprocess("-pidentity_client", "-Werror").assert_outcomes(passed=1)


def test_unittest_needs_no_plugin(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(UNITTEST)
    pytester.runpytest_inprocess(*STRICT).assert_outcomes(passed=2)
    done = pytester.run(sys.executable, "-Werror", "-m", "unittest", path)
    assert done.ret == 0, done.errlines


def test_thirty_tests_on_the_fake_take_less_than_a_second(pytester: pytest.Pytester) -> None:
    # CPU time, which others on a busy machine do not add to; nothing here waits.
    pytester.makeconftest("""
        import time

        def pytest_sessionstart(session):
            session.began = time.process_time()

        def pytest_sessionfinish(session):
            print(f"took {time.process_time() - session.began:.3f} s")
    """)
    pytester.makepyfile(THIRTY)
    result = pytester.runpytest_subprocess("-s", "-pno:randomly", *STRICT)
    result.assert_outcomes(passed=30)
    took = re.search(r"took ([\d.]+) s", result.stdout.str())
    assert took is not None
    assert float(took[1]) < 1


def test_a_run_that_asks_for_nothing_loads_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys

        def test_it(pytestconfig):
            assert pytestconfig.pluginmanager.has_plugin("identity_client")
            loaded = {name for name in sys.modules if name.startswith("identity_client")}
            assert loaded == {
                "identity_client",
                "identity_client._public",
                "identity_client._version",
                "identity_client.testing",
                "identity_client.testing.plugin",
            }
            assert "requests" not in sys.modules
    """)
    pytester.runpytest_subprocess(*STRICT).assert_outcomes(passed=1)


def test_loading_the_plugin_costs_less_than_20_milliseconds() -> None:
    code = "import pytest; import identity_client.testing.plugin"
    costs: list[float] = []
    while not costs or (min(costs) >= 20 and len(costs) < 10):  # of a busy machine
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        found = re.findall(
            r"\| +(\d+) \| (?:identity_client|identity_client\.testing\.plugin)$",
            done.stderr,
            re.MULTILINE,
        )
        assert found
        costs.append(sum(int(cost) for cost in found) / 1000)
    assert min(costs) < 20
