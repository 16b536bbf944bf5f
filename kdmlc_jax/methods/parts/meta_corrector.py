"""The teacher of MLC and KDMLC: a network, its label corrector, and one bi-level step of both.

Main network f_w with pooled features h; corrector g_α(sg[h(x)], ỹ) on the simplex (MLC, arXiv 1911.03809):

    L(w, α) = ( n_s CE(g_α(sg[h_s], ỹ_s), f_w(x_s)) + n_c CE(y_c, f_w(x_c)) ) / (n_s + n_c)
    w'(α)   = one optimiser step from w on ∇_w L
    α       moves along ∇_α CE(y_g, f_{w'(α)}(x_g));    w ← w'

BatchNorm: running statistics come from the inner forward passes only (noisy images, then trusted ones); the
look-ahead evaluation uses batch statistics and writes nothing back.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from flax.training.train_state import TrainState

from kdmlc_jax import bilevel, losses, nets, optim, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.errors import UserError, choose, in_range
from kdmlc_jax.labels.transition import halfway, transition_matrix, update_joint
from kdmlc_jax.methods.base import Batch, Info, Metrics
from kdmlc_jax.nets import Output
from kdmlc_jax.nets.heads.corrector import Corrector
from kdmlc_jax.train_state import NetState

FORMS = ("plain", "skip", "residual", "transition")
BILEVEL = ("off", "joint", "normalised", "separate")
# The recipe of MLC's release on that set.
CLOTHING1M = {
    "method.preset": "paper",
    "method.form": "skip",
    "method.look_ahead_steps": 5,
    "method.corrector_lr": 3e-3,
}


def default_options(preset: str) -> dict[str, Any]:
    """Options of the teacher, by preset: "paper" is MLC and no more, "strong" [ours] repairs what we measured.

    form: the corrector: plain | skip | residual (prior z_T) | transition (prior z_T + log T̂[:, ỹ]).
    supervised: weight of CE(y, g_α(h, ỹ)), ỹ ~ T̂(·|y), on trusted images in the meta objective; 0 = off.
    pairs: T̂ "estimated" from the teacher's beliefs, or the "real" given label of trusted images, where known.
    bilevel: the bi-level term off | joint (one sum, one optimiser) | normalised (scaled to the supervised
      gradient's norm) | separate (its own Adam with bilevel_lr); bilevel_weight scales it.
    look_ahead_steps: k of MLC's recursion. corrector_lr: Adam on α.
    ema: decay of the averaged teacher that gives features and beliefs; 0 = the live teacher.
    warm_up: epochs of CE before correction starts, on trusted | both (warm_up_on).
    teacher_mixup: Beta(a, a) of MixUp in the inner loss; 0 = off.
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
        "teacher_mixup": 0.0,
    }
    strong = {
        "supervised": 1.0,
        "form": "transition",
        "bilevel": "separate",
        "corrector_lr": 1e-3,
        "ema": 0.99,
        "warm_up": 1,
        "teacher_mixup": 1.0,
    }
    return paper if preset == "paper" else {**paper, **strong}


def check(config: Any) -> None:
    """Raises UserError for an option outside its range."""
    options, epochs = config.method, config.train.epochs
    choose("method.form", options.form, FORMS)
    choose("method.bilevel", options.bilevel, BILEVEL)
    choose("method.pairs", options.pairs, ("estimated", "real"))
    choose("method.warm_up_on", options.warm_up_on, ("trusted", "both"))
    if options.pairs == "real" and not config.data.trusted_given:
        raise UserError('method.pairs: "real" needs data.trusted_given=true, the labels before they were checked')
    in_range("method.supervised", options.supervised, 0.0)
    in_range("method.bilevel_weight", options.bilevel_weight, 0.0)
    in_range("method.corrector_lr", options.corrector_lr, 0.0, 1e6)
    in_range("method.bilevel_lr", options.bilevel_lr, 0.0, 1e6)
    in_range("method.look_ahead_steps", options.look_ahead_steps, 1)
    in_range("method.ema", options.ema, 0.0, 1.0)
    in_range("method.warm_up", options.warm_up, 0, epochs - 1)
    in_range("method.teacher_mixup", options.teacher_mixup, 0.0)


class TeacherState(struct.PyTreeNode):
    """The main network, its corrector, and the running estimate of the joint distribution P(y, ỹ)."""

    net: NetState
    corrector: TrainState
    bilevel_opt_state: optax.OptState  # of the bi-level term's own optimiser; empty where there is none
    memory: bilevel.MetaMemory
    joint: jax.Array  # f32[C, C], rows y, columns ỹ


