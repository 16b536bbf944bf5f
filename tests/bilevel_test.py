"""The look-ahead and its meta-gradient against finite differences, closed forms and the one-JVP form of MLC."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import flatten_util

from kdmlc_jax import bilevel, config, methods
from kdmlc_jax.methods.base import Info

NOISY, TRUSTED, CLASSES = 6, 4, 3
RATE = 0.2

OPTIMISERS = {
    "sgd": optax.sgd(RATE),
    "momentum": optax.sgd(RATE, momentum=0.9),
    "nesterov": optax.sgd(RATE, momentum=0.9, nesterov=True),
    "weight_decay": optax.chain(optax.add_decayed_weights(0.05), optax.sgd(RATE, momentum=0.9)),
    "schedule": optax.sgd(optax.cosine_decay_schedule(RATE, 10), momentum=0.9),
    "clip": optax.chain(optax.clip_by_global_norm(0.05), optax.sgd(RATE, momentum=0.9)),
    "adam": optax.adam(RATE, eps_root=1e-8),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def make_params(seed=0):
    return {"first": {"kernel": normal(seed, 5, 4), "bias": normal(seed + 1, 4)}, "last": normal(seed + 2, 4, CLASSES)}


def make_meta():
    return {"table": normal(10, NOISY, CLASSES), "bias": normal(11, CLASSES)}


def forward(params, x):
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None])
    return hidden @ params["last"]


def soft_label(meta):
    return jax.nn.softmax(meta["table"] + meta["bias"][None])


def cross_entropy(target, logits):
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def one_hot(seed, count):
    return jnp.eye(CLASSES)[np.random.default_rng(seed).integers(0, CLASSES, count)]


def inner_loss(params, meta):
    """MLC's inner loss: soft labels on the noisy images, true ones on the trusted; linear in the soft label."""
    logits = forward(params, jnp.concatenate([normal(20, NOISY, 5), normal(21, TRUSTED, 5)]))
    target = jnp.concatenate([soft_label(meta), one_hot(22, TRUSTED)])
    return jnp.mean(cross_entropy(target, logits)), logits


def outer_loss(params):
    return jnp.mean(cross_entropy(one_hot(24, 7), forward(params, normal(23, 7, 5))))


def moving_state(tx, params):
    """The optimiser's state after three updates: every trace and moment is non-zero."""
    opt_state = tx.init(params)
    for seed in (30, 40, 50):
        opt_state = tx.update(jax.tree.map(lambda g: 0.1 * g, make_params(seed)), opt_state, params)[1]
    return opt_state


def plain_update(tx, params, opt_state, meta):
    gradient = jax.grad(lambda w: inner_loss(w, meta)[0])(params)
    updates, opt_state = tx.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, gradient


def finite_differences(fn, point, width=1e-5):
    flat, unravel = flatten_util.ravel_pytree(point)
    value = jax.jit(lambda x: fn(unravel(x)))
    steps = width * jnp.eye(flat.size)
    return jnp.stack([(value(flat + step) - value(flat - step)) / (2 * width) for step in steps])


