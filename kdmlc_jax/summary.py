"""The end of a run: labels corrected, outputs written, all figures in one dictionary."""

import importlib.metadata
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from kdmlc_jax import metrics, outputs, parallel
from kdmlc_jax.data import noise
from kdmlc_jax.labels.detection import detection
from kdmlc_jax.labels.table import table as label_table
from kdmlc_jax.methods.base import Report

if TYPE_CHECKING:
    from kdmlc_jax.experiment import Experiment


def finish(experiment: "Experiment", state: Any, epoch: int, progress: dict, workdir: pathlib.Path) -> dict:
    """Corrects the labels, writes all outputs, and returns the summary.

    Args:
      experiment: that was run.
      state: what it leaves, the method's state after `epoch` epochs.
      epoch: counted from 1.
      progress: the loop's (`progress.fresh`).
      workdir: of the run.
    """
    data, config, method, history = experiment.dataset, experiment.config, experiment.method, progress["history"]
    rows = np.concatenate(data.splits)
    names = np.repeat(data.splits._fields, [len(part) for part in data.splits])
    beliefs = experiment.evaluator.beliefs(state, rows)
    trusted = names == "trusted"
    beliefs[trusted] = np.eye(experiment.info.num_classes, dtype=np.float32)[data.given_label[rows[trusted]]]
    report: Report = parallel.fetch(method.report(state))
    if data.soft_label is not None:
        report = report.without_flags()
    table = label_table(data.ids[rows], names, data.reported_label[rows], beliefs, data.class_names, report.columns)
    summary = {
        "method": config.method.name,
        "options": config.method.to_dict(),
        "dataset": data.name,
        "seed": config.seed,
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "flax", "optax", "numpy")},
        "device": device(experiment),
        "noise": {
            "kind": config.noise.kind,
            "nominal": config.noise.rate if noise.is_rated(config.noise.kind) else None,
            "realised": data.rate,
            "estimated": estimated_rate(experiment, report, beliefs[names == "noisy"], table),
        },
        "deploy": config.deploy,
        "networks": networks(experiment, state, epoch, counted(experiment, history)),
        "diagnostics": {name: value.tolist() for name, value in report.figures.items()},
        "notes": progress["notes"],
        "data": {
            **{name: len(rows) for name, rows in data.splits._asdict().items()},
            "skipped": len(data.skipped),
            "duplicates": data.duplicates and data.duplicates._asdict(),
        },
        "labels": label_summary(table, data.truth[rows]),
        "changes": progress["changes"],
        "seconds": progress["seconds"],
        "images_per_second": progress["images_per_second"],
    }
    nets, mean, std = parallel.fetch((method.networks(state), experiment.fixed["mean"], experiment.fixed["std"]))
    result = outputs.Result(config, data, rows, beliefs, table, nets, mean, std, history, summary)
    parallel.on_main(lambda: outputs.write_all(result, workdir))
    return summary


def counted(experiment: "Experiment", history: list[dict]) -> list[dict]:
    """The epochs of the stages whose networks are those that the method is for."""
    return [row for row in history if row["stage"] not in experiment.method.traits.preparing]


def device(experiment: "Experiment") -> str:
    """'8 x NVIDIA H100, 2 processes, fsdp'."""
    how = [f"{experiment.mesh.size} x {experiment.mesh.devices.flat[0].device_kind}"]
    how += [] if parallel.alone() else [f"{jax.process_count()} processes"]
    chosen = experiment.config.parallel
    how += [word for word in (chosen.mode, chosen.sharding) if word in ("pmap", "fsdp")]
    return ", ".join(how)


def networks(experiment: "Experiment", state: Any, epoch: int, history: list[dict]) -> dict[str, dict]:
    """Size, deployed epoch and accuracies of each network, and of their ensemble under its name."""
    method, config = experiment.method, experiment.config
    sizes = {
        name: (config[name].net, sum(leaf.size for leaf in jax.tree.leaves(net.params)))
        for name, net in method.networks(state).items()
    }
    if method.traits.ensemble:
        names, counts = zip(*sizes.values(), strict=True)
        sizes[method.traits.ensemble] = (" + ".join(names), sum(counts))
    return {
        name: {
            "name": net,
            "parameters": count,
            "epoch": epoch,
            **metrics.network_summary(history, name, config.data.select_on),
        }
        for name, (net, count) in sizes.items()
    }


def estimated_rate(experiment: "Experiment", report: Report, beliefs: np.ndarray, table: Any) -> float:
    """1 - Σ_y π_y T̂[y, y] with the class prior π of the corrected labels; without T̂, or where it is of labels that
    another run has corrected, the share of labels flagged."""
    if report.transition is None or experiment.dataset.soft_label is not None:
        return float(np.mean(column(table, "is_label_issue")[column(table, "split") == "noisy"]))
    return float(1.0 - beliefs.mean(axis=0) @ np.diagonal(report.transition))


def column(table: Any, name: str) -> np.ndarray:
    """A column of the label table."""
    values: np.ndarray = table[name].to_numpy(zero_copy_only=False)
    return values


def label_summary(table: Any, truth: np.ndarray) -> dict[str, float | None]:
    """Accuracy of the noisy split's labels before and after, and the detection scores; truth is used here only.

    Where the truth i32[N] of the table's rows is unknown (-1) a row is left out of them; None where it always is.
    """
    noisy = column(table, "split") == "noisy"
    flagged = int(column(table, "is_label_issue")[noisy].sum())
    noisy &= truth >= 0
    given, corrected, score, flags = (
        column(table, name)[noisy] for name in ("given_label", "corrected_label", "label_score", "is_label_issue")
    )
    return {
        "accuracy_before": metrics.accuracy(given, truth[noisy]),
        "accuracy_after": metrics.accuracy(corrected, truth[noisy]),
        **detection(given != truth[noisy], score, flags),
        "flagged": flagged,
    }
