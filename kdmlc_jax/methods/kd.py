"""Knowledge distillation, plain: a teacher learns the labels as they are, then a student follows it and them (Hinton et
al. 2015, arXiv 1503.02531).

    1. teacher   CE(ỹ, z_T); left out where `teacher.run` names a run that has trained it
    2. student   L = CE(ỹ, z_S) + λ τ² KL(softmax(z_T/τ) ‖ softmax(z_S/τ))

The teacher stands still in stage 2. Stage 1 is `parts.noisy_teacher`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, train_state
from kdmlc_jax.errors import choose
from kdmlc_jax.methods.base import Batch, Info, Metrics, Stage
from kdmlc_jax.methods.parts import noisy_teacher
from kdmlc_jax.methods.parts.noisy_teacher import NoisyTeacher
from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, Scalar, SoftLabels
from kdmlc_jax.train_state import NetState

RECIPES = {"cifar100": {"data.trusted": 0}}  # as `aml_kd`, which it is compared with


def default_config(preset: str = "") -> ConfigDict:
    """Those of `noisy_teacher.default_options`."""
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": "kd", "preset": preset, **noisy_teacher.default_options()})


def make(config: Any, info: Info) -> "Distillation":
    """The method that `config` describes; raises UserError for an option outside its range."""
    return Distillation(**noisy_teacher.fields(config, info), epochs=config.train.epochs)


class DistillationState(struct.PyTreeNode):
    """Both networks."""

    teacher: NetState
    student: NetState


@dataclass(frozen=True, eq=False)
class Distillation(NoisyTeacher):
    """A student of a teacher that has learned noisy labels, and of those labels."""

    epochs: int  # of stage 2

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The teacher, then the student."""
        return *self.teacher_stages, Stage("student", self.epochs, self.streams, self.step)

    def init(self, key: Key, images: Inputs) -> DistillationState:
        return DistillationState(**self.init_networks(key, images))

    def loss(self, params: Any, student: NetState, batch: Batch, teacher_logits: Logits) -> tuple[Scalar, Any]:
        """Mean of CE(ỹ, z_S) + λ τ² KL over the batch, and the moved batch statistics."""
        output, batch_stats = train_state.train_forward(student, params, batch["image"])
        given = jax.nn.one_hot(batch["label"], self.num_classes)
        loss = losses.cross_entropy(given, output.logits)
        loss += self.kd_weight * losses.distillation(teacher_logits, output.logits, self.temperature)
        return jnp.mean(loss), batch_stats

    def step(self, state: DistillationState, batch: Batch, key: Key) -> tuple[DistillationState, Metrics]:
        """One update of the student."""
        student, loss = state.student.minimise(
            self.loss, batch, train_state.evaluate(state.teacher, batch["image"]).logits
        )
        return state.replace(student=student), {"loss": loss}

    def correct(self, state: DistillationState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """The student's own beliefs, whatever the label."""
        return jax.nn.softmax(self.predict(state, images))
