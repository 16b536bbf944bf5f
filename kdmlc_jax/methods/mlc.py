"""MLC, meta label correction (Zheng et al., AAAI 2021, arXiv 1911.03809), and the teacher step it shares with KDMLC.

Main network f_w with pooled features h; corrector g_α(sg[h(x)], ỹ) on the simplex:

    min_α E_D CE(y, f_{w*(α)}(x))    s.t.    w*(α) = argmin_w E_D̃ CE(g_α(sg[h(x)], ỹ), f_w(x))

`preset = "paper"` is that and no more. `preset = "strong"` [ours] adds switches that repair what we measured to be
weak in it; each is an option of its own (see `teacher_options`).

BatchNorm: running statistics come from the inner forward pass only (noisy and trusted images together); the
look-ahead evaluation uses batch statistics and writes nothing back.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training.train_state import TrainState
from ml_collections import ConfigDict

from kdmlc_jax import bilevel, losses, nets, optim, state
from kdmlc_jax.methods.base import Batch, Info, Method, Metrics, Stage, Streams, choose, in_range
from kdmlc_jax.nets.corrector import Corrector
from kdmlc_jax.state import NetState

FORMS = ("plain", "skip", "residual", "transition")
BILEVEL = ("off", "joint", "normalised", "separate")


def teacher_options(preset: str) -> dict[str, Any]:
    """Options of the teacher step, by preset.

    form: the corrector: plain | skip | residual (prior z_T) | transition (prior z_T + log T̂[:, ỹ]).
    supervised: weight of E_{ỹ ~ T̂(·|y)} CE(y, g_α(h, ỹ)) on trusted images in the meta objective; 0 = off.
    pairs: T̂ "estimated" from the teacher's beliefs, or the "real" given label that each trusted image carried.
    bilevel: the bi-level term off | joint (one sum, one optimiser) | normalised (scaled to the supervised
      gradient's norm) | separate (its own Adam with bilevel_lr); bilevel_weight scales it.
    look_ahead_steps: k of MLC's recursion. corrector_lr: Adam on α.
    ema: decay of the averaged teacher that gives features and beliefs; 0 = the live teacher.
    warm_up: epochs of CE before correction starts, on trusted | both (warm_up_on).
    """
    choose("method.preset", preset, ("paper", "strong"))
    paper: dict[str, Any] = {
        "form": "plain",
        "supervised": 0.0,
        "pairs": "estimated",
        "bilevel": "joint",
        "bilevel_weight": 1.0,
        "bilevel_lr": 3e-4,
        "look_ahead_steps": 1,
        "corrector_lr": 3e-4,
        "ema": 0.0,
        "warm_up": 0,
        "warm_up_on": "both",
    }
    strong = {
        "supervised": 1.0,
        "bilevel": "separate",
        "corrector_lr": 1e-3,
        "ema": 0.99,
        "warm_up": 1,
    }
    return paper if preset == "paper" else {**paper, **strong}


def default_config(preset: str = "paper") -> ConfigDict:
    """The options of `teacher_options` and network: whose architecture MLC trains, teacher | student."""
    return ConfigDict({"name": "mlc", "preset": preset, "network": "teacher", **teacher_options(preset)})


class TeacherState(struct.PyTreeNode):
    """The main network, its corrector, and the running estimate of the joint distribution P(y, ỹ)."""

    net: NetState
    corrector: TrainState
    bilevel_opt_state: optax.OptState  # of the bi-level term's own optimiser; () where there is none
    memory: bilevel.MetaMemory
    joint: jax.Array  # f32[C, C], rows y, columns ỹ


class Teacher(NamedTuple):
    """The teacher's pure functions, for MLC and KDMLC."""

    init: Any  # (key, images) -> TeacherState
    step: Any  # (state, batch, warm_up) -> (state, soft_label f32[B, C], logits f32[B, C], metrics)
    correct: Any  # (state, images, given_label) -> f32[B, C]


def transition_matrix(joint: jax.Array) -> jax.Array:
    """T̂[y, ỹ] = P(ỹ | y) from the joint f32[C, C]."""
    return joint / jnp.sum(joint, axis=1, keepdims=True)


def update_joint(joint: jax.Array, logits: jax.Array, given_label: jax.Array, keep: float = 0.99) -> jax.Array:
    """One step of online EM for P(y, ỹ): the posterior q ∝ p(y|x) T̂[y, ỹ] of a batch, averaged in.

    With calibrated beliefs p the likelihood is concave in T̂, so that blurred beliefs do not blur T̂ [ours].

    Args:
      joint: f32[C, C].
      logits: f32[B, C] of the network whose beliefs are used.
      given_label: i32[B].
      keep: share of the old estimate kept per step.
    """
    given = jax.nn.one_hot(given_label, joint.shape[0])
    posterior = jax.nn.softmax(jax.nn.log_softmax(logits) + jnp.log(transition_matrix(joint)).T[given_label])
    return keep * joint + (1.0 - keep) * posterior.T @ given / logits.shape[0]


def check(options: Any) -> None:
    """Raises UserError for an option of the teacher outside its range."""
    choose("method.form", options.form, FORMS)
    choose("method.bilevel", options.bilevel, BILEVEL)
    choose("method.pairs", options.pairs, ("estimated", "real"))
    choose("method.warm_up_on", options.warm_up_on, ("trusted", "both"))
    in_range("method.supervised", options.supervised, 0.0)
    in_range("method.look_ahead_steps", options.look_ahead_steps, 1)
    in_range("method.ema", options.ema, 0.0, 1.0)
    in_range("method.warm_up", options.warm_up, 0)


def make_teacher(config: Any, info: Info, network: str) -> Teacher:
    """Builds network `network` ("teacher" | "student") of the config with its corrector and their step."""
    options = config.method
    check(options)
    classes = info.num_classes
    residual = options.form in ("residual", "transition")
    module = nets.build(config[network].net, classes)
    corrector = Corrector(classes, residual=residual, skip=options.form == "skip")
    tx = optim.build(config.optim, config.train.epochs * info.steps_per_epoch)
    corrector_tx = optax.adam(options.corrector_lr)
    bilevel_tx = optax.adam(options.bilevel_lr) if options.bilevel == "separate" else optax.identity()
    # Without these the corrector reads the inner forward pass itself, as MLC does, and no other pass is paid for.
    reads_evaluation = options.ema > 0 or options.supervised > 0 or residual

    def init(key: jax.Array, images: jax.Array) -> TeacherState:
        net = state.create(key, module, tx, images, options.ema)
        output = state.evaluate(net, images)
        given = jnp.zeros(images.shape[0], jnp.int32)
        params = corrector.init(jax.random.fold_in(key, 1), output.features, given)["params"]
        return TeacherState(
            net=net,
            corrector=TrainState.create(apply_fn=corrector.apply, params=params, tx=corrector_tx),
            bilevel_opt_state=bilevel_tx.init(params),
            memory=bilevel.init_memory(params),
            joint=(0.5 * jnp.eye(classes) + 0.5 / classes) / classes,
        )

    def log_correction(params: Any, output: nets.Output, given_label: jax.Array, joint: jax.Array) -> jax.Array:
        prior = output.logits if residual else None
        if options.form == "transition":
            prior = prior + jnp.log(transition_matrix(joint)).T[given_label]
        return corrector.apply({"params": params}, output.features, given_label, prior)

    def supervised_loss(params: Any, output: nets.Output, batch: Batch, joint: jax.Array) -> jax.Array:
        labels = jnp.concatenate([batch["trusted_label"], batch["meta_label"]])
        if options.pairs == "real":
            given = jnp.concatenate([batch["trusted_given"], batch["meta_given"]])
            log_p = log_correction(params, output, given, joint)
            return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))

        def expected(given_label: jax.Array) -> jax.Array:
            log_p = log_correction(params, output, jnp.full_like(labels, given_label), joint)
            weight = transition_matrix(joint)[labels, given_label]
            return -jnp.mean(weight * jnp.take_along_axis(log_p, labels[:, None], axis=1)[:, 0])

        return jnp.sum(jax.vmap(expected)(jnp.arange(classes)))

    def step(teacher: TeacherState, batch: Batch, warm_up: bool) -> tuple[TeacherState, jax.Array, jax.Array, Metrics]:
        net, given = teacher.net, batch["label"]
        n = given.shape[0]
        images = jnp.concatenate([batch["image"], batch["trusted_image"]])
        trusted = jax.nn.one_hot(batch["trusted_label"], classes)
        belief = supervised_view = None
        if reads_evaluation:
            everything = state.evaluate(net, jnp.concatenate([images, batch["meta_image"]]))
            belief = jax.tree.map(lambda a: a[:n], everything)
            supervised_view = jax.tree.map(lambda a: a[n:], everything)

        def inner_loss(params: Any, corrector_params: Any) -> tuple[jax.Array, Any]:
            output, batch_stats = state.train_forward(net, params, images)
            seen = belief if belief is not None else jax.lax.stop_gradient(jax.tree.map(lambda a: a[:n], output))
            if warm_up:
                weight = jnp.ones(n) if options.warm_up_on == "both" else jnp.zeros(n)
                soft_label = jax.nn.one_hot(given, classes) * weight[:, None]
            else:
                soft_label = jnp.exp(log_correction(corrector_params, seen, given, teacher.joint))
            loss = losses.cross_entropy(jnp.concatenate([soft_label, trusted]), output.logits)
            return jnp.mean(loss), (batch_stats, seen)

        def outer_loss(params: Any) -> jax.Array:
            output, _ = state.train_forward(net, params, batch["meta_image"])
            return jnp.mean(losses.cross_entropy(jax.nn.one_hot(batch["meta_label"], classes), output.logits))

        alpha, memory, due = teacher.corrector.params, teacher.memory, jnp.array(True)
        metrics: Metrics = {}
        meta = None
        if warm_up or options.bilevel == "off":
            ahead = bilevel.look_ahead(lambda w: inner_loss(w, alpha), net.tx, net.params, net.opt_state)
        else:
            meta, outer, ahead = bilevel.meta_gradient(
                inner_loss, outer_loss, net.tx, alpha, net.params, net.opt_state
            )
            metrics |= bilevel.monitors(memory, meta) | {"meta_loss": outer}
            gamma = jnp.zeros(())
            if options.look_ahead_steps > 1:
                before, after = jax.grad(outer_loss)(net.params), jax.grad(outer_loss)(ahead.params)
                gamma = bilevel.decay(before, after, rate(net.step))
            meta, due, memory = bilevel.recur(memory, meta, gamma, options.look_ahead_steps)

        batch_stats, seen = ahead.aux
        new_net = net.commit(ahead.params, ahead.opt_state, batch_stats, options.ema)
        direct = None
        if options.supervised > 0:
            loss, direct = jax.value_and_grad(supervised_loss)(alpha, supervised_view, batch, teacher.joint)
            direct = jax.tree.map(lambda g: options.supervised * g, direct)
            metrics["supervised_loss"] = loss
        new_corrector, bilevel_opt_state = move_corrector(teacher, direct, meta)
        keep = lambda new, old: jnp.where(due, new, old)  # noqa: E731
        new_corrector, bilevel_opt_state = jax.tree.map(
            keep, (new_corrector, bilevel_opt_state), (teacher.corrector, teacher.bilevel_opt_state)
        )
        soft_label = jax.lax.stop_gradient(jnp.exp(log_correction(new_corrector.params, seen, given, teacher.joint)))
        metrics |= {"loss": ahead.loss, "label_entropy_ratio": entropy_ratio(soft_label)}
        new = TeacherState(
            new_net, new_corrector, bilevel_opt_state, memory, update_joint(teacher.joint, seen.logits, given)
        )
        return new, soft_label, seen.logits, metrics

    rate = optim.schedule(config.optim, config.train.epochs * info.steps_per_epoch)

    def move_corrector(teacher: TeacherState, direct: Any, meta: Any) -> tuple[TrainState, optax.OptState]:
        corrector_state, own_state = teacher.corrector, teacher.bilevel_opt_state
        if meta is not None:
            meta = jax.tree.map(lambda g: options.bilevel_weight * g, meta)
            if options.bilevel == "normalised":
                size = optax.global_norm(direct) if direct is not None else 1.0
                scale = options.bilevel_weight * size / jnp.maximum(optax.global_norm(meta), 1e-20)
                meta = jax.tree.map(lambda g: scale * g, meta)
            if options.bilevel == "separate":
                updates, own_state = bilevel_tx.update(meta, own_state)
                params = optax.apply_updates(corrector_state.params, updates)
                corrector_state, meta = corrector_state.replace(params=params), None
        if direct is None and meta is None:
            return corrector_state, own_state
        total = direct if meta is None else meta if direct is None else jax.tree.map(jnp.add, direct, meta)
        return corrector_state.apply_gradients(grads=total), own_state

    def entropy_ratio(soft_label: jax.Array) -> jax.Array:
        return losses.entropy(jnp.mean(soft_label, axis=0)) / jnp.log(float(classes))

    def correct(teacher: TeacherState, images: jax.Array, given_label: jax.Array) -> jax.Array:
        output = state.evaluate(teacher.net, images)
        return jnp.exp(log_correction(teacher.corrector.params, output, given_label, teacher.joint))

    return Teacher(init, step, correct)


