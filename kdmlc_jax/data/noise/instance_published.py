"""Label noise that depends on the image, at the published strength: the image decides what a wrong label says.

Xia et al. 2020, "Part-dependent Label Noise", arXiv 2006.07836, algorithm 2, as in its release: `instance` with x_i the
pixels as they are, grey levels 0 to 255 (features: as they are), for which softmax is one-hot; q_i and W are the same.
Of what the true class leaves open about a wrong label (its entropy) the image explains over 99 % on digits and on
Fashion-MNIST. How often an image is mislabelled, q_i, is drawn and does not depend on what it shows.

Images share much of their grey levels, so those of a class err to few others: the class leaves open .7 nats on digits
and .9 on Fashion-MNIST, of ln 9 = 2.2 (`instance`: 1.9 and 2.0).
"""

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.data.noise import instance
from kdmlc_jax.data.noise.base import Request

RATED, CORRUPTS = True, True


def pixels(images: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Flattened images, as they are."""
    return np.asarray(images, np.float64).reshape(len(images), -1)


def labels(request: Request) -> Int[np.ndarray, " N"]:
    """`instance.labels` of `pixels`."""
    return instance.labels(request, pixels)
