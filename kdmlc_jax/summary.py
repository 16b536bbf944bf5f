"""The end of a run: labels corrected, outputs written, all figures in one dictionary."""

import dataclasses
import importlib.metadata
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax import metrics, outputs, parallel
from kdmlc_jax.assess import Assessment, assess
from kdmlc_jax.data import noise, pipeline
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.labels import decide
from kdmlc_jax.labels.detection import detection
from kdmlc_jax.labels.posterior import Interval
from kdmlc_jax.labels.table import Decided
from kdmlc_jax.labels.table import table as label_table
from kdmlc_jax.labels.verdict import not_assessed
from kdmlc_jax.methods.base import Report

if TYPE_CHECKING:
    from kdmlc_jax.experiment import Experiment

VERSIONS = ("kdmlc-jax", "jax", "flax", "optax", "numpy")


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
    own = experiment.evaluator.beliefs(state, rows)
    checked = (names == "trusted") | (names == "held_out")
    own[checked] = np.eye(experiment.info.num_classes, dtype=np.float32)[data.given_label[rows[checked]]]
    report: Report = parallel.fetch(method.report(state))
    believed = [own[names == name].argmax(axis=1) for name in ("noisy", "validation")]
    assessment = assess(experiment, state, np.concatenate(believed), workdir)
    if data.soft_label is not None or assessment.vouched:
        report = report.without_flags()
    beliefs, decided = vouched_for(assessment, own, data.reported_label[rows], names)
    table = label_table(
        data.ids[rows], names, data.reported_label[rows], beliefs, data.class_names, report.columns, decided
    )
    nets_summary = networks(experiment, state, epoch, counted(experiment, history))
    summary = {
        "method": config.method.name,
        "options": config.method.to_dict(),
        "data_digests": progress["data"],
        "dataset": data.name,
        "seed": config.seed,
        "versions": {package: importlib.metadata.version(package) for package in VERSIONS},
        "device": device(experiment),
        "noise": {
            "kind": config.noise.kind,
            "nominal": config.noise.rate if noise.is_rated(config.noise.kind) else None,
            "realised": data.rate,
            **noise_summary(experiment, report, own[names == "noisy"], table, assessment),
        },
        "verdict": verdict_summary(assessment, nets_summary[method.traits.deployed], progress),
        "deploy": config.deploy,
        "deployed": method.traits.deployed,
        "networks": nets_summary,
        "diagnostics": {name: value.tolist() for name, value in report.figures.items()},
        "panels": [panel._asdict() for panel in method.traits.panels],
        "notes": progress["notes"],
        "data": counted_data(data),
        "labels": label_summary(table, data.truth[rows], own.argmax(axis=1)),
        "changes": progress["changes"],
        "seconds": progress["seconds"],
        "images_per_second": progress["images_per_second"],
    }
    nets, fixed = parallel.fetch((method.networks(state), pipeline.scales(experiment.fixed)))
    result = outputs.Result(config, data, rows, beliefs, table, nets, fixed, history, summary)
    parallel.on_main(lambda: summary.update(files=outputs.write_all(result, workdir)))
    return summary


def counted_data(data: Dataset) -> dict:
    """How many images each split has, and how many there are copies of or could not be read."""
    sizes = {name: len(rows) for name, rows in data.splits._asdict().items()}
    return {**sizes, "skipped": len(data.skipped), "duplicates": data.duplicates and data.duplicates._asdict()}


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
    """Size, deployed epoch and accuracies of each network, and of their ensemble under its name.

    `balanced_accuracy` and `classes` are of the networks that are left, see `Evaluator.by_class`.
    """
    method, config = experiment.method, experiment.config
    sizes = {
        name: (config[name].net, sum(leaf.size for leaf in jax.tree.leaves(net.params)))
        for name, net in method.networks(state).items()
    }
    if method.traits.ensemble:
        names, counts = zip(*sizes.values(), strict=True)
        sizes[method.traits.ensemble] = (" + ".join(names), sum(counts))
    by_class = experiment.evaluator.by_class(state)
    return {
        name: {
            "name": net,
            "parameters": count,
            "epoch": epoch,
            **metrics.network_summary(history, name, config.data.select_on),
            **by_class.get(name, {"balanced_accuracy": None, "classes": {}}),
        }
        for name, (net, count) in sizes.items()
    }


