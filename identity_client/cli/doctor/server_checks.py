"""Checks of what the servers say: identity-api, the credential store, the token endpoint."""

from __future__ import annotations

import os
import stat
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from ..._http.failures import HttpError
from ..._http.token_endpoint import TokenEndpoint
from ..._http.transport import BearerAuth, HttpResponse, NoAuth, shown_url
from ..._tokens.clock import SystemClock
from ...errors import IdentityError
from ...models import AccessToken, ServiceCredentials
from ...stores import open_store
from ..jwt import decode, roles_of
from ..reachability import ORGANIZATIONS, api_problem
from .model import API, Facts, Finding, fail, fail_of, ok, skip, warn

# Seconds by which this machine's clock may differ.
_SKEW, _SERIOUS_SKEW = 5.0, 60.0

# Seconds that a registration usually holds the lock of the store.
_LOCK_TIME = 1.0


def check_api(facts: Facts, subject: str) -> Finding | None:
    """See whether what answers is an identity-api; without the internal token."""
    target = facts.target(subject)
    if target is None:
        return None
    problem = api_problem(facts.settings, facts.timeout)
    return fail_of(problem) if problem else ok(f"identity-api at {shown_url(target.url)} responds")


def check_internal_token(facts: Facts, subject: str) -> Finding | None:
    """Use the internal token for a call that changes nothing: 200 and 404 both prove it."""
    target = facts.target(subject)
    if target is None:
        return None
    base, token = target.url.rstrip("/"), facts.settings.identity_api_internal_token or ""
    try:
        answer = _get(facts, f"{base}{ORGANIZATIONS}/doctor", BearerAuth(token))
    except HttpError as error:
        explained = error.explain(target.setting)
        return fail_of(f"identity-api at {shown_url(base)} is unreachable: {explained}")
    if answer.ok or answer.status == 404:
        return ok("identity-api accepts the internal token")
    if answer.status in (401, 403):
        return fail(
            f"identity-api rejects the internal token (HTTP {answer.status})",
            "check IDENTITY_API_INTERNAL_TOKEN, or the file of IDENTITY_API_INTERNAL_TOKEN_FILE",
        )
    return fail(f"identity-api returned HTTP {answer.status}", "see its log, or try again later")


def check_clock(facts: Facts, subject: str) -> Finding | None:
    """Compare this machine's clock with the server's ``Date``."""
    target = facts.target(subject)
    if target is None:
        return None
    url = f"{target.url.rstrip('/')}/health" if subject == API else target.url
    before = time.time()
    try:
        date = _get(facts, url).headers.get("Date", "")
        server = parsedate_to_datetime(date).timestamp()
    except (HttpError, ValueError):
        return ok(f"{subject} returns no time to compare with")
    error = (time.time() - before) / 2 + 1.0  # its time is in whole seconds
    skew = (before + time.time()) / 2 - server
    text = (
        f"{subject}: this machine's clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    )
    if abs(skew) <= _SKEW + error:
        return ok(f"{subject}: the clocks agree to {abs(skew) + error:.0f} s")
    advice = "synchronize the clocks (NTP); tokens seem expired, or not valid yet"
    return (fail if abs(skew) > _SERIOUS_SKEW else warn)(text, advice)


def check_store(facts: Facts, _: str) -> Finding | None:
    """Read the credential store, and nothing more."""
    config = facts.settings
    if config.preconfigured_credentials is not None:
        return None
    loose = _loose_file(config.credential_store)
    if loose is not None:
        return fail(f"other users of this machine can read {loose}", f"chmod 600 {loose}")
    try:
        store = open_store(
            config.credential_store,
            service_name=config.service_name,
            identity_api_url=config.identity_api_url or "",
            key=config.credential_store_key,
            timeout=min(facts.timeout, config.request_timeout),
        )
        try:
            facts.credentials = store.load().credentials
            is_locked = _is_locked(store)
        finally:
            store.close()
    except IdentityError as error:
        return fail_of(error.message)
    if config.credential_store.startswith("memory:"):
        return ok("memory:, which shares nothing")
    if is_locked:
        return warn(
            f"{store} can be read, but another process holds its lock",
            "look again: a registration takes seconds; if the lock stays, find the process that "
            "hangs with it (a file's: lsof FILE.lock; Redis' lock ends with its lease)",
        )
    return ok(f"{store} can be read")


def check_credentials(facts: Facts, _: str) -> Finding:
    """Say which credentials there are; none are made."""
    config = facts.settings
    facts.credentials = config.preconfigured_credentials or facts.credentials
    known = facts.credentials
    if known is None:
        return skip("no credentials yet: the service registers when it starts")
    source = "the settings" if config.preconfigured_credentials else "the credential store"
    return ok(f"client {known.client_id!r}, from {source}")


def check_token(facts: Facts, _: str) -> Finding:
    """Ask for a token with the credentials that there are."""
    known, config = facts.credentials, facts.settings
    assert known is not None  # noqa: S101  # the runner skips this without credentials
    endpoint = TokenEndpoint(
        facts.transport(), SystemClock(), config.token_endpoint_auth_method, config.scope
    )
    try:
        token = endpoint.fetch(known)
    except IdentityError as error:
        return fail_of(error.message)
    return _judge_token(token, known)


def _judge_token(token: AccessToken, known: ServiceCredentials) -> Finding:
    text = f"the token endpoint issued a token for {token.expires_in:g} s"
    decoded = decode(token.value)
    if decoded is None:
        return ok(f"{text}; it is not a JWT")
    claims = decoded[1]
    azp = claims.get("azp", claims.get("client_id"))
    if azp is not None and azp != known.client_id:
        return warn(f"{text}, but for the client {str(azp)!r}", "check SERVICE_CLIENT_ID")
    missing = set(known.roles) - set(roles_of(claims))
    if missing and "realm_access" in claims:
        return warn(
            f"{text}, without the roles {', '.join(sorted(missing))}",
            "check the roles of the client's service account",
        )
    return ok(f"{text} to {azp or known.client_id}, by {claims.get('iss', 'an unnamed issuer')}")


def _is_locked(store: object) -> bool:
    """Whether the lock of a store is held, and still is after a moment; without taking it."""
    is_locked = getattr(store, "is_locked", None)  # a store of others need not have it
    if is_locked is None or not is_locked():
        return False
    time.sleep(_LOCK_TIME)
    return bool(is_locked())


def _get(facts: Facts, url: str, auth: Any = None) -> HttpResponse:
    return facts.transport().send("GET", url, auth=auth or NoAuth())


def _loose_file(url: str) -> str | None:
    """Return the file of a file store that others may read: loading it would change its mode."""
    if not url.startswith("file:") or not hasattr(os, "geteuid"):
        return None
    path = Path(url2pathname(urlsplit(url).path))
    try:
        mode = path.stat().st_mode
    except OSError:
        return None
    return str(path) if stat.S_ISREG(mode) and mode & 0o077 else None
