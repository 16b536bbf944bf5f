"""CIFAR-10 and CIFAR-100 in the binary or the Python version, from the folder or the downloaded .tar.gz."""

from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.formats.files import Files, locate, open_files
from kdmlc_jax.data.formats.pickles import describe, entry, integers, load_pickle
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import UserError

PIXELS = 3 * 32 * 32
PUBLISHED_COUNTS = (50_000, 10_000)


class Layout(NamedTuple):
    """The files of one version of one set."""

    train: tuple[str, ...]
    test: str
    names: str
    binary: bool


class Batch(NamedTuple):
    """The content of one file."""

    images: np.ndarray  # u8[N, 32, 32, 3]
    labels: np.ndarray  # i32[N]


WHERE = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-binary", "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
}
CLASSES = {"cifar10": 10, "cifar100": 100}
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS = {
    "cifar10": (
        Layout(_BATCHES, "test_batch", "batches.meta", False),
        Layout(tuple(f"{name}.bin" for name in _BATCHES), "test_batch.bin", "batches.meta.txt", True),
    ),
    "cifar100": (
        Layout(("train",), "test", "meta", False),
        Layout(("train.bin",), "test.bin", "fine_label_names.txt", True),
    ),
}
# name -> (bytes, md5)
PUBLISHED = {
    "cifar10": {
        "cifar-10-python.tar.gz": (170498071, "c58f30108f718f92721af3b95e74349a"),
        "cifar-10-binary.tar.gz": (170052171, "c32a1d4ab5d03f1284b67883e8d87530"),
        "data_batch_1": (31035704, "c99cafc152244af753f735de768cd75f"),
        "data_batch_2": (31035320, "d4bba439e000b95fd0a9bffe97cbabec"),
        "data_batch_3": (31035999, "54ebc095f3ab1f0389bbae665268c751"),
        "data_batch_4": (31035696, "634d18415352ddfa80567beed471001a"),
        "data_batch_5": (31035623, "482c414d41f54cd18b22e5b47cb7c3cb"),
        "test_batch": (31035526, "40351d587109b95175f43aff81a1287e"),
        "data_batch_1.bin": (30730000, "5dd7e06a14cb22eb9f671a540d1b7c25"),
        "data_batch_2.bin": (30730000, "5ea93a67294ea407fff1d09f752e9692"),
        "data_batch_3.bin": (30730000, "942cd6a4bcdd0dd3c604fbe906cb4421"),
        "data_batch_4.bin": (30730000, "ae636b3ba5c66a11e91e8cb52e771fcb"),
        "data_batch_5.bin": (30730000, "53f37980c15c3d472c316c40844f3f0d"),
        "test_batch.bin": (30730000, "803d5f7f4d78ea53de84dbe85f74fb6d"),
    },
    "cifar100": {
        "cifar-100-python.tar.gz": (169001437, "eb9058c3a382ffc7106e4002c42a8d85"),
        "cifar-100-binary.tar.gz": (168513733, "03b5dce01913d631647c71ecec9e9cb8"),
        "train": (155249918, "16019d7e3df5f24257cddd939b257f8d"),
        "test": (31049893, "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    },
}


def load(data: ConfigDict) -> Source:
    """u8[N, 32, 32, 3] in the files' own order, and labels 0 to 9, or the fine labels 0 to 99.

    `data.dir` is a folder with the binary files or the pickles, or the archive of either; where empty, the first of
    WHERE that exists below KDMLC_DATA.

    Raises:
      UserError: for files that are missing, damaged or disagree; those of full size must have the published md5.
    """
    files, layout = _open(data)
    batches = [_batch(files, name, layout.binary, data.source) for name in layout.train]
    _check_counts(files, layout, batches)
    train = _part(*batches)
    test = _part(_batch(files, layout.test, layout.binary, data.source))
    names = _names(files, layout, data.source)
    return Source(data.source, names, train, test, notes=_notes(files, len(train.labels), len(test.labels)))


def _open(data: ConfigDict) -> tuple[Files, Layout]:
    """The files and the version most of them belong to."""
    layouts = LAYOUTS[data.source]
    wanted = [(*layout.train, layout.test, layout.names) for layout in layouts]
    files = open_files(
        locate(data, *WHERE[data.source], archive=True), frozenset(sum(wanted, ())), PUBLISHED[data.source]
    )
    counts = [sum(map(files.has, names)) for names in wanted]
    if not any(counts):
        first = " nor ".join(layout.train[0] for layout in layouts)
        raise UserError(f'{files.place}: holds neither {first}, expected the files of "{data.source}"')
    return files, layouts[counts.index(max(counts))]


def _part(*batches: Batch) -> Part:
    labels = np.concatenate([batch.labels for batch in batches])
    return Part(np.concatenate([batch.images for batch in batches]), labels, labels)


def _batch(files: Files, name: str, binary: bool, source: str) -> Batch:
    """One file, its labels checked."""
    pixels, labels = (_binary if binary else _pickled)(files, name, source == "cifar100")
    place = files.place / name
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Batch(np.ascontiguousarray(images), check_labels(labels, CLASSES[source], place))


def _binary(files: Files, name: str, hundred: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels; a record of CIFAR-100 starts with the superclass, then the class."""
    raw = np.frombuffer(files.read(name), np.uint8)
    heads = 2 if hundred else 1
    record = heads + PIXELS
    if raw.size == 0 or raw.size % record:
        labels = "2 labels" if hundred else "1 label"
        raise UserError(
            f"{files.place / name}: {raw.size} bytes, expected a multiple of {record} ({labels} + {PIXELS} pixels)"
        )
    records = raw.reshape(-1, record)
    return records[:, heads:], records[:, heads - 1]


def _pickled(files: Files, name: str, hundred: bool) -> tuple[np.ndarray, np.ndarray]:
    """As `_binary`, from a pickled dict."""
    place = files.place / name
    content = load_pickle(files.read(name), place)
    key = "fine_labels" if hundred else "labels"
    pixels, labels = entry(content, "data", place), integers(entry(content, key, place), place, key)
    usable = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (PIXELS,)
    if not usable or not len(pixels):
        raise UserError(f'{place}: "data" is {describe(pixels)}, expected uint8[N, {PIXELS}] with N above 0')
    if len(labels) != len(pixels):
        raise UserError(f"{place}: {len(labels)} labels, expected {len(pixels)}, the number of images")
    return pixels, labels


def _names(files: Files, layout: Layout, source: str) -> tuple[str, ...]:
    place, raw = files.place / layout.names, files.read(layout.names)
    if layout.binary:
        names: object = raw.decode("utf-8", "replace").split()
    else:
        key = "label_names" if source == "cifar10" else "fine_label_names"
        names = entry(load_pickle(raw, place), key, place)
    if not isinstance(names, list) or len(names) != CLASSES[source]:
        found = f"{len(names)}" if isinstance(names, list) else "no list of"
        raise UserError(f"{place}: {found} class names, expected {CLASSES[source]}")
    return tuple(map(str, names))


def _check_counts(files: Files, layout: Layout, batches: list[Batch]) -> None:
    """A file cut at a record's end shows only beside the others."""
    counts = [len(batch.labels) for batch in batches]
    usual = max(set(counts), key=counts.count)
    for name, count in zip(layout.train, counts, strict=True):
        if count != usual:
            raise UserError(f"{files.place / name}: {count} images, expected {usual} as in the other training files")


def _notes(files: Files, train: int, test: int) -> tuple[str, ...]:
    if (train, test) == PUBLISHED_COUNTS:
        return ()
    published = f"{PUBLISHED_COUNTS[0]} and {PUBLISHED_COUNTS[1]}"
    return (f"{files.place}: {train} training and {test} test images, the published set has {published}",)
