"""JSON to values and back: camelCase, the envelope, error bodies, and no silent conversions."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from .models import ApiEnvelope

_T = TypeVar("_T")

_TEXT_LIMIT = 300


class WireError(Exception):
    """A document that is not what the contract says; the text names the member, not its value."""


class _WrongType(Exception):
    pass


def _camel_case(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _string(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise _WrongType("must be a string")
    return value


def _boolean(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise _WrongType("must be true or false")
    return value


def _number(value: object, _: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _WrongType("must be a number")
    return value


def _integer(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongType("must be a whole number")
    return value


def _strings(value: object, _: object) -> tuple[str, ...]:
    items = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(item, str) for item in items):
        raise _WrongType("must be a list of strings")
    return cast("tuple[str, ...]", tuple(items))


def _structure_factory(cls: type) -> Any:
    renames = {a.name: override(rename=_camel_case(a.name)) for a in attrs.fields(cls)}
    return make_dict_structure_fn(cls, _converter(), **renames)  # type: ignore[arg-type]  # cattrs types its overrides as flags


def _unstructure_factory(cls: type) -> Any:
    renames = {
        a.name: override(rename=_camel_case(a.name), omit_if_default=a.default is None)
        for a in attrs.fields(cls)
    }
    return make_dict_unstructure_fn(cls, _converter(), **renames)  # type: ignore[arg-type]  # as above


@cache
def _converter() -> cattrs.BaseConverter:
    converter = cattrs.BaseConverter()
    converter.register_structure_hook(str, _string)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(float, _number)
    converter.register_structure_hook_func(lambda kind: kind == tuple[str, ...], _strings)
    converter.register_structure_hook_factory(attrs.has, _structure_factory)
    converter.register_unstructure_hook_factory(attrs.has, _unstructure_factory)
    return converter


def to_wire(value: Any) -> dict[str, Any]:
    """Return the JSON object of a value, in camelCase and without members that are None."""
    document: dict[str, Any] = _converter().unstructure(value)
    return document


def from_wire(document: object, cls: type[_T]) -> _T:
    """Read a value from a JSON document; members that ``cls`` does not know are ignored.

    Raises:
        WireError: the document is no object, or a member is missing or of another type.
    """
    try:
        return _converter().structure(as_object(document), cls)
    except cattrs.ClassValidationError as error:
        problem = _problem(error)
    raise WireError(problem)


def unwrap(document: object) -> ApiEnvelope[object]:
    """Take a reply out of its envelope; a bare object is taken as it is."""
    bare: object = document
    members = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    return ApiEnvelope(members.get("data", bare))


def as_object(document: object) -> dict[str, Any]:
    """Return a JSON document that is an object.

    Raises:
        WireError: it is something else.
    """
    if not isinstance(document, dict):
        raise WireError(f"it is {_kind(document)} where an object is expected")
    return cast("dict[str, Any]", document)


def parse_json(body: bytes) -> object:
    """Parse a body as JSON.

    Raises:
        WireError: it is not JSON, or is nested too deeply to be read.
    """
    if not body.strip():
        raise WireError("it is empty")
    try:
        return json.loads(body)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError:
        problem = "it is an HTML page" if _is_html(body) else "it is not JSON"
    raise WireError(problem)


def error_text(body: bytes, secret: str) -> tuple[str | None, str | None]:
    """Read what any of the known error bodies says.

    These are NestJS's ``{statusCode, message, error}``, problem details (RFC 9457),
    ``{error: {code, message}}``, OAuth's ``{error, error_description}`` (RFC 6749 section 5.2)
    and HTML. A server that echoes the secret of the request does not bring it into a message.

    Returns:
        The message and the code, each None where there is none.
    """
    body = body.replace(secret.encode(), b"***")
    try:
        document = as_object(unwrap(parse_json(body)).data)
    except WireError:
        title = re.search(rb"<title[^>]*>([^<]{1,300})</title>", body, re.IGNORECASE)
        return (_clean(title[1].decode("utf-8", "replace")) if title else None), None
    error: object = document.get("error")
    if isinstance(error, dict):
        inner = as_object(cast(object, error))
        return _clean(inner.get("message")), _clean(inner.get("code"))
    members = ("message", "error_description", "detail", "title")
    message = next((text for name in members if (text := _clean(document.get(name)))), None)
    return message, _clean(error) or _clean(document.get("type"))


def _clean(value: object) -> str | None:
    if isinstance(value, list):
        items = cast("list[object]", value)
        value = "; ".join(item for item in items if isinstance(item, str))
    if not isinstance(value, str):
        return None
    text = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", value).split())
    return (text[:_TEXT_LIMIT] + "…" if len(text) > _TEXT_LIMIT else text) or None


def _is_html(body: bytes) -> bool:
    return body.lstrip()[:1] == b"<"


def _kind(document: object) -> str:
    if document is None:
        return "null"
    kinds: dict[type, str] = {list: "a list", str: "a string", bool: "a boolean"}
    return kinds.get(type(document), "a number")


def _problem(error: cattrs.ClassValidationError) -> str:
    exceptions, _ = error.group_exceptions()
    cause, note = exceptions[0]
    if isinstance(cause, cattrs.ClassValidationError):
        return _problem(cause)
    said = str(cause) if isinstance(cause, _WrongType) else "is missing"
    return f"its member {_camel_case(note.name)!r} {said}"
