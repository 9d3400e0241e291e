"""Errors that leave without the frames beneath them.

A traceback keeps the locals of every frame it went through, and the foreign exceptions that an
error was made from keep theirs. Requests, headers and responses hold secrets, and error reporters
print locals. So an error that crosses a public boundary is raised anew, outside the ``except``
block that caught it: it has no `__context__`, and its traceback begins at the boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from .errors import IdentityError, copy_for_raise

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Class = TypeVar("_Class", bound=type)


def hide_frames(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let an `IdentityError` leave ``function`` without the frames beneath it."""

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except IdentityError as error:
            failure = copy_for_raise(error)
        finally:
            del args, kwargs  # this frame is in the traceback, and the arguments may be secrets
        raise failure

    return wrapper


def hide_init_frames(cls: _Class) -> _Class:
    """Keep the arguments of a constructor out of the traceback of its refusal."""
    untyped = cast(Any, cls)
    untyped.__init__ = hide_frames(untyped.__init__)
    return cls
