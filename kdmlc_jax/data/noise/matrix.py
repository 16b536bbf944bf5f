"""Noise drawn from a transition matrix of the user's own, in `noise.file`."""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from kdmlc_jax.arrays import load_array
from kdmlc_jax.data.formats.files import read_lines
from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.errors import UserError

RATED, CORRUPTS = False, True

TOLERANCE = 1e-6  # of the sum of a row of probabilities


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """`read_matrix` of `noise.file`."""
    return read_matrix(request.path("matrix"), request.num_classes)


def read_matrix(path: Path, num_classes: int) -> Float[np.ndarray, "C C"]:
    """T[y, ỹ] = P(given label ỹ | true label y) from a file: row y, column ỹ, both from 0.

    Args:
      path: `.npy`, or `.csv` or `.txt` with a line for each row, commas between numbers; # begins a comment.
      num_classes: C.

    Returns:
      f64[C, C].

    Raises:
      UserError: naming the file and the row, for a file that cannot be read, a wrong shape, an entry that is no
        probability, or a row that does not sum to 1 within 1e-6.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".csv", ".txt"):
        raise UserError(f'{path}: "{suffix}" is not one of .npy, .csv, .txt, the files a matrix is read from')
    read = load_array(path) if suffix == ".npy" else _parse(path)
    if read.shape != (num_classes, num_classes) or read.dtype.kind not in "iuf":
        found = f"{read.dtype} of shape {read.shape}"
        raise UserError(f"{path}: {found}, expected numbers of shape ({num_classes}, {num_classes})")
    # Stated so that NaN is refused too.
    bad = np.argwhere(~((read >= 0) & (read <= 1 + TOLERANCE)))
    if bad.size:
        row, column = bad[0]
        raise UserError(f"{path} row {row} column {column}: {read[row, column]} is not a probability in [0, 1]")
    total = read.sum(axis=1, dtype=np.float64)
    row = np.argmax(np.abs(total - 1) > TOLERANCE)
    if abs(total[row] - 1) > TOLERANCE:
        raise UserError(f"{path} row {row}: sums to {total[row]:.9g}, expected 1 within {TOLERANCE:g}")
    return read.astype(np.float64)


def _parse(path: Path) -> np.ndarray:
    lines = [line for line in read_lines(path) if line and not line.startswith("#")]
    if not lines:
        raise UserError(f"{path}: no rows, expected numbers with commas between them")
    try:
        return np.loadtxt(lines, delimiter=",", ndmin=2)
    except ValueError as error:
        raise UserError(f"{path}: {str(error).partition(';')[0]}") from error
