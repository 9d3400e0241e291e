"""What the pages say about the package, read from its code: settings, events and commands."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import click

import identity_client
from identity_client import EventKind, IdentityBootstrapConfig
from identity_client.cli.commands import cli

PACKAGE = Path(identity_client.__file__).parent

# The pages group settings; one that is missing here fails the build.
GROUPS = {
    "identity-api": (
        "identity_api_url",
        "identity_api_internal_token",
        "identity_api_internal_token_file",
    ),
    "The service": (
        "service_name",
        "service_display_name",
        "service_description",
        "service_type",
    ),
    "Pre-configured credentials": (
        "client_id",
        "client_secret",
        "client_secret_file",
        "token_endpoint",
    ),
    "Shared credentials": (
        "credential_store",
        "credential_store_key",
        "allow_secret_regeneration",
    ),
    "Timeouts": ("request_timeout", "token_timeout"),
    "Retries and refreshes": (
        "max_registration_attempts",
        "base_retry_delay",
        "max_retry_delay",
        "max_token_retry_delay",
        "refresh_ratio",
    ),
    "Token requests": ("token_endpoint_auth_method", "scope"),
    "Operation": ("status_file",),
    "TLS": ("ca_bundle", "client_cert"),
}


class Setting(NamedTuple):
    """One field of the configuration."""

    name: str
    variable: str
    alias: str | None
    default: str
    is_secret: bool
    text: str


def attribute_texts(docstring: str) -> dict[str, str]:
    """Return the members of the section ``Attributes`` of a Google-style docstring."""
    section = inspect.cleandoc(docstring).partition("\nAttributes:\n")[2]
    section = re.split(r"\n\S", f"\n{section}")[0]
    items = re.findall(r"\n {4}(\w+): (.*(?:\n {8}.*)*)", section)
    return {name: " ".join(text.split()) for name, text in items}


def settings() -> dict[str, Setting]:
    """Return the settings that have a variable by their names, in the order of the class."""
    texts = attribute_texts(IdentityBootstrapConfig.__doc__ or "")
    fields = [field for field in attrs.fields(IdentityBootstrapConfig) if field.metadata["env"]]
    return {field.name: _setting(field, texts[field.name]) for field in fields}


def _setting(field: Any, text: str) -> Setting:
    default = "required" if field.default is attrs.NOTHING else _shown(field.default)
    variable, alias = field.metadata["env"], field.metadata.get("alias")
    return Setting(field.name, variable, alias, default, field.metadata["secret"], text)


def _shown(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return f"``{str(default).lower()}``"
    text = f"{default:g}" if isinstance(default, float) else str(getattr(default, "value", default))
    return f"``{text}``"


class Event(NamedTuple):
    """A kind of event and its docstring."""

    kind: EventKind
    text: str


def events() -> list[Event]:
    """Return the kinds of events with the docstrings below their names."""
    texts = _member_docstrings(PACKAGE / "events.py", "EventKind")
    return [Event(kind, texts[kind.name]) for kind in EventKind]


def _member_docstrings(path: Path, name: str) -> dict[str, str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    texts = {}
    for member, docstring in pairwise(body):
        if isinstance(member, ast.Assign) and isinstance(docstring, ast.Expr):
            target = member.targets[0]
            if isinstance(target, ast.Name) and isinstance(docstring.value, ast.Constant):
                texts[target.id] = " ".join(str(docstring.value.value).split())
    return texts


class Command(NamedTuple):
    """A command, its first paragraph, and its options: names, default, help."""

    name: str
    text: str
    options: list[tuple[str, str, str]]


def commands() -> Iterator[Command]:
    """Yield the commands of ``identity-client`` in the order of their names."""
    return _commands_of(cli, "identity-client")


def _commands_of(command: click.Command, name: str) -> Iterator[Command]:
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            yield from _commands_of(command.commands[child], f"{name} {child}")
    else:
        text = inspect.cleandoc(command.help or "").split("\n\n")[0]
        found = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        yield Command(name, _escaped(text), [_option(option) for option in found])


def _option(option: click.Option) -> tuple[str, str, str]:
    names = ", ".join([*option.opts, *option.secondary_opts])
    default = str(option.default) if option.show_default else ""
    return names, default, _escaped(option.help or "")


def _escaped(text: str) -> str:
    """Return text of a terminal as reStructuredText."""
    return re.sub(r"([`*_|\\])", r"\\\1", " ".join(text.split()))


def peer_rows() -> tuple[Any, ...]:
    """Return the rows of the benchmark beside other libraries."""
    sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from peers.rows import ROWS
    finally:
        sys.path.pop()
    return ROWS
