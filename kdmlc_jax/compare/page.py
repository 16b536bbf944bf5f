"""The page of a comparison: mean ± deviation of every row, curves, and links to the pages of the runs."""

import json
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdmlc_jax.compare.table import show
from kdmlc_jax.errors import reading
from kdmlc_jax.report import drawings
from kdmlc_jax.report.pages import rendered
from kdmlc_jax.storage import door, files

PAGE = "comparison.html"
COLUMNS = {  # of the table of rows -> what stands above it
    "last": "last",
    "best_val": "best val",
    "last5": "last 5",
    "best_test": "best test (oracle)",
    "labels_before": "labels right before",
    "labels_after": "after",
    "f1": "F1 of flags",
    "auroc": "AUROC",
    "ece": "ECE",
    "seconds": "seconds",
}


def comparison(rows: Sequence[dict], workdir: pathlib.Path, left_out: Mapping[str, str] = {}) -> str:
    """The page as text.

    Args:
      rows: of `table.aggregate`.
      workdir: of the comparison, in which the runs lie.
      left_out: methods that could not be run, and why.
    """
    lines = [curve(row, workdir) for row in rows]
    groups: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault((row["config"], noise_of(row)), []).append(number)
    made = []
    for (config, noise), numbers in groups.items():
        title = f"{config} ({noise})"
        best = sorted(numbers, key=lambda n: -(rows[n]["last"] or {"mean": 0.0})["mean"])
        values = [(name_of(rows[n]), [v for run in rows[n]["runs"] if (v := run["last"]) is not None]) for n in best]
        shown = {name_of(rows[n]): lines[n] for n in best if lines[n]}
        caption = "Mean test accuracy by epoch" + ("" if len(shown) <= drawings.MOST_LINES else ", of the best")
        made.append(
            {
                "title": title,
                "spread": drawings.spread(values, f"Test accuracy after the last epoch: {title}"),
                "curves": drawings.curves(shown, f"{caption}: {title}"),
                "caption": caption,
            }
        )
    table = [cells(row, line) for row, line in zip(rows, lines, strict=True)]
    return rendered(
        "comparison.html.j2",
        ("tables.js",),
        title="Comparison",
        groups=made,
        head=list(COLUMNS.values()),
        rows=table,
        left_out=sorted(left_out.items()),
    )


def noise_of(row: Mapping[str, Any]) -> str:
    """'uniform 0.6'."""
    return row["noise"] if row["rate"] is None else f"{row['noise']} {row['rate']:g}"


def name_of(row: Mapping[str, Any]) -> str:
    """What names a row among those of the same config."""
    return " ".join(part for part in (row["method"], row["options"], row["network"]) if part)


def cells(row: Mapping[str, Any], line: Sequence[float]) -> dict[str, Any]:
    """A row as the template writes it."""
    figures = [
        {"text": show(row[name], 0 if name == "seconds" else 3), "sort": row[name]["mean"] if row[name] else -1}
        for name in COLUMNS
    ]
    return {
        "config": row["config"],
        "method": row["method"],
        "options": row["options"],
        "noise": noise_of(row),
        "network": f"{row['network']} ({row['architecture']})",
        "runs": [{"seed": run["seed"], "href": link(run["folder"])} for run in row["runs"]],
        "figures": figures,
        "curve": drawings.sparkline(line, f"Test accuracy by epoch: {name_of(row)}"),
    }


def link(folder: str) -> str:
    """The page of a run, from the comparison's folder; no name of a folder makes it another address."""
    return f"./{urllib.parse.quote(folder)}/report.html"


def curve(row: Mapping[str, Any], workdir: pathlib.Path) -> list[float]:
    """Mean test accuracy of a row's runs at each epoch that all have; none where a run has left no such figures."""
    found = [accuracies(workdir / run["folder"] / "metrics.jsonl", f"{row['network']}_test") for run in row["runs"]]
    epochs = min(map(len, found))
    return np.mean([line[:epochs] for line in found], axis=0).tolist() if epochs else []


def accuracies(path: pathlib.Path, name: str) -> list[float]:
    """A metric at each epoch; none where some epoch lacks it."""
    if not files.exists(path):
        return []
    with reading(path, "the figures of a run's epochs"):
        values = [json.loads(line).get(name) for line in door.read_text(path).splitlines()]
    return values if all(isinstance(value, float | int) for value in values) else []
