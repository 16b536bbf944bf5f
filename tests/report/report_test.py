"""The page: everything in it, nothing from outside, hostile names harmless, figures those of the table."""

import base64
import hashlib
import html.parser
import json
import re

import finished
import numpy as np
import pyarrow as pa
import pytest

from kdmlc_jax import report
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.images.thumbnails import data_uri
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.labels.table import Decided, table
from kdmlc_jax.report import drawings

HOSTILE = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "a\"'&b")


def made(features=True):
    """A run's remains: 40 noisy and 6 trusted images, three classes with hostile names, every fifth label wrong."""
    rng = np.random.default_rng(0)
    true = np.arange(46) % 3
    given = np.where((np.arange(46) % 5 == 0) & (np.arange(46) < 40), (true + 1) % 3, true).astype(np.int32)
    images = rng.integers(0, 256, (46, 8, 8, 3)).astype(np.uint8)
    ids = np.array([f"{HOSTILE[i % 3]}/{i}" for i in range(46)])
    none = np.zeros(0, int)
    splits = Splits(np.arange(40), np.arange(40, 46), none, none)
    dataset = Dataset(
        *(
            "set <b>",
            HOSTILE,
            images,
            given,
            given,
            np.full(46, -1),
            np.full(46, -1),
            splits,
            None,
            none,
            None,
            None,
            ids,
        ),
        features=np.eye(3, dtype=np.float32)[true] if features else None,
    )
    beliefs = np.full((46, 3), 0.05)
    beliefs[np.arange(46), true] = 0.9
    names = np.repeat(["noisy", "trusted"], [40, 6])
    decision = np.where((given != true) & (names == "noisy"), "review", "keep")
    rows = table(ids, names, given, beliefs, HOSTILE, {}, Decided(given, decision, "p_given"))
    summary = finished.summary(dataset.name, 40, 6)
    history = [{"student_test": 0.4, "student_validation_given": None}, {"student_test": 0.5}]
    return dataset, rows, beliefs, summary, history


class Elements(html.parser.HTMLParser):
    """The tags of a page with their attributes, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and data.strip():
            self.scripts.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    dataset, rows, beliefs, summary, history = made()
    return report.page(dataset, np.arange(46), rows, beliefs, summary, history, tmp_path_factory.mktemp("none"))


def test_names_are_text_and_nothing_else(page):
    """Protects the reader from markup in names of files, classes, data sets and notes."""
    elements = Elements(page)
    tags = {tag for tag, _ in elements.tags}
    assert not tags & {"b", "i", "u", "em"}
    assert [tag for tag, _ in elements.tags].count("script") == 2
    assert not any(name.startswith("on") for _, attributes in elements.tags for name in attributes)
    assert json.loads(elements.scripts[0])["classes"] == list(HOSTILE)


def test_the_page_needs_and_allows_nothing_from_outside(page):
    """Protects from pages that call home: no address in an attribute, and a policy for this style and script."""
    elements = Elements(page)
    policy = next(a["content"] for tag, a in elements.tags if a.get("http-equiv") == "Content-Security-Policy")
    for tag, attributes in elements.tags:
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    for kind, text in (("style", style), ("script", elements.scripts[-1])):
        assert f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert policy.startswith("default-src 'none'") and "http" not in policy.replace("http-equiv", "")


def test_the_gallery_holds_the_labels_in_doubt(page):
    """Protects what is shown: the eight wrong labels, most suspicious first, with trusted images of the class suggested
    as evidence."""
    data = json.loads(Elements(page).scripts[0])
    assert len(data["items"]) == 8
    for item in data["items"]:
        row = int(item["id"].rpartition("/")[2])
        assert row % 5 == 0 and item["suggested"] == row % 3 and item["given"] == (row + 1) % 3
        assert item["image"].startswith("data:image/png;base64,")
        assert {data["trusted"][number]["label"] for number in item["near"][:2]} == {row % 3}
    assert [item["rank"] for item in data["items"]] == list(range(1, 9))


def test_figures_are_those_of_the_table():
    """Protects the matrix, the classes and the depths from other counts than the table's."""
    dataset, rows, _, _, _ = made()
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
    asked = columns["split"] == "noisy"
    count = {(r["number"], c["number"]): c["count"] for r in report.matrix(columns, asked, 3) for c in r["cells"]}
    for given in range(3):
        for suggested in range(3):
            mine = (columns["given_label"] == given) & (columns["suggested_label"] == suggested) & asked
            assert count[given, suggested] == (mine.sum() if given != suggested else 0)
    classes = report.class_rows(columns, asked, dataset)
    assert sum(row["given"] for row in classes) == 40 and sum(row["suspected"] for row in classes) == 8
    assert [row["trusted"] for row in classes] == [2, 2, 2]
    columns["p_given"] = np.full(46, 0.25)
    many = {name: np.tile(values, 2) for name, values in columns.items()}
    assert report.depths(many, np.tile(asked, 2)) == [{"count": 50, "share": "75%"}]


def test_features_without_pictures_are_listed(tmp_path):
    """Protects runs on vectors: names and decisions without thumbnails."""
    dataset, rows, beliefs, summary, history = made()
    vectors = dataset.images.reshape(46, 1, 1, -1).astype(np.float32)
    page = report.page(dataset._replace(images=vectors), np.arange(46), rows, beliefs, summary, history, tmp_path)
    data = json.loads(Elements(page).scripts[0])
    assert len(data["items"]) == 8 and not any(item["image"] or item["near"] for item in data["items"])


def test_thumbnails_are_small():
    """Protects the page's size: never more than the side, of any channels; small images as they are."""
    rng = np.random.default_rng(0)
    for shape in ((300, 200, 3), (300, 500, 1), (200, 200, 4)):
        large = np.repeat(np.repeat(rng.integers(0, 256, (5, 5, shape[2])).astype(np.uint8), 60, 0), 60, 1)
        assert len(data_uri(large[: shape[0], : shape[1]])) < 8_000
    assert data_uri(np.zeros((8, 8, 1), np.uint8)).startswith("data:image/png")


def test_drawings_scale_to_what_they_show():
    """Protects plots: the highest value is at the top, the lowest at the bottom, gaps are left out, names escaped."""
    svg = drawings.curves({"<a>": [0.0, None, 1.0]}, "t")
    assert "&lt;a&gt;" in svg and "<a>" not in svg
    points = re.search(r'points="([^"]+)"', svg)[1].split()
    assert len(points) == 2 and points[1].endswith(",8.0") and points[0].endswith(f",{200 - 24:.1f}")
    assert drawings.curves({"a": [None]}, "t") == ""
    bars = re.findall(r'height="([\d.]+)"/>', drawings.histogram(np.array([0.0, 0.0, 0.99]), "t", 4))
    assert float(bars[0]) == pytest.approx(2 * float(bars[3])) and float(bars[1]) == 0.0
    assert drawings.heat_map(np.eye(2), ("x", "y"), "t").count("<rect") == 4


def test_a_table_of_nothing_in_doubt(tmp_path):
    """Protects clean data: a page with an empty gallery."""
    dataset, rows, beliefs, summary, history = made()
    same = rows.set_column(rows.column_names.index("suggested_label"), "suggested_label", rows["given_label"])
    keep = same.set_column(rows.column_names.index("decision"), "decision", pa.array(["keep"] * 46))
    page = report.page(dataset, np.arange(46), keep, beliefs, summary, history, tmp_path)
    assert json.loads(Elements(page).scripts[0])["items"] == []
