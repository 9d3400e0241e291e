"""What is exported: where a class says that it lives, and names that load when they are used."""

from __future__ import annotations

import sys
from importlib import import_module

TYPE_CHECKING = False  # see `identity_client`
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    _Class = TypeVar("_Class", bound=type)


def public(cls: _Class) -> _Class:
    """Show a class under the path that users import it from, in tracebacks, pickles and docs."""
    cls.__module__ = "identity_client"
    return cls


def load_lazily(package: str, module_of: Mapping[str, str], name: str) -> object:
    """Load what a package exports when it is first used (PEP 562).

    Args:
        package: the package's name.
        module_of: the module in it that defines each name.
        name: the name.

    Raises:
        AttributeError: the package does not export the name.
    """
    module = module_of.get(name)
    if module is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{module}", package), name)
    vars(sys.modules[package])[name] = value
    return value
