"""The table of a comparison: a row for each config, method, options, noise and network, over the seeds."""

import statistics
from collections.abc import Sequence

METRICS = ("last", "last5", "best_val", "best_test")
# Column -> its name among the summary's labels.
LABELS = {
    "labels_before": "accuracy_before",
    "labels_after": "accuracy_after",
    "labels_method": "accuracy_method",
    "ece": "ece",
    "f1": "f1",
    "auroc": "auroc",
}
DETAILS = (*LABELS, "rate_realised", "rate_estimated", "seconds")


def aggregate(summaries: Sequence[dict]) -> list[dict]:
    """One row per config, method, options, noise and network: {"mean", "std"} of each metric over the seeds.

    `options` are those the method was named with; `runs` holds the seed, the folder and the network's figures of each
    run. std is the sample standard deviation, None for a single seed; a metric that some seed lacks is None.
    """
    groups: dict[tuple, list[tuple[dict, dict]]] = {}
    for summary in summaries:
        for network, result in summary["networks"].items():
            noise = summary["noise"]
            noise_of = noise["kind"], noise["nominal"]
            key = (summary["config"], summary["dataset"], summary["method"], summary["label"], *noise_of, network)
            groups.setdefault(key, []).append((summary, result))
    rows = []
    for (config, dataset, method, options, kind, rate, network), cells in groups.items():
        row = {"config": config, "dataset": dataset, "method": method, "options": options, "noise": kind, "rate": rate}
        row |= {"network": network, "architecture": cells[0][1]["name"], "n_seeds": len(cells)}
        row["runs"] = [run_of(*cell) for cell in cells]
        for name in METRICS:
            row[name] = mean_std([result[name] for _, result in cells])
        for name in DETAILS:
            row[name] = mean_std([detail(summary, name) for summary, _ in cells])
        rows.append(row)
    return rows


def run_of(summary: dict, result: dict) -> dict:
    """One run of a row; folders are below the comparison's."""
    figures = {name: result[name] for name in ("last", "best_val")}
    return {"seed": summary["seed"], "folder": summary["folder"], **figures}


def detail(summary: dict, name: str) -> float | None:
    """A figure of the whole run, by its column name."""
    if name.startswith("rate_"):
        return summary["noise"][name.removeprefix("rate_")]
    if name == "seconds":
        return summary["seconds"]
    return summary["labels"].get(LABELS[name])  # a run of an older version lacks some


def mean_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation; None if a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"mean": statistics.fmean(known), "std": statistics.stdev(known) if len(known) > 1 else None}


def show(value: dict | None, digits: int = 3) -> str:
    """'0.812 ± 0.004'."""
    if value is None:
        return "–"
    std = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
    return f"{value['mean']:.{digits}f}{std}"


def markdown(rows: Sequence[dict]) -> str:
    """The table as Markdown; accuracies are fractions of the test set, `best test` is an oracle."""
    head = ["config", "method", "options", "noise", "network", "seeds"]
    head += ["last", "best val", "last 5", "best test (oracle)"]
    head += ["labels right before", "after", "by the method alone", "ECE", "seconds"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        rate = "" if row["rate"] is None else f" {row['rate']:g}"
        cells = [row["config"], row["method"], row["options"], f"{row['noise']}{rate}"]
        cells += [f"{row['network']} ({row['architecture']})", str(row["n_seeds"])]
        cells += [show(row[name]) for name in ("last", "best_val", "last5", "best_test")]
        cells += [show(row[name]) for name in ("labels_before", "labels_after", "labels_method", "ece")]
        cells += [show(row["seconds"], 0)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
