"""Accumulating step metrics, watching them, and accuracies."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from kdmlc_jax.errors import NonFiniteError

# metric -> (lowest healthy epoch mean, what it means to fall below)
GUARDS = {
    "label_entropy_ratio": (0.5, "the corrected labels crowd into few classes: the corrector may be collapsing"),
}


class Meter:
    """Means of step metrics over an epoch; values are fetched one call late, so that the device never waits.

    Args:
      skip: steps with a number that is not finite are left out and counted instead of being an error.
      kept: what `kept()` gave where the epoch was cut.
    """

    def __init__(self, skip: bool = False, kept: dict | None = None) -> None:
        self._pending: tuple[int, Any] | None = None
        self._skip = skip
        self._sums: dict[str, float] = dict(kept["sums"]) if kept else {}
        self._count: int = kept["count"] if kept else 0
        self._skipped: int = kept["skipped"] if kept else 0

    def kept(self) -> dict:
        """All that an epoch cut here has to remember, as JSON."""
        self.settle()
        return {"sums": self._sums, "count": self._count, "skipped": self._skipped}

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Takes device metrics, f32[] of step `step` or f32[k] of k steps from there on, and settles those before.

        `finite` among them says whether the updated state is.

        Raises:
          NonFiniteError: naming the step and the metric that is NaN or infinite.
        """
        self.settle()
        self._pending = (step, metrics)

    def settle(self) -> None:
        """Fetches what is pending; raises NonFiniteError as `add`."""
        if self._pending is None:
            return
        first, metrics = self._pending
        self._pending = None
        columns = {name: np.atleast_1d(value) for name, value in jax.device_get(metrics).items()}
        for row in range(len(next(iter(columns.values())))):
            values = {name: float(column[row]) for name, column in columns.items()}
            finite = values.pop("finite", 1.0)
            wrong = [f"{name} is {value}" for name, value in values.items() if not np.isfinite(value)]
            if not finite and not wrong:
                wrong = ["the updated parameters are not finite"]
            if not wrong:
                self._sums = {name: self._sums.get(name, 0.0) + value for name, value in values.items()}
                self._count += 1
            elif self._skip:
                self._skipped += 1
            else:
                raise NonFiniteError(f"step {first + row}: {wrong[0]}", first + row)

    def means(self) -> dict[str, float]:
        """Means over the steps that counted, and how many were skipped, where that is allowed.

        Raises:
          NonFiniteError: where none counted.
        """
        self.settle()
        if not self._count:
            raise NonFiniteError(f"all {self._skipped} steps gave numbers that are not finite")
        means = {name: total / self._count for name, total in self._sums.items()}
        return means | ({"skipped_steps": self._skipped} if self._skip else {})


def warnings(means: dict[str, float]) -> list[str]:
    """One line for each guarded metric below its healthy range."""
    low = ((name, *GUARDS[name]) for name in GUARDS if name in means and means[name] < GUARDS[name][0])
    return [f"{name} is {means[name]:.2f}, below {limit:g}: {meaning}" for name, limit, meaning in low]


def accuracy(predicted: np.ndarray, label: np.ndarray) -> float | None:
    """Share of rows where they agree, as a fraction; None for no rows."""
    return float(np.mean(predicted == label)) if len(label) else None


def by_class(predicted: np.ndarray, label: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Balanced accuracy, and count, precision, recall and F1 of each class, as fractions.

    With n images of a class, t of them predicted so, p predicted so in all: precision t/p (None where p is 0), recall
    t/n (None where n is 0), F1 2t/(p + n) (None where both are 0). The balanced accuracy is the mean recall over the
    classes that occur.

    Args:
      predicted, label: i[N], N >= 1.
      class_names: C.
    """
    classes = len(class_names)
    true, guessed = (np.bincount(each, minlength=classes) for each in (label, predicted))
    right = np.bincount(label[predicted == label], minlength=classes)
    share = lambda top, below: top / below if below else None  # noqa: E731
    rows = {
        name: {"count": int(n), "precision": share(t, p), "recall": share(t, n), "f1": share(2 * t, p + n)}
        for name, t, p, n in zip(class_names, right.tolist(), guessed.tolist(), true.tolist(), strict=True)
    }
    recalls = [row["recall"] for row in rows.values() if row["recall"] is not None]
    return {"balanced_accuracy": float(np.mean(recalls)), "classes": rows}


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


def reliability(
    confidence: np.ndarray, right: np.ndarray, weight: np.ndarray | None = None, bins: int = 15
) -> dict[str, Any]:
    """How sure a classifier is and how often it is right, over `bins` equal bins of its confidence that are not empty.

    ece is the expected calibration error, the mean distance of the two weighted by rows (Guo et al. 2017, arXiv
    1706.04599); None for no rows.

    Args:
      confidence: f[N] in [0, 1].
      right: bool[N].
      weight: f[N]; None = 1 each.

    Returns:
      {"ece", "bins": [{"count", "confidence", "right"}]}, as JSON.
    """
    bin_of = np.minimum((np.asarray(confidence) * bins).astype(int), bins - 1)
    weight = np.ones(len(confidence)) if weight is None else weight
    parts = [np.flatnonzero((bin_of == one) & (weight > 0)) for one in np.unique(bin_of)]
    found = [
        {
            "count": float(weight[part].sum()),
            "confidence": float(np.average(confidence[part], weights=weight[part])),
            "right": float(np.average(right[part], weights=weight[part])),
        }
        for part in parts
        if len(part)
    ]
    total = sum(each["count"] for each in found)
    gaps = [abs(each["confidence"] - each["right"]) * each["count"] for each in found]
    return {"ece": sum(gaps) / total if total else None, "bins": found}


def calibration_error(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> float | None:
    """The ece of `reliability`."""
    ece: float | None = reliability(confidence, right, None, bins)["ece"]
    return ece
