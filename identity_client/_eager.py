"""Imports ahead of time what a library would import only where it is first used.

Python 3.15 lets libraries do so for names at the top of their modules (PEP 810). The first use is
then in the worker thread, and a child that is forked in the middle of that import inherits the
import's lock, which no thread of the child will release: the child hangs in its own first use.
"""

from __future__ import annotations

import sys
from contextlib import suppress


def import_eagerly(package: str) -> None:
    """Resolve the lazy imports of all loaded modules of a package, and of those that this loads.

    Reading an attribute of a module is what resolves it, so nothing here depends on the Python.

    Args:
        package: the name of a package that is imported.
    """
    done: set[str] = set()
    while found := {name for name in list(sys.modules) if name.partition(".")[0] == package} - done:
        for name in found:
            module = sys.modules[name]
            for attribute in list(vars(module)):
                with suppress(ImportError):  # optional, and not installed here
                    getattr(module, attribute)
        done |= found