def vouched_for(
    assessment: Assessment, own: Float[np.ndarray, "N C"], given: Int[np.ndarray, " N"], names: np.ndarray
) -> tuple[Float[np.ndarray, "N C"], Decided | None]:
    """What the table is made of: the posterior and decisions where trusted images vouch for any, else the method's own
    beliefs and none."""
    found = assessment.vouched
    if found is None:
        return own, None
    rows = np.concatenate([np.flatnonzero(names == "noisy"), np.flatnonzero(names == "validation")])
    beliefs, corrected = own.copy(), given.astype(np.int32)
    decision = np.full(len(given), decide.KEEP, found.decision.dtype)
    beliefs[rows], corrected[rows], decision[rows] = found.posterior, found.corrected, found.decision
    return beliefs, Decided(corrected, decision, found.score)


def verdict_summary(assessment: Assessment, deployed: dict, progress: dict) -> dict:
    """The verdict, and what its judges said of each candidate, as JSON.

    Args:
      assessment: of the labels.
      deployed: the network to deploy, as in the summary.
      progress: the loop's; its warnings, and those of the last epoch's guards, are doubts of the verdict.
    """
    doubts = [note.removeprefix("warning: ") for note in progress["notes"] if note.startswith("warning: ")]
    doubts += metrics.warnings(progress["history"][-1])
    more = f" The run warns: {'; '.join(doubts)}." if doubts else ""
    if assessment.vouched is None:
        return {
            "assessed": False,
            "text": not_assessed(assessment.why_not, deployed["validation_given"]) + more,
            "doubts": doubts,
        }
    verdict, chosen = assessment.vouched.verdict, assessment.vouched.chosen
    figures = {name: as_json(value) for name, value in dataclasses.asdict(verdict).items()}
    candidates = [{name: as_json(value) for name, value in c._asdict().items()} for c in chosen.candidates]
    judged = {"threshold": as_json(chosen.threshold), "candidates": candidates}
    held = assessment.held
    seen = {
        "depths": [{name: as_json(value) for name, value in depth._asdict().items()} for depth in held.depths],
        "reliability": metrics.reliability(held.confidence, held.right, held.weight),
    }
    return {
        "assessed": True,
        "text": verdict.text() + more,
        "apply": verdict.apply,
        **figures,
        **judged,
        **seen,
        "doubts": doubts,
    }


def as_json(value: Any) -> Any:
    """Intervals by their bounds, arrays and tuples as lists, None for what JSON does not know (NaN, infinity)."""
    if isinstance(value, Interval):
        return {bound: as_json(each) for bound, each in value._asdict().items()}
    if isinstance(value, (tuple, list, np.ndarray)):
        return [as_json(each) for each in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def noise_summary(
    experiment: "Experiment", report: Report, own: Float[np.ndarray, "n C"], table: Any, assessment: Assessment
) -> dict:
    """The share of wrong labels, with its 90 % interval, and T̂: by trusted images, or as the method has it."""
    found = assessment.vouched
    if found is None:
        transition = None if report.transition is None else np.asarray(report.transition).tolist()
        rate = estimated_rate(experiment, report, own, table)
        return {"estimated": rate, "interval": None, "transition": transition}
    wrong = found.verdict.wrong
    interval = None if np.isnan(wrong.low) else [wrong.low, wrong.high]
    return {"estimated": as_json(wrong.estimate), "interval": interval, "transition": found.transition.tolist()}


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


def label_summary(table: Any, truth: np.ndarray, own: np.ndarray) -> dict[str, float | None]:
    """Accuracy of the noisy split's labels before and after, and the detection scores; truth is used here only.

    Also of what is suggested, of what is decided to be corrected (its realised precision), and of the labels `own` that
    the method itself believes most, vouched for or not; ece is the expected calibration error of `confidence`.
    Where the truth i32[N] of the table's rows is unknown (-1) a row is left out of them; None where it always is.
    """
    noisy = column(table, "split") == "noisy"
    flagged = int(column(table, "is_label_issue")[noisy].sum())
    noisy &= truth >= 0
    names = ("given_label", "corrected_label", "suggested_label", "label_score", "is_label_issue", "confidence")
    given, corrected, suggested, score, flags, confidence = (column(table, name)[noisy] for name in names)
    applied = column(table, "decision")[noisy] == decide.CORRECT
    right = corrected == truth[noisy]
    return {
        "accuracy_before": metrics.accuracy(given, truth[noisy]),
        "accuracy_after": metrics.accuracy(corrected, truth[noisy]),
        "accuracy_suggested": metrics.accuracy(suggested, truth[noisy]),
        "accuracy_method": metrics.accuracy(own[noisy], truth[noisy]),
        "applied_precision": metrics.accuracy(corrected[applied], truth[noisy][applied]),
        "ece": metrics.calibration_error(confidence, right),
        **detection(given != truth[noisy], score, flags),
        "flagged": flagged,
    }
