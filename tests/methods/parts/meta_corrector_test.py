"""MLC's step beyond the contract: its losses, when and how far the corrector moves, and what is refused."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import special

from kdmlc_jax import bilevel, methods, metrics, train_state
from kdmlc_jax import config as config_lib
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.transition import transition_matrix
from kdmlc_jax.methods.base import Info
from kdmlc_jax.methods.parts import meta_corrector
from kdmlc_jax.methods.parts.meta_corrector import Gradients

CLASSES = 3


@cache
def build(arguments, given=False):
    """A tiny network with a corrector, its state and a batch of vectors."""
    config = config_lib.resolve(
        config_lib.base(), {"method": "mlc", "student": "mlp4", **config_lib.parse_arguments(arguments)}
    )
    info = Info(CLASSES, (1, 1, 4), 5, 100, 20, num_own_given=12 if given else 0)
    meta = meta_corrector.build(config, info, "student")
    rng = np.random.default_rng(0)
    batch = {}
    for kind, label in (("", "label"), ("trusted_", "trusted_label"), ("meta_", "meta_label")):
        batch[f"{kind}image"] = jnp.asarray(rng.normal(size=(6, 1, 1, 4)), jnp.float32)
        batch[label] = jnp.asarray(rng.integers(0, CLASSES, 6), jnp.int32)
        batch[f"{kind}given"] = batch[label]
    return meta, jax.jit(meta.init)(jax.random.key(0), batch["image"]), batch


def stepped(meta):
    """One step of MLC, compiled; `warm_up` is fixed."""

    def step(warm_up, state, batch, key):
        ahead, gradients, figures = meta.look_ahead(state, batch, warm_up, key)
        return meta.commit(meta.move_corrector(state, gradients), ahead, batch["label"]), figures

    return jax.jit(step, static_argnums=0)


def moved(before, after):
    """Whether any of a tree's leaves differs."""
    return any((a != b).any() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))


def cross_entropy(target, logits):
    return -(np.asarray(target) * special.log_softmax(np.asarray(logits, np.float64), axis=-1)).sum(-1)


def test_corrector_moves_every_kth_step():
    """Protects the k-step recursion: α stands still until the k-th look-ahead, then moves, then stands still again."""
    meta, state, batch = build("preset=paper,look_ahead_steps=3")
    step, pattern = stepped(meta), []
    for turn in range(6):
        after, _ = step(False, state, batch, jax.random.key(turn))
        pattern.append(moved(state.corrector.params, after.corrector.params))
        state = after
    assert pattern == [False, False, True] * 2


@pytest.mark.parametrize(
    ("arguments", "warm_up", "terms"),
    [
        ("preset=paper", False, {"meta"}),
        ("preset=paper", True, set()),
        ("preset=paper,bilevel=off", False, set()),
        ("preset=paper,bilevel=separate", False, {"meta"}),
        ("preset=strong,form=transition", False, {"meta", "supervised"}),
        ("preset=strong,form=transition", True, {"supervised"}),
        ("preset=strong,form=transition,bilevel=off", False, {"supervised"}),
        ("preset=strong,form=transition,bilevel=off,supervised=0", False, set()),
    ],
)
def test_what_moves_the_corrector(arguments, warm_up, terms):
    """Protects the ablations: which terms there are is known before anything is compiled; without one α stays."""
    meta, state, batch = build(arguments)
    look = lambda state, batch, key: meta.look_ahead(state, batch, warm_up, key)[1:]  # noqa: E731
    gradients, figures = jax.eval_shape(look, state, batch, jax.random.key(1))
    assert {name for name in ("meta", "supervised") if getattr(gradients, name) is not None} == terms
    assert ("meta_loss" in figures, "supervised_loss" in figures) == ("meta" in terms, "supervised" in terms)
    if not terms:
        after = meta.move_corrector(state, Gradients(None, None, jnp.array(True), state.memory))
        assert not moved(state.corrector.params, after.corrector.params)


def first_moment(corrector):
    """The gradient that the corrector's Adam was given in its first update."""
    return jax.tree.map(lambda mu: mu / 0.1, optax.tree_utils.tree_get(corrector.opt_state, "mu"))


def assert_close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)


