"""A bearer token for requests, with one retry after a 401."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import requests
from requests.auth import AuthBase


class TokenAuth(AuthBase):
    """Puts the current token into each request, and once another when the first is rejected.

    Args:
        get_token: returns the current token.
        invalidate_token: is told of a token that was rejected.
    """

    def __init__(
        self, get_token: Callable[[], str], invalidate_token: Callable[[str], None]
    ) -> None:
        self._get_token = get_token
        self._invalidate_token = invalidate_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        token = self._get_token()
        request.headers["Authorization"] = f"Bearer {token}"
        body_start = _position(request.body)

        def retry_once(response: requests.Response, **kwargs: Any) -> requests.Response:
            if response.status_code != 401:
                return response
            # After a redirect to another host the header is gone, and the token must not follow.
            if response.request.headers.get("Authorization") != f"Bearer {token}":
                return response
            self._invalidate_token(token)
            again = response.request.copy()
            body: Any = again.body  # requests' types leave out files and generators
            if body is not None and not isinstance(body, (str, bytes)):
                if body_start is None:
                    return response
                body.seek(body_start)
            response.content  # noqa: B018  # read it, so that its connection is free for the retry
            response.close()
            again.headers["Authorization"] = f"Bearer {self._get_token()}"
            answer: requests.Response = response.connection.send(again, **kwargs)
            answer.history.append(response)
            answer.request = again
            return answer

        cast(Any, request).register_hook("response", retry_once)
        return request


def _position(body: Any) -> int | None:
    """Return where a file's content begins, or None for what cannot be sent twice."""
    try:
        position: int = body.tell()
    except (AttributeError, OSError):
        return None
    return position
