"""Takes pictures of the alerts of an outage in a real Prometheus: ``tox -e pictures``.

Needs the programs ``prometheus`` and ``chromium``. The application, its alerts and Prometheus's
configuration are those of ``examples/observability``; only times are shorter.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from identity_client.server import IdentityServer, ServerSettings

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "observability"
IMAGES = ROOT / "docs" / "images"
INTERNAL_TOKEN = "internal-token-of-the-picture"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
SIZE: Any = {"width": 900, "height": 500}
# The rules are on the page of the documentation, which says that their times are longer.
HIDDEN = "nav, pre { display: none !important; } body { padding: 12px 0 0 !important; }"
DARK = "html { filter: invert(1) hue-rotate(180deg); background: #fff; }"
ALERTS = ("AccessTokenExpired", "AccessTokenRefreshFails")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        IdentityServer(INTERNAL_TOKEN, settings=ServerSettings(token_lifetime=10.0)) as api,
        application(api.url, Path(folder)) as target,
        prometheus(target, Path(folder)) as url,
    ):
        urllib.request.urlopen(f"http://127.0.0.1:{target}/metrics", timeout=30).close()
        order = urllib.request.Request(f"http://127.0.0.1:{target}/orders", method="POST")
        urllib.request.urlopen(order, timeout=30).close()
        with api.backend.changed(token_outage=True):
            wait_for_alerts(url)
            take_pictures(url)


@contextlib.contextmanager
def application(api_url: str, folder: Path) -> Generator[int, None, None]:
    """Run the example under gunicorn; yield its port."""
    port = free_port()
    shared = folder / "metrics"
    shared.mkdir()
    settings = {
        "IDENTITY_API_URL": api_url,
        "IDENTITY_API_INTERNAL_TOKEN": INTERNAL_TOKEN,
        "SERVICE_NAME": "orders",
        "PROMETHEUS_MULTIPROC_DIR": str(shared),
    }
    command = [
        *("gunicorn", f"--bind=127.0.0.1:{port}", f"--chdir={EXAMPLE}"),
        *(f"--config={EXAMPLE}/gunicorn.conf.py", "app:app"),
    ]
    with program(command, folder / "gunicorn.log", settings):
        wait_until_listening(port)
        yield port


@contextlib.contextmanager
def prometheus(target: int, folder: Path) -> Generator[str, None, None]:
    """Run a Prometheus that scrapes the port; yield its URL."""
    port = free_port()
    rules = (EXAMPLE / "alerts.yml").read_text(encoding="utf-8")
    (folder / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 1s", rules), encoding="utf-8")
    config = (EXAMPLE / "prometheus.yml").read_text(encoding="utf-8").replace(": 15s", ": 1s")
    config = config.replace(":8000", f":{target}")
    (folder / "prometheus.yml").write_text(config, encoding="utf-8")
    command = [
        *("prometheus", "--config.file=prometheus.yml"),
        *(f"--storage.tsdb.path={folder}/data", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with program(command, folder / "prometheus.log", {}):
        wait_until_listening(port)
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def program(
    command: list[str], log: Path, variables: dict[str, str]
) -> Generator[None, None, None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=log.parent, env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def wait_for_alerts(url: str) -> None:
    deadline = time.monotonic() + 90
    text = ""
    while text.count('"state":"firing"') < len(ALERTS):
        if time.monotonic() > deadline:
            raise SystemExit(f"the alerts do not fire: {text}")
        time.sleep(0.5)
        with contextlib.suppress(OSError):
            text = urllib.request.urlopen(f"{url}/api/v1/alerts", timeout=5).read().decode()


def take_pictures(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=list(FLAGS)
        )
        page = browser.new_page(viewport=SIZE)
        # Debian's Prometheus 2 has this page only, and it has no dark mode of its own.
        page.goto(f"{url}/classic/alerts")
        page.add_style_tag(content=HIDDEN)
        for alert in ALERTS:
            page.get_by_text(alert).first.click()
        page.get_by_text("Show annotations").click()
        page.get_by_text("no usable access token").last.wait_for()
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)  # until all has unfolded
        page.screenshot(path=IMAGES / "alerts-light.png", full_page=True)
        page.add_style_tag(content=DARK)
        page.screenshot(path=IMAGES / "alerts-dark.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
