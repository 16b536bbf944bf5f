"""Seeds of a propagation by their losses, and what it makes of them (AML-KD, doi 10.1109/TNNLS.2023.3335829).

Functions of host arrays, for whole sets.
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from kdmlc_jax.labels.thresholds import upper_probability
from kdmlc_jax.labels.transition import counted_transition

SHARPNESS = 4.0  # of propagated soft labels as a belief; chosen on seed 10 (benchmarks)


def smallest(values: Float[np.ndarray, " N"], share: float | int) -> Bool[np.ndarray, " N"]:
    """The given share of the rows, those with the smallest values; of equal ones the first."""
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(values, kind="stable")[: round(share * len(values))]] = True
    return chosen


def small_losses(
    loss: Float[np.ndarray, " N"], given_label: Int[np.ndarray, " N"], noise_rate: Float[np.ndarray, " C"]
) -> Bool[np.ndarray, " N"]:
    """Of each label's rows the share 1 - r with the smallest loss, but one or more."""
    chosen = np.zeros(len(loss), bool)
    for number, rate in enumerate(noise_rate):
        rows = np.flatnonzero(given_label == number)
        chosen[rows] = smallest(loss[rows], max(1.0 - float(rate), 1.0 / max(len(rows), 1)))
    return chosen


def estimated_noise(
    loss: Float[np.ndarray, " N"], given_label: Int[np.ndarray, " N"], num_classes: int
) -> Float[np.ndarray, " C"]:
    """r̂: the mean probability, over the images with a label, that the loss is of the mixture's upper part."""
    count = np.bincount(given_label, minlength=num_classes)
    total = np.bincount(given_label, upper_probability(loss), minlength=num_classes)
    return (total / np.maximum(count, 1)).astype(np.float32)


def propagated_belief(
    soft_label: Float[np.ndarray, "N C"], given_label: Int[np.ndarray, " N"], evidence: bool
) -> Float[np.ndarray, "N C"]:
    """b ∝ p(ỹ | y) softmax(4 log z) from propagated soft labels z; without `evidence` the first factor is left out.

    p(ỹ | y) is counted from z. Rows that no seed has reached keep the given label, and are not counted.
    """
    classes = soft_label.shape[1]
    reached = soft_label.max(axis=1) > 1.0 / classes + 1e-6
    log_belief = SHARPNESS * np.log(np.maximum(soft_label, 1e-9))
    if evidence:
        counted = counted_transition(soft_label[reached], given_label[reached])
        log_belief = log_belief + np.log(counted).T[given_label]
    return np.where(reached[:, None], jax.nn.softmax(log_belief), np.eye(classes, dtype=np.float32)[given_label])
