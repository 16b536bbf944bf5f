"""noise.npz: the splits of a run, the labels it trained on, and the noise as it came out."""

import hashlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.splits import Splits
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage.files import atomic_write

# What NumPy and zipfile raise on damaged files, as found by flipping bits.
UNREADABLE = (
    OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, OverflowError, MemoryError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class Provenance(NamedTuple):
    """What noise.npz holds; `given_labels` i32[N] runs over the whole training set, by stable index."""

    splits: Splits
    given_labels: np.ndarray
    realised_rate: float | None  # None where the true labels are not known
    realised_matrix: np.ndarray | None
    carried_labels: np.ndarray  # i32[N], before the trusted ones were checked; -1 where there was none
    images: str  # `fingerprint` of the images the rows are of
    learned: str  # SHA-256 of the contents of `data.labels` and `data.features`, '' without them


def fingerprint(ids: np.ndarray, class_names: Sequence[str]) -> str:
    """A digest of the images' names in order and of the classes: rows of one listing mean nothing in another."""
    text = "\0".join((*class_names, "", *map(str, ids)))
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: str | Path, kept: Provenance) -> None:
    """Writes noise.npz by `atomic_write`; an unknown rate is kept as NaN, an unknown matrix with no rows."""
    rate, matrix = kept.realised_rate, kept.realised_matrix
    arrays = {
        **kept.splits._asdict(),
        "given_labels": np.asarray(kept.given_labels, np.int32),
        "realised_rate": np.float64(math.nan if rate is None else rate),
        "realised_matrix": np.zeros((0, 0)) if matrix is None else matrix,
        "carried_labels": np.asarray(kept.carried_labels, np.int32),
        "images": np.array(kept.images),
        "learned": np.array(kept.learned),
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)


def load(path: str | Path) -> Provenance:
    """What `save` wrote; raises UserError for a missing, damaged or foreign file."""
    try:
        # np.load leaves a file open that it cannot read, so it is not given the path.
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            splits = Splits(*(file[name] for name in Splits._fields if name in file.files or name != "held_out"))
            rate = float(file["realised_rate"])
            unknown = math.isnan(rate)
            return Provenance(
                splits,
                file["given_labels"],
                None if unknown else rate,
                None if unknown else file["realised_matrix"],
                file["carried_labels"],
                str(file["images"]),
                str(file["learned"]) if "learned" in file.files else "",
            )
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected the noise.npz of a run") from error
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read as the noise.npz of a run ({error})") from error


def check_same(new: Provenance, path: Path) -> None:
    """Raises UserError where the data are not those that the run in `path`'s folder began with."""
    if not path.exists():
        return
    old = load(path)
    same = {
        "images or classes": old.images == new.images,
        "given labels": np.array_equal(old.given_labels, new.given_labels),
        "data.labels or data.features": old.learned == new.learned,
        "splits": all(map(np.array_equal, old.splits, new.splits)),
    }
    for what, equal in same.items():
        if not equal:
            raise UserError(f"{path.parent} holds a run that began with other {what}: choose another --workdir")
