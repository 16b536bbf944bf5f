"""The zoo's cells: features, given and true labels, trusted rows, of many kinds of data and noise.

Reads $KDMLC_DATA (fashion-mnist, cifar-10-batches-bin, cifar-10n) and a folder of features, {name}.npz each with
`features`, `labels` and, where people gave them, `given` and `trusted`: `cifar` (the first rows of CIFAR-10's training
set, in its order), `photos`. What is missing is left out and named.
"""

import functools
import gzip
import os
import pathlib
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.noise import human, instance_published, twins
from kdmlc_jax.data.noise.base import Request

CIFAR_ROWS = 6_000
HUMAN = ("worst", "random1", "aggre")


class Cell(NamedTuple):
    """One problem; labels i64, features f32."""

    features: np.ndarray
    given: np.ndarray
    true: np.ndarray
    trusted_features: np.ndarray
    trusted_label: np.ndarray
    classes: int
    own_given: np.ndarray | None = None  # the trusted rows' own given labels, of people's labels


def data_folder() -> pathlib.Path:
    """$KDMLC_DATA."""
    return pathlib.Path(os.environ["KDMLC_DATA"])


@functools.cache
def cifar_labels() -> np.ndarray:
    """All 50 000 training labels, in the files' order."""
    files = [data_folder() / "cifar-10-batches-bin" / f"data_batch_{i}.bin" for i in range(1, 6)]
    return np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073)[:, 0] for f in files]).astype(int)


@functools.cache
def rows_of(name: str, folder: str) -> tuple[np.ndarray, ...]:
    """Features and true labels of a data set, and for photos the given labels and who is trusted."""
    if name == "digits":
        from sklearn.datasets import load_digits

        found = load_digits()
        return found.data.astype(np.float32), found.target
    if name.startswith("gauss"):  # ten classes in 16 dimensions, centres Normal(0, scale²), deviation 1
        rng = np.random.default_rng(5)
        centre, label = rng.normal(size=(10, 16)) * float(name[5:]), np.arange(8_000) % 10
        return (centre[label] + rng.normal(size=(8_000, 16))).astype(np.float32), label
    if name.endswith("_pca"):
        x, *rest = rows_of(name[:-4], folder)
        x = x - x.mean(axis=0)
        return x @ np.linalg.eigh(x.T @ x)[1][:, -(64 if name == "fashion_pca" else 128) :], *rest
    if name == "fashion":
        root = data_folder() / "fashion-mnist"
        x, label = (
            np.frombuffer(gzip.decompress((root / f"train-{part}-ubyte.gz").read_bytes()), np.uint8, offset=offset)
            for part, offset in (("images-idx3", 16), ("labels-idx1", 8))
        )
        return x.reshape(-1, 784)[:10_000] / np.float32(255), label[:10_000].astype(int)
    if name == "cifar":
        x = np.fromfile(data_folder() / "cifar-10-batches-bin" / "data_batch_1.bin", np.uint8).reshape(-1, 3073)
        return x[:CIFAR_ROWS, 1:] / np.float32(255), cifar_labels()[:CIFAR_ROWS]
    found = np.load(pathlib.Path(folder) / f"{name}.npz")
    return tuple(found[key] for key in ("features", "labels", "given", "trusted") if key in found)


def noisy(kind: str, rate: float, label: np.ndarray, x: np.ndarray, classes: int, rng: np.random.Generator):
    """Given labels.

    uniform (the true class among those drawn), pair (y + 1), flip (y + a shift drawn once), instance_published and
    twins (the package's, of the features), or a set of CIFAR-10N.
    """
    if kind in HUMAN:
        return human.labels(Request(0.0, 10, 0, truth=cifar_labels(), column=kind))[: len(label)].astype(int)
    wrong = rng.random(len(label)) < rate
    if kind in ("uniform", "pair", "flip"):
        shift = 1 if kind == "pair" else int(rng.integers(1, classes))
        drawn = rng.integers(0, classes, len(label)) if kind == "uniform" else (label + shift) % classes
        return np.where(wrong, drawn, label)
    kinds = {"instance_published": instance_published, "twins": twins}
    request = Request(rate, classes, seed=int(rng.integers(1 << 31)), truth=label, images=x[:, None, None, :])
    return kinds[kind].labels(request).astype(int)


def cell(
    data: str,
    kind: str,
    rate: float,
    trusted: int,
    seed: int,
    uneven: bool = False,
    rows: int = 3_000,
    folder: str = "",
) -> Cell:
    """Draws a cell: `trusted` rows, as many a class where classes are even; of `uneven` ones the last has a tenth."""
    rng = np.random.default_rng(1000 + seed)
    x, label, *people = rows_of(data, folder)
    classes = int(label.max()) + 1
    if people:
        given, own = people
        pick, rest = rng.permutation(np.flatnonzero(own))[:trusted], np.flatnonzero(~own)
        return Cell(x[rest], given[rest], label[rest], x[pick], label[pick], classes)
    share = 10.0 ** (-np.arange(classes) / (classes - 1)) if uneven else np.ones(classes)
    members = [rng.permutation(np.flatnonzero(label == c)) for c in range(classes)]
    members = [rows_c[: max(2, int(len(rows_c) * share[c]))] for c, rows_c in enumerate(members)]
    first = [rows_c[: 1 if uneven else max(1, trusted // classes)] for rows_c in members]
    rest = rng.permutation(np.concatenate([rows_c[len(f) :] for rows_c, f in zip(members, first, strict=True)]))
    missing = max(0, trusted - sum(map(len, first)))
    pick = np.concatenate([*first, rest[:missing]])
    rest = rest[missing:][:rows]
    given = noisy(kind, rate, label, x, classes, rng)
    own = given[pick] if kind in HUMAN else None
    return Cell(x[rest], given[rest], label[rest], x[pick], label[pick], classes, own)