def assert_close(got, want):
    """Equal in float64 to rounding."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15), got, want)


def relative_error(got, want):
    got, want = (flatten_util.ravel_pytree(tree)[0] for tree in (got, want))
    return float(jnp.linalg.norm(got - want) / jnp.linalg.norm(want))


def jvp_form(params, ahead_params, meta, rate):
    """(η n_s/(n_s+n_c)) (1/n_s) Σ_ic J_ic ∂p_ic/∂α, J = d log_softmax(f_w(x_s)) along g' = ∇_w' outer."""
    direction = jax.grad(outer_loss)(ahead_params)
    log_softmax = lambda w: jax.nn.log_softmax(forward(w, normal(20, NOISY, 5)))  # noqa: E731
    _, along = jax.jvp(log_softmax, (params,), (direction,))
    _, pull = jax.vjp(soft_label, meta)
    return jax.tree.map(lambda g: rate / (NOISY + TRUSTED) * g, pull(along)[0])


@pytest.mark.parametrize("name", OPTIMISERS)
def test_meta_gradient_against_finite_differences(x64, name):
    """Protects the derivative through every part of the optimiser: traces, moments, decay, schedule, clipping."""
    tx, params, meta = OPTIMISERS[name], make_params(), make_meta()
    opt_state = moving_state(tx, params)
    got, outer, _ = bilevel.meta_gradient(inner_loss, outer_loss, tx, meta, params, opt_state)
    objective = lambda meta: outer_loss(plain_update(tx, params, opt_state, meta)[0])  # noqa: E731
    assert float(outer) == pytest.approx(float(objective(meta)), rel=1e-12)
    assert relative_error(got, finite_differences(objective, meta)) <= 1e-6
    if name == "clip":
        gradient = plain_update(tx, params, opt_state, meta)[2]
        assert jnp.linalg.norm(flatten_util.ravel_pytree(gradient)[0]) > 0.05


def test_meta_gradient_of_a_quadratic(x64):
    """Protects the closed form: L = ½(w-α)ᵀA(w-α), outer ½‖w'-b‖² give w' = w - ηA(w-α) and ∇_α = ηA(w'-b)."""
    root, w, alpha, b = normal(0, 5, 5), normal(1, 5), normal(2, 5), normal(3, 5)
    a = root @ root.T / 5
    inner = lambda w, alpha: (0.5 * (w - alpha) @ a @ (w - alpha), None)  # noqa: E731
    outer = lambda w: 0.5 * jnp.sum((w - b) ** 2)  # noqa: E731
    tx = optax.sgd(RATE)
    got, value, ahead = bilevel.meta_gradient(inner, outer, tx, alpha, w, tx.init(w))
    moved = w - RATE * a @ (w - alpha)
    assert relative_error(ahead.params, moved) <= 1e-12
    assert float(value) == pytest.approx(float(outer(moved)), rel=1e-12)
    assert relative_error(got, RATE * a @ (moved - b)) <= 1e-12


def test_meta_gradient_is_one_jvp(x64):
    """Protects MLC's meta-gradient by an independent exact form: the inner loss is linear in the soft label."""
    tx, params, meta = optax.sgd(RATE), make_params(), make_meta()
    got, _, ahead = bilevel.meta_gradient(inner_loss, outer_loss, tx, meta, params, tx.init(params))
    assert relative_error(got, jvp_form(params, ahead.params, meta, RATE)) <= 1e-6


def test_momentum_and_weight_decay_by_hand(x64):
    """Protects the order g + λw → trace → step: w' = w - η(μm + g + λw), and only g depends on α."""
    params, trace, meta, decay, momentum = make_params(), make_params(60), make_meta(), 0.05, 0.9
    tx = optax.chain(optax.add_decayed_weights(decay), optax.sgd(RATE, momentum=momentum))
    opt_state = optax.tree_utils.tree_set(tx.init(params), trace=trace)
    got, _, ahead = bilevel.meta_gradient(inner_loss, outer_loss, tx, meta, params, opt_state)
    gradient = jax.grad(lambda w: inner_loss(w, meta)[0])(params)
    moved = jax.tree.map(lambda w, m, g: w - RATE * (momentum * m + g + decay * w), params, trace, gradient)
    assert relative_error(ahead.params, moved) <= 1e-12
    assert relative_error(got, jvp_form(params, moved, meta, RATE)) <= 1e-6


@pytest.mark.parametrize("name", OPTIMISERS)
def test_committed_state_is_the_plain_update(x64, name):
    """Protects "commit the look-ahead": parameters, optimiser state, loss and aux are those of ordinary training, to a
    few units in the last place: they are three programs."""
    tx, params, meta = OPTIMISERS[name], make_params(), make_meta()
    opt_state = moving_state(tx, params)
    want_params, want_state, _ = plain_update(tx, params, opt_state, meta)
    want_loss, want_aux = inner_loss(params, meta)
    aheads = (
        bilevel.meta_gradient(inner_loss, outer_loss, tx, meta, params, opt_state)[2],
        bilevel.look_ahead(lambda w: inner_loss(w, meta), tx, params, opt_state),
    )
    for ahead in aheads:
        assert_close(ahead.params, want_params)
        assert_close(ahead.opt_state, want_state)
        assert_close((ahead.loss, ahead.aux), (want_loss, want_aux))


@pytest.mark.parametrize(("eps_root", "finite"), [(0.0, False), (1e-12, True)])
def test_adam_needs_eps_root(eps_root, finite):
    """Documents the trap: where an inner gradient is exactly 0, Adam's square root turns the meta-gradient to NaN."""
    inner = lambda w, alpha: (0.5 * alpha * jnp.sum(w**2), None)  # noqa: E731
    outer = lambda w: jnp.sum((w - 1.0) ** 2)  # noqa: E731
    tx, params = optax.adam(RATE, eps_root=eps_root), jnp.array([2.0, 0.0])
    got, value, ahead = bilevel.meta_gradient(inner, outer, tx, jnp.array(1.5), params, tx.init(params))
    assert bool(jnp.isfinite(got)) is finite
    assert jnp.isfinite(value) and jnp.isfinite(ahead.params).all()


def test_decay_formula():
    """Protects γ = (1-η)⟨g', g⟩/‖g‖² over all leaves."""
    before = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([[2.0]])}
    after = {"a": jnp.array([0.5, 1.0]), "b": jnp.array([[1.0]])}
    assert float(bilevel.decay(before, after, 0.1)) == pytest.approx(0.9 * 4.5 / 9.0, rel=1e-6)


