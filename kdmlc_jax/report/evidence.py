"""The trusted images that are most like a suspected one."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax import export
from kdmlc_jax.data.dataset import Dataset

MOST = 2_000  # trusted images looked through


def network_of(summary: dict, workdir: Path) -> Path:
    """The folder of the network whose features say what is alike: the teacher's, where there is one."""
    return workdir / ("teacher" if "teacher" in summary["networks"] else next(iter(summary["networks"])))


def features(dataset: Dataset, rows: Int[np.ndarray, " n"], network: Path) -> Float[np.ndarray, "n D"]:
    """Of the images at `rows`: `data.features`, or those of the network that a run has left in the folder `network`;
    each row of length 1."""
    if dataset.features is not None:
        found = dataset.features[rows].astype(np.float32)
    elif dataset.images.dtype != np.uint8:
        found = dataset.images[rows].reshape(len(rows), -1)
    else:
        _, output = export.open_network(network)
        found = export.over(lambda images: np.asarray(output(images).features), dataset.inputs, rows)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def nearest(
    dataset: Dataset, suspected: Int[np.ndarray, " n"], network: Path, count: int = 3
) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, "n k"]]:
    """The trusted images looked through, and which of them are nearest to each suspected one by the cosine of
    `features`."""
    trusted = dataset.splits.checked[:MOST]
    if not len(trusted) or not len(suspected):
        return trusted, np.zeros((len(suspected), 0), int)
    both = features(dataset, np.concatenate([suspected, trusted]), network)
    alike = both[: len(suspected)] @ both[len(suspected) :].T
    return trusted, np.argsort(-alike, axis=1, kind="stable")[:, :count]
