"""Which labels teach a better classifier, judged by trusted rows held out of everything: the honest outer level.

The bi-level problem asks for the labels whose training makes trusted rows most likely. Where a method follows its
gradient, the referee solves it over a handful of candidates, each with a head in closed form.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.labels.linear import fit_temperature, log_loss, log_softmax
from kdmlc_jax.labels.posterior import standard_error

RIDGES = (1e-2, 1e-1, 1.0, 10.0)  # in units of the features' mean eigenvalue
WIDEST = 640  # dimensions of a head; more are projected on the first principal axes
SAMPLE = 1_500  # rows that the axes come from, and that a head is calibrated on


class Judged(NamedTuple):
    """Cross-entropy of the held-out trusted rows under each candidate's heads."""

    loss: Float[np.ndarray, "K M"]  # NaN for rows never held out
    rows: Int[np.ndarray, " m"]  # those that were

    def gain(
        self, over: int = 0, rows: Int[np.ndarray, " r"] | None = None, weight: Float[np.ndarray, " M"] | None = None
    ) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
        """Mean of (loss under candidate `over` - loss under each), and its standard error; 0 = the given labels.

        Args:
          over: a candidate.
          rows: of which rows; None = all that were held out.
          weight: of each row, of mean 1; None = 1.
        """
        rows = self.rows if rows is None else rows
        better = self.loss[over, rows] - self.loss[:, rows]
        better = better if weight is None else better * weight[rows]
        return better.mean(axis=1), standard_error(better)


def head_coordinates(
    features: Float[np.ndarray, "N D"], trusted_features: Float[np.ndarray, "M D"], seed: int = 0
) -> tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "M d"]]:
    """Standardised features on their first principal axes, d ≤ WIDEST, in float32, with a constant column [ours]."""
    both = np.concatenate([features, trusted_features]).astype(np.float32)
    both -= both.mean(axis=0)
    both /= both.std(axis=0) + 1e-6
    if both.shape[1] > WIDEST:
        rows = np.random.default_rng(seed).permutation(len(both))[:SAMPLE]
        sample = both[rows]
        value, vector = np.linalg.eigh((sample @ sample.T).astype(np.float64))
        keep = value > 1e-6 * value[-1]
        keep[:-WIDEST] = False
        axes = sample.T @ (vector[:, keep] / np.sqrt(value[keep])).astype(np.float32)
        both = both @ axes
    both = np.concatenate([both, np.ones((len(both), 1), np.float32)], axis=1)
    return both[: len(features)], both[len(features) :]


def heads(
    gram: Float[np.ndarray, "d d"], moment: Float[np.ndarray, "d K"], ridge: float | int
) -> Float[np.ndarray, "d K"]:
    """argmin_W |Y - X W|² + λ |W|², from X'X and X'Y; the last coordinate, the constant, is not shrunk.

    λ = `ridge` times the mean of the diagonal of X'X.
    """
    shrink = np.full(len(gram), ridge * np.trace(gram) / len(gram))
    shrink[-1] = 1e-6 * shrink[0]
    return np.linalg.solve(gram + np.diag(shrink), moment)


def judge(
    noisy: Float[np.ndarray, "N d"],
    trusted: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    folds: list[tuple[Int[np.ndarray, " _"], Int[np.ndarray, "K N"]]],
    classes: int,
    seed: int = 0,
) -> Judged:
    """Trains a head on each candidate's labels, a fold at a time, and asks the trusted rows of that fold.

    A head is ridge regression on one-hot labels, of all but one part of the noisy rows and the trusted rows of the
    other folds; softmax(t s), t and the ridge such that the candidate's own labels of that part are predicted best:
    the head is calibrated to the labels it is taught, so that wrong ones show.

    Args:
      noisy, trusted: `head_coordinates`.
      label: of the trusted rows.
      folds: trusted rows held out, and the K candidates' labels of the noisy rows, found without them. Candidate 0
        are the given labels.
      classes: C.
      seed: draws the parts of the noisy rows.

    Returns:
      Loss of each candidate on each trusted row.
    """
    part = np.random.default_rng(seed).permutation(len(noisy)) % max(2, len(folds))
    total = (noisy.T @ noisy).astype(np.float64) + trusted.T @ trusted
    eye = np.eye(classes, dtype=np.float32)
    loss = np.full((len(folds[0][1]), len(label)), np.nan)
    for k, (held, labels) in enumerate(folds):
        out, rest = part == k, np.setdiff1d(np.arange(len(label)), held)
        gram = total - noisy[out].T @ noisy[out] - trusted[held].T @ trusted[held]
        taught = noisy[~out].T @ eye[labels[:, ~out]].transpose(1, 0, 2).reshape((~out).sum(), -1)
        moment = taught + np.tile(trusted[rest].T @ eye[label[rest]], len(labels))
        few = np.flatnonzero(out)[:SAMPLE]
        loss[:, held] = head_losses(gram, moment, noisy[few], labels[:, few], trusted[held], label[held])
    return Judged(loss, np.flatnonzero(np.isfinite(loss[0])))


def head_losses(
    gram: Float[np.ndarray, "d d"],
    moment: Float[np.ndarray, "d KC"],
    noisy: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, "K n"],
    held: Float[np.ndarray, "m d"],
    label: Int[np.ndarray, " m"],
) -> Float[np.ndarray, "K m"]:
    """Loss of each candidate's head on held-out rows, with the ridge and t that suit its own `labels` best."""
    candidates = len(labels)
    best, loss = np.full(candidates, np.inf), np.zeros((candidates, len(label)))
    for ridge in RIDGES:
        weights = heads(gram, moment, ridge)
        own, asked = ((x @ weights).reshape(len(x), candidates, -1) for x in (noisy, held))
        for c in range(candidates):
            t, missed = fit_temperature(own[:, c], labels[c])
            if missed < best[c]:
                best[c] = missed
                loss[c] = log_loss(log_softmax(t * asked[:, c]), label)
    return loss
