"""Published data sets as arrays; the only file that reads foreign formats. Nothing is downloaded."""

import gzip
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from kdmlc_jax.errors import UserError, suggest

IMAGE_MAGIC, LABEL_MAGIC = 0x00000803, 0x00000801
CIFAR_RECORD = 1 + 3 * 32 * 32
# A header is a claim: nothing above this is believed, whatever a compressed file would unpack to.
MAX_IDX_BYTES = 1 << 30

DIGITS = tuple(str(digit) for digit in range(10))
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class Arrays(NamedTuple):
    """Images u8[N, H, W, K] and their true labels i32[N], as published."""

    images: np.ndarray
    labels: np.ndarray


class Source(NamedTuple):
    """One published data set: training and test arrays, and the name of every class."""

    name: str
    train: Arrays
    test: Arrays
    class_names: tuple[str, ...]


def load(name: str, directory: str = "") -> Source:
    """Reads a published data set.

    Args:
      name: one of digits, mnist, fashion_mnist, cifar10.
      directory: folder of the set's files; '' looks under the environment variable KDMLC_DATA, at mnist,
        fashion-mnist or cifar-10-batches-bin. digits comes with scikit-learn and needs none.

    Returns:
      The set with its true labels; row i of `train` keeps the stable index i in every run.

    Raises:
      UserError: for an unknown name, no directory, and files that are missing, damaged or disagree.
    """
    if name == "digits":
        return _digits()
    if name not in _READERS:
        allowed = ("digits", *_READERS)
        raise UserError(f'data.source: "{name}" is not one of {", ".join(allowed)}{suggest(name, allowed)}')
    folder, reader = _READERS[name]
    train, test, class_names = reader(_directory(name, directory, folder))
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = f"{train.images.shape[1:]} in training and {test.images.shape[1:]} in test"
        raise UserError(f"{name}: images have shape {shapes}, expected one shape [H, W, K]")
    return Source(name, train, test, class_names)


def _directory(name: str, directory: str, folder: str) -> Path:
    root = os.environ.get("KDMLC_DATA", "")
    if not directory and not root:
        raise UserError(f'data.dir is empty: give the folder of "{name}", or set KDMLC_DATA to the parent of {folder}/')
    path = Path(directory).expanduser() if directory else Path(root).expanduser() / folder
    if not path.is_dir():
        origin = "data.dir" if directory else "KDMLC_DATA"
        raise UserError(f'{origin}: {path} is not a directory, expected the folder with the files of "{name}"')
    return path


def _digits() -> Source:
    from sklearn.datasets import load_digits  # slow to import

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    test = np.zeros(labels.size, bool)
    for label in range(10):
        rows = np.flatnonzero(labels == label)
        # 36 rows of each class, evenly spaced because the file is ordered by writer; no generator, hence no seed.
        test[rows[np.arange(36) * rows.size // 36]] = True
    return Source("digits", Arrays(images[~test], labels[~test]), Arrays(images[test], labels[test]), DIGITS)


def _mnist(directory: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    return _idx_pair(directory, "train"), _idx_pair(directory, "t10k"), DIGITS


def _fashion_mnist(directory: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    return _idx_pair(directory, "train"), _idx_pair(directory, "t10k"), FASHION


def _idx_pair(directory: Path, part: str) -> Arrays:
    image_path = _find(directory, f"{part}-images-idx3-ubyte")
    label_path = _find(directory, f"{part}-labels-idx1-ubyte")
    images = _idx(image_path, IMAGE_MAGIC)[..., None]
    labels = _idx(label_path, LABEL_MAGIC)
    if len(images) != len(labels):
        raise UserError(f"{label_path}: {len(labels)} labels, expected {len(images)}, the images in {image_path.name}")
    return Arrays(images, _checked_labels(labels, label_path))


def _find(directory: Path, stem: str) -> Path:
    for path in (directory / stem, directory / f"{stem}.gz"):
        if path.exists():
            return path
    raise UserError(f"{directory / stem}: no such file, with or without .gz")


def _idx(path: Path, magic: int) -> np.ndarray:
    """The u8 array of an IDX file, plain or gzip."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            shape = _idx_shape(file, path, magic)
            size = math.prod(shape)
            body = _read_at_most(file, size + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: corrupt gzip ({error}), expected a complete file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(body) != size:
        found = "more" if len(body) > size else f"only {len(body)}"
        raise UserError(f"{path}: {found} bytes after the header, expected {size} for shape {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _idx_shape(file: BinaryIO | gzip.GzipFile, path: Path, magic: int) -> tuple[int, ...]:
    rank = magic & 0xFF
    header = file.read(4 + 4 * rank)
    if len(header) >= 4 and (found := int.from_bytes(header[:4], "big")) != magic:
        raise UserError(f"{path}: magic number is 0x{found:08x}, expected 0x{magic:08x}")
    if len(header) < 4 + 4 * rank:
        raise UserError(f"{path}: {len(header)} bytes, expected a header of {4 + 4 * rank}")
    shape = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
    if not 0 < math.prod(shape) <= MAX_IDX_BYTES:
        raise UserError(f"{path}: header gives shape {shape}, expected 1 to {MAX_IDX_BYTES} bytes in all")
    return shape


def _read_at_most(file: BinaryIO | gzip.GzipFile, size: int) -> bytes:
    """Up to `size` bytes in pieces: read(size) would allocate what the header claims before a byte is there."""
    pieces = []
    while size > 0 and (piece := file.read(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


def _cifar10(directory: Path) -> tuple[Arrays, Arrays, tuple[str, ...]]:
    parts = [_cifar_batch(directory / f"data_batch_{number}.bin") for number in range(1, 6)]
    train = Arrays(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
    return train, _cifar_batch(directory / "test_batch.bin"), _cifar_names(directory / "batches.meta.txt")


def _cifar_batch(path: Path) -> Arrays:
    raw = np.frombuffer(_read(path), np.uint8)
    if raw.size == 0 or raw.size % CIFAR_RECORD:
        raise UserError(f"{path}: {raw.size} bytes, expected a multiple of {CIFAR_RECORD} (1 label + 3072 pixels)")
    records = raw.reshape(-1, CIFAR_RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Arrays(np.ascontiguousarray(images), _checked_labels(records[:, 0], path))


def _cifar_names(path: Path) -> tuple[str, ...]:
    names = tuple(_read(path).decode("utf-8", "replace").split())
    if len(names) != 10:
        raise UserError(f"{path}: {len(names)} class names, expected 10")
    return names


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _checked_labels(labels: np.ndarray, path: Path) -> np.ndarray:
    bad = np.flatnonzero(labels > 9)
    if bad.size:
        raise UserError(f"{path} row {bad[0]}: label {labels[bad[0]]} is out of range, expected 0 to 9")
    return labels.astype(np.int32)


_READERS: dict[str, tuple[str, Callable[[Path], tuple[Arrays, Arrays, tuple[str, ...]]]]] = {
    "mnist": ("mnist", _mnist),
    "fashion_mnist": ("fashion-mnist", _fashion_mnist),
    "cifar10": ("cifar-10-batches-bin", _cifar10),
}
