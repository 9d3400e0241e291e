"""What the tests need that no package index has: fetched once, and kept outside the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

KEYCLOAK = "26.7.5"
TOXIPROXY = "v2.5.0"
JAVA = "21|25"

_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"


def cached(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return a folder of the cache, and fetch what belongs in there if it is not there yet."""
    root = Path(os.environ.get("IDENTITY_CLIENT_TEST_CACHE", "~/.cache/identity-client"))
    folder = root.expanduser() / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            fetched = Path(made) / name
            fetched.mkdir()
            fetch(fetched)
            if not folder.exists():
                fetched.rename(folder)
    return folder


def keycloak_home() -> Path:
    """Return where Keycloak's distribution is."""

    def fetch(folder: Path) -> None:
        artifact = f"org.keycloak:keycloak-quarkus-dist:{KEYCLOAK}:zip"
        run("mvn", "-q", "-B", _PLUGIN, f"-Dartifact={artifact}", f"-DoutputDirectory={folder}")
        (archive,) = folder.glob("*.zip")
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
        archive.unlink()
        (folder / f"keycloak-{KEYCLOAK}" / "bin" / "kc.sh").chmod(0o755)

    return cached(f"keycloak-{KEYCLOAK}", fetch) / f"keycloak-{KEYCLOAK}"


def toxiproxy_server() -> Path:
    """Return toxiproxy's program."""

    def fetch(folder: Path) -> None:
        module = f"github.com/Shopify/toxiproxy/v2/cmd/server@{TOXIPROXY}"
        run("go", "install", module, GOBIN=str(folder))

    return cached(f"toxiproxy-{TOXIPROXY}", fetch) / "server"


def java_home() -> Path:
    """Return a JDK that Keycloak supports."""
    given = [Path(os.environ["JAVA_HOME"])] if "JAVA_HOME" in os.environ else []
    homes = [
        home
        for home in (*given, *sorted(Path("/usr/lib/jvm").glob("*")))
        if re.search(rf'^JAVA_VERSION="({JAVA})\b', _text(home / "release"), re.MULTILINE)
    ]
    if not homes:
        missing(f"a JDK {JAVA.replace('|', ' or ')}; install one, or set JAVA_HOME")
    return homes[0]


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.exists() else ""


def run(program: str, *arguments: str, **environment: str) -> None:
    """Run a program to its end; without it there is nothing to test with."""
    if shutil.which(program) is None:
        missing(f"{program}; install it, or have what it would fetch in the cache")
    done = subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def missing(what: str) -> NoReturn:
    """Skip what cannot be tested here; where everything has to be tested, that is a failure."""
    if os.environ.get("CI", "") not in ("", "false"):
        pytest.fail(f"this needs {what}")
    pytest.skip(f"this needs {what}")
