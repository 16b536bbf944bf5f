"""One page that shows what is wrong with the labels, and takes a person's decisions: report.html.

Self-contained: no network, no other file; opens from disk. Names of files and classes are untrusted: the template
escapes all text, JSON inside it holds no markup, and a Content-Security-Policy allows this page's own style and script
alone.
"""

import base64
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from markupsafe import Markup

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.images.thumbnails import data_uri
from kdmlc_jax.report import drawings, evidence

HERE = pathlib.Path(__file__).parent
IMAGES = 200  # in the gallery
DEPTHS = (50, 100, 500)


def page(
    dataset: Dataset,
    rows: Int[np.ndarray, " N"],
    table: pa.Table,
    beliefs: Float[np.ndarray, "N C"],
    summary: dict,
    history: list[dict],
    workdir: pathlib.Path,
    images: int = IMAGES,
) -> str:
    """The page as text.

    Args:
      dataset: of the run.
      rows: of `dataset`, a row each of the table.
      table: `labels.table`.
      beliefs: of the same rows.
      summary: as in summary.json.
      history: a row for each epoch.
      workdir: where the networks lie; features of the teacher, where there is one, say which trusted images are alike.
      images: so many suspected labels are shown.
    """
    import jinja2  # slow to import

    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    style, script = (Markup((HERE / name).read_text()) for name in ("page.css", "page.js"))
    asked = np.isin(columns["split"], ("noisy", "validation"))
    network = workdir / ("teacher" if "teacher" in summary["networks"] else next(iter(summary["networks"])))
    shown = gallery_rows(columns, asked, images)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("page.html.j2").render(
        name=summary["dataset"],
        counts=counts(summary),
        verdict=summary["verdict"]["text"],
        cards=cards(summary, columns, asked),
        depths=depths(columns, asked),
        depth_note="" if summary["verdict"]["assessed"] else " by what the method believes, which nothing vouches for",
        classes=dataset.class_names,
        matrix=matrix(columns, asked, len(dataset.class_names)),
        class_rows=class_rows(columns, asked, dataset),
        plots=plots(summary, history, columns, asked, dataset.class_names),
        provenance=provenance(summary),
        style=style,
        script=script,
        style_hash=digest(style),
        script_hash=digest(script),
        data=embedded(gallery(dataset, rows, columns, beliefs, shown, network, summary)),
    )


