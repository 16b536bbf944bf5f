"""AML-KD: a student learns from an imperfect teacher, on labels that both refine by propagation (Jiang et al., TNNLS
2023, doi 10.1109/TNNLS.2023.3335829). No trusted image is used.

    1. teacher     CE(ỹ, z_T) on the noisy labels; left out where `teacher.run` names a run that has trained it
    2. propagate   seeds are, of each given class, the 1 - r̂_c of its images with the smallest CE(ỹ, z_T); labels are
                   propagated from them over the teacher's features (`kdmlc_jax.propagation`), which gives every
                   image a label ŷ
    3. mutual      again every `every` epochs, in turns: over the student's features from seeds of the teacher, over
                   the teacher's from seeds of the student

In 2 and 3 the student learns, the teacher stands still. With MixUp x̃, t̃ of the images and of onehot(ŷ):

    L = mean w_i CE(ŷ_i, z_S(x_i)) + mean CE(t̃_i, z_S(x̃_i)) + λ τ² mean KL(softmax(z_T(x̃_i)/τ) ‖ softmax(z_S(x̃_i)/τ))
    w_i = clip(B s_i / Σ_j s_j, 0, 3),  s_i = σ(10 (cos(h_i, m_ŷ) - max_{c≠ŷ} cos(h_i, m_c)))

h are the features last propagated over, m_c their mean direction in class ŷ = c: images between two classes, the
ambiguous ones, count less.

`variant = "fixed"` is ours where the release leaves a part without effect or takes what nobody has. r̂_c is estimated
in stage 2, by a mixture of two Gaussians of the teacher's losses (which finds two parts even where no label is wrong);
in the losses of a student of refined labels the parts are one. ŷ is the largest of b_i ∝ p(ỹ_i | y) softmax(4 log z_i),
z_i the soft label propagated and p(ỹ | y) as counted from it: the given label is evidence beside the neighbours'
(`evidence`). An image that no seed reaches keeps its given label.

`variant = "release"` follows the authors' code: first labels from the teacher's predictions on all images, the least
confident 5 % of which keep the given label; later ones, every `every` epochs, from the student's 1 - r images of
smallest loss, which keep the given label, and its predictions on all others, r being `noise_rate`; in stage 3 from the
labels of the turn before, weighted by σ(cos(h_i, m_ŷ)); one mean weight a batch; MixUp's term at temperature τ; and
½ mean (cos(h_S,i, h_S,j) - cos(h_T,i, h_T,j))² over the pairs of a batch. Its warm-up, 20 of 240 epochs on the first
labels, is left out in both, and MixUp's weight is folded to ½ and above (`data.augment.mixup`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import losses, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.labels import thresholds
from kdmlc_jax.labels import transition as estimate
from kdmlc_jax.labels.propagation import propagate
from kdmlc_jax.methods import kd
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Legacy, Method, Metrics, Stage, Streams
from kdmlc_jax.methods.parts import noisy_teacher
from kdmlc_jax.train_state import Bank, NetState

SHARPNESS = 4.0  # of propagated soft labels as a belief; chosen on seed 10 (benchmarks)
MUTUAL = "mutual"  # the stage
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


class State(struct.PyTreeNode):
    """Both networks, and what is held of each noisy image."""

    teacher: NetState
    student: NetState
    belief: Bank  # f32[N, C], b
    label: Bank  # i32[N], ŷ
    weight: Bank  # f32[N], s in [0, 1]
    seed: Bank  # bool[N], whether the label was taken for right
    noise_rate: jax.Array  # f32[C], r̂ by given class


def small_losses(loss: np.ndarray, label: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """bool[N]: of each label's rows the share 1 - wrong f[C] with the smallest loss f[N], but one or more."""
    chosen = np.zeros(len(loss), bool)
    for number, rate in enumerate(wrong):
        rows = np.flatnonzero(label == number)
        chosen[rows] = smallest(loss[rows], max(1.0 - float(rate), 1.0 / max(len(rows), 1)))
    return chosen


