"""What pays on features of a frozen encoder: every method, several kinds of noise, several seeds; one table.

    python -m kdmlc_jax.embed --config configs/cifar10.py --encoder WEIGHTS --size 112 --out features/cifar10
    python benchmarks/frozen.py --features features/cifar10 --first 12000 3000 --jobs 2 --out frozen.json

Each cell is a run of `configs/features.py` with 1 000 trusted images, none of them held out (labels are judged by their
truth, not by the run), 10 epochs of batches of 100. A row each: test accuracy of the deployed network in its last
epoch, labels right as given and as the method believes them, and how well wrong labels are found (F1 of its own flags,
AUROC of its ranking). `--first 12000 3000` takes the first images of training and test part alone, as the kept tables
do; `--labels worst=worst.npy` adds labels of people. A cell that is in the file is not made again.
"""

import argparse
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
import shutil
import statistics
import tempfile
import time

import numpy as np

METHODS = (
    "linear",
    "linear:train_on=noisy",
    "knn",
    "wann",
    "ce:train_on=noisy",
    "ce:train_on=trusted",
    "ce:train_on=both",
    "mlc:network=student",
    "kdmlc:preset=paper",
    "kdmlc:preset=strong",
    "dmlp",
    "blind_kd",
    "aml_kd",
)
NOISE = ("uniform,rate=0.2", "uniform,rate=0.5", "uniform,rate=0.8", "flip,rate=0.4", "instance,rate=0.4")


def run(folder: str, noisy: int, method: str, noise: str, seed: int) -> dict:
    """One cell; `noise` is NAME: SPEC where it has a name."""
    from kdmlc_jax import config, train

    name, _, options = method.partition(":")
    called, _, described = noise.rpartition(": ")
    spec = f"configs/features.py:dir={folder},method={name},noise={described},trusted=1000,seed={seed},epochs=10"
    spec += f",noisy={noisy},held_out=0,validation=0" + (f",{options}" if options else "")
    made = config.load(spec, {"train.batch_size": "100", "train.trusted_batch_size": "100"})
    made.baselines = ()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as workdir:
        summary = train.run(made, pathlib.Path(workdir), quiet=True)
    network = summary["networks"][summary["deployed"]]
    labels = summary["labels"]
    return {
        **{
            "method": method,
            "noise": called or noise,
            "seed": seed,
            "network": network["name"],
            "last": network["last"],
        },
        **{f"labels_{name}": labels.get(f"accuracy_{name}") for name in ("before", "method")},
        "detection": summary["noise"].get("detection"),
        "seconds": time.monotonic() - began,
    }


def first(folder: pathlib.Path, train: int, test: int, into: pathlib.Path) -> pathlib.Path:
    """A folder of the first rows of each part of another one."""
    for path in folder.glob("*.npy"):
        rows = np.load(path, mmap_mode="r")[: test if path.name.startswith("test_") else train]
        np.save(into / path.name, rows)
    for path in folder.glob("classes.txt"):
        shutil.copy(path, into)
    return into


def table(rows: list[dict], figure: str) -> str:
    """Means of a figure over the seeds ± their standard deviation (seeds), a row a method and a column a noise."""
    kinds = list(dict.fromkeys(row["noise"] for row in rows))
    lines = ["| | " + " | ".join(kinds) + " |", "|---" * (len(kinds) + 1) + "|"]
    for method in [each for each in METHODS if any(row["method"] == each for row in rows)]:
        cells = []
        for kind in kinds:
            found = [row[figure] for row in rows if (row["method"], row["noise"]) == (method, kind)]
            spread = f" ± {statistics.stdev(found):.3f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.3f}{spread} ({len(found)})" if found else "–")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines).replace("0.", ".")


def main() -> None:
    """Makes what is missing, several at a time, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", required=True)
    parser.add_argument("--first", type=int, nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--noisy", type=int, default=10_000)
    parser.add_argument("--labels", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--noise", nargs="*", default=list(NOISE))
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    flags = parser.parse_args()
    os.environ |= {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    rows = json.loads(flags.out.read_text()) if flags.out.exists() else []
    there = {(row["method"], row["noise"], row["seed"]) for row in rows}
    people = [f"{name}: file,file={path}" for name, _, path in (each.partition("=") for each in flags.labels)]
    cells = itertools.product(flags.seeds, [*flags.noise, *people], flags.methods)
    waiting = [(m, n, s) for s, n, m in cells if (m, n.partition(": ")[0], s) not in there]
    with (
        tempfile.TemporaryDirectory() as subset,
        concurrent.futures.ProcessPoolExecutor(flags.jobs, multiprocessing.get_context("spawn")) as pool,
    ):
        if flags.first:
            flags.features = str(first(pathlib.Path(flags.features), *flags.first, pathlib.Path(subset)))
        made = {pool.submit(run, flags.features, flags.noisy, *cell): cell for cell in waiting}
        for future in concurrent.futures.as_completed(made):
            try:
                rows.append(future.result())
            except Exception as error:  # one cell that cannot be made does not end the others
                print(made[future], f"failed: {error}", flush=True)
                continue
            print(*(rows[-1][name] for name in ("method", "noise", "seed", "last", "labels_method")), flush=True)
            flags.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("test accuracy", table(rows, "last"), "labels right", table(rows, "labels_method"), sep="\n\n")


if __name__ == "__main__":
    main()
