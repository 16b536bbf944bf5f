"""A network in training: committing updates, the averaged weights, and the two forward passes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdmlc_jax import nets, train_state

IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
MODULE = nets.build("cnn1", 3)


@pytest.fixture(scope="module")
def make():
    """ema_decay -> a fresh NetState; the initialisation is compiled once."""
    tx = optax.sgd(0.1, momentum=0.9)
    return lambda ema_decay=0.0: train_state.create(jax.random.key(0), MODULE, tx, IMAGES, ema_decay)


def filled(tree, value):
    return jax.tree.map(lambda x: jnp.full_like(x, value), tree)


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_create(make):
    """Protects the start: step 0, no average unless asked for, and one equal to the weights in its own buffers."""
    net = make()
    assert int(net.step) == 0 and net.ema is None
    net = make(0.9)
    own = {"params": net.params, "batch_stats": net.batch_stats}
    assert_same(net.ema, own)
    for average, live in zip(jax.tree.leaves(net.ema), jax.tree.leaves(own), strict=True):
        assert average.unsafe_buffer_pointer() != live.unsafe_buffer_pointer()


def test_average_follows_its_formula(make):
    """Protects ema ← d·ema + (1-d)·new with d = min(decay, (1+t)/(10+t)), over weights and statistics alike."""
    net, decay, want = make(0.5), 0.5, 0.0
    net = net.replace(ema=filled(net.ema, 0.0))
    for t, value in enumerate((1.0, -2.0, 3.0, 0.5, 4.0, 1.0, -1.0, 2.0, 5.0, -3.0)):
        net = net.commit(filled(net.params, value), net.opt_state, filled(net.batch_stats, value), decay)
        d = min(decay, (1 + t) / (10 + t))
        want = d * want + (1 - d) * value
        for leaf in jax.tree.leaves(net.ema):
            np.testing.assert_allclose(leaf, want, rtol=1e-5)
        assert int(net.step) == t + 1
    assert d == decay


def test_commit_takes_what_it_is_given(make):
    """Protects the look-ahead's commit: parameters, optimiser state and statistics arrive unchanged."""
    net = make()
    parts = filled(net.params, 1.0), filled(net.opt_state, 2.0), filled(net.batch_stats, 3.0)
    new = net.commit(*parts)
    assert_same((new.params, new.opt_state, new.batch_stats), parts)
    assert new.ema is None and int(net.step) == 0


def test_descend_is_two_steps_of_momentum(make):
    """Protects descend: w -= lr·(μ·buffer + g), with the buffer carried on, and the average after the update."""
    net = make(0.9)
    start, stats = net.params, filled(net.batch_stats, 7.0)
    for value in (1.0, 2.0):
        net = net.descend(filled(net.params, value), stats, 0.9)
    moved = 0.1 * 1.0 + 0.1 * (0.9 * 1.0 + 2.0)
    jax.tree.map(lambda new, old: np.testing.assert_allclose(new, old - moved, atol=1e-5), net.params, start)
    assert_same(net.batch_stats, stats)
    first = jax.tree.map(lambda w: 0.1 * w + 0.9 * (w - 0.1), start)
    want = jax.tree.map(lambda e, w: (2 / 11) * e + (9 / 11) * (w - moved), first, start)
    jax.tree.map(lambda got, w: np.testing.assert_allclose(got, w, atol=1e-5), net.ema["params"], want)


def test_minimise_goes_down_its_loss(make):
    """Protects minimise: the gradient at the weights, the statistics that the loss gives, its value before the step."""
    net = make(0.9)
    kernel = net.params["Dense_0"]["kernel"]

    def loss(params, state, factor):
        assert state is net
        return factor * jnp.sum(params["Dense_0"]["kernel"]), filled(state.batch_stats, 7.0)

    new, value = net.minimise(loss, 3.0, ema_decay=0.9)
    np.testing.assert_allclose(value, 3.0 * np.sum(np.float64(kernel)), rtol=1e-5)
    np.testing.assert_allclose(new.params["Dense_0"]["kernel"], kernel - 0.1 * 3.0, atol=1e-6)
    d = 1 / 10
    np.testing.assert_allclose(new.ema["params"]["Dense_0"]["kernel"], kernel - (1 - d) * 0.3, atol=1e-6)
    assert_same(new.batch_stats, filled(net.batch_stats, 7.0))


def test_evaluate_uses_the_average(make):
    """Protects what is evaluated: the average where it is kept, the live weights and statistics where not."""
    net, other = make(0.9), make()
    other = other.replace(params=jax.tree.map(lambda w: 2 * w + 0.1, other.params))
    want = train_state.evaluate(other, IMAGES).logits
    averaged = net.replace(ema={"params": other.params, "batch_stats": other.batch_stats})
    np.testing.assert_array_equal(train_state.evaluate(averaged, IMAGES).logits, want)
    assert np.abs(train_state.evaluate(net, IMAGES).logits - want).max() > 1e-3
    ruined = averaged.replace(params=filled(net.params, jnp.nan), batch_stats=filled(net.batch_stats, jnp.nan))
    np.testing.assert_array_equal(train_state.evaluate(ruined, IMAGES).logits, want)


