"""The page: everything in it, nothing from outside, hostile names harmless, figures those of the table."""

import base64
import hashlib
import html.parser
import json
import pathlib
import re

import finished
import numpy as np
import pyarrow as pa
import pytest

from kdmlc_jax import report
from kdmlc_jax.data.images.copies import Duplicates
from kdmlc_jax.data.images.thumbnails import data_uri
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.labels.table import table
from kdmlc_jax.methods.base import Panel
from kdmlc_jax.report import copies, drawings, figures, pages, plots

HOSTILE, made = finished.HOSTILE, finished.made


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
            assert attributes.get(name, "data:").startswith(("data:", "#h-")), (tag, attributes)
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


def test_the_first_of_them_stand_at_the_top(page):
    """Protects the first screen: a person believes what they see, before any figure and without a script."""
    data, top = json.loads(Elements(page).scripts[0]), page[: page.index("How many of the most suspicious")]
    shown = [attributes["src"] for tag, attributes in Elements(top).tags if tag == "img"]
    assert shown == [item["image"] for item in data["items"]]


def test_figures_are_those_of_the_table():
    """Protects the matrix, the list and the classes from other counts than the table's."""
    dataset, rows, _, _, _ = made()
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
    asked = columns["split"] == "noisy"
    drawn = figures.matrix(figures.mistaken(columns, asked, 3))
    count = {(r["number"], c["number"]): c["count"] for r in drawn for c in r["cells"]}
    for given in range(3):
        for suggested in range(3):
            mine = (columns["given_label"] == given) & (columns["suggested_label"] == suggested) & asked
            assert count[given, suggested] == (mine.sum() if given != suggested else 0)
    listed = figures.in_doubt(columns, asked)
    assert sorted(listed) == list(range(0, 40, 5)) and (np.diff(columns["label_score"][listed]) >= 0).all()
    of = {"count": 7, "precision": 0.5, "recall": None, "f1": 0.25}
    classes = figures.class_rows(columns, asked, listed, dataset, {"classes": {HOSTILE[1]: of}})
    head = dict(zip(figures.CLASS_HEAD, zip(*classes, strict=True), strict=True))
    assert head["class"] == HOSTILE and sum(head["images"]) == 40 and sum(head["flagged"]) == 8
    wrong = [1 - columns["p_given"][asked & (columns["given_label"] == c)].mean() for c in range(3)]
    assert head["share"] == pytest.approx(wrong) and head["trusted"] == (2, 2, 2)
    assert head["precision"] == (None, 0.5, None) and head["tested on"] == (None, 7, None)
    texts = [[cell["text"] for cell in row] for row in figures.shown(classes)]
    assert texts[1][6:] == ["7", "0.500", "–", "0.250"] and texts[0][6:] == ["–"] * 4


def test_what_is_expected_of_the_head_of_the_list():
    """Protects the first figures a person reads: beliefs' mean, what held-out images say or that they say nothing, and
    what a reviewer's own decisions are added to."""
    columns = {"p_given": np.linspace(0.0, 0.6, 130)}
    held = {"first": 100, "wrong": {"estimate": 0.8, "low": 0.6, "high": 0.95}, "worth": 12.5}
    few = {"first": 50, "wrong": {"estimate": None, "low": None, "high": None}, "worth": 2.0}
    found = figures.depths(columns, np.arange(130), {"assessed": True, "depths": [few, held]})
    assert [each["count"] for each in found] == [50, 100, 130]
    assert found[0]["held"].startswith("too few") and found[2]["held"].startswith("nothing")
    assert found[1]["held"] == "80 % (90 % interval 60 % to 95 %)" and found[1]["worth"] == "12.5"
    assert found[0]["worth"] == "2"
    assert (found[1]["prior"], found[1]["prior_worth"]) == (0.8, 12.5)
    assert found[0]["prior"] == pytest.approx(1 - columns["p_given"][:50].mean()) and found[0]["prior_worth"] == 2.0
    assert figures.depths(columns, np.arange(0), {"assessed": False}) == []
    assert not any(each["doubted"] for each in found)
    held["wrong"]["high"] = 0.5  # of beliefs that say .77
    doubted = figures.depths(columns, np.arange(130), {"assessed": True, "depths": [few, held]})
    assert [each["doubted"] for each in doubted] == [False, True, False]


