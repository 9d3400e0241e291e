"""The doctor: what each broken set-up is called by, and that nothing is changed by looking."""

from __future__ import annotations

import datetime
import email.utils
import fcntl
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet
from support import hostile
from support.canned import Canned, CannedServer, reply, token_reply
from support.services import INTERNAL_TOKEN, StartCanned

from identity_client import ServiceCredentials, StoredCredentials, open_store
from identity_client.cli.commands import cli
from identity_client.cli.doctor import network_checks, runner, settings_checks
from identity_client.cli.doctor.checks import CHECKS
from identity_client.cli.doctor.model import Check, Facts, Finding, ok
from identity_client.models import RegisterServiceRequest
from identity_client.server import IdentityServer

CLIENT_SECRET = "a-client-secret"
HTML = Canned(200, b"<html><title>Sign in</title></html>", (("Content-Type", "text/html"),))
HEALTHY = reply({"status": "ok"})


class Site:
    """A service that is set up well, with its credentials in a file; tests break a part of it."""

    def __init__(self, api: IdentityServer, folder: Path) -> None:
        self.api = api
        self.folder = folder
        self.environ = {
            "SERVICE_NAME": "orders",
            "IDENTITY_API_URL": api.url,
            "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "IDENTITY_CREDENTIAL_STORE": f"file://{folder}/credentials.json",
        }
        reply = api.backend.register(
            RegisterServiceRequest(name="orders", display_name="Orders"), api.url
        )
        self.secret = reply.client_secret or ""
        self.credentials = ServiceCredentials(
            client_id="orders",
            client_secret=self.secret,
            token_endpoint=reply.token_endpoint,
            roles=reply.roles,
        )
        self.save()
        self.registrations = api.backend.requests["register"]

    def save(self, key: str | None = None, service_name: str = "orders") -> None:
        """Save the credentials, perhaps encrypted or as those of another service."""
        (self.folder / "credentials.json").unlink(missing_ok=True)
        store = open_store(
            f"file://{self.folder}/credentials.json",
            service_name=service_name,
            identity_api_url=self.api.url,
            key=key,
        )
        with store.lock(1):
            store.save(StoredCredentials(credentials=self.credentials))

    def at(self, url: str) -> None:
        """Let identity-api be at another address, with a service that has no credentials yet."""
        self.environ["IDENTITY_API_URL"] = url
        self.environ["IDENTITY_CREDENTIAL_STORE"] = "memory:"

    def preconfigure(self, endpoint: str, secret: str = CLIENT_SECRET) -> None:
        self.environ |= {
            "SERVICE_CLIENT_ID": "orders",
            "SERVICE_CLIENT_SECRET": secret,
            "SERVICE_TOKEN_ENDPOINT": endpoint,
        }

    def files(self) -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}

    def file(self, content: str, name: str = "file", mode: int = 0o600) -> str:
        path = self.folder / name
        path.write_text(content)
        path.chmod(mode)
        return str(path)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = ("IDENTITY_", "SERVICE_", "WEB_", "UWSGI_", "GUNICORN_", "NO_COLOR", "FORCE_COLOR")
    for variable in os.environ:
        if variable.startswith(prefixes) or variable.lower().endswith("_proxy"):
            monkeypatch.delenv(variable)


@pytest.fixture
def site(api: IdentityServer, tmp_path: Path) -> Site:
    return Site(api, tmp_path)


@pytest.fixture
def doctor(site: Site) -> Callable[..., Result]:
    """Runs the doctor on the site. It never registers, changes no secret and shows none."""

    def run(*arguments: str) -> Result:
        before = site.files()
        client = CliRunner(env=site.environ, catch_exceptions=False)
        result = client.invoke(cli, ["doctor", *arguments])
        assert site.api.backend.requests["register"] == site.registrations
        for secret in (INTERNAL_TOKEN, site.secret, CLIENT_SECRET):
            assert secret not in result.output
        assert site.files() == before
        return result

    return run


@pytest.fixture
def diagnose(doctor: Callable[..., Result]) -> Callable[..., dict[str, list[str]]]:
    """Runs the doctor and returns the ids by status, and what was found and advised."""

    def run(*arguments: str) -> dict[str, list[str]]:
        result = doctor("--json", *arguments)
        report = json.loads(result.stdout)
        assert report["success"] == (result.exit_code == 0)
        by_status: dict[str, list[str]] = {"text": []}
        for check in report["checks"]:
            by_status.setdefault(check["status"], []).append(check["id"])
            if check["status"] in ("fail", "warn"):
                assert check["do"]
                by_status["text"].append(f"{check['found']} -> {check['do']}")
        return by_status

    return run


