"""Blind-KD: two networks find and soften wrong labels with no trusted image at all (Kaiser et al. 2022, arXiv
2211.11355).

Teacher T and student S see the same images; they predict together, by p^A ∝ p^T p^S.

    blind:    L = CE(ỹ, z_T) + Σ_{i, c≠ỹ_i} (z_T,ic - z_S,ic)² / (B (C-1))      S never sees the label's own logit
    tipping:  m_e = mean over epoch e of max_c p^S; e is the first epoch with m_e above its two neighbours on each side
    split:    P_i = p^A at ỹ_i in epoch e, for every noisy image; Otsu's threshold τ, class means μ_lo and μ_up
    refined:  L = CE(t, z_T) + the same second term,    t ∝ ((1-β_i) onehot(ỹ_i) + β_i p^S)^(1+β_i)
              β = .30 where P ≥ μ_up, .45 where τ ≤ P < μ_up, .55 where μ_lo ≤ P < τ, .70 where P < μ_lo

`variant = "release"` follows the authors' code: P as training met it (augmented images, batch statistics), an Otsu
criterion with deviations, wrong where P < μ_lo, the sum of squares over B C - 1, a gradient through p^S in t.
`variant = "fixed"` [ours]: P from a clean pass over all images with that epoch's weights, the sum over B (C-1), Otsu's
own criterion, wrong where P < τ, no gradient through t; and by default P is the probability that the label is right,
with the transition matrix counted from p^A (`estimate.label_right`), which splits better than p^A_ỹ where the networks
have not memorised anything yet (benchmarks). In both variants a tipping point is only known two epochs later; without
one the split is made from the third-last epoch that `longest_blind` allows, and a note says so.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.nn import log_softmax, softmax
from ml_collections import ConfigDict

from kdmlc_jax import losses, nets, optim, train_state
from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.labels import thresholds
from kdmlc_jax.labels import transition as estimate
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Legacy, Method, Metrics, Stage, Streams
from kdmlc_jax.train_state import Bank, NetState

LATE = 2  # epochs after which a tipping point shows
BETA = (0.70, 0.55, 0.45, 0.30)  # by group, from the least agreement to the most
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


class State(struct.PyTreeNode):
    """Both networks, what is remembered of the last epochs, and the split of the labels once it is made."""

    teacher: NetState
    student: NetState
    weights: Any  # fixed: those of both networks after each of the LATE epochs before this one; kept to the end
    seen: Any  # release: Bank f32[N, LATE + 1], P as training met it in epoch e, in column e % (LATE + 1); -1 not met
    met: jax.Array  # i32[], the epoch of the last step
    agreement: Bank  # f32[N], P; 1 before the split
    counted: jax.Array  # f32[C, C], T̂ by p^A on the noisy images
    split: thresholds.Split
    epoch: jax.Array  # i32[], the one that split the labels, from 1; 0 before, negative without a tipping point
    trusted: jax.Array | None  # f32[C, C], T̂ by p^T on the trusted images, where there are any


def tipping_point(confidence: Sequence[float]) -> int | None:
    """The first epoch e ≥ 2, from 0, with m_e above m_{e-2}, m_{e-1}, m_{e+1} and m_{e+2}; None if there is none."""
    m = list(confidence)
    for e in range(2, len(m) - 2):
        if m[e] > max(m[e - 2], m[e - 1], m[e + 1], m[e + 2]):
            return e
    return None


def blind_loss(teacher_logits: jax.Array, student_logits: jax.Array, label: jax.Array, count: float) -> jax.Array:
    """Σ_{i, c≠ỹ_i} (z_T,ic - z_S,ic)² / count; logits f32[B, C], label i32[B]."""
    others = 1.0 - jax.nn.one_hot(label, teacher_logits.shape[1])
    return jnp.sum(others * (teacher_logits - student_logits) ** 2) / count


def log_agreement(teacher_logits: jax.Array, student_logits: jax.Array) -> jax.Array:
    """log p^A f32[B, C], p^A ∝ p^T p^S: as logarithms two certain networks that differ still give a distribution."""
    return log_softmax(log_softmax(teacher_logits) + log_softmax(student_logits))


def share_of_belief(agreement: jax.Array, split: thresholds.Split) -> jax.Array:
    """β f32[B] of images with agreement P f32[B]."""
    borders = jnp.stack([split.lower_mean, split.threshold, split.upper_mean])
    return jnp.array(BETA)[jnp.sum(agreement[:, None] >= borders[None], axis=1)]


def refined_target(label: jax.Array, student_logits: jax.Array, beta: jax.Array) -> jax.Array:
    """t f32[B, C] ∝ ((1-β) onehot(ỹ) + β p^S)^(1+β) from label i32[B], logits f32[B, C] and β f32[B]."""
    beta = beta[:, None]
    mixed = (1.0 - beta) * jax.nn.one_hot(label, student_logits.shape[1]) + beta * softmax(student_logits)
    sharp = mixed ** (1.0 + beta)
    return sharp / jnp.sum(sharp, axis=1, keepdims=True)


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`.

    Raises:
      UserError: for an option outside its range, or fewer epochs than both phases need.
    """
    options, epochs = config.method, config.train.epochs
    fixed = choose("method.variant", options.variant, ("fixed", "release")) == "fixed"
    by_share = choose("method.measure", options.measure, ("right", "share")) == "share"
    in_range("method.longest_blind", options.longest_blind, 0.0, 1.0)
    if options.rewind and not fixed:
        raise UserError('method.rewind: true needs method.variant "fixed"; the release goes on from its newest weights')
    if epochs < LATE + 2:
        raise UserError(f"train.epochs: {epochs} is outside [{LATE + 2}, inf], what blind_kd's two phases need")
    longest = min(max(round(options.longest_blind * epochs), LATE + 1), epochs - 1)
    modules = {name: nets.build(config[name].net, info.num_classes, f"{name}.net") for name in ("teacher", "student")}
    tx = optim.build(config.optim, epochs * info.steps_per_epoch)
    batch = config.train.batch_size
    entries = batch * (info.num_classes - 1) if fixed else batch * info.num_classes - 1

    def weights_of(current: State) -> Any:
        return [{"params": net.params, "batch_stats": net.batch_stats} for net in (current.teacher, current.student)]

    def init(key: jax.Array, images: jax.Array) -> State:
        teacher, student = (
            train_state.create(jax.random.fold_in(key, number), module, tx, images)
            for number, module in enumerate(modules.values())
        )
        none, even = jnp.zeros(()), jnp.full((info.num_classes,) * 2, 1.0 / info.num_classes)
        made = State(
            teacher=teacher,
            student=student,
            weights=None,
            seen=None,
            agreement=Bank(jnp.ones(info.num_noisy)),
            split=thresholds.Split(none, none, none),
            met=jnp.zeros((), jnp.int32),
            epoch=jnp.zeros((), jnp.int32),
            counted=even,
            trusted=jnp.copy(even) if info.num_trusted else None,
        )
        if fixed:
            return made.replace(weights=(weights_of(made),) * LATE)
        return made.replace(seen=Bank(jnp.full((info.num_noisy, LATE + 1), -1.0)))

    def both_step(current: State, batch: Batch, beta: jax.Array | None) -> tuple[State, jax.Array, Any]:
        """One update of both networks; returns the state, the loss, and (z_T, z_S)."""

        def loss_fn(params: tuple[Any, Any]) -> tuple[jax.Array, Any]:
            teacher, teacher_stats = train_state.train_forward(current.teacher, params[0], batch["image"])
            student, student_stats = train_state.train_forward(current.student, params[1], batch["image"])
            target = jax.nn.one_hot(batch["label"], info.num_classes)
            if beta is not None:
                target = refined_target(batch["label"], student.logits, beta)
                target = jax.lax.stop_gradient(target) if fixed else target
            loss = jnp.mean(losses.cross_entropy(target, teacher.logits))
            loss += blind_loss(teacher.logits, student.logits, batch["label"], entries)
            return loss, (teacher_stats, student_stats, teacher.logits, student.logits)

        params = current.teacher.params, current.student.params
        (loss, aux), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
        moved = current.replace(
            teacher=current.teacher.descend(gradient[0], aux[0]), student=current.student.descend(gradient[1], aux[1])
        )
        return moved, loss, aux[2:]

    def figures(loss: jax.Array, given: jax.Array, student_logits: jax.Array) -> Metrics:
        confidence = jnp.mean(jnp.max(softmax(student_logits), axis=1))
        return {"loss": loss, "student_confidence": confidence, "p_given": jnp.mean(given)}

    def given_share(logits: Any, label: jax.Array) -> jax.Array:
        """p^A_ỹ f32[B] from (z_T, z_S)."""
        return jnp.exp(jnp.take_along_axis(log_agreement(*logits), label[:, None], axis=1)[:, 0])

    def blind_step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        begins = batch["epoch"] > current.met
        moved, loss, logits = both_step(current.replace(met=batch["epoch"]), batch, None)
        given = given_share(logits, batch["label"])
        if fixed:
            newer = (*current.weights[1:], weights_of(current))
            moved = moved.replace(weights=jax.lax.cond(begins, lambda: newer, lambda: current.weights))
        else:
            column = batch["epoch"] % (LATE + 1)
            rows = current.seen.rows
            rows = rows.at[:, column].set(jnp.where(begins, -1.0, rows[:, column]))
            moved = moved.replace(seen=Bank(rows.at[batch["index"], column].set(given)))
        return moved, figures(loss, given, logits[1])

    def split_labels(current: State, view: DatasetView) -> State:
        """P in the third-last epoch, τ and the class means."""
        epoch = max(len(view.history) - 1 - LATE, 0)
        weights = current.weights[0] if fixed else weights_of(current)
        beliefs = view.map("noisy", beliefs_of, weights)
        counted = estimate.counted_transition(beliefs, view.given_label)
        share = jnp.take_along_axis(jnp.asarray(beliefs), jnp.asarray(view.given_label)[:, None], axis=1)[:, 0]
        if not fixed:
            seen = jnp.asarray(view.fetch(current.seen.rows)[:, epoch % (LATE + 1)])
            agreement = jnp.where(seen < 0, share, seen)  # an epoch leaves out what does not fill a batch
        elif by_share:
            agreement = share
        else:
            agreement = estimate.label_right(beliefs, view.given_label, counted)
        split = thresholds.otsu(agreement, "variance" if fixed else "deviation")
        tipped = tipping_point(confidences(view.history)) == epoch
        how = "tipping point in" if tipped else "no tipping point in time, labels split by"
        wrong = float(jnp.mean(agreement < border(split)))
        view.note(
            f"blind_kd: {how} epoch {epoch + 1}; agreement: threshold {float(split.threshold):.3f}, class means "
            f"{float(split.lower_mean):.3f} and {float(split.upper_mean):.3f}; {wrong:.1%} of the labels held wrong"
            + (f"; the {info.num_trusted} trusted images serve its transition matrix only" if info.num_trusted else "")
        )
        signed = jnp.int32(epoch + 1 if tipped else -epoch - 1)
        current = current.replace(agreement=Bank(agreement), split=split, epoch=signed, counted=counted)
        if info.num_trusted:
            beliefs = view.map("trusted", teacher_belief, weights[0])
            current = current.replace(trusted=jnp.asarray(estimate.trusted_transition(beliefs, view.trusted_label)))
        if not options.rewind:
            return current
        teacher, student = current.weights[0]
        return current.replace(teacher=current.teacher.replace(**teacher), student=current.student.replace(**student))

    def border(split: thresholds.Split) -> jax.Array:
        """Labels with less agreement are held to be wrong; `label_score` is 1/2 there."""
        return split.threshold if fixed else split.lower_mean

    def teacher_belief(weights: Any, images: jax.Array, label: jax.Array) -> jax.Array:
        output: Any = modules["teacher"].apply(weights, images, train=False)
        return softmax(output.logits)

    def beliefs_of(weights: Any, images: jax.Array, label: jax.Array) -> jax.Array:
        outputs: Any = [
            module.apply(variables, images, train=False)
            for module, variables in zip(modules.values(), weights, strict=True)
        ]
        return jnp.exp(log_agreement(*(output.logits for output in outputs)))

    def refined_step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        beta = share_of_belief(current.agreement.rows[batch["index"]], current.split)
        moved, loss, logits = both_step(current, batch, beta)
        return moved, figures(loss, given_share(logits, batch["label"]), logits[1])

    def predict(current: State, images: jax.Array) -> jax.Array:
        teacher, student = (train_state.evaluate(net, images).logits for net in (current.teacher, current.student))
        return log_agreement(teacher, student)

    def correct(current: State, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        return softmax(predict(current, images))

    def examine(current: State) -> dict[str, jax.Array]:
        agreement, at = current.agreement.rows, border(current.split)
        wrong = agreement < at
        score = jnp.where(
            wrong, 0.5 * agreement / jnp.maximum(at, 1e-6), 0.5 + 0.5 * (agreement - at) / jnp.maximum(1.0 - at, 1e-6)
        )
        return {"is_label_issue": wrong, "label_score": score, "agreement": agreement}

    def diagnostics(current: State) -> dict[str, jax.Array]:
        known = {} if current.trusted is None else {"transition_trusted": current.trusted}
        return {**current.split._asdict(), "epoch": current.epoch, "transition": current.counted, **known}

    streams = Streams(noisy=batch)
    return Legacy(
        init=init,
        stages=(
            Stage("blind", longest, streams, blind_step, done=ends_blind),
            Stage("refined", epochs - longest, streams, refined_step, begin=split_labels),
        ),
        predict=predict,
        correct=correct,
        networks={"student": lambda current: current.student, "teacher": lambda current: current.teacher},
        deployed="student",
        ensemble="agreement",
        examine=examine,
        diagnostics=diagnostics,
    )


def ends_blind(history: list[dict]) -> bool:
    """Whether the first phase is over: two epochs after a tipping point."""
    return tipping_point(confidences(history)) is not None


def confidences(history: list[dict]) -> list[float]:
    """m_e of every epoch so far."""
    return [row["student_confidence"] for row in history]