def test_many_classes_are_listed_not_drawn():
    """Protects the page's size: of a thousand classes the pairs that occur most, and no million cells."""
    count = np.zeros((1000, 1000), int)
    count[3, 7], count[900, 1] = 5, 9
    assert figures.matrix(count) == []
    first = {"given": 900, "suggested": 1, "count": 9}
    assert figures.pairs(count) == [first, {"given": 3, "suggested": 7, "count": 5}]
    names = [f"class {c}" for c in range(1000)]
    (drawn,) = plots.square(count / 10, names, "T")
    assert not drawn["svg"] and drawn["rows"] == [["class 900 → class 1", "0.900"], ["class 3 → class 7", "0.500"]]


def test_networks_stand_beside_those_of_the_baselines():
    """Protects the comparison on the page: all networks, best first, also where the baselines end after the page."""
    dataset, rows, beliefs, summary, history = made()
    linear = {"name": "<b>", "parameters": 9, "last": 0.75, "balanced_accuracy": 0.7, "best_val": None}
    other = {"label": HOSTILE[0], "method": "linear", "networks": {"student": linear}}
    words = np.arange(46), rows, beliefs, summary, history, pathlib.Path("none")
    alone, both = report.page(dataset, *words), report.page(dataset, *words, baselines=[other])
    assert "Beside what needs no method" not in alone
    assert report.with_baselines(alone, summary, [other]).split() == both.split()
    assert report.with_baselines(both, summary, [other]) == report.with_baselines(alone, summary, [other])
    assert both.index("0.750") < both.index("this run") and "<b>" not in both
    assert report.with_baselines("of an older version", summary, [other]) == "of an older version"


def test_copies_are_shown_with_their_labels():
    """Protects from copies that mislead: contents with two labels and images that are in the test part, by name."""
    dataset, *_ = made()
    content = np.arange(46)
    content[[5, 6]], content[9] = 4, 60
    groups = content, np.array([60, 61])
    given = dataset.given_label.copy()
    given[4:7] = [0, 0, 2]
    changed = dataset._replace(given_label=given, copies=groups, test_images=dataset.images[:2], test_label=given[:2])
    found = copies.section(changed._replace(duplicates=Duplicates(2, 1, 0, 1, 1)), near_copies=False)
    two, leaked = found["groups"]
    assert [item["id"] for item in two["items"]] == [str(dataset.ids[row]) for row in (4, 5, 6)]
    assert [item["label"] for item in two["items"]] == [HOSTILE[0], HOSTILE[0], HOSTILE[2]]
    assert [item["id"] for item in leaked["items"]] == [str(dataset.ids[9]), "test image 0"]
    assert "1 training images are also in the test part" in found["lines"][1]
    assert copies.section(dataset, near_copies=False)["groups"] == []


def test_calibration_and_what_was_memorised():
    """Protects the diagrams: bins as the summary has them, curves of right and wrong labels, none where unknown."""
    _, rows, _, summary, _ = made()
    columns = {name: rows[name].to_numpy(zero_copy_only=False) for name in rows.column_names}
    bins = {"ece": 0.125, "bins": [{"count": 8.0, "confidence": 0.5, "right": 0.625}]}
    summary = {**summary, "deployed": "student"}
    plain = plots.calibration(summary, columns, columns["split"] == "noisy")
    summary["networks"]["student"]["reliability"] = summary["verdict"]["reliability"] = bins
    drawn = plots.calibration(summary, columns, columns["split"] == "noisy")
    assert len(drawn) == len(plain) + 2 and "error 0.125, of 8 images" in drawn[0]["caption"]
    assert "sure 0.50, right 0.62" in drawn[0]["svg"]
    rows = [{"stage": "a", "student_fit_right_true": 0.5, "student_fit_wrong_true": 0.25}, {"stage": "b"}]
    (memorised,) = plots.learning(summary, rows)
    assert "student, wrong labels" in memorised["svg"] and "b begins" in memorised["svg"]
    assert plots.learning(summary, [{"stage": "a"}]) == []


PANELS = (
    Panel("C<i>", "curve", ("confidence",), "epoch"),
    Panel("P", "curve", ("replaced",), over="at", note="N<i>"),
    Panel("H", "histogram", ("agreement",), "threshold"),
    Panel("M", "matrix", ("square",)),
    Panel("T", "table", ("rates", "rate")),
    Panel("nothing there", "curve", ("unknown",)),
    Panel("of a newer version", "dance", ("rate",)),
)


