"""Uniform noise over the other classes."""

import numpy as np
from jaxtyping import Float

from kdmlc_jax.data.noise.base import Request

RATED, CORRUPTS = True, True


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """1-r on the diagonal, r/(C-1) off it; r of the labels end up wrong."""
    identity = np.eye(request.num_classes)
    return (1.0 - request.rate) * identity + request.rate / (request.num_classes - 1) * (1.0 - identity)
