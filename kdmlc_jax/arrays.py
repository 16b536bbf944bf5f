"""What arrays that a user hands to a function must be."""

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from kdmlc_jax.errors import UserError


def check_features(name: str, features: ArrayLike) -> np.ndarray:
    """`features` as f32[rows, columns], finite.

    Raises:
      UserError: naming `name`, and the row and column where there is one.
    """
    try:
        array = np.asarray(features)
    except ValueError as error:
        raise UserError(f"{name}: rows of unequal length, expected shape [rows, columns]") from error
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise UserError(f"{name}: {array.dtype} of shape {array.shape}, expected real numbers")
    with np.errstate(over="ignore"):  # infinite in float32 is refused below
        array = array.astype(np.float32, copy=False)
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{name}: shape {array.shape}, expected [rows, columns], one or more of each")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        column = np.flatnonzero(~np.isfinite(array[bad[0]]))[0]
        value = array[bad[0], column]
        raise UserError(f"{name} row {bad[0]}, column {column}: {value} is no finite float32 ({bad.size} such rows)")
    return array
