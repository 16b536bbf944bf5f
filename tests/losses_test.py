"""Losses against SciPy in float64, and the invariants that their formulas promise."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kdmlc_jax import losses

RNG = np.random.default_rng(0)
TARGET = RNG.dirichlet(np.full(5, 0.5), 7)
TEACHER, STUDENT = 3 * RNG.normal(size=(2, 7, 5))


def f32(x):
    return jnp.asarray(x, jnp.float32)


def test_cross_entropy_against_scipy():
    """Protects -Σ t log softmax(z), one value per example."""
    want = -(TARGET * special.log_softmax(STUDENT, axis=-1)).sum(-1)
    got = losses.cross_entropy(f32(TARGET), f32(STUDENT))
    assert got.shape == (7,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=2e-6)


def test_cross_entropy_of_log_probabilities():
    """Protects the promise that log-probabilities are logits too, shifted by any constant per row."""
    log_p = special.log_softmax(STUDENT, axis=-1)
    got = losses.cross_entropy(f32(TARGET), f32(log_p + RNG.normal(size=(7, 1))))
    np.testing.assert_allclose(got, -(TARGET * log_p).sum(-1), rtol=5e-6)


def test_cross_entropy_of_extreme_logits():
    """Protects log-space: no overflow, and log 0 never arises."""
    got = losses.cross_entropy(f32([[0.5, 0.5], [1.0, 0.0]]), f32([[1e4, -1e4], [1e4, -1e4]]))
    np.testing.assert_allclose(got, [1e4, 0.0])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_losses_of_half_precision_logits_are_float32(dtype):
    """Protects "losses in float32": half-precision logits are widened before the softmax, not after."""
    if dtype == jnp.float16 and "xla_cpu_max_isa=SSE4_2" in os.environ["XLA_FLAGS"]:
        pytest.skip("XLA converts no float16 under SSE4.2")
    teacher, student = jnp.asarray(TEACHER, dtype), jnp.asarray(STUDENT, dtype)
    for loss, wide in (
        (losses.cross_entropy(f32(TARGET), student), losses.cross_entropy(f32(TARGET), f32(student))),
        (losses.distillation(teacher, student, 2.0), losses.distillation(f32(teacher), f32(student), 2.0)),
    ):
        assert loss.dtype == jnp.float32
        np.testing.assert_array_equal(loss, wide)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_against_scipy(temperature):
    """Protects τ² KL(teacher ‖ student): its direction, its factor and its temperature on both sides."""
    p, q = special.softmax(TEACHER / temperature, axis=-1), special.softmax(STUDENT / temperature, axis=-1)
    want = temperature**2 * special.rel_entr(p, q).sum(-1)
    got = losses.distillation(f32(TEACHER), f32(STUDENT), temperature)
    assert got.shape == (7,)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_of_equal_beliefs_is_zero(temperature):
    """Protects KL(p ‖ p) = 0 with gradient 0, also where the logits differ by a constant."""
    logits = f32(STUDENT)
    np.testing.assert_array_equal(losses.distillation(logits, logits, temperature), 0.0)
    np.testing.assert_allclose(losses.distillation(logits, logits + 3.0, temperature), 0.0, atol=1e-4)
    gradient = jax.grad(lambda z: jnp.sum(losses.distillation(logits, z, temperature)))(logits)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)


@pytest.mark.parametrize("temperature", [2.0, 100.0, 400.0])
def test_distillation_gradient_and_its_limit(temperature):
    """Protects τ²: the student's gradient is τ(q - p), and tends to the centred (z_S - z_T)/C instead of vanishing."""
    gradient = jax.grad(lambda z: jnp.sum(losses.distillation(f32(TEACHER), z, temperature)))(f32(STUDENT))
    p, q = special.softmax(TEACHER / temperature, axis=-1), special.softmax(STUDENT / temperature, axis=-1)
    np.testing.assert_allclose(gradient, temperature * (q - p), atol=1e-4)
    if temperature >= 100:
        difference = STUDENT - TEACHER
        limit = (difference - difference.mean(-1, keepdims=True)) / 5
        assert np.linalg.norm(gradient - limit) < 10 / temperature * np.linalg.norm(limit)


def test_entropy_against_scipy():
    """Protects H(p) over the last axis, with 0 log 0 = 0 and log C for the uniform distribution."""
    p = np.concatenate([TARGET, np.eye(5), np.full((1, 5), 0.2), [[0.5, 0.5, 0.0, 0.0, 0.0]]])
    got = losses.entropy(f32(p))
    np.testing.assert_allclose(got, special.entr(p).sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got[7:12], 0.0)
    np.testing.assert_allclose(got[-2:], [np.log(5), np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_against_a_loop(temperature):
    """Protects SimCLR's loss: each view against its partner and all others of both views, itself left out."""
    first, second = RNG.normal(size=(2, 4, 3))
    z = np.concatenate([first, second])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    want = []
    for i in range(8):
        others = [z[i] @ z[k] / temperature for k in range(8) if k != i]
        want.append(special.logsumexp(others) - z[i] @ z[(i + 4) % 8] / temperature)
    got = losses.nt_xent(f32(first), f32(second), temperature)
    assert got.shape == (8,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(losses.nt_xent(f32(7.0 * first), f32(second), temperature), want, rtol=1e-5)


def test_nt_xent_of_collapsed_features():
    """Protects training from NaN: equal or zero features give log(2B-1) and a finite gradient."""
    for rows in (np.ones((4, 3)), np.zeros((4, 3))):
        loss, gradient = jax.value_and_grad(lambda z: losses.nt_xent(z, z, 0.5).mean())(f32(rows))
        assert loss == pytest.approx(np.log(7.0), rel=1e-5) and jnp.isfinite(gradient).all()
