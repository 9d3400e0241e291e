"""The development page, used as a person does: in a browser, with mouse and keyboard."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from support.ports import reserve_port
from support.services import INTERNAL_TOKEN, MakeService

from identity_client import IdentityApiClient, IdentityBootstrapService
from identity_client.server import IdentityServer

from .conftest import PAGE_KEY, OpenPage


@pytest.fixture
def service(opened: OpenPage, make_service: MakeService) -> IdentityBootstrapService:
    """The service orders, registered while the page is open."""
    service = make_service(opened.api)
    service.get_access_token()
    return service


def row(page: Page, name: str) -> Any:
    return page.locator("#services li").filter(has_text=name)


def test_a_service_appears_when_it_registers(
    opened: OpenPage, service: IdentityBootstrapService
) -> None:
    orders = row(opened.page, "orders")
    expect(orders).to_contain_text("active")
    expect(orders).to_contain_text(re.compile(r"expires in 0[45]:\d\d"))
    expect(opened.page.locator("#requests tr")).to_have_count(2)
    expect(opened.page.locator("#requests tr").nth(0)).to_contain_text("…/token")
    expect(opened.page.locator("#requests tr").nth(1)).to_contain_text(
        "/internal/services/register"
    )


def test_an_outage_that_is_switched_on_makes_requests_fail(
    opened: OpenPage, service: IdentityBootstrapService
) -> None:
    opened.page.get_by_role("switch", name="Outage (503)").first.check()
    log = opened.api.backend.log
    opened.page.wait_for_function("document.querySelector('[name=tokenOutage]').checked")
    while not opened.api.backend.settings.token_outage:
        opened.page.wait_for_timeout(20)
    service.invalidate_token(service.get_access_token())
    log.wait_for(lambda request: request.status == 503)
    failed = opened.page.locator("#requests tr.failed").first
    expect(failed).to_contain_text("503")
    expect(failed).to_contain_text("temporarily_unavailable")
    opened.page.get_by_label("failed only").check()
    expect(opened.page.locator("#requests tr.ok").first).to_be_hidden()
    opened.page.get_by_role("button", name="No faults").click()
    expect(opened.page.get_by_role("switch", name="Outage (503)").first).not_to_be_checked()
    log.wait_for(lambda request: request.endpoint == "token" and request.status == 200, count=2)


def test_a_rotated_secret_rejects_the_client(
    opened: OpenPage, service: IdentityBootstrapService
) -> None:
    client = opened.api.backend.client("orders")
    assert client is not None
    before = client.secret
    opened.page.get_by_role("button", name="Rotate the secret of orders").click()
    expect(opened.page.locator("#notice")).to_have_text("Rotated the secret of orders.")
    assert client.secret != before
    service.invalidate_token(service.get_access_token())
    expect(opened.page.locator("#requests tr.failed").first).to_contain_text("unauthorized_client")


def test_a_disabled_service_is_shown_and_can_be_enabled(
    opened: OpenPage, service: IdentityBootstrapService
) -> None:
    opened.page.get_by_role("button", name="Disable orders").click()
    expect(row(opened.page, "orders")).to_contain_text("disabled")
    client = opened.api.backend.client("orders")
    assert client is not None
    assert not client.enabled
    opened.page.get_by_role("button", name="Enable orders").click()
    expect(row(opened.page, "orders")).to_contain_text("active")
    opened.api.backend.delete_client("orders")
    expect(row(opened.page, "orders")).to_have_count(0)


def test_sliders_change_settings_by_keyboard_and_follow_other_changes(opened: OpenPage) -> None:
    lifetime = opened.page.locator("[name=tokenLifetime]")
    expect(lifetime).to_have_attribute("aria-valuetext", "5 min")
    lifetime.focus()
    for _ in range(5):
        opened.page.keyboard.press("ArrowLeft")
    expect(opened.page.locator("#settings output").nth(2)).to_have_text("10 s")
    while opened.api.backend.settings.token_lifetime != 10:
        opened.page.wait_for_timeout(20)
    opened.api.backend.change(api_latency=1.5, token_error_rate=0.25, token_lifetime=7)
    expect(opened.page.locator("[name=apiLatency]")).to_have_value("1.5")
    expect(opened.page.locator("[name=tokenErrorRate]")).to_have_attribute("aria-valuetext", "25 %")
    expect(lifetime).to_have_attribute("aria-valuetext", "7 s")


def test_a_token_is_decoded(opened: OpenPage, service: IdentityBootstrapService) -> None:
    page = opened.page
    page.get_by_label("Access token").fill(service.get_access_token())
    expect(page.locator("#signed")).to_have_text("signed by this server")
    expect(page.locator("#time-left")).to_have_text(re.compile(r"expires in 0[45]:\d\d"))
    expect(page.locator("#claims")).to_contain_text("micro-service")
    page.get_by_label("Access token").fill("")
    expect(page.locator("#decoded")).to_be_hidden()


def test_what_a_client_chose_is_shown_as_text(opened: OpenPage) -> None:
    name = "<img src=x onerror=alert(1)>/../a&b"
    with IdentityApiClient(opened.api.url, INTERNAL_TOKEN) as client:
        client.register_service(name=name, display_name=name)
    expect(opened.page.locator("#services .service-name")).to_have_text(name)
    expect(opened.page.locator("#services img, #requests img")).to_have_count(0)
    opened.page.get_by_role("button", name="Disable").click()
    expect(row(opened.page, "a&b")).to_contain_text("disabled")


def test_the_log_can_be_paused_and_cleared(
    opened: OpenPage, service: IdentityBootstrapService
) -> None:
    rows = opened.page.locator("#requests tr")
    expect(rows).to_have_count(2)
    opened.page.get_by_label("pause").check()
    requests.get(f"{opened.api.url}/health", timeout=10)
    expect(opened.page.locator("#requests-count")).to_have_text("3")
    expect(rows).to_have_count(2)
    opened.page.get_by_label("pause").uncheck()
    expect(rows).to_have_count(3)
    opened.page.get_by_role("button", name="Clear").click()
    expect(rows).to_have_count(0)


def test_the_key_does_not_stay_in_the_address_and_survives_a_reload(opened: OpenPage) -> None:
    connection = opened.page.locator("#connection")
    expect(connection).to_have_text("live")
    assert PAGE_KEY not in opened.page.url
    opened.page.reload()
    expect(connection).to_have_text("live")


def test_without_a_key_the_page_asks_for_it(browser: Browser, api: IdentityServer) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{api.url}/dev/")
    expect(page.locator("#content")).to_be_hidden()
    field = page.get_by_label("Key", exact=True)
    expect(field).to_be_focused()
    field.fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#door-text")).to_contain_text("not valid")
    # The internal token opens the page, too.
    for key in (PAGE_KEY, INTERNAL_TOKEN):
        field.fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#connection")).to_have_text("live")
        page.evaluate("sessionStorage.clear()")
        page.reload()
    context.close()


def test_a_page_connects_again_after_the_server_was_away(
    browser: Browser, make_service: MakeService
) -> None:
    context = browser.new_context()
    page = context.new_page()
    with IdentityServer(INTERNAL_TOKEN, page_key=PAGE_KEY) as first:
        port = urlsplit(first.url).port or 0
        page.goto(f"{first.url}/dev/#key={PAGE_KEY}")
        expect(page.locator("#connection")).to_have_text("live")
    reserve_port(port)
    expect(page.locator("#connection")).to_have_text(re.compile("disconnected|reconnecting"))
    with IdentityServer(INTERNAL_TOKEN, page_key=PAGE_KEY, port=port) as second:
        expect(page.locator("#connection")).to_have_text("live", timeout=10_000)
        make_service(second).get_access_token()
        expect(row(page, "orders")).to_contain_text("active")
    context.close()


@pytest.fixture
def full(opened: OpenPage, make_service: MakeService) -> OpenPage:
    """The page in a state that shows everything."""
    api, page = opened.api, opened.page
    for name in ("billing", "payments", "orders"):
        service = make_service(api, service_name=name)
        token = service.get_access_token()
    with IdentityApiClient(api.url, INTERNAL_TOKEN) as client:
        client.register_service(name="reports", display_name="Reports")
    api.backend.disable_client("billing")
    page.get_by_label("Access token").fill(token)
    expect(page.locator("#signed")).to_be_visible()
    page.get_by_label("Access token").blur()
    api.backend.change(token_outage=True, token_latency=0.3, token_lifetime=30)
    service.invalidate_token(token)
    expect(page.locator("#requests tr.failed").nth(1)).to_be_visible()
    return opened


SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")


@pytest.mark.parametrize(("device", "width"), [("desktop", 1280), ("phone", 390)])
def test_the_page_is_accessible_and_fits(
    full: OpenPage, tmp_path: Path, device: str, width: int
) -> None:
    page = full.page
    page.set_viewport_size({"width": width, "height": 900})
    folder = Path(os.environ.get("IDENTITY_CLIENT_SCREENSHOTS", tmp_path))
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=folder / f"development-page-{device}-{scheme}.png")
    share = page.evaluate("document.querySelector('td.path').clientWidth / innerWidth")
    assert share > 0.2  # narrow screens have no columns that leave no room for the path
    with IdentityApiClient(full.api.url, INTERNAL_TOKEN) as client:
        client.register_service(name="a-long-name-" * 20, display_name="Long")
    expect(row(page, "a-long-name")).to_be_visible()
    for scheme in SCHEMES:
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=folder / f"whole-{device}-{scheme}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = Axe().run(page).response["violations"]
        assert [(problem["id"], problem["nodes"][0]["html"]) for problem in found] == []


def test_everything_can_be_reached_by_keyboard(
    opened: OpenPage, service: IdentityBootstrapService
) -> None:
    page = opened.page
    expect(row(page, "orders")).to_be_visible()
    focusable = page.locator("#content :is(button, input, textarea, [tabindex='0'])").count()
    reached = set()
    for _ in range(focusable):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "[...document.querySelectorAll('#content *')].indexOf(document.activeElement)"
            )
        )
    assert len(reached) == focusable
    assert -1 not in reached
