"""noise.npz: the splits of a run, the labels it trained on, and the noise as it came out."""

import contextlib
import hashlib
import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.splits import Splits
from kdmlc_jax.errors import UserError, reading
from kdmlc_jax.storage import door
from kdmlc_jax.storage.files import atomic_write, exists

LATER = ("pixels", "measured")  # what files of older versions do not say


class Provenance(NamedTuple):
    """What noise.npz holds; `given_labels` i32[N] runs over the whole training set, by stable index."""

    splits: Splits
    given_labels: np.ndarray
    realised_rate: float | None  # None where the true labels are not known
    realised_matrix: np.ndarray | None
    carried_labels: np.ndarray  # i32[N], before the trusted ones were checked; -1 where there was none
    images: str  # `fingerprint` of the images the rows are of
    learned: str  # SHA-256 of the contents of `data.labels` and `data.features`, '' without them
    pixels: str | None = None  # digest of what all images hold, test images included; None in a file without it
    measured: str | None = None  # SHA-256 of the true labels and of the test images' labels, likewise
    contents: np.ndarray | None = None  # V16[N + M], see `Dataset.contents`


NAMES = {*Splits._fields, *Provenance._fields} - {"splits"}


def fingerprint(ids: np.ndarray, class_names: Sequence[str]) -> str:
    """A digest of the images' names in order and of the classes: rows of one listing mean nothing in another."""
    text = "\0".join((*class_names, "", *map(str, ids)))
    return hashlib.sha256(text.encode()).hexdigest()


def sha256(*arrays: np.ndarray) -> str:
    """A digest of arrays of integers, whatever their width, each with its length."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{len(array)}:".encode() + np.asarray(array, "<i8").tobytes())
    return digest.hexdigest()


def digests(kept: Provenance) -> dict[str, str]:
    """What a run may not change on its way, by the name that a person knows it under; what is not known is left out."""
    found = {
        "images or classes": kept.images,
        "pixels": kept.pixels,
        "given labels": sha256(kept.given_labels, kept.carried_labels),
        "true or test labels": kept.measured,
        "splits": sha256(*kept.splits),
        "data.labels or data.features": kept.learned,
    }
    return {what: digest for what, digest in found.items() if digest is not None}


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
        **{name: np.array(value) for name in (*LATER, "contents") if (value := getattr(kept, name)) is not None},
    }
    with atomic_write(path) as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def _unpacks(raw: io.BufferedReader) -> Iterator[None]:
    """Raises ValueError where the members of a .npz file claim far more than a file of its size holds."""
    size = raw.seek(0, io.SEEK_END)
    with zipfile.ZipFile(raw) as archive:
        claimed = sum(info.file_size for info in archive.infolist())
    if claimed > door.unpacked(size):
        raise ValueError(f"its {size} bytes unpack to {claimed}")
    raw.seek(0)
    yield


def load(path: str | Path) -> Provenance:
    """What `save` wrote; raises UserError for a missing, damaged or foreign file."""
    # np.load leaves a file open that it cannot read, so it is not given the path.
    with (
        reading(path, "the noise.npz of a run"),
        door.opened(path) as raw,
        _unpacks(raw),
        np.load(raw, allow_pickle=False) as file,
    ):
        # The names stand in the archive twice, and nothing sums them: one that is changed would be one that is absent.
        if unknown_names := sorted(set(file.files) - NAMES):
            raise ValueError(f"{unknown_names[0]!a} in it, expected {', '.join(sorted(NAMES))}")
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
            **{name: str(file[name]) for name in LATER if name in file.files},
            contents=file["contents"] if "contents" in file.files else None,
        )


def begun(workdir: Path) -> dict[str, str]:
    """The `digests` of what the run in `workdir` began with, by its noise.npz; none where there is no such file."""
    path = workdir / "noise.npz"
    return digests(load(path)) if exists(path) else {}


def check_same(now: dict[str, str], begun: dict[str, str], workdir: Path) -> None:
    """Raises UserError where the `digests` of the data are not those that the run in `workdir` began with."""
    other = [what for what, digest in now.items() if begun.get(what, digest) != digest]
    if other:
        raise UserError(
            f"{workdir} holds a run that began with other {', '.join(other)}: choose another --workdir, "
            "or put back what it began with"
        )
