"""The code of docs/guides/testing.rst, as a test suite."""

from __future__ import annotations

import re
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

GUIDE = Path(__file__).parent.parent / "docs" / "guides" / "testing.rst"


def blocks() -> list[str]:
    """Return the Python code of the page."""
    pattern = r"^\.\. code-block:: python\n(?:   :.*\n)?\n((?:   .*\n|\n)+)"
    code = re.findall(pattern, GUIDE.read_text("utf-8"), re.MULTILINE)
    return [textwrap.dedent(block) for block in code]


def is_installed(block: str) -> bool:
    """Whether the modules are there that a block imports."""
    names = re.findall(r"^(?:from|import) ([\w.]+)", block, re.MULTILINE)
    try:
        return all(find_spec(name) for name in names)
    except ModuleNotFoundError:
        return False


DJANGO = """
from contextlib import suppress

with suppress(ModuleNotFoundError):
    from django.conf import settings

    settings.configure()
"""


def test_the_code_of_the_guide_passes(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(DJANGO)
    pytester.makepyfile(
        **{f"test_{n}": block for n, block in enumerate(blocks()) if is_installed(block)}
    )
    result = pytester.runpytest_subprocess("-Werror", "--strict-markers")
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    assert outcomes["passed"] >= 20
