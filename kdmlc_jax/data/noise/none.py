"""No noise: labels as the source has them."""

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.data.noise.base import Request

RATED, CORRUPTS, CARRIED = False, False, True


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """I, whatever the rate."""
    return np.eye(request.num_classes)


def labels(request: Request) -> Int[np.ndarray, " N"]:
    """The labels at hand, -1 where there is none."""
    return request.given.copy()