def digest(text: str) -> str:
    """Base64 of SHA-256, as a Content-Security-Policy names a style or script."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded(value: Any) -> Markup:
    """JSON that may stand in a script element: no character of it can end that."""
    text = json.dumps(value, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def counts(summary: dict) -> str:
    """How many images of each kind there are."""
    data = summary["data"]
    words = {"noisy": "to learn from", "validation": "to choose by", "trusted": "trusted", "held_out": "held out"}
    return f"{summary['method']}; " + ", ".join(f"{data[name]} {word}" for name, word in words.items() if data[name])


def gallery_rows(columns: dict, asked: np.ndarray, images: int) -> Int[np.ndarray, " n"]:
    """The labels in doubt, most suspicious first."""
    moved = columns["suggested_label"] != columns["given_label"]
    doubtful = np.flatnonzero(asked & (moved | (columns["decision"] != "keep")))
    order = np.lexsort((columns["id"][doubtful].astype(str), columns["label_score"][doubtful]))
    return doubtful[order][:images]


def gallery(
    dataset: Dataset,
    rows: Int[np.ndarray, " N"],
    columns: dict,
    beliefs: Float[np.ndarray, "N C"],
    shown: Int[np.ndarray, " n"],
    network: pathlib.Path,
    summary: dict,
) -> dict:
    """What the script draws: the suspected labels, and the trusted images nearest to each."""
    pictures = dataset.images.dtype == np.uint8
    trusted, near = evidence.nearest(dataset, rows[shown] if pictures else rows[:0], network)
    used: list[int] = [int(number) for number in np.unique(near)]
    place = {number: position for position, number in enumerate(used)}
    items: list[dict] = []
    for number, row in enumerate(shown):
        items.append(
            {
                "id": str(columns["id"][row]),
                "given": int(columns["given_label"][row]),
                "suggested": int(columns["suggested_label"][row]),
                "sure": f"{beliefs[row, columns['suggested_label'][row]]:.2f}",
                "own": f"{columns['p_given'][row]:.2f}",
                "decision": str(columns["decision"][row]),
                "rank": number + 1,
                "image": data_uri(dataset.images[rows[row : row + 1]][0]) if pictures else "",
                "near": [place[int(alike)] for alike in near[number]] if pictures else [],
            }
        )
    known = [
        {
            "id": str(dataset.ids[row]),
            "label": int(dataset.given_label[row]),
            "image": data_uri(dataset.images[np.array([row])][0], 48),
        }
        for row in trusted[used]
    ]
    run = hashlib.sha256(f"{summary['dataset']}{summary['method']}{summary['seed']}".encode())
    for row in shown:
        run.update(f"{columns['id'][row]}\0{columns['given_label'][row]}\0".encode())
    return {"run": run.hexdigest()[:16], "classes": list(dataset.class_names), "items": items, "trusted": known}


def cards(summary: dict, columns: dict, asked: np.ndarray) -> list[dict]:
    """The figures that matter."""
    verdict, noise = summary["verdict"], summary["noise"]
    found: list[dict] = []
    if noise["estimated"] is not None:
        interval = noise["interval"]
        note = "by the method alone" if interval is None else f"90 % interval {interval[0]:.0%} to {interval[1]:.0%}"
        found.append({"title": "Labels estimated wrong", "value": f"{noise['estimated']:.0%}", "note": note})
    suspected = int((columns["suggested_label"] != columns["given_label"])[asked].sum())
    found.append({"title": "Another class more likely", "value": suspected, "note": f"of {int(asked.sum())} labels"})
    if verdict["assessed"]:
        precision = verdict["precision"]["estimate"]
        note = f"held-out precision {precision:.2f}" if verdict["apply"] and precision is not None else "none unseen"
        found.append({"title": "To apply", "value": verdict["corrections"], "note": note})
        right = verdict["review_precision"]
        note = "" if right is None else f"about {right:.0%} of the suggestions are right"
        found.append({"title": "To look at", "value": verdict["reviews"], "note": note})
    for name, network in summary["networks"].items():
        if network["last"] is not None:
            note = f"{network['name']}, {network['parameters']:,} weights; last epoch"
            found.append({"title": f"Test accuracy, {name}", "value": f"{network['last']:.3f}", "note": note})
    return found


def depths(columns: dict, asked: np.ndarray) -> list[dict]:
    """How many of the first k in the order of suspicion are expected to be wrong, mean of 1 - p_given."""
    order = np.argsort(columns["label_score"][asked], kind="stable")
    wrong = 1.0 - columns["p_given"][asked][order]
    return [{"count": k, "share": f"{wrong[:k].mean():.0%}"} for k in DEPTHS if k <= len(wrong)]


def matrix(columns: dict, asked: np.ndarray, classes: int) -> list[dict]:
    """Counts of given → suggested, with a level 0 to 3 of the greatest count, for the rows that have any."""
    count = np.zeros((classes, classes), int)
    np.add.at(count, (columns["given_label"][asked], columns["suggested_label"][asked]), 1)
    np.fill_diagonal(count, 0)
    top = max(1, int(count.max()))
    return [
        {
            "number": given,
            "cells": [{"number": c, "count": int(n), "level": int(np.ceil(3 * n / top))} for c, n in enumerate(line)],
        }
        for given, line in enumerate(count)
        if line.any()
    ]


def class_rows(columns: dict, asked: np.ndarray, dataset: Dataset) -> list[dict]:
    """Each class's labels: given, suspected, expected wrong, trusted."""
    given, moved = columns["given_label"], columns["suggested_label"] != columns["given_label"]
    trusted = dataset.given_label[np.concatenate([dataset.splits.trusted, dataset.splits.held_out])]
    found = []
    for number, name in enumerate(dataset.class_names):
        mine = asked & (given == number)
        wrong = float((1.0 - columns["p_given"][mine]).sum())
        share = f"{wrong:.0f} ({wrong / mine.sum():.0%})" if mine.any() else "–"
        counts_of = {"given": int(mine.sum()), "suspected": int((mine & moved).sum()), "wrong": share}
        found.append({"name": name, **counts_of, "trusted": int((trusted == number).sum())})
    return found


def plots(summary: dict, history: list[dict], columns: dict, asked: np.ndarray, names: tuple[str, ...]) -> list[dict]:
    """Curves of the networks, the histogram of p_given, and T̂."""
    found, networks = [], list(summary["networks"])
    for end, caption in (
        ("test", "Test accuracy by epoch"),
        ("validation_given", "Agreement with the given labels of validation images by epoch"),
    ):
        lines = {name: [row.get(f"{name}_{end}") for row in history] for name in networks}
        if any(value is not None for line in lines.values() for value in line):
            found.append({"svg": drawings.curves(lines, caption), "caption": caption})
    caption = "p_given: how likely each given label is right; at the left those to doubt"
    found.append({"svg": drawings.histogram(columns["p_given"][asked], caption), "caption": caption})
    if summary["noise"]["transition"] is not None:
        caption = "Estimated transition matrix: rows the true class, columns the label it is given"
        transition = np.asarray(summary["noise"]["transition"])
        found.append({"svg": drawings.heat_map(transition, names, caption), "caption": caption})
    return found


def provenance(summary: dict) -> list[dict]:
    """Method, data, versions and time."""
    options = ", ".join(f"{name}={value}" for name, value in summary["options"].items() if name != "name")
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    words = {"method": f"{summary['method']} ({options})", "seed": summary["seed"], "versions": versions}
    words |= {"device": summary["device"], "training": f"{summary['seconds']:.0f} s"}
    words |= {"noted": "; ".join(summary["notes"])} if summary["notes"] else {}
    return [{"name": name, "value": value} for name, value in words.items()]
