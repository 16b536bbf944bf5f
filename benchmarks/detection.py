"""Finding wrong labels without trusted ones: methods beside cleanlab on cross-validated probabilities.

    python benchmarks/detection.py --config configs/digits.py:noise=uniform,rate=0.4,trusted=0 … \\
        --methods "ce:train_on=noisy,network=teacher blind_kd" --seeds 0,1,2 --workdir runs/detection

The methods run as in `python -m kdmlc_jax.compare`. Their peer is `cleanlab.filter.find_label_issues` on probabilities
of plain training on the noisy labels, K-fold cross-validated, on the teacher's network: of the last epoch, and of each
fold's epoch that was best on the validation split with its noisy labels. All rows are for the same images and labels.
Writes detection.json and detection.md into the workdir; finished cells are read, not run again.
"""

import argparse
import json
import pathlib

import numpy as np

from kdmlc_jax import config as config_lib
from kdmlc_jax import train
from kdmlc_jax.compare import grid, table
from kdmlc_jax.config import words as words_lib
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.detection import detection
from kdmlc_jax.storage import files

FILTERS = ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "predicted_neq_given")
DEFAULT = FILTERS[0]  # cleanlab's own
PLAIN = "method=ce,train_on=noisy,network=teacher"
SCORES = ("f1", "precision", "recall", "auroc", "average_precision")


def cross_validated(config, dataset: Dataset, folds: int) -> dict[str, np.ndarray]:
    """Probabilities f32[N, C] of the noisy images by networks that have not seen them, {"last", "best_val"}."""
    rows, held = dataset.splits.noisy, dataset.splits.validation
    fold = np.arange(len(rows)) % folds  # the rows are a permutation
    found = {name: np.zeros((len(rows), len(dataset.class_names)), np.float32) for name in ("last", "best_val")}
    for number in range(folds):
        own = fold == number
        job = train.Experiment(config, dataset._replace(splits=dataset.splits._replace(noisy=rows[~own])))
        (stage,), carry, best = job.method.stages, job.init(), -1.0
        compiled, steps = job.compile(stage), job.info.steps_per_epoch
        for epoch in range(stage.epochs):
            for feed in job.feeds(stage, epoch * steps, (epoch + 1) * steps):
                carry, _ = job.call(compiled, carry, feed)
            guess = job.evaluator.beliefs(carry["method"], held).argmax(axis=1)
            accuracy = np.mean(guess == dataset.given_label[held])
            if accuracy > best:
                best, found["best_val"][own] = accuracy, job.evaluator.beliefs(carry["method"], rows[own])
        found["last"][own] = job.evaluator.beliefs(carry["method"], rows[own])
    return found


def peer(spec: str, overrides: dict, seed: int, folds: int, workdir: pathlib.Path) -> dict[str, dict]:
    """cleanlab's detection scores, {"last" | "best_val": {filter: scores}}, kept in `workdir`."""
    config = config_lib.load(words_lib.join(spec, f"{PLAIN},seed={seed}"), overrides)
    asked = {"folds": folds, "config": config.to_dict()}
    kept = workdir / grid.cell_folder(spec, "cleanlab", seed) / "scores.json"
    if kept.exists():
        found = json.loads(kept.read_text())
        if found["asked"] != json.loads(json.dumps(asked)):
            raise UserError(f"{kept} was made with another config or another number of folds: choose another --workdir")
        return found["scores"]
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    dataset = prepare(config)
    rows = dataset.splits.noisy
    if not len(dataset.splits.validation):
        raise UserError("data.validation: no validation images, by which cleanlab's networks stop early, expected some")
    given = dataset.given_label[rows]
    wrong, scores = given != dataset.truth[rows], {}
    for epoch, found in cross_validated(config, dataset, folds).items():
        beliefs = found / found.sum(axis=1, keepdims=True)
        quality = get_label_quality_scores(given, beliefs)
        scores[epoch] = {}
        for how in FILTERS:
            flags = find_label_issues(given, beliefs, filter_by=how, n_jobs=1)
            scores[epoch][how] = detection(wrong, quality, flags) | {"estimated": float(flags.mean())}
    files.make_directory(kept.parent)
    files.write_json(kept, {"asked": asked, "scores": scores})
    return scores


def rows_of(spec: str, summaries: dict[str, list[dict]], peers: list[dict]) -> list[dict]:
    """One row a method and two for cleanlab; {"mean", "std"} of each figure over the seeds."""
    rows = []
    for words, cells in summaries.items():
        row = {"config": spec, "method": words_lib.short(words)}
        row |= {name: table.mean_std([cell["labels"][name] for cell in cells]) for name in SCORES}
        row |= {name: table.mean_std([cell["noise"][name] for cell in cells]) for name in ("realised", "estimated")}
        for network in cells[0]["networks"]:
            for name in ("last", "best_val"):
                row[f"{network}_{name}"] = table.mean_std([cell["networks"][network][name] for cell in cells])
        row["diagnostics"] = [cell["diagnostics"].get("epoch") for cell in cells]
        rows.append(row)
    for epoch in peers[0]:
        for how in FILTERS:
            row = {"config": spec, "method": f"cleanlab {how}, {epoch}"}
            row |= {name: table.mean_std([each[epoch][how][name] for each in peers]) for name in (*SCORES, "estimated")}
            rows.append(row | {"realised": rows[0]["realised"]})
    return rows


def markdown(rows: list[dict]) -> str:
    """The table; of cleanlab's filters only its default."""
    head = ["config", "method", "F1", "precision", "recall", "AUROC", "rate", "estimated"]
    head += ["teacher last", "best val", "student last", "best val", "both last", "best val"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        if row["method"].startswith("cleanlab") and DEFAULT not in row["method"]:
            continue
        cells = [row["config"], row["method"]]
        cells += [table.show(row[name]) for name in ("f1", "precision", "recall", "auroc", "realised", "estimated")]
        for network in ("teacher", "student", "agreement"):
            cells += [table.show(row.get(f"{network}_{name}")) for name in ("last", "best_val")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reads the flags, runs all cells and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, metavar="PATH:ARGUMENTS")
    parser.add_argument("--methods", required=True)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    flags, rest = parser.parse_known_args()
    overrides = dict(field.removeprefix("--config.").split("=", 1) for field in rest)
    seeds, rows = [int(seed) for seed in flags.seeds.split(",")], []
    arguments = [words for method in flags.methods.split() for words in words_lib.expand(method)]
    for spec in flags.config:
        summaries: dict[str, list[dict]] = {}
        for config, folder, words in grid.cells_of([spec], arguments, seeds, overrides):
            title = f"{words} seed {config.seed}"
            summaries.setdefault(words, []).append(train.run(config, flags.workdir / folder, title=title))
        rows += rows_of(spec, summaries, [peer(spec, overrides, seed, flags.folds, flags.workdir) for seed in seeds])
        files.write_json(flags.workdir / "detection.json", rows)
        files.write_text(flags.workdir / "detection.md", markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    main()
