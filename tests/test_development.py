"""Pages for developers name tests and functions that exist, and tests import no other test."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "docs" / "development"


def defined_in(path: Path) -> set[str]:
    """Return the functions and classes in the syntax tree of a file; methods as ``A.method``."""
    names = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.update({node.name, prefix + node.name})
                visit(node.body, f"{node.name}.")

    visit(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


def missing(references: list[tuple[str, str]], folder: Path) -> list[str]:
    return [
        f"{file}::{name}"
        for file, name in references
        if not (folder / file).is_file() or name not in defined_in(folder / file)
    ]


def test_each_test_of_the_index_exists() -> None:
    index = (PAGES / "behaviours.rst").read_text(encoding="utf-8")
    references = re.findall(r"``([\w/]+\.py)::(test_\w+)``", index)
    assert len(references) > 80
    assert missing(references, ROOT / "tests") == []


def test_each_guarantee_of_the_readme_is_in_the_index() -> None:
    readme = (ROOT / "README.rst").read_text(encoding="utf-8")
    rows = re.search(r"^Guarantees\n-+\n\n=.*\n([^=]+)\n=", readme, re.MULTILINE)
    index = (PAGES / "behaviours.rst").read_text(encoding="utf-8")
    assert rows
    guarantees = index.split("Faults reported elsewhere")[0].count("   * - ") - 1
    assert guarantees >= len(rows[1].splitlines())


def test_each_answer_to_a_newcomer_exists() -> None:
    questions = (PAGES / "questions.rst").read_text(encoding="utf-8")
    references = re.findall(r"``([\w/]+\.py)``,? ``([\w.]+)\(?\)?``", questions)
    assert len(references) >= 10
    assert missing(references, ROOT / "identity_client") == []


@pytest.mark.parametrize("kind", ["test", "support", "contract"])
def test_nothing_is_imported_from_a_test_or_from_conftest(kind: str) -> None:
    folder = {"test": "**/test_*.py", "support": "support/*.py", "contract": "contracts/*.py"}[kind]
    imports = re.compile(r"^\s*(?:from|import) (?:[\w.]+\.)?(?:conftest|test_\w+)\b", re.MULTILINE)
    paths = list((ROOT / "tests").glob(folder))
    assert paths
    assert [path for path in paths if imports.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("name", "text", "accepted"),
    [
        ("page.rst", "Nobody waits for it.", False),
        ("page.rst", "This is no URL.", False),
        ("page.rst", "There is no token yet; ``who`` is a literal. It is no longer valid.", True),
        ("module.py", 'raise ValueError("a key is none")', False),
        ("module.py", 'log("%s answered %d", url, status)', False),
        ("module.py", 'log("%s returned HTTP %d", url, status)  # who', True),
    ],
)
def test_the_checker_of_words_finds_what_the_rules_forbid(
    name: str, text: str, accepted: bool, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    checker = [sys.executable, str(ROOT / ".ci" / "language.py"), str(tmp_path / name)]
    done = subprocess.run(checker, check=False, capture_output=True, text=True)
    assert (done.returncode == 0) is accepted, done.stdout + done.stderr
