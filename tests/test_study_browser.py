"""The report in a real browser: what is drawn, filtered, sorted and downloaded, and what is not."""

import json
import re
import shutil
import threading

import pytest

from qsim.report.server import server_of
from qsim.report.study_page import write
from qsim.studies.database import Database
from qsim.studies.result import Result
from tests import study_results as made

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
PATHS = "block_0/a", "block_1/b"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tab(browser):
    """A page that has no error, and asks for nothing but what it was told to open."""
    context = browser.new_context(accept_downloads=True)
    page, asked, said = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    assert not said and asked
    assert all(url == page.url or url.startswith(("data:", "blob:", page.url)) for url in asked)
    context.close()


@pytest.fixture(scope="module")
def results():
    return [*made.results(), made.diverged(), made.failed()]


@pytest.fixture(scope="module")
def address(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write(path, made.manifest(results), results)
    return path.as_uri()


def rows(tab, column=None):
    """The texts of the table of results, of one column or of all."""
    found = tab.locator("#table tbody tr").all()
    texts = [row.locator("td").all_inner_texts() for row in found]
    return texts if column is None else [row[column] for row in texts]


def status(tab):
    return tab.locator("#shown").inner_text()


def test_figures_are_there(tab, address, results):
    tab.goto(address)
    assert tab.locator("h1").inner_text() == "floats"
    assert "23 of 23 evaluations, 1 diverged, 1 failed" in tab.locator("#progress").inner_text()
    for figure in ("#map", "#bits", "#versus", "#lines", "#table"):
        box = tab.locator(figure).bounding_box()
        assert box["width"] > 200 and box["height"] > 80, figure
    assert tab.locator("#map table.map").count() >= 2  # a map for each rounding mode
    assert tab.locator("#bits svg [data-mark]").count() >= 14
    assert tab.locator("#lines svg path.ticks").count() == 8
    assert "95 % interval" in tab.locator("#verdict").inner_text()
    assert not tab.locator("#layers-s").is_visible()
    assert tab.locator("noscript *").count() == 0


def test_filters_choose_what_is_shown(tab, address, results):
    tab.goto(address)
    assert status(tab).startswith("16 of 16 configurations")
    tab.locator("#filters summary", has_text="format").click()
    tab.locator('#filters input[data-value="e4m3"]').uncheck()
    assert status(tab).startswith("14 of 16")
    tab.locator("#bits-high").fill("6")
    tab.locator("#bits-high").dispatch_event("change")
    assert status(tab).startswith("9 of 16")  # two of e2m1, e2m3, e4m1, int4, and e3m0
    assert all(int(bits) <= 6 for bits in rows(tab, 3))
    tab.locator("#reset").click()
    assert status(tab).startswith("16 of 16")
    tab.locator("#measure").select_option("kl")
    assert "KL divergence" in tab.locator("#map-note").inner_text()


def test_the_table_sorts_finds_and_turns_pages(tab, address):
    tab.goto(address)
    head = tab.locator("#table thead th")
    column = next(n for n, text in enumerate(head.all_inner_texts()) if "KL" in text)
    tab.locator('#table [data-sort="kl"]').click()
    assert head.nth(column).get_attribute("aria-sort") == "ascending"
    known = [float(text) for text in rows(tab, column) if text not in ("", "nan")]
    assert known == sorted(known) and len(known) > 15
    tab.locator('#table [data-sort="kl"]').click()
    known = [float(text) for text in rows(tab, column) if text not in ("", "nan")]
    assert known == sorted(known, reverse=True)
    tab.locator("#find").fill("int8 stochastic")
    assert {row[0] for row in rows(tab)} == {"int8"} and len(rows(tab)) == 2


def test_a_cell_tells_its_details_and_chooses_its_rows(tab, address):
    tab.goto(address)
    cell = tab.locator("#map td[data-mark]").first
    cell.hover()
    tip = tab.locator("#tip")
    assert tip.is_visible() and "bits per byte" in tip.inner_text()
    cell.click()
    chosen = tab.locator("#picked").inner_text()
    assert chosen.startswith("Only ") and len(rows(tab)) < 23
    tab.locator("#picked button").click()
    assert len(rows(tab)) == 23


def test_the_keyboard_is_enough(tab, address):
    tab.goto(address)
    tab.locator("#map td[data-mark]").first.focus()
    tab.keyboard.press("ArrowRight")
    second = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert tab.locator("#tip").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#tip").is_visible()
    tab.keyboard.press("Enter")
    assert second.split(", bits per byte")[0].startswith(rows(tab, 0)[0])


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_downloads_have_what_is_shown(tab, address, kind):
    tab.goto(address)
    tab.locator("#filters summary", has_text="rounding").click()
    tab.locator('#filters input[data-value="stochastic:8"]').uncheck()
    with tab.expect_download() as waited:
        tab.locator(f"#{kind}").click()
    text = waited.value.path().read_text(encoding="utf-8")
    count = len(json.loads(text)["results"]) if kind == "json" else len(text.splitlines()) - 1
    assert count == 9 and waited.value.suggested_filename == f"results.{kind}"
    assert "ties_to_even" in text and "stochastic" not in text


def test_a_phone_does_not_scroll_sideways(browser, address):
    context = browser.new_context(viewport={"width": 360, "height": 640}, color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    context.close()


def test_layers_have_a_map_of_their_own(tab, results, tmp_path):
    layered = [
        Result(**{**vars(result), "point": {**result.point, "path": path}})
        for result in made.results(roundings=("ties_to_even",))
        for path in PATHS
    ]
    write(tmp_path / "layers.html", made.manifest(layered), layered)
    tab.goto((tmp_path / "layers.html").as_uri())
    texts = tab.locator("#layers tbody th").all_inner_texts()
    assert sorted(texts) == sorted(PATHS)


def test_scripts_in_texts_do_not_run(tab, tmp_path):
    evil = made.evil()
    write(tmp_path / "evil.html", made.manifest(evil, name=made.EVIL, subject=made.EVIL), evil)
    tab.goto((tmp_path / "evil.html").as_uri())
    assert tab.locator("h1").inner_text() == made.EVIL
    assert made.EVIL in "".join(rows(tab)[0])


def test_nothing_of_the_page_needs_more_than_its_policy_allows(browser, address):
    page = browser.new_page()
    page.goto(address)
    blocked = page.evaluate("fetch('https://example.com/').then(() => 'sent', () => 'blocked')")
    assert blocked == "blocked"
    page.close()


def test_a_running_study_is_shown_live(tab, results, tmp_path, monkeypatch):
    monkeypatch.setattr("qsim.report.server.REST", 0)
    with Database.create(tmp_path / "study", made.manifest(results)) as database:
        database.add(results[:5], {"jax": "1"})
        with server_of(tmp_path / "study") as server:
            thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.05))
            thread.start()
            try:
                tab.goto(f"http://127.0.0.1:{server.server_address[1]}/")
                progress = tab.locator("#progress")
                playwright.expect(progress).to_contain_text("5 of 23 evaluations")
                database.add(results[5:], {"jax": "1"})
                playwright.expect(progress).to_contain_text("23 of 23 evaluations", timeout=15000)
                assert re.search(r"1 diverged, 1 failed", progress.inner_text())
            finally:
                server.shutdown()
                thread.join()
