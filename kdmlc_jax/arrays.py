"""What arrays that a user hands over, in memory or in a file, must be."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from kdmlc_jax.errors import UserError, unreadable
from kdmlc_jax.storage import door, files


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


def check_labels(labels: ArrayLike, num_classes: int, place: object = "labels") -> np.ndarray:
    """`labels` as i32[N] in 0..C-1; anything else NumPy and JAX would wrap, clamp or round in silence.

    Raises:
      UserError: naming `place` and the first bad row.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{place}: {array.dtype} of shape {array.shape}, expected integers of shape [N]")
    bad = np.flatnonzero((array < 0) | (array >= num_classes))
    if bad.size:
        allowed = f"expected 0 to {num_classes - 1}" if num_classes > 0 else "there are no classes"
        raise UserError(f"{place} row {bad[0]}: {array[bad[0]]} is out of range, {allowed}")
    return array.astype(np.int32, copy=False)


def load_array(path: Path) -> np.ndarray:
    """The array in a .npy file, mapped, so that a foreign shape costs no memory; raises UserError naming the file."""
    if not files.exists(path):
        raise UserError(f"{path}: no such file")
    try:
        door.refuse_odd(path)
        return np.lib.format.open_memmap(path, mode="r")
    except UserError:
        raise
    except OSError as error:
        if error.errno and not files.is_dir(path):
            raise unreadable(error, path) from error
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # no .npy file, cut off, of pickled objects; a damaged header raises nearly anything
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path}: not an array of numbers in .npy format ({reason})") from error
