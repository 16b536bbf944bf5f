"""AML-KD: a student learns from an imperfect teacher, on labels that both correct by propagation (Jiang et al., TNNLS
2023, doi 10.1109/TNNLS.2023.3335829). No trusted image is used.

    1. teacher     CE(ỹ, z_T) on the noisy labels; left out where `teacher.run` names a run that has trained it
    2. propagate   seeds are, of each given class, the 1 - r̂_c of its images with the smallest CE(ỹ, z_T); labels are
                   propagated from them over the teacher's features (`labels.propagation`), which gives every image a
                   label ŷ
    3. mutual      again every `every` epochs, in turns: over the student's features from seeds of the teacher, over
                   the teacher's from seeds of the student

In 2 and 3 the student learns, the teacher stands still. With MixUp x̃, t̃ of the images and of onehot(ŷ):

    L = mean w_i CE(ŷ_i, z_S(x_i)) + mean CE(t̃_i, z_S(x̃_i)) + λ τ² mean KL(softmax(z_T(x̃_i)/τ) ‖ softmax(z_S(x̃_i)/τ))
    w_i = clip(B s_i / Σ_j s_j, 0, 3),  s_i = σ(10 (cos(h_i, m_ŷ) - max_{c≠ŷ} cos(h_i, m_c)))

h are the features last propagated over, m_c their mean direction in class ŷ = c: images between two classes, the
ambiguous ones, count less.

This is our form, where the release (`methods.release.aml_kd`) leaves a part without effect or takes what nobody has.
r̂_c is estimated in stage 2, by a mixture of two Gaussians of the teacher's losses (which finds two parts even where no
label is wrong); in the losses of a student of corrected labels the parts are one. ŷ is the largest of
b_i ∝ p(ỹ_i | y) softmax(4 log z_i), z_i the soft label propagated and p(ỹ | y) as counted from it: the given label is
evidence beside the neighbours' (`evidence`). An image that no seed reaches keeps its given label. The release's
warm-up, 20 of 240 epochs on the first labels, is left out, and MixUp's weight is folded to ½ and above
(`data.augment.mixup`).
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Metrics, Report, Stage
from kdmlc_jax.methods.parts import ambiguity, noisy_teacher
from kdmlc_jax.methods.parts.noisy_teacher import NoisyTeacher
from kdmlc_jax.methods.parts.propagated import PANELS, PropagatedLabels, Propagation, decided, unpropagated
from kdmlc_jax.shapes import Features, Inputs, Key, Labels, Logits, PerImage, Scalar, SoftLabels, joined
from kdmlc_jax.train_state import NetState

PROPAGATE, MUTUAL = "propagate", "mutual"  # the stages
RECIPES = {"cifar100": {"data.trusted": 0}}


def default_config(preset: str = "") -> ConfigDict:
    """Options of `noisy_teacher`, and these; variant: fixed | release, see the module.

    refine: labels by mutual | propagate (stage 3 left out) | off (as given).
    mutual: share of `train.epochs` that stage 3 has; every: epochs from one of its turns to the next.
    neighbours: k of the graph.
    noise_rate: r, the share of wrong labels; 0 = estimated. The release needs it.
    evidence: the given label is evidence for ŷ beside the propagated one; false leaves it out.
    weights: s_i closed (the formula) | learned (a small network on the cosines and ŷ_i, trained to tell the seeds on
      which the network that judged them agrees) | off.
    mixup: a of Beta(a, a); 0 leaves its term out, and the teacher guides on the images themselves.
    """
    choose("method.preset", preset, ("",))
    options = {"variant": "fixed", "refine": "mutual", "mutual": 0.25, "every": 1, "neighbours": 20, "noise_rate": 0.0}
    options |= {"evidence": True, "weights": "closed", "mixup": 4.0}
    return ConfigDict({"name": "aml_kd", "preset": preset, **noisy_teacher.default_options(), **options})


def check(config: Any, info: Info) -> None:
    """Raises UserError for an option outside its range."""
    options = config.method
    choose("method.variant", options.variant, ("fixed", "release"))
    choose("method.refine", options.refine, (MUTUAL, "propagate", "off"))
    choose("method.weights", options.weights, ("closed", "learned", "off"))
    in_range("method.mutual", options.mutual, 0.0, 1.0)
    in_range("method.every", options.every, 1)
    if options.refine != "off":
        in_range("method.neighbours", options.neighbours, 1, info.num_noisy - 1)
    in_range("method.noise_rate", options.noise_rate, 0.0, 0.99)
    in_range("method.mixup", options.mixup, 0.0)
    if options.refine == MUTUAL and config.train.epochs < 2:
        raise UserError(
            f"train.epochs: {config.train.epochs} is outside [2, inf]; method.refine=propagate has one stage"
        )
    if options.variant == "release" and not options.noise_rate:
        raise UserError(
            'method.noise_rate: 0 is outside (0, 0.99]; variant "release" must be told, "fixed" estimates it'
        )


class AmlKDState(struct.PyTreeNode):
    """Both networks, and the labels of the noisy images."""

    teacher: NetState
    student: NetState
    labels: PropagatedLabels


def make(config: Any, info: Info) -> "AmlKD":
    """The method that `config` describes; raises UserError for an option outside its range."""
    from kdmlc_jax.methods.release.aml_kd import ReleasedAmlKD

    options, epochs = config.method, config.train.epochs
    fields = noisy_teacher.fields(config, info)
    check(config, info)
    last = min(max(1, round(options.mutual * epochs)), epochs - 1) if options.refine == MUTUAL else 0
    form = AmlKD if options.variant == "fixed" else ReleasedAmlKD
    return form(
        **fields,
        info=info,
        epochs=(epochs - last, last),
        every=options.every,
        noise_rate=options.noise_rate,
        mixup=options.mixup,
        propagation=Propagation(
            num_classes=info.num_classes,
            refine=options.refine != "off",
            neighbours=options.neighbours,
            evidence=options.evidence,
            weights=options.weights,
            closed_weight=form.closed_weight,
            seed=config.seed,
        ),
    )


@dataclass(frozen=True, eq=False)
class AmlKD(NoisyTeacher):
    """A student of propagated labels, and of a teacher that has learned the noisy ones."""

    info: Info
    epochs: tuple[int, int]  # of the stages 2 and 3
    every: int
    noise_rate: float  # r; 0 = estimated
    mixup: float
    propagation: Propagation

    traits = replace(NoisyTeacher.traits, panels=PANELS)
    closed_weight = staticmethod(ambiguity.closed_weight)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The teacher; the student on labels propagated once, for the teacher stands still; then in turns."""
        first, last = self.epochs
        propagating = Stage(PROPAGATE, first, self.streams, self.step, self.begin, every=self.first_every)
        mutual = Stage(MUTUAL, last, self.streams, self.step, self.begin_mutual, every=self.every)
        return *self.teacher_stages, propagating, *((mutual,) if last else ())

    @property
    def first_every(self) -> int:
        """Epochs from one propagation of stage 2 to the next; 0 = there is one."""
        return 0

    def init(self, key: Key, images: Inputs) -> AmlKDState:
        return AmlKDState(**self.init_networks(key, images), labels=unpropagated(self.info))

    def batch_weight(self, weight: PerImage) -> PerImage:
        """w from s."""
        return jnp.clip(weight / jnp.maximum(jnp.mean(weight), 1e-6), 0.0, 3.0)

    @property
    def mixup_temperature(self) -> float:
        """Of the student in MixUp's term."""
        return 1.0

    def loss(
        self, params: Any, state: AmlKDState, batch: Batch, mixed: tuple[Inputs, SoftLabels] | None
    ) -> tuple[Scalar, Any]:
        """L, and (batch statistics, the student's features of the images); `mixed` are x̃ and t̃."""
        images, rows, n = batch["image"], batch["index"], len(batch["image"])
        followed = images if mixed is None else mixed[0]
        both = images if mixed is None else joined([images, followed])
        output, batch_stats = train_state.train_forward(state.student, params, both)
        plain, last = output.logits[:n], output.logits[-n:]
        own = jax.nn.one_hot(state.labels.label.rows[rows], self.num_classes)
        loss = jnp.mean(self.batch_weight(state.labels.weight.rows[rows]) * losses.cross_entropy(own, plain))
        if mixed is not None:
            loss += jnp.mean(losses.cross_entropy(mixed[1], last / self.mixup_temperature))
        teacher_logits = train_state.evaluate(state.teacher, followed).logits
        loss += self.kd_weight * jnp.mean(losses.distillation(teacher_logits, last, self.temperature))
        return loss, (batch_stats, output.features[:n])

    def step(self, state: AmlKDState, batch: Batch, key: Key) -> tuple[AmlKDState, Metrics]:
        """One update of the student."""
        mixed = None
        if self.mixup > 0:
            images, mix = augment.mixup(key, batch["image"], self.mixup)
            mixed = images, mix(jax.nn.one_hot(state.labels.label.rows[batch["index"]], self.num_classes))
        value_and_grad = jax.value_and_grad(self.loss, has_aux=True)
        (loss, (batch_stats, _)), gradient = value_and_grad(state.student.params, state, batch, mixed)
        metrics = {"loss": loss} | state.labels.shares(batch["index"], batch["label"])
        return state.replace(student=state.student.descend(gradient, batch_stats)), metrics

    def begin(self, state: AmlKDState, view: DatasetView) -> AmlKDState:
        """Stage 2: from the teacher's own seeds."""
        known = np.full(self.num_classes, self.noise_rate, np.float32) if self.noise_rate else None
        labels = self.propagated(state, view, "teacher", "teacher", known)
        view.note(f"aml_kd: {labels.summary(view.given_label)}")
        return state.replace(labels=labels)

    def begin_mutual(self, state: AmlKDState, view: DatasetView) -> AmlKDState:
        """Stage 3: a turn."""
        noise_rate = view.fetch(state.labels.noise_rate)
        return state.replace(labels=self.propagated(state, view, *self.roles(view), noise_rate))

    def roles(self, view: DatasetView) -> tuple[str, str]:
        """Over whose features the next turn of stage 3 goes, and who judges the labels."""
        done = sum(row["stage"] == MUTUAL for row in view.history)
        return ("teacher", "student") if done // self.every % 2 else ("student", "teacher")

    def outputs(self, net: NetState, images: Inputs, given_label: Labels) -> tuple[Features, Logits]:
        """Features and logits by one network."""
        output = train_state.evaluate(net, images)
        return output.features, output.logits

    def propagated(
        self, state: AmlKDState, view: DatasetView, over: str, judge: str, noise_rate: np.ndarray | None
    ) -> PropagatedLabels:
        """Labels and weights anew, over one network's features, from seeds of the judge; r̂ where it is known."""
        features, logits = view.map("noisy", self.outputs, getattr(state, over))
        if judge != over:
            _, logits = view.map("noisy", self.outputs, getattr(state, judge))
        return decided(view, lambda: self.propagation.by_seeds(features, logits, view.given_label, noise_rate))

    def correct(self, state: AmlKDState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """b of the noisy images, the student's beliefs about others; everywhere, where labels stay as given."""
        now = jax.nn.softmax(self.predict(state, images))
        if not self.propagation.refine:
            return now
        return jnp.where((index >= 0)[:, None], state.labels.belief.rows[jnp.maximum(index, 0)], now)

    def report(self, state: AmlKDState) -> Report:
        """What is kept of each image."""
        return state.labels.report()
