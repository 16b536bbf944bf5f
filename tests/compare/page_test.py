"""The page of a comparison: figures of the table, links that lead to the runs, names that stay names."""

import html.parser
import json
import re

import finished
import pytest

from kdmlc_jax.compare import page, table

HOSTILE = finished.HOSTILE[0]


class Tags(html.parser.HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def run(folder, seed, last, **changes):
    """A run's summary, as `run_cell` gives it."""
    net = {"name": "cnn2", "parameters": 9, "last": last, "last5": last, "best_val": None, "best_test": last}
    made = {"method": "ce", "label": "x=1", "config": "digits", "dataset": "digits", "seconds": 10.0, "seed": seed}
    made |= {"folder": folder, "labels": {}, "networks": {"student": net}}
    made["noise"] = {"kind": "uniform", "nominal": 0.6, "realised": 0.5, "estimated": None}
    return made | changes


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A page of two rows, the first over two seeds that were evaluated three and two times."""
    workdir = tmp_path_factory.mktemp("compare")
    odd = 'a:b/../"><b>%2f/seed0'
    runs = [run("digits/ce/seed0", 0, 0.5), run("digits/ce/seed1", 1, 0.7)]
    runs.append(run(odd, 0, 0.25, config=HOSTILE, method="kd", label=HOSTILE))
    for folder, values in (("digits/ce/seed0", (0.1, 0.3, 0.5)), ("digits/ce/seed1", (0.3, 0.7))):
        (workdir / folder).mkdir(parents=True)
        lines = "".join(json.dumps({"student_test": value}) + "\n" for value in values)
        (workdir / folder / "metrics.jsonl").write_text(lines)
    rows = table.aggregate(runs)
    return rows, workdir, page.comparison(rows, workdir, {"linear": HOSTILE})


def test_rows_and_links(compared):
    """Protects the figures and the way to each run: mean ± deviation as in table.json, a relative link a seed, whatever
    a folder is called."""
    _, _, text = compared
    links = [attributes["href"] for tag, attributes in Tags(text).found if tag == "a"]
    assert links[:2] == ["./digits/ce/seed0/report.html", "./digits/ce/seed1/report.html"]
    assert links[2] == "./a%3Ab/../%22%3E%3Cb%3E%252f/seed0/report.html" and len(links) == 3
    assert "0.600 ± 0.141" in text and "0.250" in text and "uniform 0.6" in text


def test_curves_are_means_over_the_seeds(compared):
    """Protects the curve: the mean at each epoch that all seeds have, nothing where a run has left no figures."""
    rows, workdir, _ = compared
    assert page.curve(rows[0], workdir) == pytest.approx([0.2, 0.5])
    assert page.curve(rows[1], workdir) == []
    (workdir / "digits/ce/seed0/metrics.jsonl").write_text('{"student_test": null}\n')
    assert page.accuracies(workdir / "digits/ce/seed0/metrics.jsonl", "student_test") == []


def test_names_are_text_and_the_page_is_closed(compared):
    """Protects from markup in names, and from pages that call home: one script, a policy, no other address."""
    _, _, text = compared
    tags = [tag for tag, _ in Tags(text).found]
    assert tags.count("script") == 1 and not {"b", "img", "link", "iframe"} & {*tags}
    policy = next(a["content"] for _, a in Tags(text).found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.search(r"https?://", text) and "alert(1)" in text and len(text) < 40_000


def test_drawings_of_many_rows():
    """Protects pages of long runs: a line has so many points and no more, one dot a seed stands at its value."""
    line = page.drawings.sparkline([0.5] * 10_000, "t")
    assert line.count(",") <= page.drawings.MOST_POINTS and page.drawings.sparkline([0.5], "t") == ""
    drawn = page.drawings.spread([("<a>", [0.0, 1.0]), ("b", [])], "t")
    assert drawn.count("<circle") == 2 and "<a>" not in drawn and page.drawings.spread([("a", [])], "t") == ""