def streams(config: Any) -> Streams:
    """Each trusted batch is halved: one half in the inner loss, the other in the meta loss (as MLC does)."""
    half = config.train.trusted_batch_size // 2
    in_range("train.trusted_batch_size", config.train.trusted_batch_size, 2)
    return Streams(config.train.batch_size, config.train.trusted_batch_size - half, half)


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`."""
    network = choose("method.network", config.method.network, ("teacher", "student"))
    teacher = make_teacher(config, info, network)

    def step(warm_up: bool, current: TeacherState, batch: Batch, key: jax.Array) -> tuple[TeacherState, Metrics]:
        new, _, _, metrics = teacher.step(current, batch, warm_up)
        return new, metrics

    def predict(current: TeacherState, images: jax.Array) -> jax.Array:
        return state.evaluate(current.net, images).logits

    return Method(
        teacher.init,
        stages(config, step),
        predict,
        teacher.correct,
        {network: lambda current: current.net},
        network,
        lambda current: transition_matrix(current.joint),
    )


def stages(config: Any, step: Any) -> tuple[Stage, ...]:
    """A warm-up stage, if asked for, and the bi-level stage; `step` takes `warm_up` first."""
    warm_up = config.method.warm_up
    in_range("method.warm_up", warm_up, 0, config.train.epochs - 1)
    first = (Stage("warm_up", warm_up, streams(config), partial(step, True)),) if warm_up else ()
    return *first, Stage("correct", config.train.epochs - warm_up, streams(config), partial(step, False))
