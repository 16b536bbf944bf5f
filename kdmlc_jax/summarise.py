"""The end of a run: labels corrected and written, the deployed network saved, all figures in one dictionary."""

import importlib.metadata
import pathlib
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from kdmlc_jax import export, labels, metrics, parallel
from kdmlc_jax.data import noise
from kdmlc_jax.methods.base import Method

if TYPE_CHECKING:
    from kdmlc_jax.job import Run


def finish(job: "Run", current: Any, progress: dict, workdir: pathlib.Path) -> dict:
    """Corrects the labels, writes the table and the deployed network, and returns the summary."""
    data, config, method, history = job.dataset, job.config, job.method, progress["history"]
    rows = np.concatenate(data.splits)
    names = np.repeat(data.splits._fields, [len(part) for part in data.splits])
    beliefs = job.beliefs(current, rows)
    trusted = names == "trusted"
    beliefs[trusted] = np.eye(job.info.num_classes, dtype=np.float32)[data.given_label[rows[trusted]]]
    table = labels.table(data.ids[rows], names, data.given_label[rows], beliefs, data.class_names)
    deployed = parallel.fetch(method.networks[method.deployed](current))
    if parallel.is_main():
        labels.write(table, workdir)
        export.save(workdir / method.deployed, deployed, describe(job, method.deployed))
    return {
        "method": config.method.name,
        "options": config.method.to_dict(),
        "dataset": data.name,
        "seed": config.seed,
        "versions": {package: importlib.metadata.version(package) for package in ("jax", "flax", "optax", "numpy")},
        "device": device(job),
        "noise": {
            "kind": config.noise.kind,
            "nominal": config.noise.rate if config.noise.kind in noise.RATED else None,
            "realised": data.rate,
            "estimated": estimated_rate(method, current, beliefs[names == "noisy"]),
        },
        "networks": {
            name: {
                "name": config[name].net,
                "parameters": sum(leaf.size for leaf in jax.tree.leaves(net(current).params)),
                **metrics.network_summary(history, name, config.data.select_on),
            }
            for name, net in method.networks.items()
        },
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


def device(job: "Run") -> str:
    """'8 x NVIDIA H100, 2 processes, fsdp'."""
    how = [f"{job.mesh.size} x {job.mesh.devices.flat[0].device_kind}"]
    how += [] if parallel.alone() else [f"{jax.process_count()} processes"]
    how += [word for word in (job.config.parallel.mode, job.config.parallel.sharding) if word in ("pmap", "fsdp")]
    return ", ".join(how)


def describe(job: "Run", network: str) -> dict:
    """What a program needs, beside the weights, to run the network: see `export.save`."""
    return {
        "net": job.config[network].net,
        "class_names": list(job.dataset.class_names),
        "image_shape": list(job.info.image_shape),
        "mean": np.asarray(job.fixed["mean"]).tolist(),
        "std": np.asarray(job.fixed["std"]).tolist(),
    }


def estimated_rate(method: Method, current: Any, beliefs: np.ndarray) -> float | None:
    """1 - Σ_y π_y T̂[y, y] with the class prior π of the corrected labels; None where the method has no T̂."""
    if method.transition is None:
        return None
    return float(1.0 - beliefs.mean(axis=0) @ np.diagonal(parallel.fetch(method.transition(current))))


def label_summary(table: Any, truth: np.ndarray) -> dict[str, float | None]:
    """Accuracy of the noisy split's labels before and after, and the detection scores; truth is used here only.

    Where the truth i32[N] of the table's rows is unknown (-1) a row is left out of them; None where it always is.
    """
    noisy = table["split"].to_numpy(zero_copy_only=False) == "noisy"
    flagged = int(table["is_label_issue"].to_numpy(zero_copy_only=False)[noisy].sum())
    noisy &= truth >= 0
    column = {name: table[name].to_numpy(zero_copy_only=False)[noisy] for name in table.column_names}
    wrong = column["given_label"] != truth[noisy]
    return {
        "accuracy_before": metrics.accuracy(column["given_label"], truth[noisy]),
        "accuracy_after": metrics.accuracy(column["corrected_label"], truth[noisy]),
        **labels.detection(wrong, column["label_score"], column["is_label_issue"]),
        "flagged": flagged,
    }
