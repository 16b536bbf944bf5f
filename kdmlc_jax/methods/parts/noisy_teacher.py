"""A teacher that has learned the noisy labels as they are, and then stands still: what methods that distil from an
imperfect teacher have in common (Hinton et al. 2015, arXiv 1503.02531).

    1. teacher   CE(ỹ, z_T); left out where `teacher.run` names a run that has trained it
    2. …         the student learns, in the method's own way
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import in_range
from kdmlc_jax.methods.base import Batch, Info, Method, Metrics, Stage, Streams, Traits
from kdmlc_jax.shapes import Inputs, Key, Logits, Scalar
from kdmlc_jax.train_state import NetState

TEACHER = "teacher"  # the stage


def default_options() -> dict[str, Any]:
    """teacher_epochs: of stage 1, 0 = `train.epochs`, those of the student; kd_weight: λ; temperature: τ."""
    return {"teacher_epochs": 0, "kd_weight": 0.9, "temperature": 4.0}


def fields(config: Any, info: Info) -> dict[str, Any]:
    """What `config` says of the fields of `NoisyTeacher`; raises UserError for an option outside its range.

    Each network's learning rate runs over its own epochs.
    """
    options = config.method
    wanted = int(in_range("method.teacher_epochs", options.teacher_epochs, 0)) or config.train.epochs
    epochs = 0 if config.teacher.run else wanted
    spans = {"teacher": max(epochs, 1), "student": config.train.epochs}
    return {
        "modules": {name: nets.build(config[name].net, info.num_classes, f"{name}.net") for name in spans},
        "txs": {name: optim.build(config.optim, span * info.steps_per_epoch) for name, span in spans.items()},
        "num_classes": info.num_classes,
        "teacher_epochs": epochs,
        "kd_weight": in_range("method.kd_weight", options.kd_weight, 0.0),
        "temperature": in_range("method.temperature", options.temperature, 1e-3),
        "streams": Streams(noisy=config.train.batch_size),
    }


@dataclass(frozen=True, eq=False)
class NoisyTeacher(Method):
    """Stage 1; a method's state has `teacher` and `student`, each a `NetState`, and its own stages follow."""

    modules: dict[str, nn.Module]  # "teacher" and "student"
    txs: dict[str, optax.GradientTransformation]
    num_classes: int
    teacher_epochs: int
    kd_weight: float
    temperature: float
    streams: Streams

    traits = Traits(deployed="student", takes_teacher=True, preparing=(TEACHER,))

    def init_networks(self, key: Key, images: Inputs) -> dict[str, NetState]:
        """Both networks in their first states, by name."""
        return {
            name: train_state.create(jax.random.fold_in(key, number), module, self.txs[name], images)
            for number, (name, module) in enumerate(self.modules.items())
        }

    @property
    def teacher_stages(self) -> tuple[Stage, ...]:
        """Stage 1, or none where the teacher comes trained."""
        return (Stage(TEACHER, self.teacher_epochs, self.streams, self.teacher_step),) if self.teacher_epochs else ()

    def teacher_loss(self, params: Any, teacher: NetState, batch: Batch) -> tuple[Scalar, Any]:
        """Mean CE(ỹ, z_T), and the moved batch statistics."""
        output, batch_stats = train_state.train_forward(teacher, params, batch["image"])
        given = jax.nn.one_hot(batch["label"], self.num_classes)
        return jnp.mean(losses.cross_entropy(given, output.logits)), batch_stats

    def teacher_step(self, state: Any, batch: Batch, key: Key) -> tuple[Any, Metrics]:
        """One update of the teacher."""
        teacher, loss = state.teacher.minimise(self.teacher_loss, batch)
        return state.replace(teacher=teacher), {"loss": loss}

    def predict(self, state: Any, images: Inputs) -> Logits:
        """The student's logits."""
        return train_state.evaluate(state.student, images).logits

    def networks(self, state: Any) -> dict[str, NetState]:
        return {"student": state.student, "teacher": state.teacher}
