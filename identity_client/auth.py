"""A bearer token for requests, with one retry after a 401."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, cast

import requests
from requests import cookies
from requests.auth import AuthBase
from requests.utils import rewind_body

from ._http.hosts import AcceptedTokens, HostAllowlist, host_of
from ._public import public

# The body of a 401 is read so that its connection can be used again; a longer one is not worth it.
_MAX_REJECTION_BODY = 64 * 1024


class TokenGetter(Protocol):
    """Returns the current token, as `IdentityBootstrapService.get_access_token` does."""

    def __call__(self) -> str: ...


class TokenInvalidator(Protocol):
    """Takes a rejected token, as `IdentityBootstrapService.invalidate_token` does."""

    def __call__(
        self, token: str, host: str | None = None, *, was_accepted: bool = False
    ) -> None: ...


@public
class TokenAuth(AuthBase):
    """Puts the current token into each request, and another one when the first is rejected.

    A request whose body cannot be sent twice, such as a generator, gets its 401 back. An
    `IdentityError` that leaves a call of requests is not a ``RequestException``: no request was
    sent, and an application should respond with a 503.

    Args:
        get_token: returns the current token.
        invalidate_token: gets a token that was rejected.
        hosts: where the token may be sent, see `IdentityBootstrapService.auth`; None for every
            host.
        accepted_tokens: what the auth objects of one service share; None for one that shares
            nothing.
    """

    def __init__(
        self,
        get_token: TokenGetter,
        invalidate_token: TokenInvalidator,
        hosts: Iterable[str] | None = None,
        *,
        accepted_tokens: AcceptedTokens | None = None,
    ) -> None:
        self._get_token = get_token
        self._invalidate_token = invalidate_token
        self._allowlist = HostAllowlist(hosts)
        self._accepted = accepted_tokens or AcceptedTokens()

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._allowlist.allows(request.url or ""):
            request.headers["Authorization"] = f"Bearer {self._get_token()}"
            hooks: list[Any] = request.hooks["response"]
            if self._handle_response not in hooks:  # a prepared request may be sent again
                hooks.append(self._handle_response)
        return request

    def _handle_response(self, response: requests.Response, **kwargs: Any) -> requests.Response:
        try:
            if not self._was_rejected(response):
                return response
            # What this raises shows the frames, so none may hold the token that was sent.
            new = self._get_token()
            is_same = response.request.headers["Authorization"] == f"Bearer {new}"
            if is_same or not _can_be_sent_again(response.request):
                return response
            return self._send_again(response, new, kwargs)
        except BaseException:
            response.close()  # its caller never gets it, and it holds a connection of the pool
            raise

    def _was_rejected(self, response: requests.Response) -> bool:
        """Note what a host says of the token; return whether it rejects it, which is told."""
        sent = response.request.headers.get("Authorization")
        # After a redirect to another host requests has taken the header away, and the token must
        # not follow. One that goes on without TLS must not get it, either.
        if not isinstance(sent, str) or not sent.startswith("Bearer "):
            return False
        host = host_of(response.url)
        token = sent.removeprefix("Bearer ")
        if response.status_code != 401:
            self._accepted.note_response(host, token, response.status_code)
            return False
        accepted = self._accepted.has_accepted(host, token)
        self._invalidate_token(token, host, was_accepted=accepted)
        return True

    def _send_again(
        self, response: requests.Response, token: str, kwargs: dict[str, Any]
    ) -> requests.Response:
        again = response.request.copy()
        if _is_a_file(again.body):
            rewind_body(again)
        if kwargs.get("stream"):
            response.close()  # its caller has asked not to wait for a body, which may be endless
        else:
            _drain(response)
        untyped: Any = again  # requests' own digest auth takes these steps
        cast(Any, cookies).extract_cookies_to_jar(untyped._cookies, response.request, response.raw)
        again.headers.pop("Cookie", None)
        untyped.prepare_cookies(untyped._cookies)
        again.headers["Authorization"] = f"Bearer {token}"
        answer: requests.Response = response.connection.send(again, **kwargs)
        answer.history.append(response)
        answer.request = again
        self._accepted.note_response(host_of(response.url), token, answer.status_code)
        return answer


def _is_a_file(body: object) -> bool:
    return body is not None and not isinstance(body, (str, bytes))


def _can_be_sent_again(request: requests.PreparedRequest) -> bool:
    """Whether the body is empty, text, bytes, or a file whose beginning requests has noted."""
    return not _is_a_file(request.body) or isinstance(getattr(request, "_body_position", None), int)


def _drain(response: requests.Response) -> None:
    """Read a body within a bound, so that its connection can be used again, and keep it."""
    body = bytearray()
    for chunk in response.iter_content(8192):
        body += chunk
        if len(body) > _MAX_REJECTION_BODY:
            break
    else:
        cast(Any, response)._content = bytes(body)  # where requests keeps what was read
    response.close()
