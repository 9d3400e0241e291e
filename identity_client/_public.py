"""Where an exported class says that it lives."""

from __future__ import annotations

from typing import TypeVar

_Class = TypeVar("_Class", bound=type)


def public(cls: _Class) -> _Class:
    """Show a class under the path that users import it from, in tracebacks, pickles and docs."""
    cls.__module__ = "identity_client"
    return cls