def both_gradients(state, due=True):
    rng = np.random.default_rng(3)
    draw = lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)  # noqa: E731
    meta, supervised = (jax.tree.map(draw, state.corrector.params) for _ in range(2))
    return Gradients(meta, supervised, jnp.array(due), state.memory)


@pytest.mark.parametrize("due", [True, False])
@pytest.mark.parametrize("kind", ["joint", "normalised"])
def test_one_optimiser_sees_the_sum(kind, due):
    """Protects `bilevel_weight`: joint adds the weighted meta-gradient to the supervised one, normalised one as long
    as the supervised one, and where it is not due only the other moves α."""
    meta, state, _ = build(f"preset=strong,form=transition,bilevel={kind},bilevel_weight=0.5")
    gradients = both_gradients(state, due)
    after = meta.move_corrector(state, gradients)
    norm = (optax.tree.norm(gradients.supervised) / optax.tree.norm(gradients.meta)) if kind == "normalised" else 1.0
    want = jax.tree.map(lambda s, m: s + due * 0.5 * norm * m, gradients.supervised, gradients.meta)
    assert_close(first_moment(after.corrector), want)


@pytest.mark.parametrize("due", [True, False])
def test_an_optimiser_of_its_own(due):
    """Protects `bilevel=separate`: Adam at bilevel_lr moves α along the meta-gradient where that is due, and counts no
    step where it is not; the corrector's own Adam sees the supervised gradient alone."""
    meta, state, _ = build("preset=strong,form=transition,bilevel=separate,bilevel_lr=0.125")
    gradients = both_gradients(state, due)
    after = meta.move_corrector(state, gradients)
    assert_close(first_moment(after.corrector), gradients.supervised)
    alone = meta.move_corrector(state, gradients._replace(supervised=None))
    want = jax.tree.map(lambda p, m: p - due * 0.125 * m / (jnp.abs(m) + 1e-8), state.corrector.params, gradients.meta)
    assert_close(alone.corrector.params, want)
    assert int(optax.tree_utils.tree_get(after.bilevel_opt_state, "count")) == due


def test_weight_without_effect_is_refused():
    """Protects a user from a switch that does nothing: Adam of its own takes any scale out of the meta-gradient."""
    with pytest.raises(UserError, match=r'method.bilevel_weight: 2.0 .*expected 1 with method.bilevel "separate"'):
        build("preset=strong,form=transition,bilevel_weight=2.0")
    build("preset=strong,form=transition,bilevel=joint,bilevel_weight=2.0")


@pytest.mark.parametrize("warm_up", [False, True])
def test_inner_loss(warm_up):
    """Protects L(w, α): noisy images towards corrected labels (given ones in the warm-up), trusted ones towards theirs,
    weighted by their numbers; statistics are those of the two passes in turn."""
    meta, state, batch = build("preset=paper")
    key = jax.random.key(5)
    loss, (batch_stats, output) = meta.inner_loss(
        state.net.params, state.corrector.params, state, batch, None, warm_up, key
    )
    noisy, stats = train_state.train_forward(state.net, state.net.params, batch["image"])
    trusted, stats = train_state.train_forward(
        state.net.replace(batch_stats=stats), state.net.params, batch["trusted_image"]
    )
    target = np.eye(CLASSES)[batch["label"]]
    if not warm_up:
        log_p = state.corrector.apply_fn({"params": state.corrector.params}, noisy.features, batch["label"], None)
        target = np.exp(log_p)
    total = cross_entropy(target, noisy.logits).sum()
    total += cross_entropy(np.eye(CLASSES)[batch["trusted_label"]], trusted.logits).sum()
    np.testing.assert_allclose(loss, total / 12, rtol=1e-5)
    assert_close(batch_stats, stats)
    assert_close(output, noisy)


def test_no_gradient_reaches_the_network_through_its_corrector():
    """Protects sg[h(x)]: the corrected labels are constants for the network that is trained on them."""
    meta, state, batch = build("preset=paper")
    rest = state.corrector.params, state, batch
    key = jax.random.key(5)
    got = jax.grad(lambda w: meta.inner_loss(w, *rest, None, False, key)[0])(state.net.params)
    output, _ = train_state.train_forward(state.net, state.net.params, batch["image"])
    fixed = jax.grad(lambda w: meta.inner_loss(w, *rest, output, False, key)[0])(state.net.params)
    assert_close(got, fixed)


