"""Precomputed features in .npy files, for example the embeddings of a large frozen network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict

from kdmlc_jax.arrays import check_features, check_labels, load_array
from kdmlc_jax.data.formats import classes
from kdmlc_jax.data.formats.files import locate
from kdmlc_jax.data.formats.rows import name_rows, read_names, rows_of
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import checksums
from kdmlc_jax.storage.files import exists


def load(data: ConfigDict) -> Source:
    """Features as images of one pixel: f32[N, 1, 1, D].

    The folder holds `features.npy` f[N, D] and `labels.npy` i[N], 0 or more; it may hold `true_labels.npy` i[N] (-1 =
    unknown), `trusted.npy` (bool[N] or 0 and 1, or the rows), `validation.npy` (the same), `test_features.npy` with
    `test_labels.npy`, `classes.txt` (C names, a line each, labels are 0 to C - 1; without it the classes are the
    distinct labels, in their order) and `ids.txt` (N names). Everything is read into memory, 4·N·D bytes; nothing is
    unpickled.

    Raises:
      UserError: naming the file, and the row where there is one.
    """
    return read(locate(data, "features"), data.source, "features", _features)


def read(path: Path, source: str, rows: str, checked: Callable[[Path], np.ndarray]) -> Source:
    """The folder `path` as `load` says, its images in the file `rows`.npy as `checked` has them, [N, H, W, K]."""
    checksums.check(path)
    images = checked(path / f"{rows}.npy")
    size = len(images)
    labels = {"labels.npy": _integers(path / "labels.npy", size)}
    test = _test_images(path, rows, checked, images.shape[1:])
    if test is not None:
        labels["test_labels.npy"] = _integers(path / "test_labels.npy", len(test))
    if exists(path / "true_labels.npy"):
        labels["true_labels.npy"] = _integers(path / "true_labels.npy", size)
    names, numbers = _named(path, labels, size)
    train = Part(images, numbers["labels.npy"], numbers.get("true_labels.npy"), _ids(path, size, f"{rows}.npy"))
    test_part = None if test is None else Part(test, numbers["test_labels.npy"])
    trusted, validation = (_rows(path / f"{name}.npy", size) for name in ("trusted", "validation"))
    if trusted is not None and validation is not None and (both := np.intersect1d(trusted, validation)).size:
        raise UserError(f"{path / 'validation.npy'}: row {both[0]} is in trusted.npy, too ({both.size} such rows)")
    return Source(source, names, train, test_part, trusted, validation)


def _features(path: Path) -> np.ndarray:
    """f32[N, 1, 1, D], finite."""
    return np.array(check_features(str(path), load_array(path)), order="C")[:, None, None, :]


def read_features(
    path: Path, images: int, ids: np.ndarray | None, names: str = "ids.txt"
) -> Float[np.ndarray, "images D"]:
    """f32[N, D], finite, of N images from a .npy file f[rows, D]; see `formats.rows.rows_of`.

    Raises:
      UserError: naming the file.
    """
    checksums.check(path.parent, (path.name, names))
    features = _features(path)[:, 0, 0]
    features = features[rows_of(path, len(features), images, ids, names)]
    if (features == features[0]).all():
        raise UserError(f"{path}: all rows are equal, expected features that tell images apart")
    return features


def _test_images(
    path: Path, rows: str, checked: Callable[[Path], np.ndarray], shape: tuple[int, ...]
) -> np.ndarray | None:
    """[M, H, W, K], or None where neither test file is there."""
    if not (exists(path / f"test_{rows}.npy") or exists(path / "test_labels.npy")):
        return None
    test = checked(path / f"test_{rows}.npy")
    if test.shape[1:] != shape:
        if shape[:2] == (1, 1):
            found, expected = f"{test.shape[-1]} columns", f"{shape[-1]}"
        else:
            found, expected = f"images {list(test.shape[1:])}", f"{list(shape)}"
        raise UserError(f"{path / f'test_{rows}.npy'}: {found}, expected {expected} as in {rows}.npy")
    return test


def _integers(path: Path, size: int) -> np.ndarray:
    """i[N], not yet checked for range."""
    array = load_array(path)
    if array.dtype.kind not in "iu":
        raise UserError(f"{path}: {array.dtype} values, expected integers")
    if array.shape != (size,):
        raise UserError(f"{path}: shape {array.shape}, expected ({size},), one label for each row of features")
    return np.array(array)


def _checked(path: Path, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """i32[N] in range; only a true label may be -1."""
    if path.name != "true_labels.npy":
        return check_labels(labels, num_classes, path)
    known = labels != -1
    check_labels(np.where(known, labels, 0), num_classes, path)
    return labels.astype(np.int32)


def _named(path: Path, labels: dict[str, np.ndarray], size: int) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """The class names and the labels as their numbers: the lines of classes.txt, or the distinct labels themselves."""
    file = path / "classes.txt"
    if exists(file):
        names = tuple(read_names(file))
        return names, {name: _checked(path / name, array, len(names)) for name, array in labels.items()}
    for name, array in labels.items():
        bad = np.flatnonzero(array < (-1 if name == "true_labels.npy" else 0))
        if bad.size:
            raise UserError(f"{path / name} row {bad[0]}: {array[bad[0]]} is no class, expected 0 or more")
    values = sorted({value for array in labels.values() for value in np.unique(array).tolist()} - {-1})
    if len(values) < 2:
        raise UserError(f"{path / 'labels.npy'}: all labels are {values[0]}, expected at least 2 classes")
    classes.check_number(path / "labels.npy", len(values), size)
    codes = {
        name: np.where(array < 0, -1, np.searchsorted(np.array(values), array)).astype(np.int32)
        for name, array in labels.items()
    }
    return tuple(map(str, values)), codes


def _rows(path: Path, size: int) -> np.ndarray | None:
    """i64[], the rows that trusted.npy, or another such file, names, in ascending order."""
    if not exists(path):
        return None
    array = load_array(path)
    # So many zeros and ones are no list of rows, which names none twice.
    zeros_and_ones = array.dtype.kind in "iu" and array.size > 2 and bool(np.isin(array, (0, 1)).all())
    if zeros_and_ones and array.shape != (size,):
        raise UserError(
            f"{path}: zeros and ones of shape {array.shape}, expected ({size},), one for each row of features"
        )
    if array.shape == (size,) and (array.dtype == bool or zeros_and_ones):
        rows = np.flatnonzero(array)
    elif array.dtype.kind in "iu" and array.ndim == 1:
        rows = np.array(array)
    else:
        found = f"{array.dtype} of shape {array.shape}"
        raise UserError(f"{path}: {found}, expected bool of shape ({size},) or the rows as integers")
    bad = np.flatnonzero((rows < 0) | (rows >= size))
    if bad.size:
        raise UserError(f"{path} row {bad[0]}: index {rows[bad[0]]} is out of range, expected 0 to {size - 1}")
    if not rows.size:
        raise UserError(f"{path}: names no row, expected at least one")
    return np.unique(rows).astype(np.int64)


def _ids(path: Path, size: int, of: str) -> np.ndarray | None:
    """str[N], the lines of ids.txt."""
    file = path / "ids.txt"
    if not exists(file):
        return None
    return np.array(name_rows(file, size, of))