@pytest.mark.parametrize(
    ("before", "after", "want"),
    [
        ([1.0, 0.0], [5.0, 0.0], 1.0),
        ([1.0, 0.0], [-5.0, 0.0], 0.0),
        ([1e-9, 0.0], [1.0, 0.0], 1.0),
        ([0.0, 0.0], [1.0, 1.0], 0.0),
    ],
)
def test_decay_is_clipped(before, after, want):
    """Protects the recursion from a γ without bound as ‖g‖ → 0, and from 0/0."""
    got = bilevel.decay(jnp.array(before), jnp.array(after), 0.0)
    assert 0.0 <= float(got) <= 1.0
    if before[0] != 1e-9:
        assert float(got) == want


def test_recursion_against_a_loop():
    """Protects a_t = g_t + γ_t a_{t-1}, the move at every third turn and the reset after it."""
    rng = np.random.default_rng(0)
    gradients, gammas = rng.normal(size=(8, 4)).astype(np.float32), rng.uniform(size=8).astype(np.float32)
    memory = bilevel.init_memory({"w": jnp.zeros(4)})
    turn = jax.jit(partial(bilevel.recur, steps=3))
    accumulated, since = np.zeros(4), 0
    for gradient, gamma in zip(gradients, gammas, strict=True):
        total, due, memory = turn(memory, {"w": jnp.asarray(gradient)}, jnp.asarray(gamma))
        accumulated, since = gradient + gamma * accumulated, since + 1
        np.testing.assert_allclose(total["w"], accumulated, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(memory.previous["w"], gradient)
        assert bool(due) == (since == 3)
        if since == 3:
            accumulated, since = np.zeros(4), 0
        np.testing.assert_allclose(memory.accumulated["w"], accumulated, rtol=1e-5, atol=1e-6)
        assert int(memory.count) == since


def test_one_step_recursion_is_no_recursion():
    """Protects k = 1: the gradient passes unchanged and every turn moves, whatever γ."""
    memory, gradient = bilevel.init_memory(jnp.zeros(2)), jnp.array([1.0, -2.0])
    for _ in range(2):
        total, due, memory = bilevel.recur(memory, gradient, jnp.array(0.7), 1)
        np.testing.assert_array_equal(total, gradient)
        assert bool(due)


def test_monitors():
    """Protects the norm over all leaves and the cosine: 0 at first, then 1 for equal and -1 for opposite gradients."""
    gradient = {"a": jnp.array([3.0]), "b": jnp.array([[4.0]])}
    first = bilevel.init_memory(gradient)
    got = bilevel.monitors(first, gradient)
    assert float(got["meta_gradient_norm"]) == pytest.approx(5.0) and float(got["meta_gradient_cosine"]) == 0.0
    _, _, memory = bilevel.recur(first, gradient, jnp.zeros(()), 3)
    assert float(bilevel.monitors(memory, gradient)["meta_gradient_cosine"]) == pytest.approx(1.0)
    opposite = jax.tree.map(lambda g: -2.0 * g, gradient)
    got = bilevel.monitors(memory, opposite)
    assert float(got["meta_gradient_cosine"]) == pytest.approx(-1.0)
    assert float(got["meta_gradient_norm"]) == pytest.approx(10.0)


def flops(method_name, **arguments):
    """FLOPs of one step on CIFAR-shaped ResNet-8 batches, as XLA counts them before it compiles (those of ResNet-32,
    and of compiled steps, have the same ratio within half a percent)."""
    settings = config.base()
    arguments = {"method": method_name, "network": "teacher", "teacher": "resnet8", **arguments}
    settings = config.resolve(settings, arguments)
    method = methods.get(method_name).make(settings, Info(10, (32, 32, 3), 390, 49_000, 1000))
    (stage,) = method.stages
    counts = {"": stage.streams.noisy, "trusted_": stage.streams.trusted, "meta_": stage.streams.meta}
    batch = {}
    for prefix, count in counts.items():
        if count:
            batch[f"{prefix}image"] = jax.ShapeDtypeStruct((count, 32, 32, 3), jnp.float32)
            batch |= {
                f"{prefix}{name}": jax.ShapeDtypeStruct((count,), jnp.int32) for name in ("label", "index", "given")
            }
    key = jax.eval_shape(lambda: jax.random.key(0))
    state = jax.eval_shape(method.init, key, jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32))
    cost = jax.jit(stage.step).lower(state, batch, key).cost_analysis()
    return counts, cost["flops"]


def test_mlc_step_costs_less_than_three_plain_steps():
    """Protects the fast path: an MLC step (100 + 50 + 50 images) must stay within 2.8 times the FLOPs of CE on 100."""
    counts, plain = flops("ce", train_on="noisy")
    assert counts == {"": 100, "trusted_": 0, "meta_": 0}
    counts, meta = flops("mlc", preset="paper")
    assert counts == {"": 100, "trusted_": 50, "meta_": 50}
    assert 1.5 < meta / plain <= 2.8
