"""Runs the tests of an example, and counts the lines that it spends on access tokens."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def lines_of_glue(example: str, integration: str) -> list[str]:
    """Return the lines of a module that name something of an integration, and its import.

    Args:
        example: the module's path below ``examples``.
        integration: the name of the integration's module.
    """
    source = (EXAMPLES / example).read_text(encoding="utf-8")
    module = f"identity_client.integrations.{integration}"
    names: set[str] = set()
    numbers: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == module:
            names |= {alias.name for alias in node.names}
            numbers.add(node.lineno)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id in names:
            numbers.add(node.lineno)
    return [source.splitlines()[number - 1] for number in sorted(numbers)]


def run_tests_of(example: str) -> None:
    """Run the tests of an example as its README says."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=EXAMPLES / example,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
