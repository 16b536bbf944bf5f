"""The numbers of a page: what matters first, how right the list is, what is mistaken for what, each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from kdmlc_jax.data.dataset import Dataset

DEPTHS = (50, 100, 500)
MOST_CLASSES = 30  # in a matrix; of more, the pairs that occur most are listed
PAIRS = 60
Columns = dict[str, np.ndarray]


def counts(summary: dict) -> str:
    """How many images of each kind there are."""
    data = summary["data"]
    words = {"noisy": "to learn from", "validation": "to choose by", "trusted": "trusted", "held_out": "held out"}
    return f"{summary['method']}; " + ", ".join(f"{data[name]} {word}" for name, word in words.items() if data[name])


def percent(value: float | None) -> str:
    """'83 %', a dash for None."""
    return "–" if value is None else f"{100 * value:.0f} %"


def number(value: float | None) -> str:
    """'0.912', a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def cards(summary: dict, columns: Columns, asked: Bool[np.ndarray, " N"]) -> list[dict]:
    """The figures that matter."""
    verdict, noise = summary["verdict"], summary["noise"]
    found: list[dict] = []
    if noise["estimated"] is not None:
        interval = noise["interval"]
        note = "by the method alone" if interval is None else f"90 % interval {interval[0]:.0%} to {interval[1]:.0%}"
        found.append({"title": "Labels estimated wrong", "value": percent(noise["estimated"]), "note": note})
    suspected = int((columns["suggested_label"] != columns["given_label"])[asked].sum())
    found.append({"title": "Another class more likely", "value": suspected, "note": f"of {int(asked.sum())} labels"})
    if verdict["assessed"]:
        precision = verdict["precision"]["estimate"]
        note = f"held-out precision {precision:.2f}" if verdict["apply"] and precision is not None else "none unseen"
        found.append({"title": "To apply", "value": verdict["corrections"], "note": note})
        right = verdict["review_precision"]
        note = "" if right is None else f"about {percent(right)} of the suggestions are right"
        found.append({"title": "To look at", "value": verdict["reviews"], "note": note})
    for name, network in summary["networks"].items():
        if network["last"] is not None:
            note = f"{network['name']}, {network['parameters']:,} weights; last epoch"
            found.append({"title": f"Test accuracy, {name}", "value": f"{network['last']:.3f}", "note": note})
    return found


def depths(columns: Columns, listed: Int[np.ndarray, " n"], verdict: dict) -> list[dict]:
    """How many of the first k labels of the list are wrong, as far as each can tell: beliefs, mean of 1 - p_given, and
    held-out trusted images (`labels.suspects`).

    `prior` and `worth` are what a reviewer's own decisions are added to: a share, and so many labels' worth of it;
    `doubted`: beliefs claim more than the interval by held-out images holds.
    """
    wrong = 1.0 - columns["p_given"][listed]
    held = {depth["first"]: depth for depth in verdict.get("depths", ())}
    found = []
    for k in sorted({*DEPTHS, len(wrong)} | held.keys()):
        if not 0 < k <= len(wrong):
            continue
        believed, known = float(wrong[:k].mean()), held.get(k)
        share = known["wrong"] if known and known["wrong"]["estimate"] is not None else None
        said = "nothing: none is held out" if verdict["assessed"] else "not assessed"
        if share:
            said = f"{percent(share['estimate'])} (90 % interval {percent(share['low'])} to {percent(share['high'])})"
        elif known:
            said = "too few of them would stand here to tell"
        found.append(
            {
                "count": k,
                "believed": percent(believed),
                "held": said,
                "doubted": bool(share and believed > share["high"]),
                "worth": f"{round(known['worth'], 1):g}" if known else "0",
                "prior": share["estimate"] if share else believed,
                "prior_worth": known["worth"] if share and known else 2.0,
            }
        )
    return found


def mistaken(columns: Columns, asked: Bool[np.ndarray, " N"], classes: int) -> Int[np.ndarray, "C C"]:
    """Counts of given → suggested, those in agreement left out."""
    count = np.zeros((classes, classes), int)
    np.add.at(count, (columns["given_label"][asked], columns["suggested_label"][asked]), 1)
    np.fill_diagonal(count, 0)
    return count


