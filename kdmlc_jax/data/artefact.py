"""noise.npz: the splits of a run, the labels it trained on, and the noise as it came out."""

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.splits import Splits
from kdmlc_jax.errors import UserError
from kdmlc_jax.files import atomic_write

# What NumPy and zipfile raise on damaged files, as found by flipping bits.
UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, MemoryError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Artefact(NamedTuple):
    """What noise.npz holds; `given_labels` i32[N] runs over the whole training set, by stable index."""

    splits: Splits
    given_labels: np.ndarray
    realised_rate: float | None  # None where the true labels are not known
    realised_matrix: np.ndarray | None


def save_artefact(
    path: str | Path, splits: Splits, given_labels: np.ndarray, rate: float | None, matrix: np.ndarray | None
) -> None:
    """Writes noise.npz, whole or not at all.

    Args:
      path: the file; its directory exists.
      splits: index arrays into the training set.
      given_labels: i32[N], over the whole training set, by stable index.
      rate: realised rate, a fraction; None where the true labels are not known, kept as NaN.
      matrix: f64[C, C], realised matrix; None likewise, kept with no rows.

    Raises:
      UserError: where the file cannot be written.
    """
    arrays = {
        **splits._asdict(),
        "given_labels": np.asarray(given_labels, np.int32),
        "realised_rate": np.float64(math.nan if rate is None else rate),
        "realised_matrix": np.zeros((0, 0)) if matrix is None else matrix,
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def load_artefact(path: str | Path) -> Artefact:
    """Reads what `save_artefact` wrote.

    Args:
      path: the file.

    Returns:
      The splits, the labels trained on, the realised rate and matrix.

    Raises:
      UserError: for a missing, damaged or foreign file.
    """
    try:
        # np.load leaves a file open that it cannot read, so it is not given the path.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            splits = Splits(*(file[name] for name in Splits._fields))
            rate, matrix = float(file["realised_rate"]), file["realised_matrix"]
            known = (None, None) if math.isnan(rate) else (rate, matrix)
            return Artefact(splits, file["given_labels"], *known)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected the noise.npz of a run") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as the noise.npz of a run ({error})") from error