class Case(NamedTuple):
    """How a site is broken, the id that names it, and what the finding or the advice says."""

    break_: Callable[[Site, pytest.FixtureRequest], None]
    check_id: str
    said: str


def wrong_port(site: Site, request: pytest.FixtureRequest) -> None:
    with hostile.closed_port() as port:
        site.at(f"http://127.0.0.1:{port}")


def unknown_host(site: Site, request: pytest.FixtureRequest) -> None:
    site.at("http://identity-api.invalid:3053")


def not_a_host(site: Site, request: pytest.FixtureRequest) -> None:
    site.at(f"http://{'a' * 70}.example:3053")


def https_against_http(site: Site, request: pytest.FixtureRequest) -> None:
    site.at(site.api.url.replace("http:", "https:"))


def http_against_https(site: Site, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue("tls_server")
    site.at(url.replace("https:", "http:"))


def foreign_authority(site: Site, request: pytest.FixtureRequest) -> None:
    site.at(request.getfixturevalue("tls_server"))


def tls_with(site: Site, request: pytest.FixtureRequest, name: str, **options: Any) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert(name, **options)
    file = site.folder / "server.pem"
    issued.private_key_and_cert_chain_pem.write_to_path(file)
    server = CannedServer(HEALTHY, certificate=str(file))
    request.addfinalizer(server.__exit__)
    site.at(server.__enter__().url)
    site.environ["IDENTITY_CA_BUNDLE"] = site.file(authority.cert_pem.bytes().decode(), "ca.pem")


def expired_certificate(site: Site, request: pytest.FixtureRequest) -> None:
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    tls_with(site, request, "127.0.0.1", not_after=yesterday)


def certificate_of_another_name(site: Site, request: pytest.FixtureRequest) -> None:
    tls_with(site, request, "identity-api.example")


def certificate_near_its_end(site: Site, request: pytest.FixtureRequest) -> None:
    soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=3)
    tls_with(site, request, "127.0.0.1", not_after=soon)


