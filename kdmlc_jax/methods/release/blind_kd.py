"""Blind-KD as its authors' code has it (arXiv 2211.11355).

P is p^A_ỹ as training met it in epoch e (augmented images, batch statistics); Otsu's criterion has deviations; labels
are wrong where P < μ_lo; the sum of squares is divided by B C - 1; the gradient goes through p^S in t.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from kdmlc_jax.labels.thresholds import Split
from kdmlc_jax.methods.base import Batch, DatasetView
from kdmlc_jax.methods.blind_kd import BlindKD, BlindKDState
from kdmlc_jax.methods.parts.agreement import LATE, softened_label
from kdmlc_jax.shapes import Labels, Logits, Matrix, PerImage, Scalar, SoftLabels
from kdmlc_jax.train_state import Bank


@dataclass(frozen=True, eq=False)
class ReleasedBlindKD(BlindKD):
    """`memory` is a Bank f32[N, LATE + 1]: p^A_ỹ in epoch e, in column e % (LATE + 1); -1 where not met."""

    criterion = "deviation"

    def first_memory(self, both: Any) -> Any:
        """Nothing met."""
        return Bank(jnp.full((self.info.num_noisy, LATE + 1), -1.0))

    def remember(self, state: BlindKDState, batch: Batch, agreement: PerImage) -> Any:
        """The images of the batch are met; as an epoch begins, its column is empty."""
        column, rows = batch["epoch"] % (LATE + 1), state.memory.rows
        rows = rows.at[:, column].set(jnp.where(batch["epoch"] > state.last_epoch, -1.0, rows[:, column]))
        return Bank(rows.at[batch["index"], column].set(agreement))

    def count(self, batch_size: int) -> int:
        """See the module."""
        return batch_size * self.info.num_classes - 1

    def target(self, given_label: Labels, student_logits: Logits, beta: PerImage) -> SoftLabels:
        """t, with its gradient."""
        return softened_label(given_label, student_logits, beta)

    def splitting(self, state: BlindKDState) -> BlindKDState:
        """With the newest networks."""
        return state

    def agreement_met(self, state: BlindKDState, view: DatasetView, epoch: int) -> np.ndarray | None:
        """Column of that epoch."""
        return np.asarray(view.fetch(state.memory.rows))[:, epoch % (LATE + 1)]

    def agreement(
        self, beliefs: Float[np.ndarray, "N C"], given_label: np.ndarray, counted: Matrix, met: np.ndarray | None
    ) -> Float[np.ndarray, " N"]:
        """P as met; p^A_ỹ now for the images that an epoch leaves out, those that fill no batch."""
        now = beliefs[np.arange(len(given_label)), given_label]
        assert met is not None
        return np.asarray(np.where(met < 0, now, met))

    def border(self, split: Split) -> Scalar:
        """See the module."""
        return split.lower_mean