class Teacher:
    """Modules and optimisers, built once, and the pure functions over `TeacherState`."""

    def __init__(self, config: Any, info: Info, network: str):
        """Builds network `network` ("teacher" | "student") of the config, and its corrector."""
        self.options, self.classes = config.method, info.num_classes
        check(config)
        steps = config.train.epochs * info.steps_per_epoch
        self.module = nets.build(config[network].net, self.classes, f"{network}.net")
        self.tx, self.rate = optim.build(config.optim, steps), optim.schedule(config.optim, steps)
        self.has_prior = self.options.form in ("residual", "transition")
        self.corrector = Corrector(self.classes, residual=self.has_prior, skip=self.options.form == "skip")
        self.corrector_tx = optax.adam(self.options.corrector_lr)
        own = self.options.bilevel == "separate"
        self.bilevel_tx = optax.adam(self.options.bilevel_lr) if own else optax.identity()
        # Without these the corrector reads the inner forward pass itself, as MLC does, and no other pass is paid for.
        o = self.options
        self.reads_evaluation = o.ema > 0 or o.supervised > 0 or o.teacher_mixup > 0 or self.has_prior

    def init(self, key: jax.Array, images: jax.Array) -> TeacherState:
        """The state before the first step; T̂ starts between the identity and ignorance."""
        net = train_state.create(key, self.module, self.tx, images, self.options.ema)
        features = train_state.evaluate(net, images).features
        given = jnp.zeros(images.shape[0], jnp.int32)
        params = self.corrector.init(jax.random.fold_in(key, 1), features, given)["params"]
        return TeacherState(
            net=net,
            corrector=TrainState.create(apply_fn=self.corrector.apply, params=params, tx=self.corrector_tx),
            bilevel_opt_state=self.bilevel_tx.init(params),
            memory=bilevel.init_memory(params),
            joint=halfway(self.classes) / self.classes,
        )

    def log_correction(self, params: Any, seen: Output, given_label: jax.Array, joint: jax.Array) -> jax.Array:
        """log g_α(h, ỹ) f32[B, C], from what the teacher has seen in the images."""
        prior = seen.logits if self.has_prior else None
        if self.options.form == "transition":
            prior = seen.logits + jnp.log(transition_matrix(joint)).T[given_label]
        log_p: Any = self.corrector.apply({"params": params}, seen.features, given_label, prior)
        return log_p

    def correct(self, teacher: TeacherState, images: jax.Array, given_label: jax.Array) -> jax.Array:
        """Beliefs f32[B, C] about the true labels of `images`, given their labels i32[B]."""
        seen = train_state.evaluate(teacher.net, images)
        return jnp.exp(self.log_correction(teacher.corrector.params, seen, given_label, teacher.joint))

    def supervised_loss(self, params: Any, seen: Output, batch: Batch, joint: jax.Array, key: jax.Array) -> jax.Array:
        """CE(y, g_α(h, ỹ)), mean over the trusted images, with ỹ ~ T̂(·|y), or their real given label."""
        label = jnp.concatenate([batch["trusted_label"], batch["meta_label"]])
        given = jax.random.categorical(key, jnp.log(transition_matrix(joint))[label])
        if self.options.pairs == "real":
            carried = jnp.concatenate([batch["trusted_given"], batch["meta_given"]])
            given = jnp.where(carried >= 0, carried, given)
        log_p = self.log_correction(params, seen, given, joint)
        return -jnp.mean(jnp.take_along_axis(log_p, label[:, None], axis=1))

    def inner_loss(self, params, corrector_params, teacher: TeacherState, batch: Batch, seen, warm_up: bool, key):
        """L(w, α), with (batch statistics, what the corrector read) as its second value.

        Two forward passes: joined, BatchNorm would tie the trusted images to α, at a ninth more FLOPs.
        """
        trusted = jax.nn.one_hot(batch["trusted_label"], self.classes)
        noisy_key, trusted_key = jax.random.split(key)
        images, mix = self.mixed(noisy_key, batch["image"])
        output, batch_stats = train_state.train_forward(teacher.net, params, images)
        if seen is None:
            seen = jax.lax.stop_gradient(output)
        if warm_up:
            soft_label = jax.nn.one_hot(batch["label"], self.classes) * (self.options.warm_up_on == "both")
        else:
            soft_label = jnp.exp(self.log_correction(corrector_params, seen, batch["label"], teacher.joint))
        total = jnp.sum(losses.cross_entropy(mix(soft_label), output.logits))
        images, mix = self.mixed(trusted_key, batch["trusted_image"])
        output, batch_stats = train_state.train_forward(teacher.net.replace(batch_stats=batch_stats), params, images)
        total += jnp.sum(losses.cross_entropy(mix(trusted), output.logits))
        return total / (len(soft_label) + len(trusted)), (batch_stats, seen)

    def mixed(self, key: jax.Array, images: jax.Array) -> Any:
        """`images` under MixUp, and the function that mixes their targets; both unchanged where it is off."""
        if self.options.teacher_mixup > 0:
            return augment.mixup(key, images, self.options.teacher_mixup)
        return images, lambda target: target

    def outer_loss(self, params: Any, teacher: TeacherState, batch: Batch) -> jax.Array:
        """CE(y_g, f_w(x_g)), mean over the trusted images of the meta half."""
        output, _ = train_state.train_forward(teacher.net, params, batch["meta_image"])
        return jnp.mean(losses.cross_entropy(jax.nn.one_hot(batch["meta_label"], self.classes), output.logits))

    def step(
        self, teacher: TeacherState, batch: Batch, warm_up: bool, key: jax.Array
    ) -> tuple[TeacherState, jax.Array, jax.Array, Metrics]:
        """Both levels move once; returns the state, ŷ f32[B, C], z_T f32[B, C] and metrics.

        ŷ is corrected by the moved α from what the teacher saw before it moved.
        """
        net, alpha, n = teacher.net, teacher.corrector.params, len(batch["label"])
        seen = trusted = None
        if self.reads_evaluation:
            images = jnp.concatenate([batch["image"], batch["trusted_image"], batch["meta_image"]])
            everything = train_state.evaluate(net, images)
            seen, trusted = (
                jax.tree.map(lambda a, part=part: a[part], everything) for part in (slice(n), slice(n, None))
            )

        def inner_loss(w: Any, a: Any) -> Any:
            return self.inner_loss(w, a, teacher, batch, seen, warm_up, jax.random.fold_in(key, 0))

        meta = None
        memory, due, metrics = teacher.memory, jnp.array(True), {}
        if warm_up or self.options.bilevel == "off":
            ahead = bilevel.look_ahead(lambda w: inner_loss(w, alpha), net.tx, net.params, net.opt_state)
        else:
            meta, outer, ahead = bilevel.meta_gradient(
                inner_loss, lambda w: self.outer_loss(w, teacher, batch), net.tx, alpha, net.params, net.opt_state
            )
            metrics = {"meta_loss": outer, **bilevel.monitors(memory, meta)}
            meta, due, memory = self.recur(teacher, batch, ahead.params, meta)
        batch_stats, seen = ahead.aux
        direct = None
        if self.options.supervised > 0:
            draw = jax.random.fold_in(key, 1)
            loss, direct = jax.value_and_grad(self.supervised_loss)(alpha, trusted, batch, teacher.joint, draw)
            direct = jax.tree.map(lambda g: self.options.supervised * g, direct)
            metrics["supervised_loss"] = loss
        corrector, bilevel_opt_state = self.move_corrector(teacher, direct, meta, due)
        soft_label = jnp.exp(self.log_correction(corrector.params, seen, batch["label"], teacher.joint))
        ratio = losses.entropy(jnp.mean(soft_label, axis=0)) / jnp.log(float(self.classes))
        metrics |= {"loss": ahead.loss, "label_entropy_ratio": ratio}
        moved = TeacherState(
            net.commit(ahead.params, ahead.opt_state, batch_stats, self.options.ema),
            corrector,
            bilevel_opt_state,
            memory,
            update_joint(teacher.joint, seen.logits, batch["label"]),
        )
        return moved, soft_label, seen.logits, metrics

    def recur(self, teacher: TeacherState, batch: Batch, ahead: Any, meta: Any) -> Any:
        """MLC's k-step recursion; for k = 1 the meta-gradient itself."""
        gamma = jnp.zeros(())
        if self.options.look_ahead_steps > 1:
            before, after = (jax.grad(self.outer_loss)(w, teacher, batch) for w in (teacher.net.params, ahead))
            gamma = bilevel.decay(before, after, self.rate(teacher.net.step))
        return bilevel.recur(teacher.memory, meta, gamma, self.options.look_ahead_steps)

    def move_corrector(self, teacher: TeacherState, direct: Any, meta: Any, due: jax.Array) -> Any:
        """One step of α along the supervised gradient and, where due, the bi-level one; None = absent."""
        options, old, own_state = self.options, teacher.corrector, teacher.bilevel_opt_state
        moved = old
        if meta is not None:
            scale = jnp.asarray(options.bilevel_weight)
            if options.bilevel == "normalised":
                scale *= (1.0 if direct is None else optax.tree.norm(direct)) / (optax.tree.norm(meta) + 1e-20)
            meta = jax.tree.map(lambda g: jnp.where(due, scale * g, 0.0), meta)
            if options.bilevel == "separate":
                updates, stepped = self.bilevel_tx.update(meta, own_state)
                stepped = (moved.replace(params=optax.apply_updates(moved.params, updates)), stepped)
                moved, own_state = select(due, stepped, (moved, own_state))
            elif direct is None:
                return select(due, moved.apply_gradients(grads=meta), old), own_state
            else:
                direct = jax.tree.map(jnp.add, direct, meta)
        return (moved if direct is None else moved.apply_gradients(grads=direct)), own_state


def select(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`yes` where the scalar condition holds, else `no`, over whole pytrees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
