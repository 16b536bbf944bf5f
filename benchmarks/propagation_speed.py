"""Time and memory of propagating labels, on random features with a cluster a class; each size in a process of its own.

    python benchmarks/propagation_speed.py --sizes 12500,25000,50000 --out benchmarks/results/propagation_speed.json

Prints JSON. Per size: seconds of `propagate` (compilation included, features in memory), wall clock and of the
processor, the peak of the process's resident memory in MiB before and after it, and labels right among the rows
without a seed. Memory is linear in the number of rows if `mib_added` doubles with it, apart from the constant of
compilation; time grows with the square.
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

from kdmlc_jax.propagation import propagate


def measure(size: int, width: int, classes: int, seeds: int, neighbours: int, block: int) -> dict:
    """Propagates once, from `seeds` rows of known class."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, width)).astype(np.float32) / np.float32(2)
    truth = rng.permutation(np.arange(size) % classes)
    features = rng.standard_normal((size, width), np.float32)
    for start in range(0, size, 4096):  # in pieces: the peak is to be that of propagate
        features[start : start + 4096] += centres[truth[start : start + 4096]]
    known = np.where(np.arange(size) < seeds, truth, -1)
    jax.devices()
    before, start_time, start_cpu = _peak(), time.perf_counter(), time.process_time()
    soft, confidence = propagate(features, known, num_classes=classes, neighbours=neighbours, block=block)
    seconds, cpu_seconds = time.perf_counter() - start_time, time.process_time() - start_cpu
    return {
        "rows": size,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "mib_before": round(before),
        "mib_peak": round(_peak()),
        "mib_added": round(_peak() - before),
        "right": float(np.mean(soft.argmax(axis=1)[seeds:] == truth[seeds:])),
        "confidence": float(np.mean(confidence)),
    }


def _peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    """Measures each size and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="12500,25000,50000")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--neighbours", type=int, default=20)
    parser.add_argument("--block", type=int, default=512)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # the size that a child process measures
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    settings = {name: getattr(flags, name) for name in ("width", "classes", "seeds", "neighbours", "block")}
    if flags.one:
        print(json.dumps(measure(flags.one, **settings)))
        return
    rows = []
    for size in flags.sizes.split(","):
        command = [sys.executable, __file__, *sys.argv[1:], "--one", size]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    result = {
        **settings,
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