def smallest(values: np.ndarray, share: float) -> np.ndarray:
    """bool[N]: the given share of the rows, those with the smallest values f[N]; of equal ones the first."""
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(values, kind="stable")[: round(share * len(values))]] = True
    return chosen


def estimated_noise(loss: np.ndarray, label: np.ndarray, num_classes: int) -> np.ndarray:
    """r̂ f32[C]: the mean probability, over the images with a label, that the loss is of the mixture's upper part."""
    upper = thresholds.upper_probability(loss)
    count = np.bincount(label, minlength=num_classes)
    total = np.bincount(label, upper, minlength=num_classes)
    return (total / np.maximum(count, 1)).astype(np.float32)


def believed(soft_label: np.ndarray, given_label: np.ndarray, evidence: bool) -> np.ndarray:
    """b f32[N, C] from propagated soft labels f32[N, C]; rows that no seed has reached keep the given label."""
    classes = soft_label.shape[1]
    reached = soft_label.max(axis=1) > 1.0 / classes + 1e-6
    log_belief = SHARPNESS * np.log(np.maximum(soft_label, 1e-9))
    if evidence:
        counted = estimate.counted_transition(soft_label[reached], given_label[reached])
        log_belief = log_belief + np.log(counted).T[given_label]
    return np.where(reached[:, None], jax.nn.softmax(log_belief), np.eye(classes, dtype=np.float32)[given_label])


@partial(jax.jit, static_argnames="num_classes")
def cosines(features: jax.Array, label: jax.Array, num_classes: int) -> jax.Array:
    """f32[N, C]: cosine of features f32[N, D] to the mean direction of each class; -1 to one without an image."""
    rows = losses.unit_rows(features)
    members = jax.nn.one_hot(label, num_classes)
    centres = losses.unit_rows(members.T @ rows / jnp.maximum(jnp.sum(members, axis=0), 1.0)[:, None])
    return jnp.where(jnp.sum(members, axis=0) > 0, rows @ centres.T, -1.0)


@jax.jit
def closed_weight(cosine: jax.Array, label: jax.Array) -> jax.Array:
    """s f32[N] = σ(10 (cosine to the own centre - the largest other one)); cosine f32[N, C], label i32[N]."""
    own = jax.nn.one_hot(label, cosine.shape[1], dtype=bool)
    return jax.nn.sigmoid(
        10.0 * (jnp.max(cosine, 1, where=own, initial=-1) - jnp.max(cosine, 1, where=~own, initial=-1))
    )