def test_panels_are_drawn_of_what_a_run_leaves():
    """Protects methods' own pictures: by kind, of figures, columns or epochs, none of what is not there; the line
    stands where the figure says, in epochs of the method's own."""
    figured = {"epoch": -2, "threshold": 0.25, "at": [0, 20, 100], "replaced": [0.0, 0.5, 0.25], "rate": 0.5}
    figured |= {"square": np.eye(3).tolist(), "rates": [0.1, 0.3, 0.2]}
    history = [{"stage": "first"}, *({"stage": "then", "confidence": value} for value in (0.1, 0.9, 0.4))]
    columns = {"agreement": np.array([0.1, 0.9, np.nan])}
    summary = {"panels": [panel._asdict() for panel in PANELS], "diagnostics": figured}
    found = plots.panels(summary, history, columns, HOSTILE)
    assert [each["title"] for each in found] == ["C<i>", "P", "H", "M", "T"]
    curve, traced, cut, square, table = found
    assert "<i>" not in curve["svg"] and "epoch 1" in curve["svg"] and ">3<" in curve["svg"]
    middle = drawings.LEFT + (drawings.WIDTH - drawings.LEFT - 8) / 2
    assert f'class="mark" d="M{middle:.1f} ' in curve["svg"]
    assert traced["caption"] == "N<i>" and "epoch 0" in traced["svg"] and ">100<" in traced["svg"]
    assert ">threshold<" in cut["svg"] and square["svg"].count("<rect") == 9
    assert table["rows"] == [[HOSTILE[1], "0.3"], [HOSTILE[2], "0.2"], [HOSTILE[0], "0.1"], ["rate", "0.5"]]
    assert plots.panels({}, history, columns, HOSTILE) == []


def test_the_page_stays_small(tmp_path, capsys):
    """Protects who opens it: 200 photographs and their evidence in less than 3 MB; above 10 MB a person is warned."""
    dataset, _, _, summary, history = made()
    rng = np.random.default_rng(0)
    large = np.repeat(np.repeat(rng.integers(0, 256, (406, 24, 24, 3)).astype(np.uint8), 4, 1), 4, 2)
    given, true = np.arange(406) % 3, np.arange(406) % 3
    given[:400] = (true[:400] + 1) % 3
    none, beliefs = np.zeros(0, int), np.where(np.eye(3)[true] > 0, 0.9, 0.05)
    ids, names = np.array([f"{row}.jpg" for row in range(406)]), np.repeat(["noisy", "trusted"], [400, 6])
    whole = dataset._replace(
        images=large,
        given_label=given.astype(np.int32),
        splits=Splits(np.arange(400), np.arange(400, 406), none, none),
        ids=ids,
        features=np.eye(3, dtype=np.float32)[true],
    )
    rows = table(ids, names, given.astype(np.int32), beliefs, HOSTILE)
    text = report.page(whole, np.arange(406), rows, beliefs, summary, history, tmp_path)
    assert len(json.loads(Elements(text).scripts[0])["items"]) == 200 and len(text) < 3_000_000
    assert pages.watched("a" * 11_000_000, "page.html") and "page.html: 11 MB" in capsys.readouterr().err
    assert pages.watched(text, "page.html") == text and capsys.readouterr().err == ""


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
    for count, written in ((999, "999"), (1220, "1220"), (99_600, "100k")):  # more letters are cut off at the left edge
        assert f">{written}</text>" in drawings.histogram(np.zeros(count), "t")
    assert drawings._short(3.2e12) == "3e+12"  # of a loss that ran away
    assert drawings.heat_map(np.eye(2), ("x", "y"), "t").count("<rect") == 4


def test_a_table_of_nothing_in_doubt(tmp_path):
    """Protects clean data: a page with an empty gallery."""
    dataset, rows, beliefs, summary, history = made()
    same = rows.set_column(rows.column_names.index("suggested_label"), "suggested_label", rows["given_label"])
    keep = same.set_column(rows.column_names.index("decision"), "decision", pa.array(["keep"] * 46))
    page = report.page(dataset, np.arange(46), keep, beliefs, summary, history, tmp_path)
    assert json.loads(Elements(page).scripts[0])["items"] == []
