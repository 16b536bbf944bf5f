"""What an output can be made of."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.train_state import NetState


class Result(NamedTuple):
    """All that a finished run knows, on the host. `dataset.truth` is for figures only, -1 where unknown.

    The rows of the label table are the images at `rows`: the noisy ones, the trusted ones, those for validation.
    """

    config: ConfigDict
    dataset: Dataset
    rows: Int[np.ndarray, " N"]
    beliefs: Float[np.ndarray, "N C"]  # rows on the simplex; those of trusted images are their labels
    table: pa.Table  # N rows, `labels.table`
    networks: dict[str, NetState]
    # mean and std f[K] of the pixels in [0, 1], by channel; features_mean and features_std f[D] where any sees them
    fixed: dict[str, np.ndarray]
    history: list[dict]  # a row for each epoch, as in metrics.jsonl
    summary: dict  # as in summary.json, but for the time the outputs take
