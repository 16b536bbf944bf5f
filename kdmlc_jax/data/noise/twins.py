"""Noise as people make it: a wrong label is the class that an image looks like, and hard images are wrong more often.

[ours]
"""

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.data.splits import generator
from kdmlc_jax.errors import UserError, in_range

RATED, CORRUPTS = True, True

# Numbers held at a time: 32 MiB of float64.
_BLOCK = 1 << 22


def labels(request: Request) -> Int[np.ndarray, " N"]:
    """Each image's twin of `twins` with the chance of `chances`, drawn independently, else its true label."""
    truth = check_labels(request.truth, request.num_classes)
    if not len(truth):
        return truth
    twin, margin = twins(truth, request.images, request.num_classes)
    wrong = generator(request.seed, "twins").random(len(truth)) < chances(margin, request.rate)
    return np.where(wrong, twin, truth).astype(np.int32)


def twins(
    truth: Int[np.ndarray, " N"], images: Images, num_classes: int
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """The class that each image looks like, and how much it does.

    z_i: the image's pixels, each less its mean and divided by its standard deviation over all images; c_y the mean of z
    over class y. The twin is argmin over y ≠ y_i of ‖z_i - c_y‖², classes with images only.

    Args:
      truth: i32[N], true labels.
      images: [N, ...], read twice, in blocks of rows.
      num_classes: C.

    Returns:
      i64[N] twins, and the margin f64[N], ‖z_i - c_{y_i}‖² - ‖z_i - c_twin‖²: the larger, the harder.

    Raises:
      UserError: for images of one class only, or not as many as labels.
    """
    if len(images) != len(truth):
        raise UserError(f"images: {len(images)} for {len(truth)} labels, expected as many")
    count = np.bincount(truth, minlength=num_classes)
    if np.count_nonzero(count) < 2:
        raise UserError('noise.kind: "twins" needs images of 2 classes or more, they are all of one')
    blocks = np.array_split(np.arange(len(truth)), -(-images[:1].size * len(truth) // _BLOCK))
    mean, scale, centre = _centres(truth, images, count, blocks)
    twin, margin = np.zeros(len(truth), np.int64), np.zeros(len(truth))
    for rows in blocks:
        # ‖z - c‖² less ‖z‖², which every class shares.
        away = (centre**2).sum(axis=1) - 2.0 * ((_flat(images[rows]) - mean) * scale) @ centre.T
        away[:, count == 0] = np.inf
        own = np.take_along_axis(away, truth[rows, None], axis=1)[:, 0]
        np.put_along_axis(away, truth[rows, None], np.inf, axis=1)
        twin[rows], margin[rows] = away.argmin(axis=1), own - away.min(axis=1)
    return twin, margin


def chances(margin: Float[np.ndarray, " N"], rate: float | int) -> Float[np.ndarray, " N"]:
    """P(wrong), linear in an image's rank by margin, with the mean r exactly.

    u_i = (rank_i + ½) / N, the easiest first; 2 r u_i for r ≤ ½, from there 1 - 2 (1 - r) (1 - u_i): every r in [0, 1].

    Raises:
      UserError: for a rate outside [0, 1].
    """
    in_range("noise.rate", rate, 0.0, 1.0)
    rank = np.empty(len(margin))
    rank[np.argsort(margin, kind="stable")] = (np.arange(len(margin)) + 0.5) / max(1, len(margin))
    return 2.0 * rate * rank if rate <= 0.5 else 1.0 - 2.0 * (1.0 - rate) * (1.0 - rank)


def _centres(
    truth: np.ndarray, images: Images, count: np.ndarray, blocks: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean f64[d]; scale f64[d], 1 / deviation, or 0 of a pixel that never changes; centres f64[C, d]."""
    origin = _flat(images[:1])  # sums of squares about one of the images lose few digits
    total = np.zeros((len(count), origin.size))
    squares = np.zeros(origin.size)
    for rows in blocks:
        flat = _flat(images[rows]) - origin
        total += np.eye(len(count))[:, truth[rows]] @ flat
        squares += (flat**2).sum(axis=0)
    mean = total.sum(axis=0) / len(truth)
    variance = np.maximum(squares / len(truth) - mean**2, 0.0)
    scale = np.where(variance > 0, 1.0 / np.sqrt(np.where(variance > 0, variance, 1.0)), 0.0)
    return mean + origin[0], scale, (total / np.maximum(count, 1)[:, None] - mean) * scale


def _flat(images: np.ndarray) -> Float[np.ndarray, "n d"]:
    return np.asarray(images, np.float64).reshape(len(images), -1)