def test_warm_up_on_trusted_images_alone():
    """Protects `warm_up_on=trusted`: noisy images have no target at all."""
    meta, state, batch = build("preset=strong,form=transition,warm_up_on=trusted")
    output = train_state.evaluate(state.net, batch["image"])
    for on, want in (("trusted", 0.0), ("both", np.eye(CLASSES)[batch["label"]])):
        each = dataclasses.replace(meta, options=meta.options.copy_and_resolve_references())
        each.options.warm_up_on = on
        got = each.target(state.corrector.params, state, output, batch["label"], True)
        np.testing.assert_array_equal(got, np.broadcast_to(want, (6, CLASSES)))


def test_meta_loss():
    """Protects the outer loss: CE of the network on the meta half, whose true labels it has not been trained on."""
    meta, state, batch = build("preset=paper")
    output, _ = train_state.train_forward(state.net, state.net.params, batch["meta_image"])
    want = cross_entropy(np.eye(CLASSES)[batch["meta_label"]], output.logits).mean()
    np.testing.assert_allclose(meta.outer_loss(state.net.params, state.net, batch), want, rtol=1e-5)


@pytest.mark.parametrize("pairs", ["auto", "real"])
def test_supervised_loss_on_real_pairs(pairs):
    """Protects CE(y, g_α(h, ỹ)) on both trusted halves: with real pairs ỹ is the label that the image carried, drawn
    from T̂ only where that is not known."""
    meta, state, batch = build(f"preset=strong,form=transition,pairs={pairs}", given=True)
    images = jnp.concatenate([batch["trusted_image"], batch["meta_image"]])
    output, label = (
        train_state.evaluate(state.net, images),
        jnp.concatenate([batch["trusted_label"], batch["meta_label"]]),
    )
    carried = (label + 1) % CLASSES
    batch = {**batch, "trusted_given": carried[:6], "meta_given": carried[6:]}
    arguments = state.corrector.params, output, batch, state.joint
    got = [float(meta.supervised_loss(*arguments, jax.random.key(seed))) for seed in (0, 1)]
    log_p = meta.log_correction(state.corrector.params, output, carried, state.joint)
    np.testing.assert_allclose(got, -np.mean(np.asarray(log_p)[np.arange(12), label]), rtol=1e-5)
    unknown = {**batch, "trusted_given": jnp.full(6, -1), "meta_given": jnp.full(6, -1)}
    drawn = [float(meta.supervised_loss(*arguments[:2], unknown, state.joint, jax.random.key(seed))) for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_the_look_ahead_is_committed():
    """Protects "w ← w'": network and T̂ are those of the look-ahead, and the corrector reads what was before it."""
    meta, state, batch = build("preset=paper")
    ahead, _, _ = meta.look_ahead(state, batch, False, jax.random.key(1))
    after = meta.commit(state, ahead, batch["label"])
    assert_close(after.net.params, ahead.params)
    assert int(after.net.step) == 1 and moved(state.net.params, after.net.params)
    assert moved(state.joint, after.joint)
    before, _ = train_state.train_forward(state.net, state.net.params, batch["image"])
    assert_close(ahead.aux[1], before)
    soft_label, _ = meta.corrected(state, ahead, batch["label"])
    log_p = meta.log_correction(state.corrector.params, before, batch["label"], state.joint)
    np.testing.assert_allclose(soft_label, np.exp(log_p), rtol=1e-5)


def alarms(soft_label, class_entropy):
    """The lines of the guard for these corrected labels."""

    class Fixed(meta_corrector.MetaCorrector):
        def correction(self, *_):
            return jnp.asarray(soft_label, jnp.float32)

    meta, state, batch = build("preset=paper")
    parts = {field.name: getattr(meta, field.name) for field in dataclasses.fields(meta)}
    fixed = Fixed(**{**parts, "info": meta.info._replace(class_entropy=class_entropy)})
    ahead = bilevel.LookAhead(None, None, jnp.zeros(()), (None, train_state.evaluate(state.net, batch["image"])))
    _, figures = fixed.corrected(state, ahead, batch["label"])
    return metrics.warnings({name: float(value) for name, value in figures.items()})


def test_unequal_classes_are_no_collapse():
    """Protects the guard: corrected labels as unequal as the classes are (.95/.05) raise no alarm; a real collapse
    does, of equal classes and of unequal ones."""
    unequal = np.tile([[0.95, 0.05]], (6, 1))
    prior = float(special.entr([0.95, 0.05]).sum())
    assert alarms(unequal, prior) == []
    assert len(alarms(np.tile([[0.999, 0.001]], (6, 1)), prior)) == 1
    assert len(alarms(unequal, float(np.log(2)))) == 1


def test_transition_prior_corrects_before_any_training():
    """Protects the transition form: at first it is the network's belief times the likelihood of the given label."""
    meta, state, batch = build("preset=strong,form=transition")
    matrix = transition_matrix(state.joint)
    want = jax.nn.softmax(train_state.evaluate(state.net, batch["image"]).logits) * matrix.T[batch["label"]]
    got = meta.correct(state, batch["image"], batch["label"], jnp.arange(6))
    np.testing.assert_allclose(got, want / want.sum(1, keepdims=True), rtol=1e-5)


def test_real_pairs_need_the_labels_before_they_were_checked():
    """Protects from a silent -1: where no trusted image's own label is known there is no real pair to learn from."""
    with pytest.raises(UserError, match=r"method\.pairs.*data\.trusted_given"):
        build("preset=strong,form=transition,pairs=real")
    with pytest.raises(UserError, match=r'method\.pairs: "true" is not one of auto, estimated, real'):
        build("preset=strong,form=transition,pairs=true")


def test_pairs_are_estimated_where_no_own_label_is_known():
    """Protects earlier runs: "auto" without own labels is "estimated" to the bit; "estimated" ignores them."""
    got = []
    for pairs, given in (("auto", False), ("estimated", False), ("estimated", True)):
        meta, state, batch = build(f"preset=strong,form=transition,pairs={pairs}", given)
        _, gradients, figures = meta.look_ahead(state, batch, False, jax.random.key(1))
        got.append((gradients.supervised, figures["supervised_loss"]))
    assert not moved(got[0], got[1]) and not moved(got[1], got[2])


@pytest.mark.parametrize(
    ("arguments", "given", "count"),
    [
        ("preset=strong,form=transition", True, 12),
        ("preset=strong,form=transition", False, 0),
        ("preset=strong,form=transition,pairs=estimated", True, 0),
        ("preset=paper", True, 0),
    ],
)
def test_report_says_which_pairs(arguments, given, count):
    """Protects `summary.json`: how many real pairs have taught the corrector, none without a supervised signal."""
    meta, state, _ = build(arguments, given)
    report = meta.report(state)
    assert int(report.figures["real_pairs"]) == count
    np.testing.assert_array_equal(report.transition, transition_matrix(state.joint))


def test_halves_of_the_trusted_batch():
    """Protects the meta-loss from images of the inner loss: each trusted batch is cut in two, the odd one inside."""
    config = config_lib.resolve(config_lib.base(), {"method": "mlc", "student": "mlp4", "network": "student"})
    config.train.trusted_batch_size = 7
    (stage,) = methods.get("mlc").make(config, Info(CLASSES, (1, 1, 4), 5, 100, 20)).stages
    assert (stage.streams.trusted, stage.streams.meta) == (4, 3)


def test_committed_network_is_averaged():
    """Protects `ema`: the average moves by its rule towards the committed weights, not onto them."""
    meta, state, batch = build("preset=paper,ema=0.9")
    net = state.net
    ahead = bilevel.LookAhead(
        jax.tree.map(lambda leaf: leaf + 1.0, net.params),
        net.opt_state,
        jnp.zeros(()),
        (net.batch_stats, train_state.evaluate(net, batch["image"])),
    )
    after = meta.commit(state, ahead, batch["label"]).net
    # d = min(0.9, (1 + t) / (10 + t)) = 0.1 in the first step
    jax.tree.map(
        lambda new, old: np.testing.assert_allclose(new, old + 0.9, rtol=1e-5), after.ema["params"], net.ema["params"]
    )