def matrix(count: Int[np.ndarray, "C C"]) -> list[dict]:
    """A row for each given label that has any, with a level 0 to 3 of the greatest count; none of many classes."""
    top = max(1, int(count.max()))
    if len(count) > MOST_CLASSES:
        return []
    return [
        {
            "number": given,
            "cells": [{"number": c, "count": int(n), "level": int(np.ceil(3 * n / top))} for c, n in enumerate(line)],
        }
        for given, line in enumerate(count)
        if line.any()
    ]


def pairs(count: Int[np.ndarray, "C C"]) -> list[dict]:
    """The PAIRS of given and suggested label that occur most, of many classes."""
    if len(count) <= MOST_CLASSES:
        return []
    order = np.argsort(-count, axis=None, kind="stable")[:PAIRS]
    found = zip(*np.unravel_index(order, count.shape), strict=True)
    return [{"given": int(a), "suggested": int(b), "count": int(count[a, b])} for a, b in found if count[a, b]]


def class_rows(
    columns: Columns,
    asked: Bool[np.ndarray, " N"],
    listed: Int[np.ndarray, " n"],
    dataset: Dataset,
    network: dict,
) -> list[list[Any]]:
    """Each class: its name, images, flagged, expected wrong and their share, trusted, and of the network to deploy
    precision, recall, F1 and the images they are of; None where there is none."""
    classes, given = len(dataset.class_names), columns["given_label"]
    trusted = dataset.given_label[dataset.splits.checked]
    images, flagged, sure = (
        np.bincount(rows, weight, classes)
        for rows, weight in (
            (given[asked], None),
            (given[listed], None),
            (trusted, None),
        )
    )
    wrong = np.bincount(given[asked], 1.0 - columns["p_given"][asked], classes)
    found = []
    for c, name in enumerate(dataset.class_names):
        of = network.get("classes", {}).get(name, {})
        share = float(wrong[c] / images[c]) if images[c] else None
        health = [int(images[c]), int(flagged[c]), float(wrong[c]), share, int(sure[c])]
        found.append([name, *health, *(of.get(word) for word in ("count", "precision", "recall", "f1"))])
    return found


CLASS_HEAD = (
    *("class", "images", "flagged", "expected wrong", "share", "trusted"),
    *("tested on", "precision", "recall", "F1"),
)


def shown(rows: Sequence[Sequence[Any]]) -> list[list[dict]]:
    """Cells of `class_rows` with what is written and what they are sorted by."""
    as_text = {3: lambda v: f"{v:.0f}", 4: percent, **dict.fromkeys((7, 8, 9), number)}
    return [
        [
            {"text": "–" if value is None else as_text.get(place, str)(value), "sort": -1 if value is None else value}
            for place, value in enumerate(row)
        ]
        for row in rows
    ]


def compared(summary: dict, baselines: Sequence[dict]) -> list[dict]:
    """The run's networks and its baselines', best first: who, on which network, and how well at the end."""
    rows = []
    for label, each in ((f"this run ({summary['method']})", summary), *((one["label"], one) for one in baselines)):
        for name, network in each["networks"].items():
            test = network["last"] is not None
            value = network["last"] if test else network.get("validation_given")
            figures = [number(network.get(key)) for key in ("balanced_accuracy", "best_val")]
            rows.append(
                {
                    "label": label,
                    "network": f"{name}: {network['name']}",
                    "weights": f"{network['parameters']:,}",
                    "value": value,
                    "test": test,
                    "figures": [number(value), *figures],
                    "own": each is summary,
                }
            )
    return sorted(rows, key=lambda row: -1.0 if row["value"] is None else -row["value"])


def in_doubt(columns: Columns, asked: Bool[np.ndarray, " N"]) -> Int[np.ndarray, " n"]:
    """The labels in doubt, most suspicious first."""
    moved = columns["suggested_label"] != columns["given_label"]
    doubtful = np.flatnonzero(asked & (moved | (columns["decision"] != "keep")))
    order = np.lexsort((columns["id"][doubtful].astype(str), columns["label_score"][doubtful]))
    rows: Int[np.ndarray, " n"] = doubtful[order]
    return rows
