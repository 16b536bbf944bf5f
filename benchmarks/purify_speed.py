"""Time and memory of purifying labels, on random features with a cluster a class; each size in a process of its own.

    python benchmarks/purify_speed.py --sizes 12500,25000,50000 --out benchmarks/results/purify_speed.json

Prints JSON. Per size: seconds of `purify` (compilation included, features in memory), the peak of the process's
resident memory in MiB before and after it, and labels right before and after. Memory is linear in the number of rows
if `mib_added` doubles with it, apart from the constant of compilation.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import jax
import numpy as np

from kdmlc_jax.purify import purify


def measure(size: int, width: int, classes: int, epochs: int, trusted: int) -> dict:
    """Purifies once, half of the labels being uniform noise."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width)).astype(np.float32) / np.float32(2)
    truth = rng.permutation(np.arange(size + trusted) % classes)
    features = rng.standard_normal((size + trusted, width), np.float32)
    for start in range(0, len(features), 4096):  # in pieces: the peak is to be that of purify
        features[start : start + 4096] += centres[truth[start : start + 4096]]
    noisy, known = features[:size], features[size:]
    given = np.where(rng.random(size) < 0.5, rng.integers(0, classes, size), truth[:size])
    jax.devices()
    before, start_time = _peak(), time.perf_counter()
    soft = purify(noisy, given, known, truth[size:], epochs=epochs)
    seconds = time.perf_counter() - start_time
    return {
        "rows": size,
        "seconds": round(seconds, 2),
        "mib_before": round(before),
        "mib_peak": round(_peak()),
        "mib_added": round(_peak() - before),
        "right_before": float(np.mean(given == truth[:size])),
        "right_after": float(np.mean(soft.argmax(axis=1) == truth[:size])),
    }


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    """Measures each size and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="12500,25000,50000")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--trusted", type=int, default=1000)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # the size that a child process measures
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(measure(flags.one, flags.width, flags.classes, flags.epochs, flags.trusted)))
        return
    rows = []
    for size in flags.sizes.split(","):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", size]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    result = {
        "width": flags.width,
        "classes": flags.classes,
        "epochs": flags.epochs,
        "trusted": flags.trusted,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax": jax.__version__,
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    if flags.out:
        flags.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
