"""Clothing1M (Xiao et al., CVPR 2015) in the layout of its release: lists of images, and `path label` files, beside the
folder images/ or in annotations/; a tab may stand for the blank, and a list may have the label, too.

Training part: noisy_train, then clean_train, then clean_val, each in the order of its list. Given labels are those of
noisy_label_kv.txt, true labels those of clean_label_kv.txt, -1 where a file has none. clean_train is trusted, clean_val
is validation, clean_test the test part with its clean labels.
"""

import re
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.formats.files import locate, read_lines
from kdmlc_jax.data.formats.listing import check_name, check_options, leave_out, skip_notes
from kdmlc_jax.data.images.files import ImageFiles, survey
from kdmlc_jax.data.sources.base import Part, Source
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage.files import exists

CLASSES = (
    "T-Shirt", "Shirt", "Knitwear", "Chiffon", "Sweater", "Hoodie", "Windbreaker", "Jacket", "Downcoat", "Suit",
    "Shawl", "Dress", "Vest", "Underwear",
)  # fmt: skip
SIZE = 224  # where data.image_size is 0
TRAIN_LISTS = ("noisy_train", "clean_train", "clean_val")
CLEAN_LISTS = ("clean_train", "clean_val", "clean_test")


def load(data: ConfigDict) -> Source:
    """The four lists; images are read when asked for, u8[S, S, K]; S = 224 and K = 3 where the config leaves them open.

    With `data.verify` or data.on_bad_image=skip every file is decoded to the end first, slow for a million.

    Raises:
      UserError: naming file and line of what is malformed, an image without a label or in two clean lists, a label out
        of 0 to 13; for a bad image where data.on_bad_image is fail.
    """
    check_options(data)
    root = locate(data, "clothing1m")
    noisy, clean = (_labels(_file(root, f"{kind}_label_kv.txt")) for kind in ("noisy", "clean"))
    lists = {
        name: _images(_key_list(root, name), noisy if name == "noisy_train" else clean)
        for name in ("noisy_train", *CLEAN_LISTS)
    }
    notes = _disjoint(root, lists)
    skipped = _leave_out(root, lists, data) if data.verify or data.on_bad_image == "skip" else ()
    train, test = [name for part in TRAIN_LISTS for name in lists[part]], list(lists["clean_test"])
    trusted, validation = np.cumsum([len(lists[part]) for part in TRAIN_LISTS[:2]])
    return Source(
        data.source,
        CLASSES,
        Part(_files(root, train, data), _codes(train, noisy), _codes(train, clean), np.array(train)),
        Part(_files(root, test, data), _codes(test, clean), None, np.array(test)),
        np.arange(trusted, validation),
        np.arange(validation, len(train)),
        skipped,
        (*notes, *skip_notes(skipped)),
    )


def _key_list(root: Path, name: str) -> Path:
    return _file(root, f"{name}_key_list.txt")


def _file(root: Path, name: str) -> Path:
    inner = root / "annotations" / name
    return inner if exists(inner) and not exists(root / name) else root / name


def _images(path: Path, labels: dict[str, int]) -> dict[str, int]:
    """Image -> line of a key list, in its order; each has one of `labels`."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        key, label = _pair(line) if "\t" in line else (line, None)
        name = _image(path, number, key)
        if name not in labels:
            kind = path.name.split("_")[0]
            raise UserError(f'{path} line {number}: "{name}" has no label in {kind}_label_kv.txt')
        if label not in (None, str(labels[name])):
            raise UserError(f'{path} line {number}: "{name}" has label {label} here, {labels[name]} in its label file')
        lines.setdefault(name, number)
    if not lines:
        raise UserError(f"{path}: no images, expected a path a line")
    return lines


def _pair(line: str) -> tuple[str, str | None]:
    """The path and the label of a line, None where there is none."""
    found = re.fullmatch(r"(.*\S)[ \t]+(-?[0-9]+)", line)
    return (found[1], found[2]) if found else (line, None)


def _image(path: Path, number: int, name: str) -> str:
    check_name(name, f"{path} line {number}")
    if name.startswith("/") or " " in name or ".." in name.split("/"):
        raise UserError(f'{path} line {number}: "{name}" is not a path below {path.parent}, expected images/…/….jpg')
    return name


def _labels(path: Path) -> dict[str, int]:
    """Image -> label of a `path label` file."""
    labels: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        name, text = _pair(line)
        if text is None:
            raise UserError(f'{path} line {number}: "{line}" is not a path, a space and a label')
        if len(text) > 2 or not 0 <= int(text) < len(CLASSES):
            raise UserError(f"{path} line {number}: label {text} is out of range, expected 0 to {len(CLASSES) - 1}")
        if labels.setdefault(name, int(text)) != int(text):
            raise UserError(f'{path} line {number}: "{name}" has label {labels[name]} above, {text} here')
    return labels


def _disjoint(root: Path, lists: dict[str, dict[str, int]]) -> tuple[str, ...]:
    """Takes images of clean lists out of the noisy one, with a note; raises UserError for one in two clean lists."""
    role: dict[str, str] = {}
    for part in CLEAN_LISTS:
        for name, number in lists[part].items():
            if role.setdefault(name, part) != part:
                other = _key_list(root, role[name]).name
                raise UserError(f'{_key_list(root, part)} line {number}: "{name}" is also in {other}')
    both = [name for name in lists["noisy_train"] if name in role]
    for name in both:
        del lists["noisy_train"][name]
    return (f"{len(both)} images of noisy_train are in a clean list too and kept in that alone",) if both else ()


def _leave_out(root: Path, lists: dict[str, dict[str, int]], data: ConfigDict) -> tuple[tuple[str, str], ...]:
    """Takes bad images out of the lists; (name, reason) of each."""
    names = [name for lines in lists.values() for name in lines]
    files = [root / name for name in names]
    skipped = leave_out(files, names, survey(files, data.max_megapixels, verify=True).bad, data.on_bad_image)
    for name, _ in skipped:
        for lines in lists.values():
            lines.pop(name, None)
    return skipped


def _files(root: Path, names: list[str], data: ConfigDict) -> ImageFiles:
    paths = [root / name for name in names]
    return ImageFiles(paths, data.image_size or SIZE, data.channels or 3, data.max_megapixels)


def _codes(names: list[str], labels: dict[str, int]) -> np.ndarray:
    return np.array([labels.get(name, -1) for name in names], np.int32)
