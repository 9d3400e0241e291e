"""Scenarios: faults that begin and end at given times, read from a YAML file."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from threading import Event
from typing import Any, cast

import attrs
import yaml
from attrs import frozen

from ..errors import ConfigurationError
from .backend import EmbeddedBackend
from .faults import ServerSettings

_log = logging.getLogger("identity_client.server")

_SETTINGS = {setting.name: setting for setting in attrs.fields(ServerSettings)}
_ACTIONS: dict[str, Callable[[EmbeddedBackend, str], bool]] = {
    "rotate_secret": EmbeddedBackend.rotate_secret,
    "disable_client": EmbeddedBackend.disable_client,
    "enable_client": EmbeddedBackend.enable_client,
    "delete_client": EmbeddedBackend.delete_client,
}


_LONGEST = 86_400.0


class _ScenarioError(ValueError):
    """What is wrong in a scenario."""


@frozen
class Change:
    """What happens at one moment of a scenario.

    Attributes:
        at: seconds since the scenario began.
        name: a setting or an action.
        value: the setting's value, None for the one at the beginning; or the client's name.
    """

    at: float
    name: str
    value: Any = None

    def apply(self, backend: EmbeddedBackend, initial: ServerSettings) -> None:
        """Make the change."""
        value = getattr(initial, self.name) if self.value is None else self.value
        outcome = ""
        if self.name not in _ACTIONS:
            backend.change(**{self.name: value})
        elif not _ACTIONS[self.name](backend, value):
            outcome = " (no such client)"
        _log.info("scenario: at %g s: %s = %s%s", self.at, self.name, value, outcome)


@frozen
class Scenario:
    """Changes of a server's settings and clients, in the order of their times.

    Attributes:
        settings: the settings to begin with, where they differ from the server's.
        changes: what happens after the start.
    """

    settings: Mapping[str, Any]
    changes: tuple[Change, ...]

    @classmethod
    def load(cls, path: Path) -> Scenario:
        """Read a scenario from a YAML file, as docs/guides/development-server.rst describes it.

        Raises:
            ConfigurationError: the file cannot be read, or is not a scenario.
        """
        try:
            return cls.parse(yaml.safe_load(path.read_text("utf-8")))
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
        except yaml.YAMLError as error:
            problem = f"is not YAML: {' '.join(str(error).split())}"
        except (ValueError, RecursionError) as error:
            problem = f"cannot be used: {error}"
        raise ConfigurationError(f"the scenario {path} {problem}")

    @classmethod
    def parse(cls, document: object) -> Scenario:
        """Read a scenario from what YAML made of its file.

        Raises:
            ValueError: it is not a scenario.
        """
        members = _mapping("it", document, {"settings", "steps"})
        given = _mapping("settings", members.get("settings", {}), set(_SETTINGS))
        settings = {name: _value(name, value) for name, value in given.items()}
        steps = members.get("steps", [])
        if not isinstance(steps, list):
            raise _ScenarioError("steps must be a list")
        changes: list[Change] = []
        for number, step in enumerate(cast("list[object]", steps), start=1):
            try:
                changes.extend(_changes(step))
            except ValueError as error:
                raise _ScenarioError(f"step {number}: {error}") from None
        return cls(settings, tuple(sorted(changes, key=attrgetter("at"))))

    def play(self, backend: EmbeddedBackend, stop: Event) -> None:
        """Make the changes at their times, until the last one or until ``stop`` is set.

        Args:
            backend: what is changed.
            stop: ends the scenario early; waiting for the next change ends at once.
        """
        initial = backend.change(**self.settings)
        began = time.monotonic()
        for change in self.changes:
            if stop.wait(max(0.0, began + change.at - time.monotonic())):
                return
            change.apply(backend, initial)


def _changes(document: object) -> Iterator[Change]:
    step = _mapping("it", document, {"at", "for", *_SETTINGS, *_ACTIONS})
    at = _seconds("at", step.pop("at", None))
    duration = _seconds("for", step.pop("for")) if "for" in step else None
    if not step:
        raise _ScenarioError("it changes nothing")
    for name, given in step.items():
        value = _value(name, given)
        yield Change(at, name, value)
        if duration is not None and name in _ACTIONS:
            raise _ScenarioError(f"{name} has no end; remove 'for'")
        if duration is not None:
            yield Change(at + duration, name)


def _mapping(what: str, document: object, known: set[str]) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise _ScenarioError(f"{what} must be a mapping of names to values")
    members = cast("dict[object, Any]", document)
    unknown = [str(name) for name in members if name not in known]
    if unknown:
        raise _ScenarioError(f"{unknown[0]!r} is not known; use {', '.join(sorted(known))}")
    return dict(cast("dict[str, Any]", members))


def _value(name: str, given: object) -> Any:
    if name in _ACTIONS:
        if not isinstance(given, str):
            raise _ScenarioError(f"{name} must be the name of a client")
        return given
    if isinstance(_SETTINGS[name].default, bool):
        if not isinstance(given, bool):
            raise _ScenarioError(f"{name} must be true or false")
        return given
    value = _number(name, given)
    ServerSettings(**cast(Any, {name: value}))
    return value


def _number(name: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, (int, float)):
        raise _ScenarioError(f"{name} must be a number")
    try:
        return float(given)
    except OverflowError:
        return math.inf


def _seconds(name: str, given: object) -> float:
    value = _number(name, given)
    if not 0 <= value <= _LONGEST:
        raise _ScenarioError(f"{name} must be a number of seconds, 0 to {_LONGEST:g}")
    return value
