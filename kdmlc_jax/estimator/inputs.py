"""What a program has in memory, as the folder that a run reads: arrays of images or features, or a list of files."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdmlc_jax.data.images import decode
from kdmlc_jax.errors import UserError
from kdmlc_jax.export import as_levels
from kdmlc_jax.storage import files

SIDE = 64  # of images of different sizes, where none is asked for: as of files


class Inputs(NamedTuple):
    """The rows of a data set, of one of three kinds."""

    kind: str  # features, arrays or folder, as `data.source`
    rows: Any  # f[N, D], u8[N, H, W, K], or a list of paths

    def __len__(self) -> int:
        return len(self.rows)


def plain(column: Any) -> Any:
    """A PyArrow column as a list; anything else as it is."""
    return column.to_pylist() if hasattr(column, "to_pylist") else column


def check_known(labels: np.ndarray) -> None:
    """Raises UserError naming the first label that is None or NaN among objects, which sort with no other."""
    for row, label in enumerate(labels if labels.dtype == object else ()):
        if label is None or label != label:
            raise UserError(f"given_labels: row {row} has none ({label}), expected a label for each image")


def recognise(images: Any, side: int = 0) -> Inputs | None:
    """Files or images; None for what can only be features.

    Args:
      images: paths (a list, an array, a pandas or PyArrow column); an array [N, H, W] or [N, H, W, K]; or a list of
        images [h, w] or [h, w, K] of any size, arrays or Pillow's. Values as `export.as_trained` takes them.
      side: images are scaled to so many pixels, the largest centred square; 0 leaves those that have one size.

    Raises:
      UserError: for images of another form.
    """
    images = plain(images)
    if hasattr(images, "shape") and len(images.shape) != 1:
        return None if len(images.shape) < 3 else Inputs("arrays", _levels(np.asarray(images), side))
    if not isinstance(images, Sequence) and not hasattr(images, "shape"):
        return None
    if isinstance(images, str) or not len(images):
        return None
    items = list(images)
    if all(isinstance(item, str | os.PathLike) for item in items):
        return Inputs("folder", [os.path.abspath(os.path.expanduser(item)) for item in items])
    if np.ndim(items[0]) < 2:
        return None
    arrays = [np.asarray(item) for item in items]
    if len({array.shape for array in arrays}) == 1:
        return Inputs("arrays", _levels(np.stack(arrays), side))
    if any(array.ndim not in (2, 3) for array in arrays):
        raise UserError("images: expected each of shape [H, W] or [H, W, K]")
    colours = 3 if any(array.ndim == 3 and array.shape[2] == 3 for array in arrays) else 1
    return Inputs("arrays", np.concatenate([_levels(array[None], side or SIDE, colours) for array in arrays]))


def _levels(array: np.ndarray, side: int, channels: int = 0) -> np.ndarray:
    """u8[N, H, W, K] of images [N, H, W] or [N, H, W, K]."""
    array = array[..., None] if array.ndim == 3 else array
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise UserError(f"images: shape {array.shape}, expected [N, H, W] or [N, H, W, K] with 1 or 3 channels")
    levels = as_levels(array, "images")
    channels = channels or levels.shape[3]
    if levels.shape[3] == channels and (not side or levels.shape[1:3] == (side, side)):
        return levels
    return np.stack([decode.fitted(image, side, channels) for image in levels])


def joined(first: Inputs, more: Inputs) -> Inputs:
    """The rows of both; raises UserError where they do not go together."""
    if first.kind != more.kind:
        raise UserError(f"images: {more.kind} beside {first.kind}, expected one kind")
    if first.kind == "folder":
        return Inputs("folder", [*first.rows, *more.rows])
    if first.rows.shape[1:] != more.rows.shape[1:]:
        raise UserError(f"images: shape {more.rows.shape} beside {first.rows.shape}, expected one shape (image_size)")
    return Inputs(first.kind, np.concatenate([first.rows, more.rows]))


def write(
    folder: Path, inputs: Inputs, labels: np.ndarray, names: Sequence[str], rows: dict[str, np.ndarray]
) -> dict[str, str]:
    """Writes what a run needs into `folder`, and returns the fields of `config.data` by which it finds that.

    Args:
      folder: is created.
      inputs: N rows.
      labels: i[N], in [0, C).
      names: C class names.
      rows: which are trusted and which are for validation, by these names; absent where nothing is said.
    """
    files.make_directory(folder)
    if inputs.kind == "folder":
        return _manifest(folder, inputs.rows, labels, names, rows)
    name = "features" if inputs.kind == "features" else "images"
    for stem, array in {name: inputs.rows, "labels": labels, **rows}.items():
        with files.atomic_write(folder / f"{stem}.npy") as file:
            np.save(file, np.asarray(array))
    files.write_text(folder / "classes.txt", "".join(f"{each}\n" for each in names))
    return {"source": inputs.kind, "dir": str(folder)}


def _manifest(
    folder: Path, paths: list[str], labels: np.ndarray, names: Sequence[str], rows: dict[str, np.ndarray]
) -> dict[str, str]:
    split = np.full(len(paths), "train", object)
    split[rows.get("validation", [])] = "validation"
    trusted = np.full(len(paths), "no", object)
    trusted[rows.get("trusted", [])] = "yes"
    table = zip(paths, (names[label] for label in labels), split, trusted, strict=True)
    files.write_csv(folder / "labels.csv", ("path", "label", "split", "trusted"), table)
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return {"source": "folder", "dir": root, "manifest": str(folder / "labels.csv")}


def names_of(kind: str, classes: np.ndarray) -> list[str]:
    """A name for each class that a file can hold; numbers where the labels themselves would not be told apart.

    Of files they are the labels themselves, as text: a manifest's reader judges those.
    """
    texts = [str(label) for label in classes]
    lines = [text.strip() for text in texts]
    fit = len(set(lines)) == len(lines) and all(text and text.isprintable() for text in lines)
    return texts if kind == "folder" or (fit and lines == texts) else [str(number) for number in range(len(texts))]


def rows_of(name: str, value: Any, count: int) -> np.ndarray:
    """Rows, ascending, that bool[count] or the rows themselves name."""
    array = np.asarray(plain(value))
    if array.dtype == bool and array.shape == (count,):
        array = np.flatnonzero(array)
    if not array.size:
        raise UserError(f"{name}: names no image, expected some, or None")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        expected = f"bool of shape ({count},), rows as integers, or a pair (images, labels)"
        raise UserError(f"{name}: {array.dtype} of shape {array.shape}, expected {expected}")
    bad = np.flatnonzero((array < 0) | (array >= count))
    if bad.size:
        raise UserError(f"{name}: row {array[bad[0]]} is out of range, expected 0 to {count - 1}")
    return np.unique(array)