class WeightNet(nn.Module):
    """Cosines and onehot(ŷ), f32[N, 2C] -> f32[N], before the sigmoid."""

    @nn.compact
    def __call__(self, rows: jax.Array) -> jax.Array:
        """See the class."""
        return nn.Dense(1)(nn.relu(nn.Dense(rows.shape[1] // 2)(rows)))[:, 0]


@partial(jax.jit, static_argnames="steps")
def learned_weight(key: jax.Array, cosine: jax.Array, label: jax.Array, easy: jax.Array, steps: int = 200) -> jax.Array:
    """s f32[N] in [.05, 1]: σ of a `WeightNet` fitted to `easy` by binary cross-entropy.

    It cannot collapse: weights follow the share of easy images, not the student's loss, and none is below .05.

    Args:
      key: typed key.
      cosine: f32[N, C].
      label: i32[N].
      easy: bool[N].
      steps: of Adam, rate .01, on all rows.
    """
    rows = jnp.concatenate([cosine, jax.nn.one_hot(label, cosine.shape[1])], axis=1)
    net, tx = WeightNet(), optax.adam(1e-2)
    params = net.init(key, rows)

    def loss_fn(params: Any) -> jax.Array:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(net.apply(params, rows), easy.astype(jnp.float32)))

    def step(_: int, carry: Any) -> Any:
        params, opt_state = carry
        updates, opt_state = tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, _ = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
    logits: Any = net.apply(params, rows)
    return jnp.maximum(jax.nn.sigmoid(logits), 0.05)


def stage_epochs(config: Any) -> tuple[int, int]:
    """Of the stages 2 and 3."""
    epochs, options = config.train.epochs, config.method
    last = min(max(1, round(options.mutual * epochs)), epochs - 1) if options.refine == MUTUAL else 0
    return epochs - last, last


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


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`.

    Raises:
      UserError: for an option outside its range.
    """
    options, classes = config.method, info.num_classes
    check(config, info)
    fixed = options.variant == "fixed"
    known = np.full(classes, options.noise_rate, np.float32) if options.noise_rate else None
    two_networks = kd.make(config, info)

    def init(key: jax.Array, images: jax.Array) -> State:
        count = info.num_noisy
        return State(
            **two_networks.init_networks(key, images),
            belief=Bank(jnp.full((count, classes), 1.0 / classes)),
            label=Bank(jnp.zeros(count, jnp.int32)),
            weight=Bank(jnp.ones(count)),
            seed=Bank(jnp.zeros(count, bool)),
            noise_rate=jnp.zeros(classes),
        )

    def outputs(net: NetState, images: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = train_state.evaluate(net, images)
        return output.features, output.logits

    def spread(features: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        return propagate(features, label, weight, num_classes=classes, neighbours=options.neighbours).soft_label

    def given_losses(logits: np.ndarray, given: np.ndarray) -> np.ndarray:
        return np.asarray(losses.cross_entropy(jax.nn.one_hot(given, classes), jnp.asarray(logits)))

    def look(current: State, view: DatasetView, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Features and logits of all noisy images by one network."""
        seen: tuple[np.ndarray, np.ndarray] = view.map("noisy", outputs, getattr(current, name))
        return seen

    def refined(current: State, view: DatasetView, over: str, judge: str, wrong: np.ndarray | None = None) -> State:
        """Labels and weights anew, over one network's features, from seeds of the judge; wrong: r̂ where it is known."""
        given = view.given_label
        features, logits = look(current, view, over)
        logits = logits if judge == over else look(current, view, judge)[1]
        loss = given_losses(logits, given)
        if wrong is None:
            wrong = estimated_noise(loss, given, classes)
        seed = small_losses(loss, given, wrong)
        belief = np.eye(classes, dtype=np.float32)[given]
        if options.refine != "off":
            belief = believed(spread(features, np.where(seed, given, -1)), given, options.evidence)
        return held(current, features, belief, seed, np.argmax(logits, axis=1), wrong)

    def released(current: State, view: DatasetView, over: str, turn: int) -> State:
        """As `refined`, in the release's way; the turns of stage 3 have numbers below 0."""
        given, eye = view.given_label, np.eye(classes, dtype=np.float32)
        features, logits = look(current, view, over)
        student = logits if over == "student" else look(current, view, "student")[1]
        loss = given_losses(student, given)
        kept = smallest(loss, 1.0 - options.noise_rate)
        start, weight = np.where(kept, given, np.argmax(student, axis=1)), None
        if turn == 0:
            start = np.argmax(logits, axis=1)
        elif turn < 0:
            start, weight = view.fetch((current.label.rows, current.weight.rows))
        belief = eye[given]
        if options.refine != "off":
            soft = spread(features, start, weight)
            stays = smallest(soft.max(axis=1), 0.05) if turn == 0 else kept
            belief = np.where(stays[:, None], belief, believed(soft, given, False))
        return held(current, features, belief, kept, np.argmax(student, axis=1), known)

    def held(
        current: State, features: Any, belief: np.ndarray, seed: np.ndarray, guess: np.ndarray, wrong: Any
    ) -> State:
        label = np.argmax(belief, axis=1).astype(np.int32)
        cosine, weight = cosines(jnp.asarray(features), jnp.asarray(label), classes), jnp.ones(len(label))
        if options.weights == "learned":
            easy = jnp.asarray(seed & (guess == label))
            weight = learned_weight(jax.random.key(config.seed), cosine, jnp.asarray(label), easy)
        elif options.weights == "closed" and fixed:
            weight = closed_weight(cosine, jnp.asarray(label))
        elif options.weights == "closed":
            weight = jax.nn.sigmoid(jnp.take_along_axis(cosine, jnp.asarray(label)[:, None], axis=1)[:, 0])
        rows = {"belief": belief, "label": label, "weight": weight, "seed": seed}
        banks = {name: Bank(jnp.asarray(row)) for name, row in rows.items()}
        return current.replace(**banks, noise_rate=jnp.asarray(wrong))

    def begin(current: State, view: DatasetView) -> State:
        """Stage 2: once, for the teacher stands still; the release's student does not."""
        done = sum(row["stage"] == "propagate" for row in view.history)
        if fixed:
            begun = refined(current, view, "teacher", "teacher", known)
        else:
            begun = released(current, view, "teacher", done // options.every)
        if not done:
            label, wrong = view.fetch((begun.label.rows, begun.noise_rate))
            view.note(
                f"aml_kd: an estimated {np.mean(wrong[view.given_label]):.1%} of the labels are wrong, "
                f"{np.mean(label != view.given_label):.1%} replaced at first"
            )
        return begun

    def begin_mutual(current: State, view: DatasetView) -> State:
        """Stage 3: a turn."""
        done = sum(row["stage"] == MUTUAL for row in view.history)
        over, judge = ("teacher", "student") if done // options.every % 2 else ("student", "teacher")
        if fixed:
            return refined(current, view, over, judge, view.fetch(current.noise_rate))
        return released(current, view, over, -1)

    def step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        images, n = batch["image"], len(batch["image"])
        own = jax.nn.one_hot(current.label.rows[batch["index"]], classes)
        share = current.weight.rows[batch["index"]]
        mean = jnp.mean(share)
        weight = jnp.clip(share / jnp.maximum(mean, 1e-6), 0.0, 3.0) if fixed else mean
        mixes = options.mixup > 0
        seen, mix = augment.mixup(key, images, options.mixup) if mixes else (images, lambda rows: rows)
        guide = train_state.evaluate(current.teacher, seen).logits

        def loss_fn(params: Any) -> tuple[jax.Array, Any]:
            both = jnp.concatenate([images, seen]) if mixes else images
            output, batch_stats = train_state.train_forward(current.student, params, both)
            plain, last = output.logits[:n], output.logits[-n:]
            total = jnp.mean(weight * losses.cross_entropy(own, plain))
            if mixes:
                total += jnp.mean(losses.cross_entropy(mix(own), last if fixed else last / options.temperature))
            total += options.kd_weight * jnp.mean(losses.distillation(guide, last, options.temperature))
            if not fixed:
                rows = losses.unit_rows(output.features[:n])
                others = losses.unit_rows(train_state.evaluate(current.teacher, images).features)
                total += 0.5 * jnp.mean((rows @ rows.T - others @ others.T) ** 2)
            return total, batch_stats

        (loss, batch_stats), gradient = jax.value_and_grad(loss_fn, has_aux=True)(current.student.params)
        return current.replace(student=current.student.descend(gradient, batch_stats)), {"loss": loss}

    def predict(current: State, images: jax.Array) -> jax.Array:
        return train_state.evaluate(current.student, images).logits

    def correct(current: State, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        now = jax.nn.softmax(predict(current, images))
        if options.refine == "off":
            return now
        return jnp.where((index >= 0)[:, None], current.belief.rows[jnp.maximum(index, 0)], now)

    def examine(current: State) -> dict[str, jax.Array]:
        return {
            "refined_label": current.label.rows,
            "refined_confidence": jnp.max(current.belief.rows, axis=1),
            "ambiguity": 1.0 - current.weight.rows,
            "seed": current.seed.rows,
        }

    streams, (first, last) = Streams(noisy=config.train.batch_size), stage_epochs(config)
    propagating = Stage("propagate", first, streams, step, begin, every=0 if fixed else options.every)
    mutual = (Stage(MUTUAL, last, streams, step, begin_mutual, every=options.every),) if last else ()
    return Legacy(
        init=init,
        stages=(*two_networks.teacher_stages, propagating, *mutual),
        predict=predict,
        correct=correct,
        networks={"student": lambda current: current.student, "teacher": lambda current: current.teacher},
        deployed="student",
        examine=examine,
        diagnostics=lambda current: {"noise_rate": current.noise_rate},
        taught=True,
        preparing=(noisy_teacher.TEACHER,),
    )
