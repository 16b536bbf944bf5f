"""The zoo, by whole runs: every method's labels, vouched for, on the zoo's cells.

    python benchmarks/zoo_runs.py --features FOLDER --seeds 0 --workdir runs/zoo --out zoo_runs.json

Networks mlp64 (teacher) and mlp32 (student) on each cell's features, short runs; a line each with the labels right
before, after, and by the method alone, the calibration error of `confidence`, the realised precision of `decision` =
correct, the rate's interval against the truth, and the deployed network's accuracy on a fifth of the rows, kept as the
test part. A run that is finished is not made again.
"""

import argparse
import json
import pathlib
import sys

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax import train
from kdmlc_jax.errors import UserError

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import zoo
import zoo_cells

METHODS = (
    "linear",
    "ce:train_on=noisy",
    "ce:train_on=both",
    "kd",
    "mlc",
    "kdmlc:preset=strong",
    "blind_kd",
    "dmlp",
    "aml_kd",
)
FIELDS = {
    "data.source": "features",
    "data.validation": 0.1,
    "data.trusted": 0.0,
    "data.verify": False,
    "noise.kind": "none",
    "teacher.net": "mlp64",
    "student.net": "mlp32",
    "train.epochs": 15,
    "devices": 1,
    "checkpoint.every": 100,
}


def write(cell: zoo_cells.Cell, folder: pathlib.Path) -> pathlib.Path:
    """The cell as a folder that the source `features` reads; its last fifth is the test part."""
    folder.mkdir(parents=True, exist_ok=True)
    train = slice(0, len(cell.given) * 4 // 5)
    features = np.concatenate([cell.features[train], cell.trusted_features]).astype(np.float32)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    arrays = {
        "features": (features - mean) / deviation,
        "labels": np.concatenate([cell.given[train], cell.trusted_label]),
        "true_labels": np.concatenate([cell.true[train], cell.trusted_label]),
        "trusted": train.stop + np.arange(len(cell.trusted_label)),
        "test_features": ((cell.features[train.stop :] - mean) / deviation).astype(np.float32),
        "test_labels": cell.true[train.stop :],
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def configured(folder: pathlib.Path, method: str, trusted: int, seed: int) -> ConfigDict:
    """A short run of `method` ("ce:train_on=noisy") on the cell in `folder`."""
    name, _, arguments = method.partition(":")
    made = config_lib.base()
    made.update_from_flattened_dict(FIELDS)
    made.data.dir, made.seed = str(folder), seed
    made.train.trusted_batch_size = min(50, trusted)
    chosen = config_lib.parse_arguments(arguments)
    if name == "dmlp":
        chosen["features"] = str(folder / "features.npy")
    return config_lib.resolve(made, {"method": name, **chosen})


def figures(summary: dict) -> dict:
    """What the table shows of a run."""
    labels, verdict, noise = summary["labels"], summary["verdict"], summary["noise"]
    low, high = noise["interval"] or (0.0, 1.0)
    deployed = summary["networks"][summary["deployed"]]
    return {
        "deployed": deployed["last"],
        "deployed_best_val": deployed["best_val"],
        "before": labels["accuracy_before"],
        "after": labels["accuracy_after"],
        "method": labels["accuracy_method"],
        "suggested": labels["accuracy_suggested"],
        "ece": labels["ece"],
        "auroc": labels["auroc"],
        "applied": verdict["corrections"],
        "realised": labels["applied_precision"],
        "wrong": noise["realised"],
        "interval": [low, high],
        "covers": bool(low <= noise["realised"] <= high),
        "seconds": summary["seconds"],
    }


def line(name: str, s: dict) -> str:
    """A row of the table."""
    real = "  -  " if s["realised"] is None else f"{s['realised']:.3f}"
    low, high = s["interval"]
    return (
        f"{name:78s} {s['before']:.3f} -> {s['after']:.3f} (method {s['method']:.3f}, bare {s['suggested']:.3f}) "
        f"test {s['deployed']:.3f} ece {s['ece']:.3f} apply {s['applied']:4d} at {real} "
        f"wrong {s['wrong']:.3f} in {low:.3f}-{high:.3f} {'yes' if s['covers'] else 'NO '} {s['seconds']:.0f} s"
    )


def main() -> None:
    """Runs the cells and methods asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="", help="folder of {cifar_features,photos,photos_pixels}.npz")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--only", default="", help="cells whose data set's name begins so, or so")
    parser.add_argument("--methods", default=" ".join(METHODS))
    parser.add_argument("--workdir", default="runs/zoo")
    parser.add_argument("--out", default="zoo_runs.json")
    args = parser.parse_args()
    results, folder = [], pathlib.Path(args.workdir)
    for data, kind, rate, trusted, uneven in zoo.CELLS:
        for seed in map(int, args.seeds.split(",")):
            if not data.startswith(tuple(args.only.split(","))):
                continue
            cell_name = f"{data} {kind} {rate:g} trusted {trusted}{' uneven' if uneven else ''} seed {seed}"
            try:
                cell = zoo_cells.cell(data, kind, rate, trusted, seed, uneven, folder=args.features)
            except OSError as error:
                print(f"{cell_name:42s} left out: {error}", flush=True)
                continue
            there = write(cell, folder / "data" / cell_name.replace(" ", "_"))
            for method in args.methods.split():
                config = configured(there, method, len(cell.trusted_label), seed)
                name = f"{cell_name}  {method}"
                workdir = folder / name.replace(" ", "_").replace(":", "-")
                try:
                    done = workdir / "summary.json"
                    summary = json.loads(done.read_text()) if done.exists() else train.run(config, workdir, quiet=True)
                except UserError as error:
                    print(f"{name:78s} refused: {error}", flush=True)
                    continue
                results.append({"name": name, **figures(summary)})
                print(line(name, results[-1]), flush=True)
                pathlib.Path(args.out).write_text(json.dumps(results, indent=1))
    summary = zoo.kept(results)
    print("\n".join(f"{key}: {value if value is None else round(float(value), 3)}" for key, value in summary.items()))
    pathlib.Path(args.out).write_text(json.dumps({"kept": summary, "cells": results}, indent=1))


if __name__ == "__main__":
    main()
