"""The page in headless Chromium: typed into, clicked and read. ``make test-page`` installs what it needs."""

import re
from urllib.parse import urlsplit

import pytest

pytest.importorskip("gradio")
api = pytest.importorskip("playwright.sync_api")

from page_browser import PATIENCE, open_browser, serve_page  # noqa: E402

UNNAMED = """
() => [...document.querySelectorAll("input, textarea, select, button, img")]
    .filter(e => e.offsetParent && !e.labels?.length && !e.ariaLabel && !e.textContent.trim() && !e.alt && !e.title)
    .map(e => e.outerHTML)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def served(folder):
    with serve_page(folder) as served:
        yield served


@pytest.fixture(scope="module")
def visit(served):
    """The page that a browser shows, the addresses of its requests, and its complaints."""
    api.expect.set_options(timeout=60_000)
    with api.sync_playwright() as playwright, open_browser(playwright) as browser:
        if browser is None:
            pytest.skip("no Chromium is installed")
        page = browser.new_page()
        page.set_default_timeout(1000 * PATIENCE)
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(served.url)
        page.locator("#results img").wait_for()
        yield page, requests, complaints


def search_tab(visit):
    page = visit[0]
    page.get_by_role("tab", name="Search").click()
    return page, page.locator("#results")


def test_a_typed_query_is_searched(visit):
    page, results = search_tab(visit)
    api.expect(results.get_by_role("img")).to_have_attribute("alt", re.compile("2 bits, scalar"))
    page.get_by_label("Query").fill("unit of money in Brazil")
    page.get_by_role("button", name="Search").click()
    api.expect(results).to_contain_text("the basic unit of money in")
    api.expect(results).to_contain_text("recall 10@10 of this query")


def test_settings_are_clicked(visit):
    page, results = search_tab(visit)
    page.get_by_label("4", exact=True).check()
    api.expect(results).to_contain_text("compressed, 4 bits, scalar")
    api.expect(results).to_contain_text("196")
    page.get_by_label("trellis").check()
    api.expect(results).to_contain_text("compressed, 4 bits, trellis")
    page.get_by_label("8", exact=True).check()
    api.expect(results.get_by_role("alert")).to_contain_text("widths of 1 to 5 bits, got 8")


def test_clicks_count_while_an_answer_is_pending(visit):
    page, results = search_tab(visit)
    for name in ("1", "2.5", "2"):
        page.get_by_label(name, exact=True).first.check()
    page.get_by_label("5", exact=True).last.check()
    page.get_by_label("scalar").check()
    api.expect(results).to_contain_text("compressed, 2 bits, scalar")
    api.expect(results).to_contain_text("recall 5@5 of this query")


def test_a_stored_query_is_clicked(visit):
    page, results = search_tab(visit)
    page.get_by_role("button", name="the Yuman language").click()
    api.expect(page.get_by_label("Query")).to_have_value("the Yuman language spoken by the Cocopa")
    api.expect(results).to_contain_text("language spoken by the Kekchi")


def test_an_empty_query_is_a_message(visit):
    page, results = search_tab(visit)
    page.get_by_label("Query").fill(" ")
    page.get_by_role("button", name="Search").click()
    api.expect(results.get_by_role("alert")).to_contain_text("the query is empty")


def test_a_cache_is_planned(visit):
    page, plans = visit[0], visit[0].locator("#plans")
    page.get_by_role("tab", name="KV cache").click()
    api.expect(plans.get_by_role("img")).to_have_attribute("alt", re.compile("8 GiB of memory"))
    page.get_by_label("Memory for the cache").fill("1GiB")
    page.get_by_role("button", name="Plan").click()
    api.expect(plans).to_contain_text("longest sequence in 1 GiB")
    page.get_by_label("Memory for the cache").fill("8G")
    page.get_by_label("Memory for the cache").press("Enter")
    api.expect(plans.get_by_role("alert")).to_contain_text("memory must have a unit")


@pytest.mark.parametrize("tab", ["Search", "KV cache"])
def test_everything_has_a_name(visit, tab):
    page = visit[0]
    page.get_by_role("tab", name=tab).click()
    assert page.evaluate(UNNAMED) == []


def test_nothing_leaves_the_machine(visit, folder):
    """After all that the tests above have done."""
    _, requests, complaints = visit
    assert {urlsplit(url).hostname for url in requests if not url.startswith("data:")} == {"127.0.0.1"}
    assert complaints == []
    assert set((folder / "connections").read_text().splitlines()) == {"watching"}


def test_ctrl_c_ends_it(visit, served):
    status, error = served.interrupt()
    assert status == 130, error
