"""A headless Chromium, and a page that must not log an error or ask another host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from support.needs import needs
from support.services import INTERNAL_TOKEN

from identity_client.server import IdentityServer

PAGE_KEY = "key-of-the-page"
expect.set_options(timeout=20_000)  # the machine may be busy

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


class OpenPage(NamedTuple):
    page: Page
    api: IdentityServer
    errors: list[str]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    chromium = needs("chromium", "apt-get install chromium")
    with sync_playwright() as playwright:
        # The folder of its profile is new, and removed in the end.
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def api() -> Iterator[IdentityServer]:
    with IdentityServer(INTERNAL_TOKEN, page_key=PAGE_KEY) as server:
        yield server


@pytest.fixture
def opened(browser: Browser, api: IdentityServer) -> Iterator[OpenPage]:
    """The page, opened with its key; it must stay without errors, and with its own host."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    errors: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: errors.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    page.goto(f"{api.url}/dev/#key={PAGE_KEY}")
    yield OpenPage(page, api, errors)
    context.close()
    assert errors == []
    assert hosts == {urlsplit(api.url).netloc}
