"""Label noise that depends on the image, softened: the class decides most of what a wrong label says, the image little.

Xia et al.'s noise on standardised images. Of what the true class leaves open about a wrong label (its entropy) the
image explains 6 % on digits and 8 % on Fashion-MNIST. At the published strength, `instance_published`, it explains over
99 %.
"""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.data.splits import Stream, generator
from kdmlc_jax.errors import UserError, in_range

RATED, CORRUPTS = True, True

DEVIATION = 0.1  # of the flip rates around their mean; the paper's

# Numbers held at a time, images or distributions: 32 MiB of float64.
_BLOCK = 1 << 22


def standardised(images: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Flattened images, each less its own mean and divided by its length; zeros for an image of one grey level."""
    flat = np.asarray(images, np.float64).reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 0, length, 1.0)


def labels(request: Request, features: Callable[[np.ndarray], np.ndarray] = standardised) -> Int[np.ndarray, " N"]:
    """Given labels ỹ_i ~ P_i of `distributions`, drawn independently; rate 0 leaves every label as it is."""
    truth, images, classes = request.truth, request.images, request.num_classes
    given = np.array(truth, np.int32)
    draws = generator(request.seed, Stream.INSTANCE_DRAW).random(len(given))
    for rows, chance in distributions(truth, images, request.rate, classes, request.seed, features):
        steps = np.cumsum(chance, axis=1)
        # Divided by the total, the last step is exactly 1: rounding can never reach a class of probability 0.
        given[rows] = (steps / steps[:, -1:] <= draws[rows, None]).sum(axis=1)
    return given if request.rate else np.array(request.truth, np.int32)


def distributions(
    truth: Int[np.ndarray, " N"],
    images: Images,
    rate: float | int,
    num_classes: int,
    seed: int,
    features: Callable[[np.ndarray], np.ndarray] = standardised,
) -> Iterator[tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n C"]]]:
    """P_i[ỹ] = P(given label ỹ | image i) in blocks of images: Xia et al. 2020, "Part-dependent Label Noise"
    (arXiv 2006.07836), algorithm 2.

    q_i ~ Normal(r, 0.1²) truncated to [0, 1]; W_y ∈ R^{d×C} ~ Normal(0, 1), one for each class;
    P_i = q_i softmax(z_i) with z_i = x_i W_{y_i} and z_i[y_i] = -∞; then P_i[y_i] = 1 - q_i.

    x_i = `features` of the image. The paper leaves the scale open; its release takes grey levels 0 to 255, for which
    softmax is one-hot: all the noise of an image goes to one class. `standardised` images have z_i ~ Normal(0, 1), of
    any size and any scale of the pixels, which spreads it over several.

    The mean of q_i is r up to what truncation moves: .129 for r = .1, .205 for r = .2, .300 for r = .3.

    Args:
      truth: i32[N], true labels.
      images: [N, ...], read in blocks of rows.
      rate: r, a fraction in [0, 1].
      num_classes: C.
      seed: 0 or more.
      features: u8 or f32[n, ...] images -> x f64[n, d].

    Yields:
      i64[n], rows of one class, and f64[n, C], their distributions; every row of every class once.

    Raises:
      UserError: for a rate or labels out of range, or not as many images as labels.
    """
    in_range("noise.rate", rate, 0.0, 1.0)
    truth = check_labels(truth, num_classes)
    if len(images) != len(truth):
        raise UserError(f"images: {len(images)} for {len(truth)} labels, expected as many")
    size = int(np.prod(images.shape[1:]))
    flip = _truncated_normal(generator(seed, Stream.INSTANCE_RATE), rate, len(truth))
    # One stream for each class: which others have images does not matter.
    for label, stream in enumerate(generator(seed, Stream.INSTANCE_MAP).spawn(num_classes)):
        rows = np.flatnonzero(truth == label)
        if not rows.size:
            continue
        projection = stream.standard_normal((size, num_classes))
        for block in np.array_split(rows, -(-rows.size * max(size, num_classes) // _BLOCK)):
            yield block, _distribution(features(images[block]) @ projection, flip[block], label)


def _truncated_normal(stream: np.random.Generator, mean: float, count: int) -> np.ndarray:
    value = stream.normal(mean, DEVIATION, count)
    # For means in [0, 1] at least half of the draws are kept in each turn.
    while (outside := np.flatnonzero((value < 0) | (value > 1))).size:
        value[outside] = stream.normal(mean, DEVIATION, outside.size)
    return value


def _distribution(logits: np.ndarray, flip: np.ndarray, label: int) -> np.ndarray:
    logits[:, label] = -np.inf
    chance = np.exp(logits - logits.max(axis=1, keepdims=True))
    chance *= (flip / chance.sum(axis=1))[:, None]
    chance[:, label] = 1.0 - flip
    return chance
