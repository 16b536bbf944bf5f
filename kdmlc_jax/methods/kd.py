"""Knowledge distillation, plain: a teacher learns the labels as they are, then a student follows it and them (Hinton et
al. 2015, arXiv 1503.02531).

    1. teacher   CE(ỹ, z_T); left out where `teacher.run` names a run that has trained it
    2. student   L = CE(ỹ, z_S) + λ τ² KL(softmax(z_T/τ) ‖ softmax(z_S/τ))

The teacher stands still in stage 2. It shares stage 1 with `aml_kd`, which is compared with it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import choose, in_range
from kdmlc_jax.methods.base import Batch, Info, Legacy, Method, Metrics, Stage, Streams
from kdmlc_jax.train_state import NetState

TEACHER = "teacher"  # the stage


def default_options() -> dict[str, Any]:
    """teacher_epochs: of stage 1, 0 = `train.epochs`, those of the student; kd_weight: λ; temperature: τ."""
    return {"teacher_epochs": 0, "kd_weight": 0.9, "temperature": 4.0}


def default_config(preset: str = "") -> ConfigDict:
    """Those of `default_options`."""
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": "kd", "preset": preset, **default_options()})


class State(struct.PyTreeNode):
    """Both networks."""

    teacher: NetState
    student: NetState


def check(config: Any) -> None:
    """Raises UserError for an option outside its range."""
    in_range("method.teacher_epochs", config.method.teacher_epochs, 0)
    in_range("method.kd_weight", config.method.kd_weight, 0.0)
    in_range("method.temperature", config.method.temperature, 1e-3)


def teacher_epochs(config: Any) -> int:
    """Of stage 1."""
    return 0 if config.teacher.run else int(config.method.teacher_epochs or config.train.epochs)


def networks(config: Any, info: Info) -> Callable[[jax.Array, jax.Array], dict[str, NetState]]:
    """(key, example images) -> {"teacher", "student"}, each with a learning rate over epochs of its own."""
    spans = {"teacher": teacher_epochs(config), "student": config.train.epochs}
    built = {
        name: (
            nets.build(config[name].net, info.num_classes, f"{name}.net"),
            optim.build(config.optim, max(span, 1) * info.steps_per_epoch),
        )
        for name, span in spans.items()
    }

    def init(key: jax.Array, images: jax.Array) -> dict[str, NetState]:
        return {
            name: train_state.create(jax.random.fold_in(key, number), module, tx, images)
            for number, (name, (module, tx)) in enumerate(built.items())
        }

    return init


def teacher_stages(config: Any, info: Info, streams: Streams) -> tuple[Stage, ...]:
    """Stage 1, of a state that has `teacher`; none where `teacher.run` is given."""

    def step(current: Any, batch: Batch, key: jax.Array) -> tuple[Any, Metrics]:
        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            output, batch_stats = train_state.train_forward(current.teacher, params, batch["image"])
            own = jax.nn.one_hot(batch["label"], info.num_classes)
            return jnp.mean(losses.cross_entropy(own, output.logits)), batch_stats

        (loss, batch_stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(current.teacher.params)
        return current.replace(teacher=current.teacher.descend(gradient, batch_stats)), {"loss": loss}

    epochs = teacher_epochs(config)
    return (Stage(TEACHER, epochs, streams, step),) if epochs else ()


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`.

    Raises:
      UserError: for an option outside its range.
    """
    options = config.method
    check(config)
    create = networks(config, info)

    def init(key: jax.Array, images: jax.Array) -> State:
        return State(**create(key, images))

    def step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        images = batch["image"]
        guide = train_state.evaluate(current.teacher, images).logits

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            output, batch_stats = train_state.train_forward(current.student, params, images)
            loss = losses.cross_entropy(jax.nn.one_hot(batch["label"], info.num_classes), output.logits)
            loss += options.kd_weight * losses.distillation(guide, output.logits, options.temperature)
            return jnp.mean(loss), batch_stats

        (loss, batch_stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(current.student.params)
        return current.replace(student=current.student.descend(gradient, batch_stats)), {"loss": loss}

    def predict(current: State, images: jax.Array) -> jax.Array:
        return train_state.evaluate(current.student, images).logits

    def correct(current: State, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        return jax.nn.softmax(predict(current, images))

    streams = Streams(noisy=config.train.batch_size)
    return Legacy(
        init=init,
        stages=(*teacher_stages(config, info, streams), Stage("student", config.train.epochs, streams, step)),
        predict=predict,
        correct=correct,
        networks={"student": lambda current: current.student, "teacher": lambda current: current.teacher},
        deployed="student",
        taught=True,
        preparing=(TEACHER,),
    )
