"""A plugin of pytest that runs the code of the pages: ``pytest -p examples README.rst docs``.

A page shows the addresses of production. They are replaced where its code runs, by those of an
identity-api and of a protected resource that are started for the page.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from support.ports import reserve_port
from support.resource import ProtectedResource
from sybil import Example, Sybil
from sybil.parsers.rest import CodeBlockParser, SkipParser
from terminal import Terminal

from identity_client import IdentityBootstrapService
from identity_client.server import IdentityServer

ROOT = Path(__file__).parents[2]
INTERNAL_TOKEN = "the-internal-token"

# The pages' hosts of other services; each leads to a resource that checks the token.
OTHER_SERVICES = ("http://other-service", "http://orders.internal.example", "http://event-hub")


class Page:
    """What the code of one page runs against."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.api = self.stack.enter_context(IdentityServer(INTERNAL_TOKEN))
        self.resource = self.stack.enter_context(ProtectedResource(self.api))
        self.port = reserve_port()
        self.terminals: dict[str, Terminal] = {}
        self.outer_environment = dict(os.environ)
        self.environment = {
            "IDENTITY_API_URL": self.api.url,
            "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
            "SERVICE_NAME": "order-service",
            # The commands of a page act for the same service as its Python code.
            "IDENTITY_CREDENTIAL_STORE": f"file://{self.folder}/credentials.json",
        }

    def localize(self, text: str) -> str:
        """Replace what leads elsewhere."""
        for host in OTHER_SERVICES:
            text = text.replace(host, self.resource.url)
        text = text.replace("http://identity-api:3053", self.api.url)
        store = self.environment["IDENTITY_CREDENTIAL_STORE"]
        text = text.replace("file:///tmp/orders.json", store)
        text = text.replace("identity-client serve", f"identity-client serve --port {self.port}")
        return text.replace("127.0.0.1:3053", f"127.0.0.1:{self.port}")

    def terminal(self, name: str, page: str) -> Terminal:
        """Return the terminal of a name, and open it when it is new."""
        if name not in self.terminals:
            added = self.environment
            if "venv" in page:  # it installs the package as its reader does, and needs nothing else
                added = {"PIP_FIND_LINKS": _wheels()}
            self.terminals[name] = Terminal(self.folder, {**self.outer_environment, **added})
            self.stack.callback(self.terminals[name].close)
        return self.terminals[name]


@cache
def _wheels() -> str:
    """Build the wheel from a copy of the sources; return the folder where pip finds it."""
    folder = Path(tempfile.mkdtemp())
    for name in ("identity_client", "setup.cfg", "pyproject.toml", "README.rst", "CHANGELOG.rst"):
        source, copy = ROOT / name, folder / "source" / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    shutil.copy(ROOT / "LICENSE", folder / "source")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    subprocess.run([*pip, folder / "source"], check=True)
    return str(folder)


def run_python(example: Example) -> None:
    """Run a block in this process, in the namespace of its page; one with a caption is a file."""
    page: Page = example.namespace["_page"]
    source = page.localize(example.parsed)
    if save(example, source):
        return
    line = example.line + example.parsed.line_offset
    code = compile("\n" * line + source, example.path, "exec", dont_inherit=True)
    exec(code, example.namespace)


def save(example: Example, source: str) -> bool:
    """Save a block whose caption is the name of a file, as its reader does."""
    page: Page = example.namespace["_page"]
    name = example.region.lexemes.get("options", {}).get("caption")
    if name is not None:
        (page.folder / name).write_text(source, encoding="utf-8")
    return name is not None


def run_console(example: Example) -> None:
    """Type a block into a terminal; its caption says which, where a page has several."""
    page: Page = example.namespace["_page"]
    name = example.region.lexemes.get("options", {}).get("caption", "Terminal 1")
    page.terminal(name, example.document.text).run(page.localize(str(example.parsed)))


def read_yaml(example: Example) -> None:
    """See that a block is YAML, and keep it for a block that looks at it."""
    save(example, example.parsed)
    example.namespace["documents"] = list(yaml.safe_load_all(example.parsed))


def read_ini(example: Example) -> None:
    """See that a block is an INI file, and keep it."""
    save(example, example.parsed)
    parser = configparser.ConfigParser(allow_no_value=True)
    parser.read_string(example.parsed)
    example.namespace["ini"] = parser


def set_up(namespace: dict[str, Any]) -> None:
    page = namespace["_page"] = Page()
    namespace["__name__"] = "__main__"
    page.stack.callback(os.chdir, Path.cwd())
    page.stack.callback(_restore, dict(os.environ))
    os.environ.update(page.environment)
    os.chdir(page.folder)


def tear_down(namespace: dict[str, Any]) -> None:
    for value in list(namespace.values()):
        if isinstance(value, IdentityBootstrapService):
            value.close()
    namespace["_page"].stack.close()


def _restore(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


pytest_collect_file = Sybil(
    parsers=[
        CodeBlockParser(language="python", evaluator=run_python),
        CodeBlockParser(language="console", evaluator=run_console),
        CodeBlockParser(language="yaml", evaluator=read_yaml),
        CodeBlockParser(language="ini", evaluator=read_ini),
        SkipParser(),
    ],
    path=str(ROOT),
    patterns=["*.rst"],
    setup=set_up,
    teardown=tear_down,
).pytest()
