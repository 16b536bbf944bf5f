"""Accumulating step metrics, watching them, and accuracies."""

from typing import Any

import jax
import numpy as np

from kdmlc_jax.errors import NonFiniteError

# metric -> (lowest healthy epoch mean, what it means to fall below)
GUARDS = {
    "label_entropy_ratio": (0.5, "the corrected labels crowd into few classes: the corrector may be collapsing"),
}


class Meter:
    """Means of step metrics over an epoch; values are fetched one step late, so that the device never waits."""

    def __init__(self) -> None:
        self._pending: tuple[int, Any] | None = None
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the device metrics of step `step`, and settles those of the step before.

        Raises:
          NonFiniteError: naming the step and the metric that is NaN or infinite.
        """
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Fetches what is pending; raises NonFiniteError as `add`."""
        if self._pending is None:
            return
        step, metrics = self._pending
        self._pending = None
        for name, value in jax.device_get(metrics).items():
            if not np.isfinite(value):
                raise NonFiniteError(f"step {step}: {name} is {float(value)}")
            self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._count += 1

    def means(self) -> dict[str, float]:
        """Means since the last call, which empties the meter."""
        self.settle()
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means


def warnings(means: dict[str, float]) -> list[str]:
    """One line for each guarded metric below its healthy range."""
    low = ((name, *GUARDS[name]) for name in GUARDS if name in means and means[name] < GUARDS[name][0])
    return [f"{name} is {means[name]:.2f}, below {limit:g}: {meaning}" for name, limit, meaning in low]


def accuracy(predicted: np.ndarray, label: np.ndarray) -> float | None:
    """Share of rows where they agree, as a fraction; None for no rows."""
    return float(np.mean(predicted == label)) if len(label) else None


def network_summary(history: list[dict], network: str, select_on: str) -> dict[str, float | None]:
    """last, last5, best_val, best_test and validation_given of one network from the epochs' rows, as fractions.

    best_val is the test accuracy of the epoch that was best on validation (the first of equals); None without one.
    best_test is an oracle: it chooses on the test set. All are None without a test set. validation_given is the last
    epoch's agreement with the given labels of the validation images.
    """
    validation = {"validation_given": history[-1].get(f"{network}_validation_given")}
    if any(row.get(f"{network}_test") is None for row in history):
        return dict.fromkeys(("last", "last5", "best_val", "best_test")) | validation
    test = [row[f"{network}_test"] for row in history]
    chosen = [row.get(f"{network}_validation_{select_on}") for row in history]
    best_val = None if None in chosen else test[int(np.argmax(np.array(chosen, float)))]
    best = {"best_val": best_val, "best_test": max(test)}
    return {"last": test[-1], "last5": float(np.mean(test[-5:])), **best, **validation}
