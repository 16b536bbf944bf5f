"""The page in a browser, by its keys alone: needs Chromium, its driver and selenium, and is skipped without."""

import csv
import pathlib
import shutil
import time

import finished
import numpy as np
import pyarrow as pa
import pytest

from kdmlc_jax import report

webdriver = pytest.importorskip("selenium.webdriver")
Select = pytest.importorskip("selenium.webdriver.support.select").Select
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs chromium and chromedriver")


def written(folder, alter=lambda rows: rows):
    """A page with hostile names on the disk, of the run's table as it is altered."""
    dataset, rows, beliefs, summary, history = finished.made()
    summary["verdict"]["depths"] = [
        {"first": 8, "wrong": {"estimate": 0.5, "low": 0.3, "high": 0.7}, "worth": 8.0},
    ]
    text = report.page(dataset, np.arange(46), alter(rows), beliefs, summary, history, folder)
    (folder / "report.html").write_text(text)
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page as it is."""
    return written(tmp_path_factory.mktemp("page"))


def doubted(rows):
    """All labels in doubt, with no class that is likelier."""
    same = rows.set_column(rows.column_names.index("suggested_label"), "suggested_label", rows["given_label"])
    return same.set_column(same.column_names.index("decision"), "decision", pa.array(["review"] * len(rows)))


@pytest.fixture
def browser(page, tmp_path):
    """Chromium on that page, a phone wide."""
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    found.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    found.get(page.as_uri())
    yield found
    found.quit()


def cards(browser):
    return browser.find_elements("css selector", "#gallery > li")


def press(browser, keys):
    browser.switch_to.active_element.send_keys(keys)


def saved(folder):
    """The rows of the corrections.csv that a browser writes soon."""
    path = pathlib.Path(folder) / "corrections.csv"
    for _ in range(100):
        if path.exists():
            with open(path, newline="") as file:
                return list(csv.reader(file))
        time.sleep(0.05)
    raise AssertionError("nothing was saved")


def test_decisions_by_keys_alone(browser, tmp_path):
    """Protects a reviewer: decisions, notes, undo and the estimate by the keyboard, kept over a reload, saved with the
    names as they are; no error in the console, no script of a name has run, no line wider than a phone."""
    browser.execute_script("document.querySelector('#gallery > li').focus()")
    names = [card.find_element("css selector", ".id").text for card in cards(browser)]
    press(browser, "a")
    press(browser, "k")
    press(browser, "a")
    press(browser, "z")
    press(browser, "u")
    progress = browser.find_element("id", "progress").text
    assert progress.startswith("3 of 8 looked at; of 2 judged, 1 labels were wrong and 1 suggestions right")
    # (0.5 · 8 + 1) / 10 of the six not judged, and one of the two judged
    assert browser.find_element("css selector", "[data-depth]").text.startswith("50 %")
    browser.refresh()
    assert browser.find_element("id", "progress").text == progress
    browser.find_element("id", "save").click()
    rows = saved(tmp_path)
    assert rows[0] == ["id", "decision", "label", "given_label", "note"] and len(rows) == 4
    assert [row[1] for row in rows[1:]] == ["accept", "keep", "unsure"]
    assert {row[0] for row in rows[1:]} <= set(names) and {row[2] for row in rows[1:]} <= set(finished.HOSTILE)
    assert browser.get_log("browser") == []
    # an image that waits until it is scrolled to is missing in print
    assert not browser.execute_script("return [...document.images].some((image) => image.loading === 'lazy')")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 375
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2
    browser.execute_script("localStorage.clear()")


def test_filters_and_sorting(browser):
    """Protects the gallery's order and filters, and the tables' heads."""
    number = browser.find_element("css selector", "button.filter")
    count = int(number.text)
    browser.execute_script("arguments[0].click()", number)
    assert len(cards(browser)) == count < 8
    for name in ("given", "suggested"):
        Select(browser.find_element("id", name)).select_by_value("")
    Select(browser.find_element("id", "sort")).select_by_value("id")
    names = [card.find_element("css selector", ".id").text for card in cards(browser)]
    assert len(names) == 8 and names != sorted(names, reverse=True)
    browser.find_element("id", "search").send_keys(names[0][-3:])
    assert 0 < len(cards(browser)) < 8
    head = browser.find_elements("css selector", "table.sortable thead button")[1]
    column = lambda: [  # noqa: E731
        int(cell.text) for cell in browser.find_elements("css selector", "table.sortable tbody tr td:nth-child(2)")
    ]
    browser.execute_script("arguments[0].click()", head)
    assert column() == sorted(column(), reverse=True)
    browser.execute_script("arguments[0].click()", head)
    assert column() == sorted(column())
    assert browser.get_log("browser") == []


def test_a_label_in_doubt_without_a_likelier_class(browser, tmp_path):
    """Protects a reviewer from "deer → deer" with a suggestion to accept: there is none, by button or key."""
    browser.get(written(tmp_path, doubted).as_uri())
    card = cards(browser)[0]
    assert card.find_element("css selector", ".names").text.endswith("→ ?")
    assert "no other class likelier" in card.text and not card.find_elements("css selector", '[data-act="accept"]')
    browser.execute_script("document.querySelector('#gallery > li').focus()")
    press(browser, "a")
    pressed = cards(browser)[0].find_elements("css selector", '[aria-pressed="true"]')
    assert [button.text for button in pressed] == ["keep"]
    browser.execute_script("localStorage.clear()")
