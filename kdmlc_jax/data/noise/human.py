"""The labels that people gave to CIFAR-10 and CIFAR-100: CIFAR-10N and CIFAR-100N (Wei et al., arXiv 2110.12088)."""

import os
from pathlib import Path

import numpy as np
from jaxtyping import Int

from kdmlc_jax.arrays import check_labels
from kdmlc_jax.data.formats.boxed import read_boxed
from kdmlc_jax.data.formats.pickles import entry, integers, read_torch
from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.errors import UserError, choose
from kdmlc_jax.storage import files

RATED, CORRUPTS, CARRIED = False, False, True

# number of classes -> (file below KDMLC_DATA, {noise.human: key in the file})
PUBLISHED = {
    10: (
        "cifar-10n/CIFAR-10_human.pt",
        {"aggre": "aggre_label", **{f"random{k}": f"random_label{k}" for k in (1, 2, 3)}, "worst": "worse_label"},
    ),
    100: ("cifar-100n/CIFAR-100_human.pt", {"noisy": "noisy_label"}),
}


def labels(request: Request) -> Int[np.ndarray, " N"]:
    """The labels that people gave to the training images, in the order of the true ones.

    Args:
      request: `file`, CIFAR-10_human.pt or CIFAR-100_human.pt, or the same as .npy, '' = the usual place below
        KDMLC_DATA; `column`: aggre (majority of three), random1, random2, random3 or worst (a wrong one where there is
        any) for 10 classes, noisy for 100; `truth`, the training labels in the source's order.

    Raises:
      UserError: for another set or name, a file that is missing or damaged, and one whose own clean labels differ from
        `truth`, which happens where the source has its images in another order.
    """
    truth, num_classes = request.truth, request.num_classes
    if num_classes not in PUBLISHED:
        raise UserError(f'noise.kind: "human" is for CIFAR-10 and CIFAR-100, this set has {num_classes} classes')
    name, keys = PUBLISHED[num_classes]
    choose("noise.human", request.column, tuple(keys))
    file = _file(request.file, name)
    content = read_boxed(file) if file.suffix.lower() == ".npy" else read_torch(file)
    clean = _column(content, "clean_label", file, truth, num_classes)
    if different := np.count_nonzero(clean != truth):
        raise UserError(
            f"{file}: clean_label differs from the training labels at {different} of {len(truth)} rows, expected 0: "
            "the images are in another order (the files of CIFAR have the right one, tfds has its own)"
        )
    return _column(content, keys[request.column], file, truth, num_classes)


def _file(path: str, name: str) -> Path:
    root = os.environ.get("KDMLC_DATA", "")
    if not path and not root:
        raise UserError(f"noise.file is empty: give {Path(name).name}, or set KDMLC_DATA to the folder above {name}")
    usual = Path(root).expanduser() / name
    if not path and not files.exists(usual) and files.exists(usual.with_suffix(".npy")):
        return usual.with_suffix(".npy")
    return Path(path).expanduser() if path else usual


def _column(content: dict, key: str, file: Path, truth: np.ndarray, num_classes: int) -> np.ndarray:
    column = integers(entry(content, key, file), file, key)
    if len(column) != len(truth):
        raise UserError(f"{file}: {len(column)} labels in {key}, expected {len(truth)}, one per training image")
    return check_labels(column, num_classes, f"{file} {key}")
