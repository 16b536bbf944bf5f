"""scikit-learn's handwritten digits: real images that come with a package."""

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.sources.base import Part, Source


def load(data: ConfigDict) -> Source:
    """1 437 training and 360 test images u8[8, 8, 1], the same in every run."""
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    test = np.zeros(labels.size, bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        # 36 rows of each class, evenly spaced because the file is ordered by writer; no generator, hence no seed.
        test[rows[np.arange(36) * rows.size // 36]] = True
    names = tuple(str(digit) for digit in range(10))
    train, tested = (Part(images[part], labels[part], labels[part]) for part in (~test, test))
    return Source("digits", names, train, tested)
