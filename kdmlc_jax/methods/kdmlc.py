"""KDMLC: a meta-label-correcting teacher guides a lightweight student online (J. Computer Research and Development
2024, 61(12):3121, doi 10.7544/issn1000-1239.202330382).

Per iteration:

    1. the meta-loss, trusted CE of the teacher one step ahead on corrected labels, moves the corrector g_α
    2. that look-ahead teacher is committed                                     1, 2: `parts.meta_corrector`, MLC's
    3. the student follows ŷ = sg[ g_α⁺(h_T(x), ỹ) ] and the teacher:

    L_S = ( n_s [(1-λ) CE(ŷ, f_S(x)) + λ τ² KL(softmax(z_T/τ) ‖ softmax(z_S/τ))] + n_c CE(y_c, f_S(x_c)) ) / (n_s + n_c)

`preset = "paper"` is the form the abstract gives (networks, weights and temperature of the paper are not public);
`preset = "strong"` [ours] adds the switches of `corrector_options.default_options` and those of `default_config`.
Under MixUp on the student, the logits z_T are mixed like the labels.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.errors import in_range
from kdmlc_jax.methods import mlc
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Method, Metrics, Report, Stage, Streams, Traits
from kdmlc_jax.methods.parts import corrector_options, meta_corrector
from kdmlc_jax.methods.parts.meta_corrector import MetaCorrector, MetaCorrectorState
from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, Scalar, SoftLabels, joined
from kdmlc_jax.train_state import NetState

RECIPES = {
    "clothing1m": corrector_options.CLOTHING1M,
    # Chosen on validation images of CIFAR-10's features (EfficientNet-Lite0, uniform .8): .766 against .728 of the MLPs
    # and weight decay that other methods have there.
    "features": {"teacher.net": "linear", "student.net": "linear", "optim.weight_decay": 0.05},
}


def default_config(preset: str = "strong") -> ConfigDict:
    """The teacher's options (`corrector_options.default_options`) and the student's.

    kd_weight: λ in [0, 1]; temperature: τ > 0; trusted_term: the n_c-weighted trusted CE; ramp: epochs after the
    warm-up over which the weight of the noisy images' term rises to 1; mixup: Beta(a, a) on the student's batch,
    0 = off; student_ema: decay of the averaged student that is deployed, 0 = the live student.
    """
    teacher = corrector_options.default_options(preset)
    paper = {"kd_weight": 0.0, "temperature": 4.0, "trusted_term": True, "ramp": 0, "mixup": 0.0, "student_ema": 0.0}
    strong = {"ramp": 1, "student_ema": 0.99}
    return ConfigDict({"name": "kdmlc", "preset": preset, **teacher, **paper, **(strong if preset == "strong" else {})})


def make(config: Any, info: Info) -> "KDMLC":
    """The method that `config` describes; raises UserError for an option outside its range."""
    options = config.method
    in_range("method.kd_weight", options.kd_weight, 0.0, 1.0)
    in_range("method.temperature", options.temperature, 1e-3)
    in_range("method.mixup", options.mixup, 0.0)
    in_range("method.ramp", options.ramp, 0)
    in_range("method.student_ema", options.student_ema, 0.0, 1.0)
    return KDMLC(
        options=options,
        meta=meta_corrector.build(config, info, "teacher"),
        module=nets.build(config.student.net, info.num_classes, "student.net"),
        tx=optim.build(config.optim, config.train.epochs * info.steps_per_epoch),
        num_classes=info.num_classes,
        steps_per_epoch=info.steps_per_epoch,
        spans=mlc.spans(config),
        streams=mlc.streams(config),
    )


class KDMLCState(struct.PyTreeNode):
    """Teacher (network, corrector, T̂) and student."""

    teacher: MetaCorrectorState
    student: NetState


@dataclass(frozen=True, eq=False)
class KDMLC(Method):
    """A correcting teacher and its student."""

    options: Any  # see `default_config`
    meta: MetaCorrector
    module: nn.Module  # the student's, as is `tx`
    tx: optax.GradientTransformation
    num_classes: int
    steps_per_epoch: int
    spans: tuple[int, int]
    streams: Streams

    traits = Traits(deployed="student")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Warm-up and correction, as MLC's."""
        return mlc.stages(self.step, self.spans, self.streams, self.begin)

    def init(self, key: Key, images: Inputs) -> KDMLCState:
        student = train_state.create(jax.random.fold_in(key, 2), self.module, self.tx, images, self.options.student_ema)
        return KDMLCState(self.meta.init(key, images), student)

    def begin(self, state: KDMLCState, view: DatasetView) -> KDMLCState:
        """The teacher's."""
        return state.replace(teacher=self.meta.begin(state.teacher, view))

    def step(self, warm_up: bool, state: KDMLCState, batch: Batch, key: Key) -> tuple[KDMLCState, Metrics]:
        """The paper's three moves."""
        meta, teacher, given_label = self.meta, state.teacher, batch["label"]
        # 1. The meta-loss of the look-ahead teacher moves the corrector.
        look_ahead, gradients, metrics = meta.look_ahead(teacher, batch, warm_up, jax.random.fold_in(key, 0))
        teacher = meta.move_corrector(teacher, gradients)
        soft_label, evenness = meta.corrected(teacher, look_ahead, given_label)
        # 2. The look-ahead teacher is committed.
        teacher = meta.commit(teacher, look_ahead, given_label)
        # 3. The student follows the corrected labels; no gradient returns to teacher or corrector.
        _, output = look_ahead.aux
        soft_label, teacher_logits = jax.lax.stop_gradient((soft_label, output.logits))
        rest = batch, soft_label, teacher_logits, jax.random.fold_in(key, 1)
        student, loss = state.student.minimise(self.student_loss, *rest, ema_decay=self.options.student_ema)
        return KDMLCState(teacher, student), metrics | evenness | {"student_loss": loss}

    def student_loss(
        self, params: Any, student: NetState, batch: Batch, soft_label: SoftLabels, teacher_logits: Logits, key: Key
    ) -> tuple[Scalar, Any]:
        """L_S, and the moved batch statistics."""
        options, n = self.options, len(soft_label)
        images, mix = augment.mixup(key, batch["image"], options.mixup)
        soft_label, teacher_logits = mix(soft_label), mix(teacher_logits)
        if options.trusted_term:
            images = joined([images, batch["trusted_image"]])
        output, batch_stats = train_state.train_forward(student, params, images)
        noisy = (1.0 - options.kd_weight) * losses.cross_entropy(soft_label, output.logits[:n])
        if options.kd_weight > 0:
            noisy += options.kd_weight * losses.distillation(teacher_logits, output.logits[:n], options.temperature)
        total = jnp.sum(self.noisy_weight(student.step) * noisy)
        if options.trusted_term:
            trusted = jax.nn.one_hot(batch["trusted_label"], self.num_classes)
            total += jnp.sum(losses.cross_entropy(trusted, output.logits[n:]))
        return total / len(images), batch_stats

    def noisy_weight(self, step: int | jax.Array) -> jax.Array:
        """Of the noisy images' term: 0 during the warm-up, then a linear rise to 1 over `ramp` epochs."""
        since = (step + 1) / self.steps_per_epoch - self.spans[0]
        return jnp.clip(since / max(self.options.ramp, 1.0 / self.steps_per_epoch), 0.0, 1.0)

    def predict(self, state: KDMLCState, images: Inputs) -> Logits:
        return train_state.evaluate(state.student, images).logits

    def correct(self, state: KDMLCState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """The teacher's corrector's."""
        return self.meta.correct(state.teacher, images, given_label, index)

    def networks(self, state: KDMLCState) -> dict[str, NetState]:
        return {"student": state.student, "teacher": state.teacher.net}

    def report(self, state: KDMLCState) -> Report:
        """T̂, and real pairs."""
        return self.meta.report(state.teacher)
