"""Pair noise: each class goes to the next one."""

import numpy as np
from jaxtyping import Float

from kdmlc_jax.data.noise.base import Request

RATED, CORRUPTS = True, True


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """1-r on the diagonal, r from y to y+1 mod C."""
    identity = np.eye(request.num_classes)
    return (1.0 - request.rate) * identity + request.rate * np.roll(identity, 1, axis=1)
