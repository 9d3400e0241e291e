"""Whether identity-api responds: without a token, and without any effect there."""

from __future__ import annotations

import time

from .._http import codec
from .._http.failures import HttpError
from .._http.transport import HttpResponse, HttpTransport, NoAuth, shown_url
from ..api_client import Endpoints
from ..config import IdentityBootstrapConfig

ORGANIZATIONS = Endpoints().system_organization


def api_problem(config: IdentityBootstrapConfig, timeout: float) -> str | None:
    """Say why what answers at its address is not an identity-api that works; None if it is one.

    ``/health`` is asked first; one that has no such path asks for a token at another.
    """
    base = str(config.identity_api_url).rstrip("/")
    where = f"identity-api at {shown_url(base)}"
    transport = HttpTransport(config.request_timeout, config.ca_bundle, config.client_cert)
    deadline = time.monotonic() + timeout

    def get(path: str) -> HttpResponse:
        left = max(deadline - time.monotonic(), 0.01)
        return transport.send("GET", f"{base}{path}", auth=NoAuth(), timeout=left)

    try:
        health = get("/health")
        if health.ok and is_json(health):
            return None
        guarded = get(f"{ORGANIZATIONS}/doctor")
    except HttpError as error:
        return f"{where} is unreachable: {error.explain('IDENTITY_API_URL')}"
    finally:
        transport.close()
    if guarded.status in (401, 403) and is_json(guarded):
        return None
    advice = "check host, port and path in IDENTITY_API_URL"
    if guarded.status >= 500:
        advice = "see its log, or try again later"
    kind = "" if is_json(guarded) else ", and not JSON"
    return f"{where} returned HTTP {guarded.status}{kind}; {advice}"


def is_json(response: HttpResponse) -> bool:
    """Whether the body is a JSON object, as all that identity-api sends is."""
    try:
        codec.as_object(codec.parse_json(response.body))
    except codec.CodecError:
        return False
    return True
