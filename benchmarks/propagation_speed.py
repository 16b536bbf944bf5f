"""Time and memory of propagating labels, on random features with a cluster a class; each size in a process of its own.

    python benchmarks/propagation_speed.py --sizes 12500,25000,50000 --out benchmarks/results/propagation_speed.json

Prints JSON. Per size: seconds of `propagate` (compilation included, features in memory), wall clock and of the
processor, the peak of the process's resident memory in MiB before and after it, and labels right among the rows
without a seed. Memory is linear in the number of rows if `mib_added` doubles with it, apart from the constant of
compilation; time grows with the square.
"""

import time

import alone
import jax
import numpy as np

from kdmlc_jax.labels.propagation import propagate


def measure(size: int, width: int, classes: int, seeds: int, neighbours: int, block: int) -> dict:
    """Propagates once, from `seeds` rows of known class."""
    features, truth = alone.clusters(np.random.default_rng(0), size, width, classes)
    known = np.where(np.arange(size) < seeds, truth, -1)
    jax.devices()
    before, start_time, start_cpu = alone.peak(), time.perf_counter(), time.process_time()
    soft, confidence = propagate(features, known, num_classes=classes, neighbours=neighbours, block=block)
    seconds, cpu_seconds = time.perf_counter() - start_time, time.process_time() - start_cpu
    return {
        "rows": size,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        **alone.memory(before),
        "right": float(np.mean(soft.argmax(axis=1)[seeds:] == truth[seeds:])),
        "confidence": float(np.mean(confidence)),
    }


if __name__ == "__main__":
    alone.main(__doc__, measure, {"width": 128, "classes": 10, "seeds": 1000, "neighbours": 20, "block": 512})
