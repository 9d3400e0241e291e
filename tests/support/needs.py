"""What a test needs beside Python: missing, it is skipped on a user's machine, and fails in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def needs(program: str, how: str) -> str:
    """Return the path of a program, or skip the test and say how to get it."""
    found = shutil.which(program)
    if found is None:
        message = f"{program} is missing; {how}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found
