"""What is known without networks, where the corrector starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import methods
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.cross_fit import cross_fit
from kdmlc_jax.labels.linear import coordinates
from kdmlc_jax.labels.stacking import View, taught_by_given
from kdmlc_jax.methods.base import DatasetView, Info

CLASSES, N, M, D = 3, 240, 60, 5
RNG = np.random.default_rng(0)
CENTRES = 2.0 * np.eye(CLASSES, D)
TRUTH = {"noisy": np.arange(N) % CLASSES, "trusted": np.arange(M) % CLASSES}
ROWS = {name: (CENTRES[y] + RNG.normal(size=(len(y), D))).astype(np.float32) for name, y in TRUTH.items()}
GIVEN = np.where(RNG.random(N) < 0.5, (TRUTH["noisy"] + 1) % CLASSES, TRUTH["noisy"]).astype(np.int32)
INFO = Info(CLASSES, (1, 1, D), 5, N, M)


def view(features, notes):
    """What a method may see; features as given, or asked of the vectors themselves."""

    def over(split, fn, current):
        rows = jnp.asarray(ROWS[split])[:, None, None]
        return np.asarray(fn(current, rows, jnp.zeros(len(rows), jnp.int32)))

    return DatasetView(GIVEN, TRUTH["trusted"], over, lambda fn: fn(), jax.device_get, [], notes.append, features)


@pytest.mark.parametrize("given", [True, False], ids=["data.features", "vectors"])
def test_correction_starts_from_what_is_known(given):
    """Protects form "posterior": before the first step the corrected labels are p₀ times the likelihood of the given
    label under T₀, those of `labels.cross_fit`, and better than the given ones; other images have the network's belief;
    T₀ does not move in a step."""
    info, notes = INFO._replace(num_features=D) if given else INFO, []
    method = methods.get("mlc").make(tiny.config("method=mlc,preset=strong,teacher=mlp4"), info)
    images = jnp.asarray(ROWS["noisy"])[:, None, None]
    state = method.init(jax.random.key(0), images[:2])
    state = method.stages[0].begin(state, view(ROWS if given else None, notes))
    rows = ROWS["noisy"], ROWS["trusted"]
    views = [View(*coordinates(*rows)), taught_by_given(rows[0], GIVEN, rows[1], CLASSES)]
    chain = cross_fit(views, TRUTH["trusted"], GIVEN, CLASSES)[1].full
    got = np.asarray(method.correct(state, images, jnp.asarray(GIVEN), jnp.arange(N)))
    np.testing.assert_allclose(got, chain.posterior, atol=2e-4)
    assert np.mean(got.argmax(axis=1) == TRUTH["noisy"]) > np.mean(TRUTH["noisy"] == GIVEN) + 0.2
    np.testing.assert_allclose(method.report(state).transition, chain.noise.transition, atol=1e-5)
    other = np.asarray(method.correct(state, images, jnp.asarray(GIVEN), jnp.full(N, -1)))
    assert not np.allclose(other, got, atol=0.05) and "start from" in notes[0]
    batch = {"image": images[:6], "label": jnp.asarray(GIVEN[:6]), "index": jnp.arange(6)}
    for kind, part in (("trusted", slice(0, 6)), ("meta", slice(6, 12))):
        label = jnp.asarray(TRUTH["trusted"][part], jnp.int32)
        batch |= {f"{kind}_image": jnp.asarray(ROWS["trusted"][part])[:, None, None], f"{kind}_label": label}
        batch |= {f"{kind}_given": jnp.full(6, -1), f"{kind}_index": jnp.arange(12)[part]}
    moved, _ = method.stages[0].step(state, batch, jax.random.key(1))
    np.testing.assert_array_equal(moved.joint, state.joint)


def test_which_form():
    """Protects "auto": what is known is used where there are features; asked for without any it is refused."""
    images = Info(CLASSES, (4, 4, 1), 5, N, M)
    for info, form in ((INFO, "posterior"), (images._replace(num_features=3), "posterior"), (images, "transition")):
        made = methods.get("mlc").make(tiny.config("method=mlc,preset=strong,teacher=mlp4"), info)
        assert made.meta.form == form
    method = methods.get("mlc").make(tiny.config("method=mlc,preset=strong,form=posterior,teacher=mlp4"), images)
    state = method.init(jax.random.key(0), jnp.zeros((2, 4, 4, 1)))
    with pytest.raises(UserError, match=r'method\.form: "posterior" needs features'):
        method.stages[0].begin(state, view(None, []))
