"""How the contract's calls are read and answered: checked bodies, the envelope, its errors."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TypeVar

from flask import Response, jsonify, request

from .._http import codec
from ..models import ApiEnvelope

_T = TypeVar("_T")

# No lone surrogates either: they cannot be encoded.
_TEXT = re.compile(r"(?=.*\S)[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


def parse_body(kind: type[_T]) -> _T:
    """Read a value from the request's JSON body."""
    return checked(codec.parse_json(request.get_data()), kind)


def checked(document: object, kind: type[_T]) -> _T:
    """Make a value of what a request brought, and check its texts."""
    value = codec.from_wire(document, kind)
    for name, member in codec.to_wire(value).items():
        if isinstance(member, str) and not is_text(member):
            raise codec.CodecError(
                f"its member {name!r} is blank, contains a control character, "
                "or has more than 255 characters"
            )
    return value


def is_text(member: str) -> bool:
    """Whether a text is one that the contract allows."""
    return _TEXT.fullmatch(member) is not None


def data_response(value: object) -> Response:
    """Answer with a value in the envelope."""
    return jsonify(codec.to_wire(ApiEnvelope(value)))


def error_response(status: int, message: str) -> tuple[Response, int]:
    """Answer with an error in the contract's form."""
    return jsonify(statusCode=status, message=message, error=HTTPStatus(status).phrase), status


def oauth_error(status: int, error: str, description: str) -> tuple[Response, int]:
    """Answer with an error in the form of a token endpoint (RFC 6749 section 5.2)."""
    return jsonify(error=error, error_description=description), status
