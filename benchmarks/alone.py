"""What speed benchmarks of functions on arrays share: each size in a process of its own, whose memory is then known."""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np


def clusters(random: np.random.Generator, size: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Random features f32[size, width] with a cluster a class, and the classes i64[size]."""
    centres = random.normal(size=(classes, width)).astype(np.float32) / np.float32(2)
    truth = random.permutation(np.arange(size) % classes)
    features = random.standard_normal((size, width), np.float32)
    for start in range(0, size, 4096):  # in pieces: the peak is to be that of what is measured
        features[start : start + 4096] += centres[truth[start : start + 4096]]
    return features, truth


def peak() -> float:
    """The most resident memory that this process has had, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10


def memory(before: float) -> dict[str, int]:
    """The columns of memory: the peak before, now, and what was added."""
    return {"mib_before": round(before), "mib_peak": round(peak()), "mib_added": round(peak() - before)}


def main(description: str, measure: Callable[..., dict], settings: dict[str, int]) -> None:
    """Measures each size and writes the result.

    Args:
      description: of the program.
      measure: (size, **settings) -> a row.
      settings: flags and their defaults.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="12500,25000,50000")
    for name, default in settings.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # the size that a child process measures
    parser.add_argument("--out", type=pathlib.Path)
    flags = parser.parse_args()
    chosen = {name: getattr(flags, name) for name in settings}
    if flags.one:
        print(json.dumps(measure(flags.one, **chosen)))
        return
    rows = []
    for size in flags.sizes.split(","):
        command = [sys.executable, *sys.argv, "--one", size]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
    result = {
        **chosen,
        "device": jax.devices()[0].device_kind,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "jax": jax.__version__,
        "rows": rows,
    }
    print(json.dumps(result, indent=2))
    if flags.out:
        flags.out.write_text(json.dumps(result, indent=2) + "\n")
