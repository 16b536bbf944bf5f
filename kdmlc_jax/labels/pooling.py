"""What a trained network believes, beside what a linear classifier does: weighed by rows it has not learned from.

A network knows images that no linear classifier can tell apart, but it has learned the labels that it is asked about,
and is sure of them. The weights say how much it is worth on rows where it could not.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import minimize

from kdmlc_jax.labels.linear import log_softmax

LEAST = 1e-9  # of a belief, for its logarithm


class Network(NamedTuple):
    """A network's log-beliefs, log p(y | x)."""

    noisy: Float[np.ndarray, "N C"]
    trusted: Float[np.ndarray, "M C"]
    fresh: Bool[np.ndarray, " N"]  # noisy rows that it has not learned from
    held: Bool[np.ndarray, " M"]  # trusted rows that nothing has learned from


class Folds(NamedTuple):
    """Networks of one kind, the kth trained without the trusted rows where `fold` is k."""

    fold: Int[np.ndarray, " M"]  # linear.NEVER for rows that all have learned from
    networks: list[Network]

    def joined(self) -> Network:
        """The mean of their log-beliefs of noisy rows; of a trusted row, those of the network without it."""
        rows = np.arange(len(self.fold))
        trusted = np.stack([each.trusted for each in self.networks])[self.fold, rows]
        noisy = np.mean([each.noisy for each in self.networks], axis=0)
        return Network(noisy, trusted, self.networks[0].fresh, self.fold >= 0)


def log(beliefs: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Logarithm, of LEAST at least."""
    return np.log(np.maximum(beliefs, LEAST))


def pool(
    alone: Float[np.ndarray, "N C"], network: Float[np.ndarray, "N C"], weights: Float[np.ndarray, "2"]
) -> Float[np.ndarray, "N C"]:
    """p ∝ p_linear^a p_network^b, from the logarithms of both: the logarithmic pool (Genest and Zidek 1986)."""
    return np.exp(log_softmax(weights[0] * alone + weights[1] * network))


def evidence(
    alone: Float[np.ndarray, "N C"],
    network: Float[np.ndarray, "N C"],
    likelihood: Float[np.ndarray, "N C"],
    weights: Float[np.ndarray, "2"],
) -> Float[np.ndarray, " N"]:
    """log Σ_y p(y | x) A[y] of each row, A[y] the chance of the label that was seen if y is true."""
    return np.log(np.maximum((pool(alone, network, weights) * likelihood).sum(axis=1), LEAST))


ALONE = np.array([1.0, 0.0])  # the linear classifier as it is


def fit_weights(
    alone: Float[np.ndarray, "N C"], network: Float[np.ndarray, "N C"], likelihood: Float[np.ndarray, "N C"]
) -> Float[np.ndarray, "2"]:
    """The weights a, b ≥ 0 of greatest likelihood, with the weight of one row on `ALONE`.

    Args:
      alone, network: log-beliefs of rows that neither has learned from.
      likelihood: A: one-hot where the true label was seen, T[:, ỹ] where a given one was.
    """

    def loss(weights: Float[np.ndarray, "2"]) -> float:
        kept = np.maximum(weights, 0.0)
        return float(0.5 * ((weights - ALONE) ** 2).sum() - evidence(alone, network, likelihood, kept).sum())

    starts = (ALONE, np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    found = [minimize(loss, start, method="Nelder-Mead", options={"maxiter": 100, "xatol": 1e-2}) for start in starts]
    return np.maximum(min(found, key=lambda each: each.fun).x, 0.0)
