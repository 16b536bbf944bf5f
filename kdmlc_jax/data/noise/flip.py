"""Flip noise: each class goes to one other class (MLC, arXiv 1911.03809)."""

import numpy as np
from jaxtyping import Float

from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.data.splits import Stream, generator

RATED, CORRUPTS = True, True


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """1-r on the diagonal, r at one other class of each row, which the seed draws."""
    count = request.num_classes
    shift = generator(request.seed, Stream.FLIP_MAP).integers(1, count, size=count)
    identity = np.eye(count)
    return (1.0 - request.rate) * identity + request.rate * identity[(np.arange(count) + shift) % count]
