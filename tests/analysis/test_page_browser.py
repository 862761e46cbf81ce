"""The page in a real browser: sorting, provenance, colours, keyboard, and a silent console."""

import pytest
from helpers import drawn
from helpers.browser import MISSING, Browser

from analysis import page
from analysis.figures import draw
from analysis.report import build
from analysis.results.results import Results

pytestmark = [pytest.mark.thorough, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

TABLE = "#results table"
FIND = "document.querySelector(arguments[0])"
ESCAPE, ENTER, TAB = "\ue00c", "\ue007", "\ue004"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    store = drawn.store_at(tmp_path_factory.mktemp("page") / "store")
    results = Results.from_store(store)
    return page.write(build(store.path), results, store, draw(results, store, ["curves", "figure-1"]))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def shown(chromium, written):
    chromium.open(written)
    chromium.run("localStorage.clear(); document.documentElement.removeAttribute('data-theme')")
    chromium.open(written)
    chromium.log()
    return chromium


def column(shown, place):
    return shown.run(f"return [...{FIND}.tBodies[0].rows].map(r => r.cells[arguments[1]].innerText)", TABLE, place)


def orders(shown):
    return shown.run(f"return [...{FIND}.tHead.rows[0].cells].map(c => c.getAttribute('aria-sort'))", TABLE)


def has_focus(shown, selector):
    return shown.run(f"return document.activeElement === {FIND}", selector)


def ground(shown):
    return shown.run("return getComputedStyle(document.body).backgroundColor")


def test_the_console_is_silent_and_nothing_is_fetched(shown):
    assert shown.run("return performance.getEntriesByType('resource').length") == 0
    assert shown.log() == []
    assert shown.run("return window.harmed === undefined") is True
    assert drawn.HOSTILE in shown.text(TABLE)


def test_a_heading_sorts_up_then_down_then_as_written(shown):
    written = column(shown, 1)
    assert [float(text.split()[0]) for text in written] == [99.2, 99.08, 98.1, 97.1]
    heading = f"{TABLE} thead th:nth-child(2) button"
    shown.click(heading)
    assert column(shown, 1) == sorted(written)
    assert orders(shown)[:2] == ["none", "ascending"]
    shown.click(heading)
    assert column(shown, 1) == written
    assert orders(shown)[1] == "descending"
    shown.click(f"{TABLE} thead th:nth-child(1) button")
    assert orders(shown)[:2] == ["ascending", "none"]
    assert column(shown, 0)[:2] == [drawn.HOSTILE, "Adv. Training"]


def test_a_number_opens_its_trials_and_closes_them(shown):
    number = f"{TABLE} tbody tr:nth-child(2) td button"
    shown.click(number)
    panel = shown.text("#panel")
    assert "test/accuracy of Adv. Training" in panel
    assert "98.98" in panel
    assert "99.18" in panel
    assert "torch 2.11" in panel
    assert drawn.train("adversarial", 1).key in panel
    assert has_focus(shown, "#panel")
    shown.press(ESCAPE)
    assert shown.run("return document.querySelector('#panel').hidden") is True
    assert has_focus(shown, number)
    assert shown.log() == []
    shown.click(f"{TABLE} tbody tr:nth-child(3) th button")
    assert "lambda 0.1, phi 2" in shown.text("#panel")
    assert "sigma 0.15" in shown.text("#panel")
    shown.click("h1")
    assert shown.run("return document.querySelector('#panel').hidden") is True


def test_a_difference_opens_the_values_of_both_arms(shown):
    shown.click("#answer td button.from")
    values = [line.split("\t")[1:3] for line in shown.text("#panel").splitlines() if line.startswith(("0\t", "1\t"))]
    assert [arm for arm, _ in values] == ["Adv. Training"] * 2 + ["Std. Training"] * 2
    assert [value for _, value in values] == ["71", "71.2", "41", "41.2"]


def test_colours_follow_the_system_until_chosen(shown):
    shown.prefer("light")
    light = ground(shown)
    shown.prefer("dark")
    assert light == "rgb(255, 255, 255)" != ground(shown)
    shown.click("#theme")
    assert ground(shown) == light
    assert shown.text("#theme") == "Dark"
    shown.run("location.reload()")
    assert ground(shown) == light, "the choice is remembered"


def test_it_fits_a_phone_and_prints_on_white_without_controls(shown):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    shown.devtools("Emulation.setDeviceMetricsOverride", metrics)
    assert shown.run("return document.documentElement.scrollWidth") <= 390
    scrolled = f"const t = {FIND}, w = t.closest('.wide'), c = t.tBodies[0].rows[0].cells[0]; w.scrollLeft = 150;"
    scrolled += "return [w.scrollLeft, c.getBoundingClientRect().left - w.getBoundingClientRect().left]"
    assert shown.run(scrolled, TABLE) == [150, 0], "the names of the arms stay while the numbers scroll"
    shown.devtools("Emulation.clearDeviceMetricsOverride", {})
    shown.devtools("Emulation.setEmulatedMedia", {"media": "print"})
    assert ground(shown) == "rgb(255, 255, 255)"
    assert shown.run("return getComputedStyle(document.querySelector('.bar')).display") == "none"
    shown.devtools("Emulation.setEmulatedMedia", {"media": ""})
