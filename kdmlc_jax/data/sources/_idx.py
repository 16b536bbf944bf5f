"""MNIST and Fashion-MNIST in idx files, plain or gzip."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.formats.files import Readable, locate, read_at_most
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import UserError, is_failure, unreadable
from kdmlc_jax.storage import door
from kdmlc_jax.storage.files import exists

IMAGE_MAGIC, LABEL_MAGIC = 0x00000803, 0x00000801
# A header is a claim: nothing above this is believed, whatever a compressed file would unpack to.
MAX_IDX_BYTES = 1 << 30

DIGITS = tuple(str(digit) for digit in range(10))
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def load(data: ConfigDict) -> Source:
    """The four files of `mnist` or `fashion_mnist`: u8[N, H, W, 1] and labels 0 to 9."""
    folder, names = {"mnist": ("mnist", DIGITS), "fashion_mnist": ("fashion-mnist", FASHION)}[data.source]
    path = locate(data, folder)
    return Source(data.source, names, _idx_pair(path, "train"), _idx_pair(path, "t10k"))


def _idx_pair(directory: Path, part: str) -> Part:
    image_path = _find(directory, f"{part}-images-idx3-ubyte")
    label_path = _find(directory, f"{part}-labels-idx1-ubyte")
    images = _idx(image_path, IMAGE_MAGIC)[..., None]
    labels = _idx(label_path, LABEL_MAGIC)
    if len(images) != len(labels):
        raise UserError(f"{label_path}: {len(labels)} labels, expected {len(images)}, the images in {image_path.name}")
    checked = check_labels(labels, 10, label_path)
    return Part(images, checked, checked)


def _find(directory: Path, stem: str) -> Path:
    for path in (directory / stem, directory / f"{stem}.gz"):
        if exists(path):
            return path
    raise UserError(f"{directory / stem}: no such file, with or without .gz")


def _idx(path: Path, magic: int) -> np.ndarray:
    """The u8 array of an IDX file, plain or gzip."""
    try:
        with door.opened(path, MAX_IDX_BYTES + 64) as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
            shape = _idx_shape(file, path, magic)
            size = math.prod(shape)
            body = read_at_most(file, size + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path}: corrupt gzip ({error}), expected a complete file") from error
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, path) from error
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    if len(body) != size:
        found = "more" if len(body) > size else f"only {len(body)}"
        raise UserError(f"{path}: {found} bytes after the header, expected {size} for shape {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _idx_shape(file: Readable, path: Path, magic: int) -> tuple[int, ...]:
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
