"""JSON to values and back: camelCase, the envelope, error bodies, and no silent conversions."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from functools import cache
from itertools import accumulate
from typing import Any, TypeVar, cast
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override

from .. import models
from ..models import ApiEnvelope

_T = TypeVar("_T")

_TEXT_LIMIT = 300
_SHORT_SECRET = 8
_TITLE_LIMIT = 16 * 1024

# Half of a surrogate pair: JSON can write it, and no encoding can, so neither can a log.
_NO_TEXT = re.compile(r"[\ud800-\udfff]")

# The parser needs the C stack for each level, and a thread may have as little as 64 KiB of it.
_MAX_DEPTH = 200
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
# A string is matched to its end, or to that of the text: the time grows with the length alone.
_NOT_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"?|[^\[\]{}"]+', re.DOTALL)


class CodecError(Exception):
    """A document that is not what the contract says; the text names the member, not its value."""


class _WrongType(Exception):
    pass


def _camel_case(name: str) -> str:
    head, *tail = name.split("_")
    return head + "".join(part.capitalize() for part in tail)


def _string(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise _WrongType("must be a string")
    if _NO_TEXT.search(value):
        raise _WrongType("is not Unicode text")
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


def _attributes(cls: type) -> Any:
    """Return the members of a record, with their types resolved."""
    # Annotations are text, and the module that a public class names does not hold their names.
    if cls.__module__ == "identity_client":
        attrs.resolve_types(cls, dict(vars(models)))
    return attrs.fields(cls)


def _structure_factory(cls: type) -> Any:
    renames: dict[str, Any] = {
        a.name: override(rename=_camel_case(a.name)) for a in _attributes(cls)
    }
    return cast(Any, make_dict_structure_fn(cls, _converter(), **renames))


def _unstructure_factory(cls: type) -> Any:
    renames: dict[str, Any] = {
        a.name: override(rename=_camel_case(a.name), omit_if_default=a.default is None)
        for a in _attributes(cls)
    }
    return cast(Any, make_dict_unstructure_fn(cls, _converter(), **renames))


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
        CodecError: the document is not an object, or a member is missing or of another type.
    """
    try:
        return _converter().structure(as_object(document), cls)
    except cattrs.ClassValidationError as error:
        problem = _problem(error)
    raise CodecError(problem)


def unwrap(document: object) -> ApiEnvelope[object]:
    """Take a reply out of its envelope; a bare object is taken as it is."""
    bare: object = document
    members = cast("dict[str, object]", document) if isinstance(document, dict) else {}
    return ApiEnvelope(members.get("data", bare))


def as_object(document: object) -> dict[str, Any]:
    """Return a JSON document that is an object.

    Raises:
        CodecError: it is something else.
    """
    if not isinstance(document, dict):
        raise CodecError(f"it is {_kind(document)} where an object is expected")
    return cast("dict[str, Any]", document)


def parse_json(body: bytes) -> object:
    """Parse a body as JSON.

    Raises:
        CodecError: it is not JSON, or is nested too deeply to be read.
    """
    if not body.strip():
        raise CodecError("it is empty")
    try:
        text = body.decode(json.detect_encoding(body), "surrogatepass")
        _check_depth(text)
        return json.loads(text)
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError:
        problem = "it is an HTML page" if _is_html(body) else "it is not JSON"
    raise CodecError(problem)


def _check_depth(text: str) -> None:
    """Raise `RecursionError` for what the parser would end a process with a small stack for."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH:
        return
    depths = accumulate(map(_STEPS.__getitem__, _NOT_BRACKETS.sub("", text)))
    if max(depths, default=0) > _MAX_DEPTH:
        raise RecursionError


def error_text(body: bytes, *secrets: str) -> tuple[str | None, str | None]:
    """Read what any of the known error bodies says.

    These are NestJS's ``{statusCode, message, error}``, problem details (RFC 9457),
    ``{error: {code, message}}``, OAuth's ``{error, error_description}`` (RFC 6749 section 5.2)
    and HTML. A text in which the server echoes a secret of the request, in any of the encodings
    that it may have come in, is left out as a whole: to replace the secret in it would show where
    it stood. A short secret counts where it is a word of its own, as it may be a part of others.

    Args:
        body: the body of the response.
        secrets: what must not be shown.

    Returns:
        The message and the code, each None where there is none.
    """
    forms = [_pattern(form, secret) for secret in secrets for form in _forms(secret)]

    def clean(value: object) -> str | None:
        text = _clean(value)
        if text is None or any(form.search(each) for each in _decodings(text) for form in forms):
            return None
        # Cut last: a secret at the limit would otherwise show its first part.
        return text[:_TEXT_LIMIT] + "…" if len(text) > _TEXT_LIMIT else text

    try:
        document = as_object(unwrap(parse_json(body)).data)
    except CodecError:
        # All repetitions are bounded: a body of nothing but "<title" takes linear time.
        title = re.search(
            rb"<title[^>]{0,100}>([^<]{1,300})</title>", body[:_TITLE_LIMIT], re.IGNORECASE
        )
        return (clean(title[1].decode("utf-8", "replace")) if title else None), None
    error: object = document.get("error")
    if isinstance(error, dict):
        inner = as_object(cast(object, error))
        return clean(inner.get("message")), clean(inner.get("code"))
    members = ("message", "error_description", "detail", "title")
    message = next((text for name in members if (text := clean(document.get(name)))), None)
    return message, clean(error) or clean(document.get("type"))


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as form encoding, percent-encoding and HTML write it."""
    yield from {secret, " ".join(secret.split()), quote(secret, safe=""), quote_plus(secret)}
    yield from (html.escape(secret), base64.b64encode(secret.encode()).decode())


def _pattern(form: str, secret: str) -> re.Pattern[str]:
    edges = (r"(?<!\w)", r"(?!\w)") if len(secret) < _SHORT_SECRET else ("", "")
    return re.compile(re.escape(form).join(edges))


def _decodings(text: str) -> Iterator[str]:
    yield from (text, unquote(text), unquote_plus(text), html.unescape(text))
    unescaped = re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), text)
    yield re.sub(r"\\(.)", r"\1", unescaped)


def _clean(value: object) -> str | None:
    if isinstance(value, list):
        items = cast("list[object]", value)
        value = "; ".join(item for item in items if isinstance(item, str))
    if not isinstance(value, str):
        return None
    text = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", value).split())
    return _NO_TEXT.sub("\ufffd", text) or None


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
