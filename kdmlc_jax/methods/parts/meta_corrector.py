"""A network and its label corrector, which learns to correct labels by what the network then becomes: MLC's bi-level
step, that of KDMLC's teacher, too.

Network f_w with pooled features h; corrector g_α(sg[h(x)], ỹ) on the simplex (MLC, arXiv 1911.03809):

    L(w, α) = ( n_s CE(g_α(sg[h_s], ỹ_s), f_w(x_s)) + n_c CE(y_c, f_w(x_c)) ) / (n_s + n_c)
    w'(α)   = one optimiser step from w on ∇_w L                    look_ahead
    α       moves along ∇_α CE(y_g, f_{w'(α)}(x_g))                 move_corrector
    w       ← w'                                                    commit

BatchNorm: running statistics come from the inner forward passes only (noisy images, then trusted ones); the
look-ahead evaluation uses batch statistics and writes nothing back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from flax.training.train_state import TrainState

from kdmlc_jax import bilevel, losses, nets, optim, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.labels.candidates import FEWEST
from kdmlc_jax.labels.transition import halfway, transition_matrix, update_joint
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Metrics, Report
from kdmlc_jax.methods.parts import corrector_options, known
from kdmlc_jax.methods.parts.known import Known
from kdmlc_jax.methods.parts.standing import Standing
from kdmlc_jax.nets import Output
from kdmlc_jax.nets.heads.corrector import Corrector
from kdmlc_jax.shapes import Inputs, Key, Labels, Matrix, Scalar, SoftLabels, joined
from kdmlc_jax.train_state import NetState


class MetaCorrectorState(struct.PyTreeNode):
    """The network, its corrector, and the running estimate of the joint distribution P(y, ỹ)."""

    net: NetState
    corrector: TrainState
    bilevel_opt_state: optax.OptState  # of the bi-level term's own optimiser; empty where there is none
    memory: bilevel.MetaMemory
    joint: Matrix
    known: Known | None = None  # of form "posterior"


class Gradients(NamedTuple):
    """What moves the corrector; None = no such term."""

    meta: Any  # through the look-ahead, after the k-step recursion
    supervised: Any
    due: jax.Array  # bool[], whether `meta` moves it in this step
    memory: bilevel.MetaMemory


def build(config: Any, info: Info, network: str) -> "MetaCorrector":
    """Network `network` ("teacher" | "student") of the config with a corrector; raises UserError for bad options."""
    corrector_options.check(config)
    options, steps = config.method, config.train.epochs * info.steps_per_epoch
    form = corrector_options.form_of(options, info)
    weight = corrector_options.supervised(options, form)
    has_prior = form in ("residual", "transition", "posterior")
    own = options.bilevel == "separate"
    return MetaCorrector(
        options=options,
        info=info,
        form=form,
        supervised=weight,
        standing=Standing(info, FEWEST if form == "posterior" else 1),
        real_pairs=corrector_options.real_pairs(options, info.num_own_given, weight),
        module=nets.build(config[network].net, info.num_classes, f"{network}.net"),
        tx=optim.build(config.optim, steps),
        rate=optim.schedule(config.optim, steps),
        corrector=Corrector(info.num_classes, residual=has_prior, skip=form == "skip"),
        corrector_tx=optax.adam(options.corrector_lr),
        bilevel_tx=optax.adam(options.bilevel_lr) if own else optax.identity(),
    )


@dataclass(frozen=True, eq=False)
class MetaCorrector:
    """Modules, optimisers and options, and the pure functions over `MetaCorrectorState`."""

    options: Any  # see `corrector_options`
    info: Info
    form: str  # of the corrector, see there
    supervised: float
    standing: Standing
    real_pairs: int  # see `corrector_options`
    module: nn.Module
    tx: optax.GradientTransformation
    rate: Callable[[Any], Any]  # the schedule of `tx`
    corrector: Corrector
    corrector_tx: optax.GradientTransformation
    bilevel_tx: optax.GradientTransformation

    def init(self, key: Key, images: Inputs) -> MetaCorrectorState:
        """The state before the first step; T̂ starts between the identity and ignorance."""
        net = train_state.create(key, self.module, self.tx, images, self.options.ema)
        features = train_state.evaluate(net, images).features
        given = jnp.zeros(images.shape[0], jnp.int32)
        params = self.corrector.init(jax.random.fold_in(key, 1), features, given)["params"]
        return MetaCorrectorState(
            net=net,
            corrector=TrainState.create(apply_fn=self.corrector.apply, params=params, tx=self.corrector_tx),
            bilevel_opt_state=self.bilevel_tx.init(params),
            memory=bilevel.init_memory(params),
            joint=halfway(self.info.num_classes) / self.info.num_classes,
            known=known.nothing(self.info) if self.form == "posterior" else None,
        )

    def begin(self, state: MetaCorrectorState, view: DatasetView) -> MetaCorrectorState:
        """Before the first step: what is known without the network, where the corrector starts from that."""
        if self.standing.note:
            view.note(self.standing.note)
        if state.known is None:
            return state
        there = known.found(view, state.net, self.info)
        return state.replace(known=there, joint=there.transition / self.info.num_classes)

    def correction(self, params: Any, output: Output, given_label: Labels, joint: Matrix) -> SoftLabels:
        """g_α(h, ỹ); the given label itself where it stands."""
        return self.standing.keep(jnp.exp(self.log_correction(params, output, given_label, joint)), given_label)

    def log_correction(self, params: Any, output: Output, given_label: Labels, joint: Matrix) -> SoftLabels:
        """log g_α(h, ỹ), from the network's output for the images."""
        prior = output.logits if self.corrector.residual else None
        if self.form in ("transition", "posterior"):
            prior = output.logits + jnp.log(transition_matrix(joint)).T[given_label]
        log_p: Any = self.corrector.apply({"params": params}, output.features, given_label, prior)
        return log_p

    def correct(self, state: MetaCorrectorState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """Beliefs about the true labels of `images`, given their labels.

        Of form "posterior" images that are not of the noisy split (`index` -1) have the network's own beliefs as prior.
        """
        output = train_state.evaluate(state.net, images)
        if state.known is not None:
            rows = jnp.where(index[:, None] >= 0, state.known.of_noisy(index), output.logits)
            output = output._replace(logits=rows)
        return self.correction(state.corrector.params, output, given_label, state.joint)

    @property
    def reads_evaluation(self) -> bool:
        """Whether the corrector reads an evaluation, not the inner forward pass itself, as MLC's does for nothing."""
        options = self.options
        return options.ema > 0 or self.supervised > 0 or options.teacher_mixup > 0 or self.corrector.residual

    def outputs(self, state: MetaCorrectorState, batch: Batch) -> tuple[Output | None, Output | None]:
        """What the corrector reads of the noisy images and of the trusted ones, both halves; None: see above."""
        if not self.reads_evaluation:
            return None, None
        net = state.net
        images = joined([batch["image"], batch["trusted_image"], batch["meta_image"]])
        everything, n = train_state.evaluate(net, images), len(batch["image"])
        noisy, trusted = (jax.tree.map(lambda a, part=part: a[part], everything) for part in (slice(n), slice(n, None)))
        if state.known is not None:
            index = jnp.concatenate([batch["trusted_index"], batch["meta_index"]])
            noisy = noisy._replace(logits=state.known.of_noisy(batch["index"]))
            trusted = trusted._replace(logits=state.known.of_trusted(index))
        return noisy, trusted

    def supervised_loss(self, params: Any, output: Output, batch: Batch, joint: Matrix, key: Key) -> Scalar:
        """CE(y, g_α(h, ỹ)), mean over the trusted images, with ỹ ~ T̂(·|y), or their real given label."""
        label = jnp.concatenate([batch["trusted_label"], batch["meta_label"]])
        given = jax.random.categorical(key, jnp.log(transition_matrix(joint))[label])
        if self.real_pairs:
            carried = jnp.concatenate([batch["trusted_given"], batch["meta_given"]])
            given = jnp.where(carried >= 0, carried, given)
        log_p = self.log_correction(params, output, given, joint)
        return -jnp.mean(jnp.take_along_axis(log_p, label[:, None], axis=1))

    def target(
        self, corrector_params: Any, state: MetaCorrectorState, output: Output, given_label: Labels, warm_up: bool
    ) -> SoftLabels:
        """What the network is to learn of the noisy images: labels corrected by g_α; before that as given, or not."""
        if warm_up and state.known is None:
            return jax.nn.one_hot(given_label, self.info.num_classes) * (self.options.warm_up_on == "both")
        return self.correction(corrector_params, output, given_label, state.joint)

    def inner_loss(
        self,
        params: Any,
        corrector_params: Any,
        state: MetaCorrectorState,
        batch: Batch,
        output: Output | None,
        warm_up: bool,
        key: Key,
    ) -> tuple[Scalar, tuple[Any, Output]]:
        """L(w, α), with (batch statistics, what the corrector read) as its second value.

        Two forward passes: joined, BatchNorm would tie the trusted images to α, at a ninth more FLOPs.
        """
        noisy_key, trusted_key = jax.random.split(key)
        images, mix = augment.mixup(noisy_key, batch["image"], self.options.teacher_mixup)
        now, batch_stats = train_state.train_forward(state.net, params, images)
        read = jax.lax.stop_gradient(now) if output is None else output
        soft_label = self.target(corrector_params, state, read, batch["label"], warm_up)
        total = jnp.sum(losses.cross_entropy(mix(soft_label), now.logits))

        trusted = jax.nn.one_hot(batch["trusted_label"], self.info.num_classes)
        images, mix = augment.mixup(trusted_key, batch["trusted_image"], self.options.teacher_mixup)
        now, batch_stats = train_state.train_forward(state.net.replace(batch_stats=batch_stats), params, images)
        total += jnp.sum(losses.cross_entropy(mix(trusted), now.logits))
        return total / (len(soft_label) + len(trusted)), (batch_stats, read)

    def outer_loss(self, params: Any, net: NetState, batch: Batch) -> Scalar:
        """The meta-loss: CE(y_g, f_w(x_g)), mean over the trusted images of the meta half."""
        output, _ = train_state.train_forward(net, params, batch["meta_image"])
        return jnp.mean(losses.cross_entropy(jax.nn.one_hot(batch["meta_label"], self.info.num_classes), output.logits))

    def look_ahead(
        self, state: MetaCorrectorState, batch: Batch, warm_up: bool, key: Key
    ) -> tuple[bilevel.LookAhead, Gradients, Metrics]:
        """w'(α), the network one step ahead on corrected labels, and the gradients of α, one of them through it.

        The look-ahead's `aux` is (batch statistics, what the corrector read of the noisy images).
        """
        net, alpha = state.net, state.corrector.params
        noisy, trusted = self.outputs(state, batch)

        def inner_loss(w: Any, a: Any) -> Any:
            return self.inner_loss(w, a, state, batch, noisy, warm_up, jax.random.fold_in(key, 0))

        gradients, metrics = Gradients(None, None, jnp.array(True), state.memory), {}
        if warm_up or self.options.bilevel == "off":
            ahead = bilevel.look_ahead(lambda w: inner_loss(w, alpha), net.tx, net.params, net.opt_state)
        else:
            meta, outer, ahead = bilevel.meta_gradient(
                inner_loss, lambda w: self.outer_loss(w, net, batch), net.tx, alpha, net.params, net.opt_state
            )
            metrics = {"meta_loss": outer, **bilevel.monitors(state.memory, meta)}
            meta, due, memory = self.recur(state, batch, ahead.params, meta)
            gradients = Gradients(meta, None, due, memory)
        if trusted is not None and self.supervised > 0:
            loss, supervised = jax.value_and_grad(self.supervised_loss)(
                alpha, trusted, batch, state.joint, jax.random.fold_in(key, 1)
            )
            supervised = optax.tree.scale(self.supervised, supervised)
            gradients, metrics = gradients._replace(supervised=supervised), metrics | {"supervised_loss": loss}
        return ahead, gradients, metrics | {"loss": ahead.loss}

    def recur(self, state: MetaCorrectorState, batch: Batch, ahead: Any, meta: Any) -> Any:
        """MLC's k-step recursion; for k = 1 the meta-gradient itself."""
        gamma = jnp.zeros(())
        if self.options.look_ahead_steps > 1:
            before, after = (jax.grad(self.outer_loss)(w, state.net, batch) for w in (state.net.params, ahead))
            gamma = bilevel.decay(before, after, self.rate(state.net.step))
        return bilevel.recur(state.memory, meta, gamma, self.options.look_ahead_steps)

    def move_corrector(self, state: MetaCorrectorState, gradients: Gradients) -> MetaCorrectorState:
        """One step of α along the supervised gradient and, where due, the bi-level one."""
        options, corrector, own_state = self.options, state.corrector, state.bilevel_opt_state
        meta, supervised, due, memory = gradients
        if meta is not None:
            scale = jnp.asarray(options.bilevel_weight, jnp.float32)
            if options.bilevel == "normalised":
                wanted = 1.0 if supervised is None else optax.tree.norm(supervised)
                scale *= wanted / (optax.tree.norm(meta) + 1e-20)
            meta = jax.tree.map(lambda g: jnp.where(due, scale * g, 0.0), meta)
            if options.bilevel == "separate":
                updates, stepped = self.bilevel_tx.update(meta, own_state)
                moved = corrector.replace(params=optax.apply_updates(corrector.params, updates))
                corrector, own_state = optax.tree.where(due, (moved, stepped), (corrector, own_state))
            elif supervised is None:
                corrector = optax.tree.where(due, corrector.apply_gradients(grads=meta), corrector)
            else:
                supervised = optax.tree.add(supervised, meta)
        if supervised is not None:
            corrector = corrector.apply_gradients(grads=supervised)
        return state.replace(corrector=corrector, bilevel_opt_state=own_state, memory=memory)

    def corrected(
        self, state: MetaCorrectorState, ahead: bilevel.LookAhead, given_label: Labels
    ) -> tuple[SoftLabels, Metrics]:
        """ŷ, by the corrector as it is now from what it read before the step, and how even ŷ is over the classes.

        The entropy of the mean ŷ is told as a share of what is to be expected, so that classes that are unequal are no
        collapse.
        """
        soft_label = self.correction(state.corrector.params, ahead.aux[1], given_label, state.joint)
        expected = self.info.class_entropy or jnp.log(float(self.info.num_classes))
        return soft_label, {"label_entropy_ratio": losses.entropy(jnp.mean(soft_label, axis=0)) / expected}

    def commit(self, state: MetaCorrectorState, ahead: bilevel.LookAhead, given_label: Labels) -> MetaCorrectorState:
        """The look-ahead is the network's step, not computed again; T̂ moves with what the network gave before it."""
        batch_stats, output = ahead.aux
        net = state.net.commit(ahead.params, ahead.opt_state, batch_stats, self.options.ema)
        joint = state.joint if state.known is not None else update_joint(state.joint, output.logits, given_label)
        return state.replace(net=net, joint=joint)

    def report(self, state: MetaCorrectorState) -> Report:
        """T̂, and how many real pairs of true and given label have taught the corrector, 0 = pairs drawn by T̂."""
        return Report(transition_matrix(state.joint), figures={"real_pairs": jnp.asarray(self.real_pairs)})
