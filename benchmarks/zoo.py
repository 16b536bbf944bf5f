"""The zoo: corrections, confidence and promises on many kinds of data and noise, clean labels among them.

    python benchmarks/zoo.py --features FOLDER --seeds 0,1,2 --out zoo.json      # $KDMLC_DATA for the data

So far `labels.vouch` on features, with no network. Prints a table, one line a cell and seed, and how many cells keep
what is promised; writes the figures as JSON.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from kdmlc_jax import metrics
from kdmlc_jax.labels.candidates import replaced
from kdmlc_jax.labels.vouch import Vouched, vouch

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import zoo_cells

# data, noise, rate, trusted rows, uneven classes
CELLS = [
    ("digits", "uniform", 0.0, 100, False),
    ("digits", "uniform", 0.2, 20, False),
    ("digits", "pair", 0.4, 50, False),
    ("digits", "uniform", 0.8, 200, False),
    ("fashion_pca", "uniform", 0.0, 100, False),
    ("fashion_pca", "uniform", 0.2, 20, False),
    ("fashion", "uniform", 0.05, 500, False),
    ("fashion_pca", "flip", 0.4, 300, False),
    ("fashion_pca", "uniform", 0.8, 1000, False),
    ("fashion_pca", "instance_published", 0.4, 300, False),
    ("fashion_pca", "twins", 0.2, 200, False),
    ("fashion_pca", "twins", 0.2, 200, True),
    ("cifar", "uniform", 0.0, 200, False),
    ("cifar_pca", "uniform", 0.2, 200, False),
    ("cifar_pca", "flip", 0.4, 500, False),
    ("cifar_pca", "worst", 0.0, 200, False),
    ("cifar_pca", "aggre", 0.0, 1000, False),
    ("gauss0.5", "uniform", 0.2, 100, False),
    ("gauss0.8", "uniform", 0.0, 100, False),
    ("gauss0.8", "uniform", 0.05, 20, False),
    ("gauss0.8", "pair", 0.45, 200, False),
    ("gauss0.8", "uniform", 0.8, 200, False),
    ("gauss0.8", "uniform", 0.2, 100, True),
    ("photos", "folder", 0.3, 150, False),
    ("photos", "folder", 0.3, 60, False),
    ("photos_pixels_pca", "folder", 0.3, 150, False),
    ("cifar_features", "uniform", 0.0, 300, False),
    ("cifar_features", "uniform", 0.05, 20, False),
    ("cifar_features", "uniform", 0.2, 300, False),
    ("cifar_features", "uniform", 0.4, 200, True),
    ("cifar_features", "uniform", 0.8, 1000, False),
    ("cifar_features", "pair", 0.45, 100, False),
    ("cifar_features", "worst", 0.0, 300, False),
    ("cifar_features", "random1", 0.0, 200, False),
    ("cifar_features", "aggre", 0.0, 200, False),
]
PRECISION = 0.9


def scores(found: Vouched, cell: zoo_cells.Cell) -> dict:
    """The figures of one cell."""
    wrong, q = cell.given != cell.true, found.posterior
    applied = found.decision == "correct"
    review = found.decision == "review"
    rest = q.copy()
    rest[np.arange(len(q)), cell.given] = -1.0
    ranks = 0 < wrong.sum() < len(wrong)
    low, high = found.verdict.wrong[1:]
    return {
        "before": float(1 - wrong.mean()),
        "after": float(np.mean(found.corrected == cell.true)),
        "bare": float(np.mean(found.suggested == cell.true)),
        "threshold": np.asarray(found.chosen.threshold).tolist(),
        "ece": metrics.calibration_error(found.confidence, found.corrected == cell.true),
        "auroc_given": float(roc_auc_score(wrong, -found.given_right)) if ranks else None,
        "auroc_margin": float(roc_auc_score(wrong, rest.max(axis=1) - found.given_right)) if ranks else None,
        "applied": int(applied.sum()),
        "realised": float(np.mean(found.suggested[applied] == cell.true[applied])) if applied.any() else None,
        "promised": found.verdict.precision.estimate,
        "review": int(review.sum()),
        "review_expected": found.verdict.review_precision,
        "review_realised": float(np.mean(found.suggested[review] == cell.true[review])) if review.any() else None,
        "wrong": float(wrong.mean()),
        "wrong_estimate": found.verdict.wrong.estimate,
        "wrong_interval": [low, high],
        "covers": bool(low <= wrong.mean() <= high),
        "verdict": found.verdict.text(),
        "candidates": [
            [
                *(np.asarray(c.threshold).tolist(), *c[1:8]),
                float(np.mean(replaced(q, cell.given, c.threshold) == cell.true)),
            ]
            for c in found.chosen.candidates
        ],
    }


def line(name: str, s: dict) -> str:
    """A row of the table."""
    auroc = "     -      " if s["auroc_given"] is None else f"{s['auroc_given']:.3f} {s['auroc_margin']:.3f} "
    real = "  -  " if s["realised"] is None else f"{s['realised']:.3f}"
    low, high = s["wrong_interval"]
    return (
        f"{name:42s} {s['before']:.3f} -> {s['after']:.3f} (bare {s['bare']:.3f}, tau {np.mean(s['threshold']):4.2f}) "
        f"ece {s['ece']:.3f} auroc {auroc} apply {s['applied']:4d} at {real} review {s['review']:4d} "
        f"wrong {s['wrong']:.3f} in {low:.3f}-{high:.3f} {'yes' if s['covers'] else 'NO '} {s['seconds']:.1f} s"
    )


def kept(results: list[dict]) -> dict:
    """The shares of cells that keep each promise."""
    applied = [r for r in results if r["applied"]]
    return {
        "cells": len(results),
        "never worse than before - .002": np.mean([r["after"] >= r["before"] - 0.002 for r in results]),
        "ece <= .05": np.mean([r["ece"] <= 0.05 for r in results]),
        "realised precision >= promised": np.mean([r["realised"] >= PRECISION for r in applied]) if applied else None,
        "something applied": len(applied) / len(results),
        "rate interval covers": np.mean([r["covers"] for r in results]),
    }


def main() -> None:
    """Runs the cells asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", default="", help="folder of {cifar_features,photos,photos_pixels}.npz")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--only", default="", help="cells whose data set's name begins so")
    parser.add_argument("--out", default="zoo.json")
    args = parser.parse_args()
    results = []
    for data, kind, rate, trusted, uneven in CELLS:
        for seed in map(int, args.seeds.split(",")):
            if not data.startswith(args.only):
                continue
            name = f"{data} {kind} {rate:g} trusted {trusted}{' uneven' if uneven else ''} seed {seed}"
            try:
                c = zoo_cells.cell(data, kind, rate, trusted, seed, uneven, folder=args.features)
            except OSError as error:
                print(f"{name:42s} left out: {error}", flush=True)
                continue
            start = time.perf_counter()
            found = vouch(*c[:2], *c[3:], precision=PRECISION, seed=seed)
            result = {"name": name, **scores(found, c), "seconds": time.perf_counter() - start}
            results.append(result)
            print(line(name, result), flush=True)
    summary = kept(results)
    print("\n".join(f"{key}: {value if value is None else round(float(value), 3)}" for key, value in summary.items()))
    pathlib.Path(args.out).write_text(json.dumps({"kept": summary, "cells": results}, indent=1))


if __name__ == "__main__":
    main()