def missing_bundle(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CA_BUNDLE"] = str(site.folder / "missing.pem")


def bundle_without_certificates(site: Site, request: pytest.FixtureRequest) -> None:
    foreign_authority(site, request)
    site.environ["IDENTITY_CA_BUNDLE"] = site.file("not a certificate")


def dead_proxy(site: Site, request: pytest.FixtureRequest) -> None:
    with hostile.closed_port() as port:
        site.environ["HTTP_PROXY"] = f"http://user:password@127.0.0.1:{port}"


def proxy_without_a_port_number(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["HTTP_PROXY"] = "http://user:password@proxy:port"


def proxy_without_a_host(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["ALL_PROXY"] = "http://:3128"


def wrong_path(site: Site, request: pytest.FixtureRequest) -> None:
    site.at(f"{site.api.url}/wrong")


def another_server(site: Site, request: pytest.FixtureRequest) -> None:
    start: StartCanned = request.getfixturevalue("canned")
    site.at(start(HTML).url)


def broken_server(site: Site, request: pytest.FixtureRequest) -> None:
    start: StartCanned = request.getfixturevalue("canned")
    site.at(start(reply({"message": "out of memory"}, 500)).url)


def server_without_http(site: Site, request: pytest.FixtureRequest) -> None:
    server = hostile.HostileServer(hostile.speaks_no_http)
    request.addfinalizer(server.__exit__)
    site.at(f"http://127.0.0.1:{server.__enter__().port}")


def half_given_credentials(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["SERVICE_CLIENT_ID"] = "orders"


def secret_of_a_newline(site: Site, request: pytest.FixtureRequest) -> None:
    site.preconfigure(site.credentials.token_endpoint)
    del site.environ["SERVICE_CLIENT_SECRET"]
    site.environ["SERVICE_CLIENT_SECRET_FILE"] = site.file("\n")


def secret_that_others_can_read(site: Site, request: pytest.FixtureRequest) -> None:
    del site.environ["IDENTITY_API_INTERNAL_TOKEN"]
    site.environ["IDENTITY_API_INTERNAL_TOKEN_FILE"] = site.file(INTERNAL_TOKEN, mode=0o644)


def store_that_others_can_read(site: Site, request: pytest.FixtureRequest) -> None:
    (site.folder / "credentials.json").chmod(0o644)


def wrong_internal_token(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_API_INTERNAL_TOKEN"] = "another"


def store_of_another_service(site: Site, request: pytest.FixtureRequest) -> None:
    site.save(service_name="billing")


def wrong_key(site: Site, request: pytest.FixtureRequest) -> None:
    site.save(key=Fernet.generate_key().decode())
    site.environ["IDENTITY_CREDENTIAL_STORE_KEY"] = Fernet.generate_key().decode()


def redis_down(site: Site, request: pytest.FixtureRequest) -> None:
    with hostile.closed_port() as port:
        site.environ["IDENTITY_CREDENTIAL_STORE"] = f"redis://:{CLIENT_SECRET}@127.0.0.1:{port}"


def clock_ten_minutes_ahead(site: Site, request: pytest.FixtureRequest) -> None:
    other_clock(site, request, -600)


def clock_half_a_minute_behind(site: Site, request: pytest.FixtureRequest) -> None:
    other_clock(site, request, 30)


def other_clock(site: Site, request: pytest.FixtureRequest, offset: float) -> None:
    def answer(connection: socket.socket, stopped: threading.Event) -> None:
        date = email.utils.formatdate(time.time() + offset, usegmt=True)
        head = f"HTTP/1.1 200 OK\r\nDate: {date}\r\nConnection: close\r\n"
        connection.sendall(f"{head}Content-Length: 2\r\n\r\n{{}}".encode())

    server = hostile.HostileServer(answer)
    request.addfinalizer(server.__exit__)
    site.at(f"http://127.0.0.1:{server.__enter__().port}")


def disabled_client(site: Site, request: pytest.FixtureRequest) -> None:
    client = site.api.backend.client("orders")
    assert client is not None
    client.enabled = False


def wrong_client_secret(site: Site, request: pytest.FixtureRequest) -> None:
    site.preconfigure(site.credentials.token_endpoint)


def endpoint_of_html(site: Site, request: pytest.FixtureRequest) -> None:
    start: StartCanned = request.getfixturevalue("canned")
    site.preconfigure(f"{start(HTML).url}/token")


def proxy_of_html(site: Site, request: pytest.FixtureRequest) -> None:
    start: StartCanned = request.getfixturevalue("canned")
    site.environ["http_proxy"] = start(HTML).url.removeprefix("http://")
    site.preconfigure("http://keycloak.invalid/token")


def token_of_another_client(site: Site, request: pytest.FixtureRequest) -> None:
    site.preconfigure(site.credentials.token_endpoint, site.secret)
    start: StartCanned = request.getfixturevalue("canned")
    site.environ["SERVICE_TOKEN_ENDPOINT"] = start(token_reply("e30.eyJhenAiOiAiYSJ9.")).url


def dead_first_address(site: Site, request: pytest.FixtureRequest) -> None:
    real = socket.getaddrinfo
    with hostile.closed_port() as port:
        dead = real("::1", port, type=socket.SOCK_STREAM)
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [*dead, *real(*a, **k)])


def memory_and_four_workers(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "memory:"
    site.environ["WEB_CONCURRENCY"] = "4"


def memory_and_gunicorn(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "memory:"
    site.environ["GUNICORN_CMD_ARGS"] = "--bind :80 --workers=3"


def uwsgi_without_threads(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ |= {"UWSGI_MODULE": "app", "UWSGI_ENABLE_THREADS": "false", "UWSGI_THREADS": "1"}


def uwsgi_with_gevent_unpatched(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ |= {"UWSGI_HTTP": ":80", "UWSGI_ENABLE_THREADS": "true", "UWSGI_GEVENT": "100"}


def hold_the_lock(site: Site) -> Callable[[], None]:
    file = (site.folder / "credentials.json.lock").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file.close


def lock_that_is_held(site: Site, request: pytest.FixtureRequest) -> None:
    request.addfinalizer(hold_the_lock(site))


def slow_name(site: Site, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue("monkeypatch").setattr(network_checks, "_SLOW_NAME", 0.0)


def no_service_name(site: Site, request: pytest.FixtureRequest) -> None:
    del site.environ["SERVICE_NAME"]


def misspelt_variable(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_REFRESH_RATOI"] = "0.5"


def unknown_store(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "vault://host"


def store_with_a_slash_in_its_password(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = f"redis://:/{CLIENT_SECRET}@host:6379/0"


def store_without_a_port_number(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "redis://host:abc"


def store_with_a_port_out_of_range(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "redis://host:99999"


def store_of_a_relative_path(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "file:relative"


def file_of_a_key_that_is_not_one(site: Site, request: pytest.FixtureRequest) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE_KEY_FILE"] = site.file("not a key")


BROKEN = [
    Case(no_service_name, "ID101", "SERVICE_NAME"),
    Case(unknown_store, "ID101", "IDENTITY_CREDENTIAL_STORE"),
    Case(store_with_a_slash_in_its_password, "ID101", "write # as %23, / as %2F"),
    Case(store_without_a_port_number, "ID101", "redis-py understands"),
    Case(store_with_a_port_out_of_range, "ID101", "redis-py understands"),
    Case(store_of_a_relative_path, "ID101", "by its absolute path"),
    Case(file_of_a_key_that_is_not_one, "ID102", "IDENTITY_CREDENTIAL_STORE_KEY"),
    Case(missing_bundle, "ID102", "IDENTITY_CA_BUNDLE"),
    Case(secret_of_a_newline, "ID102", "SERVICE_CLIENT_SECRET"),
    Case(half_given_credentials, "ID103", "which belong together"),
    Case(unknown_host, "ID201", "identity-api.invalid"),
    Case(not_a_host, "ID201", "not a host name"),
    Case(dead_proxy, "ID202", "NO_PROXY"),
    Case(proxy_without_a_port_number, "ID202", "(its address is not valid) -> check HTTP_PROXY"),
    Case(proxy_without_a_host, "ID202", "(its address is not valid) -> check ALL_PROXY"),
    Case(wrong_port, "ID203", "IDENTITY_API_URL"),
    Case(redis_down, "ID203", "IDENTITY_CREDENTIAL_STORE"),
    Case(https_against_http, "ID204", "write http:// in IDENTITY_API_URL"),
    Case(http_against_https, "ID204", "write https:// in IDENTITY_API_URL"),
    Case(foreign_authority, "ID204", "IDENTITY_CA_BUNDLE"),
    Case(expired_certificate, "ID204", "certificate has expired"),
    Case(certificate_of_another_name, "ID204", "a name of the certificate"),
    Case(bundle_without_certificates, "ID204", "not in PEM format"),
    Case(wrong_path, "ID301", "/wrong returned HTTP 404"),
    Case(another_server, "ID301", "not JSON"),
    Case(broken_server, "ID301", "HTTP 500"),
    Case(server_without_http, "ID301", "is unreachable"),
    Case(wrong_internal_token, "ID302", "IDENTITY_API_INTERNAL_TOKEN"),
    Case(clock_ten_minutes_ahead, "ID303", "s ahead"),
    Case(store_of_another_service, "ID401", "billing"),
    Case(wrong_key, "ID401", "IDENTITY_CREDENTIAL_STORE_KEY"),
    Case(store_that_others_can_read, "ID401", "chmod 600"),
    Case(disabled_client, "ID501", "check the client 'orders'"),
    Case(wrong_client_secret, "ID501", "check the client 'orders'"),
    Case(endpoint_of_html, "ID501", "HTML page"),
    Case(proxy_of_html, "ID501", "HTML page"),
    Case(memory_and_four_workers, "ID601", "WEB_CONCURRENCY=4"),
    Case(memory_and_gunicorn, "ID601", "--workers=3"),
]

SUSPICIOUS = [
    Case(misspelt_variable, "ID101", "IDENTITY_REFRESH_RATIO"),
    Case(secret_that_others_can_read, "ID102", "chmod 600"),
    Case(dead_first_address, "ID203", "[::1]:"),
    Case(slow_name, "ID201", "which is slow"),
    Case(lock_that_is_held, "ID401", "another process holds its lock"),
    Case(uwsgi_without_threads, "ID602", "enable-threads"),
    Case(uwsgi_with_gevent_unpatched, "ID602", "gevent-monkey-patch"),
    Case(certificate_near_its_end, "ID204", "renew"),
    Case(clock_half_a_minute_behind, "ID303", "s behind"),
    Case(token_of_another_client, "ID501", "for the client 'a'"),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.break_.__name__)
def test_a_broken_set_up_is_named_by_one_id(
    site: Site,
    diagnose: Callable[..., dict[str, list[str]]],
    request: pytest.FixtureRequest,
    case: Case,
) -> None:
    case.break_(site, request)
    found = diagnose()
    assert set(found["fail"]) == {case.check_id}
    assert case.said in found["text"][0]
    assert "error" not in found


@pytest.mark.parametrize("case", SUSPICIOUS, ids=lambda case: case.break_.__name__)
def test_what_is_suspicious_is_a_warning_and_a_failure_only_strictly(
    site: Site,
    diagnose: Callable[..., dict[str, list[str]]],
    doctor: Callable[..., Result],
    request: pytest.FixtureRequest,
    case: Case,
) -> None:
    case.break_(site, request)
    found = diagnose()
    assert "fail" not in found
    assert set(found["warn"]) == {case.check_id}
    assert case.said in found["text"][0]
    assert doctor("--strict").exit_code == 1


def test_a_healthy_set_up_passes_every_check(diagnose: Callable[..., dict[str, list[str]]]) -> None:
    found = diagnose()
    assert found.keys() == {"ok", "text"}
    assert set(found["ok"]) == {check.id for check in CHECKS} - {"ID102", "ID602"}


def test_files_that_can_be_read_are_counted(site: Site, doctor: Callable[..., Result]) -> None:
    del site.environ["IDENTITY_API_INTERNAL_TOKEN"]
    site.environ["IDENTITY_API_INTERNAL_TOKEN_FILE"] = site.file(INTERNAL_TOKEN)
    assert "ok    ID102   1 files can be read\n" in doctor().stdout


def test_pre_configured_credentials_need_no_identity_api(
    site: Site, diagnose: Callable[..., dict[str, list[str]]]
) -> None:
    site.preconfigure(site.credentials.token_endpoint, site.secret)
    del site.environ["IDENTITY_API_URL"]
    found = diagnose()
    assert not {"ID301", "ID302", "ID401"} & set(found["ok"])
    assert found.keys() == {"ok", "text"}
    assert found["ok"].count("ID203") == 1


def test_a_service_without_credentials_is_not_registered(
    site: Site, doctor: Callable[..., Result]
) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = "memory:"
    result = doctor()
    assert result.exit_code == 0
    assert "skip  ID402   no credentials yet: the service registers when it starts" in result.stdout
    assert "skip  ID501   token endpoint: not tried: ID402 found nothing" in result.stdout


def test_what_depends_on_a_failure_is_skipped_with_its_cause(
    site: Site, doctor: Callable[..., Result], request: pytest.FixtureRequest
) -> None:
    wrong_port(site, request)
    result = doctor()
    assert result.exit_code == 1
    for skipped in ("ID204", "ID301", "ID302", "ID303"):
        assert f"skip  {skipped}   identity-api: not tried: ID203 failed\n" in result.stdout
    assert re.search(r"^1 failed, \d ok, \d+ not tried$", result.stdout, re.MULTILINE)


def test_a_proxy_that_works_stands_for_the_connection(
    site: Site, diagnose: Callable[..., dict[str, list[str]]], canned: StartCanned
) -> None:
    site.environ["HTTP_PROXY"] = canned(HEALTHY).url
    site.at("http://identity-api.invalid:3053")
    found = diagnose("--only", "ID3")
    assert set(found["ok"]) >= {"ID301", "ID302"}


@pytest.mark.parametrize("token", ["opaque", "e30.e30.", "W10.e30.x", "e30.%%%.x"])
def test_a_token_that_says_nothing_is_good(
    site: Site, diagnose: Callable[..., dict[str, list[str]]], canned: StartCanned, token: str
) -> None:
    site.preconfigure(canned(token_reply(token)).url)
    assert "ID501" in diagnose()["ok"]


def test_a_token_without_the_roles_of_the_client_is_a_warning(
    site: Site, doctor: Callable[..., Result]
) -> None:
    client = site.api.backend.client("orders")
    assert client is not None
    client.roles = ()
    assert "without the roles micro-service" in " ".join(doctor().stdout.split())


def test_a_silent_server_takes_no_longer_than_the_timeout(
    site: Site, doctor: Callable[..., Result]
) -> None:
    with hostile.HostileServer(hostile.says_nothing) as server:
        site.at(f"http://127.0.0.1:{server.port}")
        began = time.monotonic()
        result = doctor("--timeout", "1")
    assert time.monotonic() - began < 8
    assert "FAIL  ID301" in result.stdout


@pytest.mark.parametrize("timeout", ["1e10", "inf"])
def test_a_timeout_that_no_socket_takes_is_a_wrong_argument(
    doctor: Callable[..., Result], timeout: str
) -> None:
    result = doctor("--timeout", timeout)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Invalid value for '--timeout'" in result.stderr


def test_a_slow_look_says_what_it_waits_for(
    site: Site,
    doctor: Callable[..., Result],
    canned: StartCanned,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("identity_client.cli.output.PATIENCE", 0.2)
    server = canned(HEALTHY)
    server.before_answer = lambda asked: time.sleep(4 if len(server.asked) == 2 else 0)  # by ID301
    site.at(server.url)
    result = doctor("--timeout", "10")
    assert "identity-client: ID301 identity-api: it is an identity-api ...\n" in result.stderr


def test_a_port_that_swallows_packets_times_out(site: Site, doctor: Callable[..., Result]) -> None:
    with hostile.black_hole() as port:
        site.at(f"http://127.0.0.1:{port}")
        result = doctor("--timeout", "1", "--only", "ID203")
    assert "(timed out)" in result.stdout


def test_a_resolver_that_hangs_is_left_behind(
    site: Site, doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
    result = doctor("--timeout", "0.1", "--only", "ID201")
    release.set()
    assert "cannot be resolved (it timed out)" in " ".join(result.stdout.split())


def test_only_shows_the_checks_asked_for(doctor: Callable[..., Result]) -> None:
    result = doctor("--only", "ID30")
    ids = re.findall(r"^\w+ +(ID\d+)", result.stdout, re.MULTILINE)
    assert ids == ["ID301", "ID302", "ID303", "ID303"]


def test_only_shows_a_failure_that_is_in_the_way(
    site: Site, doctor: Callable[..., Result], request: pytest.FixtureRequest
) -> None:
    half_given_credentials(site, request)
    result = doctor("--only", "ID501")
    assert result.exit_code == 1
    assert re.findall(r"^(\w+) +(ID\d+)", result.stdout, re.MULTILINE) == [
        ("FAIL", "ID103"),
        ("skip", "ID501"),
    ]


def test_an_id_that_does_not_exist_is_a_wrong_argument(doctor: Callable[..., Result]) -> None:
    result = doctor("--only", "ID9")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no check has an id that begins with 'ID9'; see --list" in result.stderr


def test_list_shows_ids_and_titles_and_runs_nothing(
    site: Site, doctor: Callable[..., Result]
) -> None:
    requests = dict(site.api.backend.requests)
    lines = doctor("--list").stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines] == sorted({check.id for check in CHECKS})
    assert site.api.backend.requests == requests


def test_options_win_over_the_environment(site: Site, doctor: Callable[..., Result]) -> None:
    with hostile.closed_port() as port:
        result = doctor("--url", f"http://127.0.0.1:{port}", "--service-name", "other")
    assert f"127.0.0.1:{port}" in result.stdout
    assert "the service 'other' registers" in result.stdout


def test_a_check_that_breaks_does_not_end_the_others(
    monkeypatch: pytest.MonkeyPatch, doctor: Callable[..., Result]
) -> None:
    def broken(facts: Facts, subject: str) -> Finding:
        raise KeyError(subject)

    def fine(facts: Facts, subject: str) -> Finding:
        return ok("fine")

    checks = (
        Check("ID901", "breaks", broken),
        Check("ID902", "needs it", fine, needs=("ID901",)),
        Check("ID903", "needs nothing", fine),
    )
    monkeypatch.setattr("identity_client.cli.doctor.command.CHECKS", checks)
    result = doctor()
    assert result.exit_code == 2
    assert result.stdout == (
        "error ID901   the check itself failed (KeyError)\n"
        "          do: please report it\n"
        "skip  ID902   not tried: ID901 failed\n"
        "ok    ID903   fine\n"
        "1 broke, 1 ok, 1 not tried\n"
    )


@pytest.mark.parametrize("case", BROKEN[::4], ids=lambda case: case.break_.__name__)
def test_the_report_is_ascii_of_80_columns(
    site: Site,
    doctor: Callable[..., Result],
    request: pytest.FixtureRequest,
    case: Case,
) -> None:
    case.break_(site, request)
    for line in doctor().stdout.splitlines():
        assert line.isascii()
        assert len(line) < 80 or " " not in line.strip()


def test_every_check_comes_after_those_it_needs() -> None:
    seen: set[str] = set()
    for check in CHECKS:
        assert set(check.needs) <= seen
        seen.add(check.id)


def test_what_a_check_needs_is_selected_with_it() -> None:
    selected = [check.id for check in runner.select(CHECKS, "ID402")]
    assert selected[:3] == ["ID101", "ID102", "ID103"]
    assert selected[-2:] == ["ID402", "ID204"] or "ID401" in selected
    assert "ID501" not in selected


# --- what servers may do besides ---


def answering(*heads: str) -> hostile.Behaviour:
    """Answer with these heads in turn and an empty object; with none left, close unanswered."""
    left = list(heads)

    def answer(connection: socket.socket, stopped: threading.Event) -> None:
        if left:
            head = f"{left.pop(0)}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
            connection.sendall(f"HTTP/1.1 {head}".encode())

    return answer


@pytest.mark.parametrize(
    ("third", "said"),
    [((), "closed before a response"), (("503 Unavailable",), "returned HTTP 503")],
    ids=["closes", "breaks"],
)
def test_a_server_that_fails_at_the_internal_token_is_named(
    site: Site, diagnose: Callable[..., dict[str, list[str]]], third: tuple[str, ...], said: str
) -> None:
    with hostile.HostileServer(answering("200 OK", "200 OK", *third)) as server:
        site.at(f"http://127.0.0.1:{server.port}")
        found = diagnose("--only", "ID302")
    assert found["fail"] == ["ID302"]
    assert said in found["text"][0]


def test_a_server_without_a_clock_is_no_failure(
    site: Site, diagnose: Callable[..., dict[str, list[str]]]
) -> None:
    with hostile.HostileServer(answering(*["200 OK"] * 4)) as server:
        site.at(f"http://127.0.0.1:{server.port}")
        found = diagnose("--only", "ID303")
    assert set(found["ok"]) == {"ID303"}


def test_a_store_that_is_not_there_yet_is_no_failure(
    site: Site, diagnose: Callable[..., dict[str, list[str]]]
) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = f"file://{site.folder}/other.json"
    found = diagnose("--only", "ID40")
    assert (found["ok"], found["skip"]) == (["ID401"], ["ID402"])


@pytest.mark.parametrize("query", ["ssl_ca_certs={}", "ssl_cert_reqs=none"])
def test_redis_with_tls_is_trusted_as_its_url_says(
    site: Site,
    diagnose: Callable[..., dict[str, list[str]]],
    tls_server: str,
    certificate: str,
    query: str,
) -> None:
    host = tls_server.removeprefix("https://")
    site.environ["IDENTITY_CREDENTIAL_STORE"] = f"rediss://{host}/0?{query.format(certificate)}"
    found = diagnose("--only", "ID204")
    assert found["ok"].count("ID204") == 2


@pytest.mark.parametrize(
    ("query", "said"), [("", "speaks no TLS there"), ("?ssl_ca_certs=/missing", "no such file")]
)
def test_redis_without_tls_is_named(
    site: Site, diagnose: Callable[..., dict[str, list[str]]], query: str, said: str
) -> None:
    host = site.api.url.removeprefix("http://")
    site.environ["IDENTITY_CREDENTIAL_STORE"] = f"rediss://{host}/0{query}"
    found = diagnose("--only", "ID204", "--timeout", "5")
    assert found["fail"] == ["ID204"]
    assert said in found["text"][0].lower() or said in found["text"][0]


def test_plain_redis_has_no_tls_to_check(
    site: Site, diagnose: Callable[..., dict[str, list[str]]]
) -> None:
    site.environ["IDENTITY_CREDENTIAL_STORE"] = site.api.url.replace("http:", "redis:")
    assert diagnose("--only", "ID204")["ok"] == ["ID204"]


# --- what needs no server ---


@pytest.fixture
def mounts(tmp_path: Path) -> Callable[[str], Path]:
    def write(line: str) -> Path:
        path = tmp_path / "mountinfo"
        path.write_text(f"36 35 98:0 / / rw - ext4 /dev/root rw\n{line}\n")
        return path

    return write


def test_a_file_whose_mount_is_deleted_is_named(mounts: Callable[[str], Path]) -> None:
    line = "40 36 98:0 /volumes/..2026/token//deleted /run/token ro - tmpfs tmpfs ro"
    assert settings_checks.is_on_deleted_mount(Path("/run/token"), mounts(line))
    assert not settings_checks.is_on_deleted_mount(Path("/run/other"), mounts(line))
    assert not settings_checks.is_on_deleted_mount(Path("/run/token"), Path("/missing"))


def test_a_stale_mount_fails(
    site: Site,
    diagnose: Callable[..., dict[str, list[str]]],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    secret_that_others_can_read(site, request)
    monkeypatch.setattr(settings_checks, "is_on_deleted_mount", lambda _: True)
    found = diagnose()
    assert found["fail"] == ["ID102"]
    assert "subPath" in found["text"][0]


def test_the_modes_of_kubernetes_mounts_are_no_warning(
    site: Site, diagnose: Callable[..., dict[str, list[str]]]
) -> None:
    (site.folder / "..data").mkdir()
    (site.folder / "..data" / "token").write_text(INTERNAL_TOKEN)
    (site.folder / "token").symlink_to("..data/token")
    del site.environ["IDENTITY_API_INTERNAL_TOKEN"]
    site.environ["IDENTITY_API_INTERNAL_TOKEN_FILE"] = str(site.folder / "token")
    assert "warn" not in diagnose()


SEARCH = "nameserver 10.0.0.10\nsearch a.svc svc\noptions timeout:1 ndots:5\n"
TRIED = (
    ", and the resolver 10.0.0.10; the name has fewer than {} dots (ndots), so {} are tried first"
)


@pytest.mark.parametrize(
    ("host", "content", "expected"),
    [
        ("identity-api", SEARCH, TRIED.format(5, "a.svc, svc")),
        ("identity-api", "nameserver 10.0.0.10\nsearch svc\n\n#\n", TRIED.format(1, "svc")),
        ("identity-api.svc", "nameserver 10.0.0.10\nsearch svc\n", ", and the resolver 10.0.0.10"),
        ("identity-api", "nameserver 10.0.0.1\nnameserver ::1", ", and the resolver 10.0.0.1, ::1"),
        ("identity-api.", SEARCH, ", and the resolver 10.0.0.10"),
        ("identity-api", "nameserver 10.0.0.10\ndomain svc\n", TRIED.format(1, "svc")),
        ("identity-api", "search svc", ""),
        ("identity-api", None, ""),
    ],
)  # fmt: skip
def test_the_resolver_is_part_of_the_advice(
    tmp_path: Path, host: str, content: str | None, expected: str
) -> None:
    file = tmp_path / "resolv.conf"
    if content is not None:
        file.write_text(content)
    assert network_checks.resolvers(host, file) == expected


def test_a_file_store_is_read_without_its_lock(site: Site, doctor: Callable[..., Result]) -> None:
    lock = site.folder / "credentials.json.lock"
    lock.unlink(missing_ok=True)
    assert doctor("--only", "ID401").exit_code == 0
    assert not lock.exists()


def test_a_system_without_file_locks_has_none_that_is_held(
    site: Site, doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert doctor("--only", "ID401").exit_code == 0


def test_a_lock_that_is_released_meanwhile_is_none(
    site: Site, doctor: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    release = hold_the_lock(site)
    monkeypatch.setattr(time, "sleep", lambda seconds: release())
    assert doctor("--only", "ID401", "--strict").exit_code == 0


def test_threads_of_uwsgi_are_ok(site: Site, diagnose: Callable[..., dict[str, list[str]]]) -> None:
    site.environ |= {"UWSGI_MODULE": "app", "UWSGI_THREADS": "2"}
    site.environ |= {"UWSGI_GEVENT": "100", "UWSGI_GEVENT_MONKEY_PATCH": "1"}
    found = diagnose()
    assert "ID602" in found["ok"]
    assert "warn" not in found


@pytest.mark.parametrize(
    "variables",
    [{"UWSGI_SERVICE_HOST": "10.0.0.1"}, {"UWSGI_MODULE": "app", "UWSGI_INI": "uwsgi.ini"}],
    ids=["a Service of Kubernetes", "an ini file"],
)
def test_what_is_not_known_of_uwsgi_is_no_warning(
    site: Site, diagnose: Callable[..., dict[str, list[str]]], variables: dict[str, str]
) -> None:
    site.environ |= variables
    assert diagnose().keys() == {"ok", "text"}
