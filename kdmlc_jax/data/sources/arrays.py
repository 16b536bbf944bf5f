"""Images in .npy files, as a program that has them in memory leaves them."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.arrays import load_array
from kdmlc_jax.data.formats.files import locate
from kdmlc_jax.data.sources import features
from kdmlc_jax.data.sources.base import Source
from kdmlc_jax.errors import UserError


def load(data: ConfigDict) -> Source:
    """Images u8[N, H, W, K], K 1 or 3, in `images.npy`; all else in the folder is as `sources.features` has it.

    Everything is read into memory, N·H·W·K bytes; nothing is unpickled.

    Raises:
      UserError: naming the file, and the row where there is one.
    """
    return features.read(locate(data, "arrays"), data.source, "images", _images)


def _images(path: Path) -> np.ndarray:
    array = load_array(path)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise UserError(f"{path}: {array.dtype} of shape {array.shape}, expected uint8 [N, H, W, 1 or 3]")
    return np.array(array)
