"""Find words in messages, docstrings and pages that are not the field's: the rules of CONTRIBUTING.

``python .ci/language.py [file ...]`` prints each place, and exits with 1 when there is one.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ("*.rst", "*.md", "docs/**/*.rst", "tests/*.rst")

RULES = {
    r"who|whoever|whom|somebody|nobody|everybody|anybody": "name it: callers, a process",
    r"(?<!there )(?:is|are|was|were) no(?= \w)(?! longer\b| more\b)": "write 'is not a'",
    r"(?<!there )(?:is|are|was|were) (?-i:none)": "write 'is missing' or 'is not a'",
    r"answered(?= (?:\d|%|HTTP)| ?$)": "write 'returned HTTP 503'",
    r"ahead of (?:its|their) end": "write 'before it expires'",
    r"(?:token|credentials) (?:was|were) had": "write 'is available'",
    r"handed out": "write 'issued' or 'returned'",
    r"in the time given": "write 'timed out after 10 s'",
    r"begins? anew": "write 'starts again'",
    r"is given up|gives? up on": "write 'failed after 3 attempts'",
    r"follows after a pause": "write 'retrying in 5 s'",
    r"served on": "write 'the cached token is served'",
    r"no complete answer": "write 'timed out after 2 s'",
    r"holds the lock of": "write 'timed out waiting for the lock on'",
    r"was not written: another": "write 'could not save to …: modified concurrently'",
    r"may hold visible ASCII": "write 'must contain only printable ASCII'",
    r"counts as nothing": "write 'ignoring corrupt data'",
    r"is encrypted with another key": "write 'cannot be decrypted with the configured key'",
    r"does not pickle": "write 'cannot be pickled'",
    r"see to its": "write 'check its'",
    r"there is no setting": "write 'unknown setting'",
    r"as (?:it was )?told|not as told": "write 'simulated'",
    r"out of order": "write 'simulated outage'",
    r"ask less often": "write 'rate limited'",
    r"takes? each other's secret": "write 'overwrite each other's client secret'",
    r"drips, hangs or lies": "write 'is slow, hangs or sends garbage'",
    r"the face of": "write 'the façade'",
    r"will feel": "write 'is invalidated'",
}
FORBIDDEN = [
    (re.compile(rf"\b(?:{words})(?!\w)", re.IGNORECASE), cure) for words, cure in RULES.items()
]


def texts_of_module(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of all strings that are prose: docstrings, messages, templates."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line


def texts_of_page(source: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page, without what is a literal."""
    for number, line in enumerate(source.splitlines(), 1):
        yield number, re.sub(r"``?[^`]*``?", "", line)


def findings(path: Path) -> Iterator[str]:
    """Yield a line for each place of a file that breaks a rule."""
    texts = texts_of_module if path.suffix == ".py" else texts_of_page
    for number, text in texts(path.read_text(encoding="utf-8")):
        for pattern, cure in FORBIDDEN:
            if found := pattern.search(text):
                yield f"{path}:{number}: {found[0].strip()!r}: {cure}: {text.strip()}"


def main(names: list[str]) -> int:
    paths = [Path(name) for name in names] or [
        *sorted(ROOT.glob("identity_client/**/*.py")),
        *sorted(ROOT.glob("docs/**/*.py")),
        *sorted(path for pattern in PAGES for path in ROOT.glob(pattern)),
    ]
    found = [line for path in paths for line in findings(path)]
    print("\n".join(found) or "no word to change")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
