"""labels.csv and labels.parquet, every label with its correction, and soft_labels.npy, what is believed of each."""

import pathlib

from kdmlc_jax.outputs.base import Result
from kdmlc_jax.storage import labels


def write(result: Result, workdir: pathlib.Path) -> None:
    """The label table and the beliefs beside it; see `storage.labels.write`."""
    labels.write(result.table, workdir, result.beliefs)
