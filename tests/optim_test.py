"""Schedules at points computed by hand, and optimisers against plain loops in PyTorch's order."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdmlc_jax import bilevel, optim
from kdmlc_jax.config import base
from kdmlc_jax.errors import UserError

PLAIN = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "warm_up": 0.0, "clip": 0.0}


def settings(**changes):
    config = base().optim
    config.update({**PLAIN, **changes})
    return config


def rates(total, steps, **changes):
    schedule = optim.schedule(settings(**changes), total)
    return [float(schedule(step)) for step in steps]


def descend(config, params, gradients, total=10):
    """Parameters after each gradient."""
    tx = optim.build(config, total)
    opt_state, seen = tx.init(params), []
    for gradient in gradients:
        updates, opt_state = tx.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params)
    return seen


def test_constant_schedule():
    """Protects lr at every step, beyond the last one too."""
    np.testing.assert_allclose(rates(10, [0, 5, 9, 20]), 0.1, rtol=1e-6)


def test_cosine_schedule():
    """Protects lr·(1 + cos(πt/T))/2: whole, half-way and zero points."""
    want = [0.1, 0.1 * (1 + np.cos(np.pi / 4)) / 2, 0.05, 0.0]
    np.testing.assert_allclose(rates(100, [0, 25, 50, 100], schedule="cosine"), want, rtol=1e-5, atol=1e-8)


def test_step_schedule():
    """Protects the tenfold drop at each milestone, counted as a share of the run, from that step on."""
    got = rates(100, [0, 49, 50, 74, 75, 99], schedule="step", milestones=(0.5, 0.75))
    np.testing.assert_allclose(got, [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5)


@pytest.mark.parametrize("shape", ["constant", "cosine", "step"])
def test_warm_up_multiplies_the_schedule(shape):
    """Protects the linear rise over the first share of steps, and that it leaves the rest of the schedule alone."""
    how = {"schedule": shape, "milestones": (0.5, 0.75)}
    steps = np.arange(100)
    share = np.array(rates(100, steps, warm_up=0.1, **how)) / np.array(rates(100, steps, **how))
    np.testing.assert_allclose(share[10:], 1.0, rtol=1e-5)
    assert 0.0 < share[0] <= 0.1 + 1e-6
    np.testing.assert_allclose(np.diff(share[:11]), share[1] - share[0], rtol=1e-3)


def test_schedules_of_one_step():
    """Protects the shortest run: finite rates for every shape."""
    for shape in optim.SCHEDULES:
        assert np.isfinite(rates(1, [0, 1], schedule=shape)).all()


def test_weight_decay_enters_before_momentum():
    """Protects PyTorch's SGD: d = g + λw, buffer = μ·buffer + d, w -= lr·buffer."""
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=4), rng.normal(size=(3, 4))
    got = descend(settings(momentum=0.9, weight_decay=0.1), jnp.asarray(start, jnp.float32), gradients)
    w, decoupled, buffer, bare = start.copy(), start.copy(), np.zeros(4), np.zeros(4)
    for seen, gradient in zip(got, gradients, strict=True):
        buffer = 0.9 * buffer + gradient + 0.1 * w
        w = w - 0.1 * buffer
        bare = 0.9 * bare + gradient
        decoupled = decoupled - 0.1 * (bare + 0.1 * decoupled)
        np.testing.assert_allclose(seen, w, rtol=1e-5, atol=1e-6)
    assert np.abs(decoupled - w).max() > 1e-3


def test_schedule_reaches_the_optimiser():
    """Protects that the n-th update uses the n-th rate."""
    got = descend(settings(schedule="step", milestones=(0.5,)), jnp.zeros(()), jnp.ones(4), total=4)
    np.testing.assert_allclose(got, [-0.1, -0.2, -0.21, -0.22], rtol=1e-5)


@pytest.mark.parametrize(("gradient", "scale"), [([3.0, 4.0], 0.2), ([0.3, 0.4], 1.0)])
def test_clip_by_global_norm(gradient, scale):
    """Protects clipping: gradients above the norm are shortened to it, others pass."""
    (got,) = descend(settings(clip=1.0), jnp.zeros(2), [jnp.array(gradient)])
    np.testing.assert_allclose(got, -0.1 * scale * np.array(gradient), rtol=1e-5)
    (off,) = descend(settings(clip=0.0), jnp.zeros(2), [jnp.array(gradient)])
    np.testing.assert_allclose(off, -0.1 * np.array(gradient), rtol=1e-5)


def test_adam_by_hand():
    """Protects Adam's bias-corrected moments."""
    gradients = np.array([[1.0, -0.5], [0.2, 0.3], [-1.0, 0.1]])
    got = descend(settings(name="adam", lr=0.01), jnp.zeros(2), gradients)
    w, m, v = np.zeros(2), np.zeros(2), np.zeros(2)
    for t, (seen, gradient) in enumerate(zip(got, gradients, strict=True), 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        w = w - 0.01 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        np.testing.assert_allclose(seen, w, rtol=1e-4)


@pytest.mark.parametrize("name", optim.OPTIMISERS)
def test_optimisers_can_be_differentiated(name):
    """Protects the look-ahead: the meta-gradient is finite where an inner gradient is exactly 0."""
    tx, params = optim.build(settings(name=name, momentum=0.9), 10), jnp.array([2.0, 0.0])
    inner = lambda w, alpha: (0.5 * alpha * jnp.sum(w**2), None)  # noqa: E731
    got, _, _ = bilevel.meta_gradient(
        inner, lambda w: jnp.sum((w - 1.0) ** 2), tx, jnp.array(1.5), params, tx.init(params)
    )
    assert jnp.isfinite(got)


@pytest.mark.parametrize(
    ("field", "value", "nearest"), [("schedule", "cosin", "cosine"), ("name", "sdg", "sgd"), ("name", "Adam", "adam")]
)
def test_unknown_names(field, value, nearest):
    """Protects the user from a typing error: the message names the value and the nearest allowed name."""
    with pytest.raises(UserError, match=f'"{value}".*did you mean "{nearest}"'):
        optim.build(settings(**{field: value}), 10)
