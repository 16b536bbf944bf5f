"""KDMLC: a meta-label-correcting teacher guides a lightweight student online (J. Computer Research and Development
2024, 61(12):3121, doi 10.7544/issn1000-1239.202330382).

Per iteration, after the teacher's MLC step with corrector g_α:

    ŷ   = sg[ g_α⁺(h_T(x), ỹ) ]
    L_S = ( n_s [(1-λ) CE(ŷ, f_S(x)) + λ τ² KL(softmax(z_T/τ) ‖ softmax(z_S/τ))] + n_c CE(y_c, f_S(x_c)) ) / (n_s + n_c)

`preset = "paper"` is the form the abstract gives (networks, weights and temperature of the paper are not public);
`preset = "strong"` [ours] adds the switches of `teacher.default_options` and those of `default_config`. Under MixUp on
the student, the logits z_T are mixed like the labels.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.errors import in_range
from kdmlc_jax.labels.transition import transition_matrix
from kdmlc_jax.methods import mlc
from kdmlc_jax.methods.base import Batch, Info, Legacy, Method, Metrics
from kdmlc_jax.methods.parts.meta_corrector import CLOTHING1M, Teacher, TeacherState, default_options
from kdmlc_jax.train_state import NetState

RECIPES = {"clothing1m": CLOTHING1M}


def default_config(preset: str = "strong") -> ConfigDict:
    """The teacher's options (`teacher.default_options`) and the student's.

    kd_weight: λ in [0, 1]; temperature: τ > 0; trusted_term: the n_c-weighted trusted CE; ramp: epochs after the
    warm-up over which the weight of the noisy images' term rises to 1; mixup: Beta(a, a) on the student's batch,
    0 = off; student_ema: decay of the averaged student that is deployed, 0 = the live student.
    """
    teacher = default_options(preset)
    paper = {"kd_weight": 0.0, "temperature": 4.0, "trusted_term": True, "ramp": 0, "mixup": 0.0, "student_ema": 0.0}
    strong = {"ramp": 1, "student_ema": 0.99}
    return ConfigDict({"name": "kdmlc", "preset": preset, **teacher, **paper, **(strong if preset == "strong" else {})})


class State(struct.PyTreeNode):
    """Teacher (network, corrector, T̂) and student."""

    teacher: TeacherState
    student: NetState


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`."""
    options = config.method
    in_range("method.kd_weight", options.kd_weight, 0.0, 1.0)
    in_range("method.temperature", options.temperature, 1e-3)
    in_range("method.mixup", options.mixup, 0.0)
    in_range("method.ramp", options.ramp, 0)
    in_range("method.student_ema", options.student_ema, 0.0, 1.0)
    teacher = Teacher(config, info, "teacher")
    module = nets.build(config.student.net, info.num_classes, "student.net")
    tx = optim.build(config.optim, config.train.epochs * info.steps_per_epoch)

    def init(key: jax.Array, images: jax.Array) -> State:
        student = train_state.create(jax.random.fold_in(key, 2), module, tx, images, options.student_ema)
        return State(teacher.init(key, images), student)

    def student_weight(step: int | jax.Array) -> jax.Array:
        """0 during the warm-up, then a linear rise to 1 over `ramp` epochs."""
        since = (step + 1) / info.steps_per_epoch - options.warm_up
        return jnp.clip(since / max(options.ramp, 1.0 / info.steps_per_epoch), 0.0, 1.0)

    def student_loss(
        params: Any, student: NetState, batch: Batch, soft_label: jax.Array, teacher_logits: jax.Array, key
    ):
        n = soft_label.shape[0]
        images, target, guide = batch["image"], soft_label, teacher_logits
        if options.mixup > 0:
            images, mix = augment.mixup(key, images, options.mixup)
            target, guide = mix(target), mix(guide)
        if options.trusted_term:
            images = jnp.concatenate([images, batch["trusted_image"]])
        output, batch_stats = train_state.train_forward(student, params, images)
        noisy = (1.0 - options.kd_weight) * losses.cross_entropy(target, output.logits[:n])
        if options.kd_weight > 0:
            noisy += options.kd_weight * losses.distillation(guide, output.logits[:n], options.temperature)
        total = jnp.sum(student_weight(student.step) * noisy)
        if options.trusted_term:
            trusted = jax.nn.one_hot(batch["trusted_label"], info.num_classes)
            total += jnp.sum(losses.cross_entropy(trusted, output.logits[n:]))
        return total / images.shape[0], batch_stats

    def step(warm_up: bool, current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        # Moves 1 and 2: the meta-loss moves the corrector; the look-ahead teacher is committed.
        new_teacher, soft_label, logits, metrics = teacher.step(
            current.teacher, batch, warm_up, jax.random.fold_in(key, 0)
        )
        # Move 3: the student follows the corrected labels; no gradient returns to teacher or corrector.
        soft_label, logits = jax.lax.stop_gradient((soft_label, logits))
        (loss, batch_stats), gradient = jax.value_and_grad(student_loss, has_aux=True)(
            current.student.params, current.student, batch, soft_label, logits, jax.random.fold_in(key, 1)
        )
        student = current.student.descend(gradient, batch_stats, options.student_ema)
        return State(new_teacher, student), metrics | {"student_loss": loss}

    def predict(current: State, images: jax.Array) -> jax.Array:
        return train_state.evaluate(current.student, images).logits

    def correct(current: State, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        return teacher.correct(current.teacher, images, given_label)

    return Legacy(
        init=init,
        stages=mlc.stages(config, step),
        predict=predict,
        correct=correct,
        networks={"student": lambda current: current.student, "teacher": lambda current: current.teacher.net},
        deployed="student",
        transition=lambda current: transition_matrix(current.teacher.joint),
    )