def test_train_forward_leaves_the_state(make):
    """Protects the rule on BatchNorm: the pass uses the batch's own statistics and returns the moved ones."""
    net = make(0.9)
    before = jax.tree.map(np.array, (net.params, net.batch_stats, net.ema))
    doubled = jax.tree.map(lambda w: 2 * w, net.params)
    output, moved = train_state.train_forward(net, doubled, IMAGES)
    assert_same((net.params, net.batch_stats, net.ema), before)
    ruined = net.replace(params=filled(net.params, jnp.nan), batch_stats=filled(net.batch_stats, 5.0))
    np.testing.assert_array_equal(train_state.train_forward(ruined, doubled, IMAGES)[0].logits, output.logits)
    hidden = jax.lax.conv_general_dilated(
        IMAGES, doubled["Conv_0"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    want = 0.9 * net.batch_stats["BatchNorm_0"]["mean"] + 0.1 * hidden.mean((0, 1, 2))
    np.testing.assert_allclose(moved["BatchNorm_0"]["mean"], want, rtol=1e-4, atol=1e-6)


def test_other_weights(make):
    """Protects a start from other weights: the average begins with them in its own buffers, no step is counted."""
    net = make(0.5)
    params, statistics = filled(net.params, 2.0), filled(net.batch_stats, 3.0)
    new = net.with_weights(params, statistics)
    assert_same((new.params, new.batch_stats), (params, statistics))
    assert_same(new.ema, {"params": params, "batch_stats": statistics})
    assert int(new.step) == 0
    assert_same(new.opt_state, net.opt_state)
    for average, live in zip(jax.tree.leaves(new.ema["params"]), jax.tree.leaves(params), strict=True):
        assert average.unsafe_buffer_pointer() != live.unsafe_buffer_pointer()
    assert make().with_weights(params, statistics).ema is None


def test_one_network_is_replaced(make):
    """Protects the rest of a state: the network meant is told by identity, its equal twin stays."""
    one, twin = make(), make()
    new = one.with_weights(filled(one.params, 2.0), one.batch_stats)
    got = train_state.replace_net({"a": (one, jnp.zeros(2)), "b": [twin]}, one, new)
    assert got["a"][0] is new
    assert_same(got["b"][0].params, twin.params)


def test_slowed():
    """Protects `lr_below`: the last layer moves as ever, all else by the same share of its own update, momentum and
    weight decay included."""
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9))
    free = train_state.create(jax.random.key(0), MODULE, tx, IMAGES)
    slow = train_state.slowed(free, 0.25)
    assert slow.tx == train_state.slowed(free, 0.25).tx
    gradient = jax.tree.map(jnp.ones_like, free.params)
    for _ in range(2):
        whole, _ = free.tx.update(gradient, free.opt_state, free.params)
        part, _ = slow.tx.update(gradient, slow.opt_state, free.params)
        for name, rows in whole.items():
            share = 1.0 if name == "Dense_0" else 0.25
            jax.tree.map(lambda a, b, s=share: np.testing.assert_allclose(b, s * a, rtol=1e-6), rows, part[name])
        free, slow = (net.descend(gradient, net.batch_stats) for net in (free, slow.replace(params=free.params)))


def test_frozen():
    """Protects `teacher.freeze`: against weight decay and momentum, on batches whose statistics differ, nothing below
    the last layer moves by a bit, and that moves as logistic regression on the features does."""
    tx = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.5, momentum=0.9))
    free = train_state.create(jax.random.key(0), MODULE, tx, IMAGES, 0.9)
    still, label = train_state.frozen(free), jnp.array([0, 1, 2, 0])
    assert still.apply_fn == train_state.frozen(free).apply_fn and still.tx == train_state.frozen(free).tx

    def loss(params, net, images):
        output, stats = train_state.train_forward(net, params, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(output.logits, label)), stats

    features = train_state.evaluate(free, IMAGES * 3 + 1).features
    assert_same(train_state.evaluate(still, IMAGES).features, train_state.evaluate(free, IMAGES).features)
    np.testing.assert_allclose(
        train_state.evaluate(still, IMAGES).logits, train_state.evaluate(free, IMAGES).logits, rtol=1e-5, atol=1e-6
    )

    def plain(layer):
        logits = features @ layer["kernel"] + layer["bias"][None]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, label))

    layer, net = free.params["Dense_0"], still
    state = tx.init(layer)
    for _ in range(3):
        net, _ = net.minimise(loss, IMAGES * 3 + 1, ema_decay=0.9)
        updates, state = tx.update(jax.grad(plain)(layer), state, layer)
        layer = optax.apply_updates(layer, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), net.params["Dense_0"], layer)
    rest = lambda params: {name: part for name, part in params.items() if name != "Dense_0"}  # noqa: E731
    assert_same(rest(net.params), rest(free.params))
    assert_same(net.batch_stats, free.batch_stats)
    moved, _ = free.minimise(loss, IMAGES * 3 + 1)
    assert any(
        (a != b).any() for a, b in zip(*map(jax.tree.leaves, (moved.batch_stats, free.batch_stats)), strict=True)
    )
