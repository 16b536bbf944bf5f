"""The plots of a page: how a run has learned, what was memorised, how sure it is, T̂, and the method's own panels."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool
from markupsafe import Markup

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.methods.base import PANELS
from kdmlc_jax.report import drawings
from kdmlc_jax.report.figures import MOST_CLASSES, Columns

CURVES = {
    "test": "Test accuracy by epoch",
    "validation_given": "Agreement with the given labels of validation images by epoch",
}
MEMORISED = "Share of the noisy images that are classified as labelled: those with a right label, which are learned, "
MEMORISED += "and those with a wrong one, which are memorised (known here, for the true labels are)"


def figure(svg: Markup, caption: str, title: str = "") -> list[dict]:
    """A plot with its caption; none where nothing is drawn."""
    return [{"svg": svg, "title": title, "caption": caption, "rows": []}] if svg else []


def changes(history: Sequence[dict]) -> dict[str, float]:
    """Where a stage begins, by its name, between two epochs."""
    stages = [row.get("stage", "") for row in history]
    return {f"{b} begins": i + 0.5 for i, (a, b) in enumerate(itertools.pairwise(stages), 1) if a != b}


def learning(summary: dict, history: Sequence[dict]) -> list[dict]:
    """Curves of the networks, and what each has memorised."""
    found, names, borders = [], list(summary["networks"]), changes(history)
    for end, caption in CURVES.items():
        lines = {name: [row.get(f"{name}_{end}") for row in history] for name in names}
        found += figure(drawings.curves(lines, caption, borders=borders), caption)
    fits = {
        f"{name}, {kind} labels": [row.get(f"{name}_fit_{kind}_true") for row in history]
        for name in names
        for kind in ("right", "wrong")
    }
    return found + figure(drawings.curves(fits, MEMORISED, borders=borders, span=(0.0, 1.0)), MEMORISED)


def calibration(summary: dict, columns: Columns, asked: Bool[np.ndarray, " N"]) -> list[dict]:
    """Reliability of the network to deploy on the test part and of suggestions on held-out trusted images, and the
    scores with the border below which another class is more likely."""
    found = []
    name = summary.get("deployed") or next(iter(summary["networks"]))
    network = summary["networks"].get(name, {})
    parts = (
        (network.get("reliability"), f"Reliability of {name} on the test part"),
        (summary["verdict"].get("reliability"), "Reliability of suggested labels on held-out trusted images"),
    )
    for known, caption in parts:
        if known and known["bins"]:
            rows = sum(each["count"] for each in known["bins"])
            said = f"{caption}: expected calibration error {known['ece']:.3f}, of {rows:.0f} images"
            found += figure(drawings.reliability(known["bins"], caption), said)
    ece = summary.get("labels", {}).get("ece")
    note = f"; calibration error of the noisy images' corrected labels {ece:.3f}, by true labels" if ece else ""
    caption = "label_score: at the left those to doubt; left of the line another class is more likely" + note
    score = columns["label_score"][asked].astype(np.float64)
    found += figure(drawings.histogram(score[np.isfinite(score)], caption, marks={"0.5": 0.5}), caption)
    caption = "p_given: how likely each given label is right"
    return found + figure(drawings.histogram(columns["p_given"][asked], caption), caption)


def transitions(summary: dict, dataset: Dataset) -> list[dict]:
    """T̂, and the realised matrix where the true labels are known; their largest entries where classes are many."""
    found = []
    for matrix, caption in (
        (summary["noise"]["transition"], "Estimated transition matrix"),
        (dataset.matrix, "Realised transition matrix, by the true labels"),
    ):
        if matrix is not None:
            found += square(np.asarray(matrix), dataset.class_names, caption)
    return found


def square(matrix: np.ndarray, names: Sequence[str], caption: str) -> list[dict]:
    """A matrix as a heat map, or as a table of its largest entries off the diagonal."""
    if len(matrix) <= MOST_CLASSES:
        said = f"{caption}: rows the true class, columns the label it is given"
        return figure(drawings.heat_map(matrix, names, caption), said)
    off = matrix * (1.0 - np.eye(len(matrix)))
    order = np.argsort(-off, axis=None, kind="stable")[:20]
    found = zip(*np.unravel_index(order, off.shape), strict=True)
    rows = [[f"{names[a]} → {names[b]}", f"{off[a, b]:.3f}"] for a, b in found if off[a, b] > 0]
    return [{"svg": "", "title": "", "caption": f"{caption}: largest entries", "rows": rows}]


def panels(summary: dict, history: Sequence[dict], columns: Columns, names: Sequence[str]) -> list[dict]:
    """What the method has declared (`methods.base.Panel`), of what is there."""
    found = []
    for panel in summary.get("panels", ()):
        for made in panel_of(panel, summary.get("diagnostics", {}), history, columns, names):
            found.append(made | {"title": panel["title"], "caption": panel["note"] or made["caption"]})
    return found


def panel_of(
    panel: Mapping[str, Any],
    figures: Mapping[str, Any],
    history: Sequence[dict],
    columns: Columns,
    names: Sequence[str],
) -> list[dict]:
    """The plots of one panel."""
    kind, wanted, title = panel["kind"], panel["of"], panel["title"]
    at = figures.get(panel["mark"])
    marks = {} if at is None else {panel["mark"]: abs(float(at))}
    if kind not in PANELS:
        return []
    if kind == "table":
        rows = [row for name in wanted if name in figures for row in listed(name, figures[name], names)]
        return [{"svg": "", "title": title, "caption": "", "rows": rows}] if rows else []
    if kind == "matrix":
        made = (square(np.asarray(figures[name], float), names, title) for name in wanted if name in figures)
        return [each for one in made for each in one]
    if kind == "histogram":
        known = [np.asarray(columns[name], float) for name in wanted if name in columns]
        return [p for v in known for p in figure(drawings.histogram(v[np.isfinite(v)], title, marks=marks), "")]
    lines = {name: figures[name] for name in wanted if name in figures}
    if lines:
        svg = drawings.curves(lines, title, over=figures.get(panel["over"], ()), marks=marks)
        return figure(svg, "")
    # A method counts its epochs from the first that has these metrics.
    own = [row for row in history if any(name in row for name in wanted)]
    lines = {name: [row.get(name) for row in own] for name in wanted}
    return figure(drawings.curves(lines, title, marks=marks, borders=changes(own)), "")


def listed(name: str, value: Any, names: Sequence[str]) -> list[list[str]]:
    """Rows of a table: a number, or one of each class, the largest 20 of many."""
    if not isinstance(value, list):
        return [[name, f"{value:.4g}"]]
    if len(value) != len(names):
        return [[name, ", ".join(f"{each:.4g}" for each in np.ravel(value)[:20])]]
    order = np.argsort(-np.asarray(value), kind="stable")[:20]
    return [[names[c], f"{value[c]:.4g}"] for c in order]
