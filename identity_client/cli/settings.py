"""Reads all settings without contacting anything, and keeps every problem and warning."""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from attrs import frozen

from ..config import IdentityBootstrapConfig
from ..errors import ConfigurationError
from ..stores import open_store

_LOGGER = logging.getLogger("identity_client")


@frozen
class Settings:
    """What the settings come to.

    Attributes:
        config: the configuration, or None when there are problems.
        problems: each thing that is wrong, in a sentence.
        warnings: what is probably not meant.
    """

    config: IdentityBootstrapConfig | None
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Read the settings, and the files that they name."""
    config: IdentityBootstrapConfig | None = None
    problems: tuple[str, ...] = ()
    with _warnings() as warnings:
        try:
            config = IdentityBootstrapConfig.from_env(environ)
        except ConfigurationError as error:
            problems = error.problems
    return Settings(config, problems, tuple(warnings))


def store_problem(config: IdentityBootstrapConfig) -> str | None:
    """Say why the credential store cannot be made of its settings; nothing is contacted."""
    if config.preconfigured_credentials is not None:
        return None
    try:
        open_store(
            config.credential_store,
            service_name=config.service_name,
            identity_api_url=config.identity_api_url or "",
            key=config.credential_store_key,
        ).close()
    except ConfigurationError as error:
        return error.message
    return None


class _Gatherer(logging.Handler):
    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())


@contextmanager
def _warnings() -> Generator[list[str], None, None]:
    """Gather what would be logged."""
    messages: list[str] = []
    handler = _Gatherer(messages)
    propagate, _LOGGER.propagate = _LOGGER.propagate, False
    _LOGGER.addHandler(handler)
    try:
        yield messages
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.propagate = propagate
