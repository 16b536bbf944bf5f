"""AML-KD as its authors' code has it (doi 10.1109/TNNLS.2023.3335829).

First labels come from the teacher's predictions on all images, the least confident 5 % of which keep the given label;
later ones, every `every` epochs, from the student's 1 - r images of smallest loss, which keep the given label, and its
predictions on all others, r being `noise_rate`; in stage 3 from the labels of the turn before, weighted by
s = σ(cos(h_i, m_ŷ)). A batch has one mean weight, MixUp's term the temperature τ, and

    L += ½ mean (cos(h_S,i, h_S,j) - cos(h_T,i, h_T,j))²      over the pairs of a batch
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kdmlc_jax import losses, train_state
from kdmlc_jax.methods.aml_kd import PROPAGATE, AmlKD, AmlKDState
from kdmlc_jax.methods.base import Batch, DatasetView
from kdmlc_jax.methods.parts import seeds
from kdmlc_jax.methods.parts.propagated import PropagatedLabels, decided, given_losses
from kdmlc_jax.shapes import Inputs, Labels, Logits, PerImage, Scalar, SoftLabels


@dataclass(frozen=True, eq=False)
class ReleasedAmlKD(AmlKD):
    """Labels by the student's losses, which move; so stage 2 propagates again, too."""

    @property
    def first_every(self) -> int:
        """As in stage 3."""
        return self.every

    @property
    def mixup_temperature(self) -> float:
        """That of the distillation."""
        return self.temperature

    def batch_weight(self, weight: PerImage) -> PerImage:
        """The mean, of all."""
        return jnp.full_like(weight, jnp.mean(weight))

    @staticmethod
    def closed_weight(cosine: Logits, label: Labels) -> PerImage:
        """Without the other classes."""
        return jax.nn.sigmoid(jnp.take_along_axis(cosine, label[:, None], axis=1)[:, 0])

    def loss(
        self, params: Any, state: AmlKDState, batch: Batch, mixed: tuple[Inputs, SoftLabels] | None
    ) -> tuple[Scalar, Any]:
        """With the term of pairs."""
        loss, (batch_stats, features) = super().loss(params, state, batch, mixed)
        others = train_state.evaluate(state.teacher, batch["image"]).features
        return loss + pair_loss(features, others), (batch_stats, features)

    def begin(self, state: AmlKDState, view: DatasetView) -> AmlKDState:
        """Stage 2: a turn."""
        done = sum(row["stage"] == PROPAGATE for row in view.history)
        labels = self.turn(state, view, "teacher", first=done < self.every)
        if not done:
            view.note(f"aml_kd: {labels.summary(view.given_label)}")
        return state.replace(labels=labels)

    def begin_mutual(self, state: AmlKDState, view: DatasetView) -> AmlKDState:
        """Stage 3: a turn, from the labels before it."""
        over, _ = self.roles(view)
        before = view.fetch((state.labels.label.rows, state.labels.weight.rows))
        return state.replace(labels=self.turn(state, view, over, before=before))

    def turn(
        self, state: AmlKDState, view: DatasetView, over: str, first: bool = False, before: tuple | None = None
    ) -> PropagatedLabels:
        """Labels and weights anew, over one network's features; from labels and weights `before`, if there are."""
        features, logits = view.map("noisy", self.outputs, getattr(state, over))
        student = logits if over == "student" else view.map("noisy", self.outputs, state.student)[1]
        if first:
            before = np.argmax(logits, axis=1), None
        return decided(view, lambda: self.decide_turn(features, student, view.given_label, first, before))

    def decide_turn(
        self, features: np.ndarray, student_logits: np.ndarray, given: np.ndarray, first: bool, before: tuple | None
    ) -> PropagatedLabels:
        """By propagation from all images."""
        kept = seeds.smallest(given_losses(student_logits, given), 1.0 - self.noise_rate)
        predicted, belief = np.argmax(student_logits, axis=1), np.eye(self.num_classes, dtype=np.float32)[given]
        if self.propagation.refine:
            soft = self.propagation.soft_label(features, *(before or (np.where(kept, given, predicted), None)))
            stays = seeds.smallest(soft.max(axis=1), 0.05) if first else kept
            belief = np.where(stays[:, None], belief, seeds.propagated_belief(soft, given, evidence=False))
        rates = np.full(self.num_classes, self.noise_rate, np.float32)
        return self.propagation.labels(features, belief, kept, predicted, rates)


def pair_loss(features: Float[Array, "B D"], teacher_features: Float[Array, "B D2"]) -> Scalar:
    """½ mean over pairs of (cos(h_S,i, h_S,j) - cos(h_T,i, h_T,j))²; the features may be of different widths."""
    student, teacher = losses.unit_rows(features), losses.unit_rows(teacher_features)
    return 0.5 * jnp.mean((student @ student.T - teacher @ teacher.T) ** 2)
