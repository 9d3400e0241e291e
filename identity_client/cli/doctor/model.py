"""What a check is, what it finds, and what is known so far."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from attrs import Factory, define, frozen

from ..._http.transport import HttpTransport
from ...config import IdentityBootstrapConfig
from ...models import ServiceCredentials

API, STORE, ENDPOINT = "identity-api", "credential store", "token endpoint"

_PORTS = {"http": 80, "https": 443, "redis": 6379, "rediss": 6379}


class Status(str, Enum):
    """How a check came out; the value is its mark in the report."""

    OK = "ok"
    WARNING = "warn"
    FAILED = "FAIL"
    SKIPPED = "skip"
    CRASHED = "error"


@frozen
class Finding:
    """What a check found.

    Attributes:
        status: how it came out.
        text: what was found; several lines where there are several findings.
        advice: what to do about it, or None.
    """

    status: Status
    text: str
    advice: str | None = None


def ok(text: str) -> Finding:
    return Finding(Status.OK, text)


def warn(text: str, advice: str) -> Finding:
    return Finding(Status.WARNING, text, advice)


def fail(text: str, advice: str) -> Finding:
    return Finding(Status.FAILED, text, advice)


def fail_of(message: str) -> Finding:
    """Make a failure of an error, which reads ``<what failed>: <cause>; <what to do>``."""
    text, _, advice = message.partition("; ")
    return fail(text, advice or "see the server's log")


def skip(text: str) -> Finding:
    return Finding(Status.SKIPPED, text)


@frozen
class Target:
    """A server that the service talks to.

    Attributes:
        url: its address, which may hold a password and is not shown.
        setting: the variable that the address comes from.
    """

    url: str
    setting: str

    @property
    def scheme(self) -> str:
        return urlsplit(self.url).scheme

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or "localhost"

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or _PORTS[self.scheme]

    @property
    def is_tls(self) -> bool:
        return self.scheme in ("https", "rediss")

    @property
    def is_http(self) -> bool:
        return self.scheme in ("http", "https")


@define
class Facts:
    """What the checks so far have found out, for those that follow.

    Attributes:
        environ: the variables to diagnose.
        timeout: seconds that one look at a server may take.
        problems: what is wrong with the settings.
        config: the settings, once they are known to be good.
        credentials: the credentials, once they are found.
        addresses: what the host of each target resolves to.
    """

    environ: Mapping[str, str] = os.environ
    timeout: float = 5.0
    problems: tuple[str, ...] = ()
    config: IdentityBootstrapConfig | None = None
    credentials: ServiceCredentials | None = None
    addresses: dict[str, list[Any]] = Factory(dict[str, list[Any]])

    @property
    def settings(self) -> IdentityBootstrapConfig:
        """The settings, for checks that need them."""
        assert self.config is not None  # noqa: S101  # the runner skips checks without their needs
        return self.config

    def target(self, subject: str) -> Target | None:
        """Return the server that a subject stands for, or None where this service has none."""
        if subject == ENDPOINT:
            known = self.credentials
            return Target(known.token_endpoint, "SERVICE_TOKEN_ENDPOINT") if known else None
        if self.settings.preconfigured_credentials is not None:
            return None
        if subject == API:
            return Target(str(self.settings.identity_api_url), "IDENTITY_API_URL")
        url = self.settings.credential_store
        return Target(url, "IDENTITY_CREDENTIAL_STORE") if url.startswith("redis") else None

    def transport(self) -> HttpTransport:
        """Return what sends requests as the service does, within the timeout."""
        config = self.settings
        seconds = min(self.timeout, config.request_timeout)
        return HttpTransport(seconds, config.ca_bundle, config.client_cert)


@frozen
class Check:
    """One thing to look at.

    Attributes:
        id: stable; the documentation has an anchor of this name.
        title: what is looked at.
        look: does it; None means that it does not apply here.
        subject: the server that it is about, or an empty string.
        needs: the ids of checks that must not have failed, of the same subject or of none.
    """

    id: str
    title: str
    look: Callable[[Facts, str], Finding | None]
    subject: str = ""
    needs: tuple[str, ...] = ()


@frozen
class Outcome:
    """A check, what it found, how long that took, and the reason where it was not tried."""

    check: Check
    finding: Finding
    seconds: float
    cause: str | None = None
