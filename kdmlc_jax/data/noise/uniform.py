"""Uniform noise in which the true class is among those drawn, as in MLC and most papers."""

import numpy as np
from jaxtyping import Float

from kdmlc_jax.data.noise.base import Request

RATED, CORRUPTS = True, True


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """T = (1-r) I + r/C; r (C-1)/C of the labels end up wrong."""
    return (1.0 - request.rate) * np.eye(request.num_classes) + request.rate / request.num_classes
