"""Time and memory of purifying labels, on random features with a cluster a class; each size in a process of its own.

    python benchmarks/purify_speed.py --sizes 12500,25000,50000 --out benchmarks/results/purify_speed.json

Prints JSON. Per size: seconds of `purify` (compilation included, features in memory), the peak of the process's
resident memory in MiB before and after it, and labels right before and after. Memory is linear in the number of rows
if `mib_added` doubles with it, apart from the constant of compilation.
"""

import time

import alone
import jax
import numpy as np

from kdmlc_jax.labels.purify import purify


def measure(size: int, width: int, classes: int, epochs: int, trusted: int) -> dict:
    """Purifies once, half of the labels being uniform noise."""
    rng = np.random.default_rng(0)
    features, truth = alone.clusters(rng, size + trusted, width, classes)
    noisy, known = features[:size], features[size:]
    given = np.where(rng.random(size) < 0.5, rng.integers(0, classes, size), truth[:size])
    jax.devices()
    before, start_time = alone.peak(), time.perf_counter()
    soft = purify(noisy, given, known, truth[size:], epochs=epochs)
    seconds = time.perf_counter() - start_time
    return {
        "rows": size,
        "seconds": round(seconds, 2),
        **alone.memory(before),
        "right_before": float(np.mean(given == truth[:size])),
        "right_after": float(np.mean(soft.argmax(axis=1) == truth[:size])),
    }


if __name__ == "__main__":
    alone.main(__doc__, measure, {"width": 512, "classes": 10, "epochs": 100, "trusted": 1000})
