"""Blind-KD: two networks find and soften wrong labels with no trusted image at all (Kaiser et al. 2022, arXiv
2211.11355).

Teacher T and student S see the same images; they predict together, by p^A ∝ p^T p^S.

    blind:    L = CE(ỹ, z_T) + Σ_{i, c≠ỹ_i} (z_T,ic - z_S,ic)² / (B (C-1))      S never sees the label's own logit
    tipping:  m_e = mean over epoch e of max_c p^S; e is the first epoch with m_e above its two neighbours on each side
    split:    P_i of every noisy image by the weights of epoch e; Otsu's threshold τ, class means μ_lo and μ_up;
              labels with P < τ are taken for wrong
    refined:  L = CE(t, z_T) + the same second term,    t = sg[((1-β_i) onehot(ỹ_i) + β_i p^S)^(1+β_i)], normalised
              β = .30 where P ≥ μ_up, .45 where τ ≤ P < μ_up, .55 where μ_lo ≤ P < τ, .70 where P < μ_lo

P is by default the probability that the label is right, with the transition matrix counted from p^A
(`labels.transition.label_right`) [ours], which splits better than the paper's p^A_ỹ (`measure = "share"`) where the
networks have not memorised anything yet (benchmarks). A tipping point is only known two epochs later; without one the
split is made from the third-last epoch that `longest_blind` allows, and a note says so. What the authors' code does
instead is `methods.release.blind_kd`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from jax.nn import softmax
from jaxtyping import Float
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.labels import thresholds
from kdmlc_jax.labels.transition import counted_transition, label_right, trusted_transition
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Method, Metrics, Report, Stage, Streams, Traits
from kdmlc_jax.methods.parts import agreement as pair
from kdmlc_jax.methods.parts import label_split
from kdmlc_jax.methods.parts.label_split import LabelSplit
from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, Matrix, PerImage, Scalar, SoftLabels
from kdmlc_jax.train_state import Bank, NetState

RECIPES = {
    # The release's networks and schedule, with a step at 150; labels are split before the step that lets networks
    # memorise.
    "cifar10": {
        "data.trusted": 0,
        "teacher.net": "preact_resnet18",
        "student.net": "preact_resnet18",
        "optim.lr": 0.02,
        "optim.milestones": (0.5,),
        "train.epochs": 300,
        "train.batch_size": 128,
        "method.longest_blind": 0.5,
    },
    "cifar10,quick": {"data.trusted": 0, "student.net": "cnn24", "optim.milestones": (0.5,), "train.epochs": 20},
    "cifar100": {"data.trusted": 0},
}


def default_config(preset: str = "") -> ConfigDict:
    """variant: fixed | release; see the module.

    measure: what P is, right (the probability that the label is) | share (p^A_ỹ itself; always so in the release).
    longest_blind: the first phase's longest share of the epochs.
    rewind: the second phase starts from the weights of the epoch that split the labels, not from the newest.
    """
    choose("method.preset", preset, ("",))
    options = {"variant": "fixed", "measure": "right", "longest_blind": 0.9, "rewind": False}
    return ConfigDict({"name": "blind_kd", "preset": preset, **options})


def make(config: Any, info: Info) -> "BlindKD":
    """The method that `config` describes; raises UserError for options out of range and too few epochs."""
    from kdmlc_jax.methods.release.blind_kd import ReleasedBlindKD

    options, epochs = config.method, config.train.epochs
    forms = {"fixed": BlindKD, "release": ReleasedBlindKD}
    form = forms[choose("method.variant", options.variant, tuple(forms))]
    longest = in_range("method.longest_blind", options.longest_blind, 0.0, 1.0)
    if options.rewind and form is ReleasedBlindKD:
        raise UserError('method.rewind: true needs method.variant "fixed"; the release goes on from its newest weights')
    if epochs < pair.LATE + 2:
        raise UserError(f"train.epochs: {epochs} is outside [{pair.LATE + 2}, inf], what blind_kd's two phases need")
    return form(
        teacher=nets.build(config.teacher.net, info.num_classes, "teacher.net"),
        student=nets.build(config.student.net, info.num_classes, "student.net"),
        tx=optim.build(config.optim, epochs * info.steps_per_epoch),
        info=info,
        batch_size=config.train.batch_size,
        epochs=epochs,
        blind_epochs=min(max(round(longest * epochs), pair.LATE + 1), epochs - 1),
        measure=choose("method.measure", options.measure, ("right", "share")),
        rewind=options.rewind,
    )


class BlindKDState(struct.PyTreeNode):
    """Both networks, what is remembered of the last epochs, and the split of the labels once it is made."""

    teacher: NetState
    student: NetState
    memory: Any  # the weights of both networks after each of the pair.LATE epochs before this one; kept to the end
    last_epoch: Scalar  # i32[], of the last step
    labels: LabelSplit


@dataclass(frozen=True, eq=False)
class BlindKD(Method):
    """Teacher and student, and how their labels are split."""

    traits = Traits(deployed="student", ensemble="agreement", panels=label_split.PANELS)
    criterion: ClassVar[str] = "variance"  # Otsu's

    teacher: nn.Module
    student: nn.Module
    tx: optax.GradientTransformation
    info: Info
    batch_size: int
    epochs: int
    blind_epochs: int  # at most
    measure: str
    rewind: bool

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Blind, until the tipping point shows; then on softened labels."""
        streams, left = Streams(noisy=self.batch_size), self.epochs - self.blind_epochs
        return (
            Stage("blind", self.blind_epochs, streams, self.blind_step, done=pair.ends_blind),
            Stage("refined", left, streams, self.softened_step, begin=self.split_labels),
        )

    def init(self, key: Key, images: Inputs) -> BlindKDState:
        teacher, student = (
            train_state.create(jax.random.fold_in(key, number), module, self.tx, images)
            for number, module in enumerate((self.teacher, self.student))
        )
        return BlindKDState(
            teacher=teacher,
            student=student,
            memory=self.first_memory((pair.weights(teacher), pair.weights(student))),
            last_epoch=jnp.zeros((), jnp.int32),
            labels=label_split.unsplit(self.info),
        )

    def first_memory(self, both: Any) -> Any:
        """What is remembered before the first epoch, from the weights of both networks."""
        return (both,) * pair.LATE

    def remember(self, state: BlindKDState, batch: Batch, agreement: PerImage) -> Any:
        """The memory after a step: as an epoch begins, the weights before it take the place of the oldest."""
        newer = (*state.memory[1:], (pair.weights(state.teacher), pair.weights(state.student)))
        return jax.lax.cond(batch["epoch"] > state.last_epoch, lambda: newer, lambda: state.memory)

    def count(self, batch_size: int) -> int:
        """By what the sum of squares is divided: the logits that it runs over."""
        return batch_size * (self.info.num_classes - 1)

    def target(self, given_label: Labels, student_logits: Logits, beta: PerImage) -> SoftLabels:
        """t, without a gradient."""
        return jax.lax.stop_gradient(pair.softened_label(given_label, student_logits, beta))

    def loss(self, params: Any, state: BlindKDState, batch: Batch, beta: PerImage | None) -> tuple[Scalar, Any]:
        """L of the weights (teacher's, student's), blind without β, beside (batch statistics, z_T, z_S)."""
        teacher, teacher_stats = train_state.train_forward(state.teacher, params[0], batch["image"])
        student, student_stats = train_state.train_forward(state.student, params[1], batch["image"])
        given = batch["label"]
        target = jax.nn.one_hot(given, self.info.num_classes)
        if beta is not None:
            target = self.target(given, student.logits, beta)
        loss = jnp.mean(losses.cross_entropy(target, teacher.logits))
        loss += pair.blind_loss(teacher.logits, student.logits, given, self.count(len(given)))
        return loss, ((teacher_stats, student_stats), teacher.logits, student.logits)

    def update(
        self, state: BlindKDState, batch: Batch, beta: PerImage | None
    ) -> tuple[BlindKDState, PerImage, Metrics]:
        """One update of both networks; the state, p^A_ỹ before it, and metrics."""
        value_and_grad = jax.value_and_grad(self.loss, has_aux=True)
        (loss, aux), gradient = value_and_grad((state.teacher.params, state.student.params), state, batch, beta)
        stats, teacher_logits, student_logits = aux
        moved = state.replace(
            teacher=state.teacher.descend(gradient[0], stats[0]), student=state.student.descend(gradient[1], stats[1])
        )
        given = pair.given_agreement(pair.log_agreement(teacher_logits, student_logits), batch["label"])
        confidence = jnp.mean(jnp.max(softmax(student_logits), axis=1))
        return moved, given, {"loss": loss, "student_confidence": confidence, "p_given": jnp.mean(given)}

    def blind_step(self, state: BlindKDState, batch: Batch, key: Key) -> tuple[BlindKDState, Metrics]:
        """One update on the given labels."""
        moved, given, metrics = self.update(state, batch, None)
        return moved.replace(memory=self.remember(state, batch, given), last_epoch=batch["epoch"]), metrics

    def softened_step(self, state: BlindKDState, batch: Batch, key: Key) -> tuple[BlindKDState, Metrics]:
        """One update on the given labels as far as they are believed."""
        beta = pair.belief_weight(state.labels.agreement.rows[batch["index"]], state.labels.split)
        moved, _, metrics = self.update(state, batch, beta)
        return moved, metrics

    def splitting(self, state: BlindKDState) -> BlindKDState:
        """The state with the networks by which the labels are split: those of the third-last epoch."""
        teacher, student = state.memory[0]
        return state.replace(teacher=state.teacher.replace(**teacher), student=state.student.replace(**student))

    def belief(self, state: BlindKDState, images: Inputs, given_label: Labels) -> SoftLabels:
        """p^A."""
        return softmax(self.predict(state, images))

    def teacher_belief(self, state: BlindKDState, images: Inputs, given_label: Labels) -> SoftLabels:
        """p^T."""
        return softmax(train_state.evaluate(state.teacher, images).logits)

    def agreement_met(self, state: BlindKDState, view: DatasetView, epoch: int) -> np.ndarray | None:
        """P as the training of that epoch has met it, f32[N], where that is remembered."""
        return None

    def agreement(
        self, beliefs: Float[np.ndarray, "N C"], given_label: np.ndarray, counted: Matrix, met: np.ndarray | None
    ) -> Float[np.ndarray, " N"]:
        """P from p^A on the noisy images and T̂."""
        if self.measure == "share":
            return beliefs[np.arange(len(given_label)), given_label]
        return np.asarray(label_right(beliefs, given_label, counted))

    def border(self, split: thresholds.Split) -> Scalar:
        """Labels with less agreement are taken for wrong."""
        return split.threshold

    def decide(
        self, beliefs: np.ndarray, met: np.ndarray | None, known: np.ndarray | None, view: DatasetView
    ) -> LabelSplit:
        """The split, on the host, from p^A on the noisy images and p^T on the trusted ones."""
        epoch, tipped = label_split.splitting_epoch(view.history)
        counted = counted_transition(beliefs, view.given_label)
        agreement = self.agreement(beliefs, view.given_label, counted, met)
        split = thresholds.otsu(agreement, self.criterion)
        trusted = None if known is None else jnp.asarray(trusted_transition(known, view.trusted_label))
        signed = jnp.int32(epoch + 1 if tipped else -epoch - 1)
        return LabelSplit(Bank(jnp.asarray(agreement)), split, self.border(split), signed, counted, trusted)

    def split_labels(self, state: BlindKDState, view: DatasetView) -> BlindKDState:
        """P of all noisy images by the third-last epoch, τ and the class means."""
        count, (epoch, _) = self.info.num_trusted, label_split.splitting_epoch(view.history)
        chosen, met = self.splitting(state), self.agreement_met(state, view, epoch)
        beliefs = view.map("noisy", self.belief, chosen)
        known = view.map("trusted", self.teacher_belief, chosen) if count else None
        labels = view.decide(lambda: jax.device_get(self.decide(beliefs, met, known, view)))
        served = f"; the {count} trusted images serve its transition matrix only" if count else ""
        doubt = "" if labels.epoch > 0 else "warning: "
        view.note(f"{doubt}blind_kd: {labels}{served}")
        return (chosen if self.rewind else state).replace(labels=jax.tree.map(jnp.asarray, labels))

    def predict(self, state: BlindKDState, images: Inputs) -> Logits:
        """log p^A."""
        return pair.log_agreement(*(train_state.evaluate(net, images).logits for net in (state.teacher, state.student)))

    def correct(self, state: BlindKDState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """p^A, whatever the label."""
        return self.belief(state, images, given_label)

    def networks(self, state: BlindKDState) -> dict[str, NetState]:
        return {"student": state.student, "teacher": state.teacher}

    def report(self, state: BlindKDState) -> Report:
        """Flags and scores by P, and the split."""
        return state.labels.report()
