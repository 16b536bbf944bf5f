"""Cross-entropy beyond the contract: which images and labels it learns, and how they weigh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kdmlc_jax import config as config_lib
from kdmlc_jax import train_state
from kdmlc_jax.methods import ce
from kdmlc_jax.methods.base import Info

CLASSES = 3
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(6, 1, 1, 4)), jnp.float32),
    "label": jnp.asarray(RNG.integers(0, CLASSES, 6), jnp.int32),
    "trusted_image": jnp.asarray(RNG.normal(size=(4, 1, 1, 4)), jnp.float32),
    "trusted_label": jnp.asarray(RNG.integers(0, CLASSES, 4), jnp.int32),
}
SOFT = jnp.asarray(RNG.dirichlet(np.ones(CLASSES), 6), jnp.float32)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("train_on", ["noisy", "trusted", "both"])
def test_loss(train_on, soft):
    """Protects the mean over all images of a step, each with its own label, or the soft one of another run."""
    config = config_lib.resolve(config_lib.base(), {"method": "ce", "student": "mlp4", "train_on": train_on})
    method = ce.make(config, Info(CLASSES, (1, 1, 4), 5, 100, 20))
    assert bool(method.streams.noisy) == (train_on != "trusted")
    assert bool(method.streams.trusted) == (train_on != "noisy")
    batch = {
        name: rows
        for name, rows in BATCH.items()
        if train_on == "both" or ("trusted" in name) == (train_on == "trusted")
    }
    if soft and "label" in batch:
        batch["soft_label"] = SOFT
    net = method.init(jax.random.key(0), BATCH["image"])
    got, _ = method.loss(net.params, net, batch)
    names = [name for name in ("image", "trusted_image") if name in batch]
    output, _ = train_state.train_forward(net, net.params, jnp.concatenate([batch[name] for name in names]))
    hard = {
        "image": SOFT if soft else np.eye(CLASSES)[BATCH["label"]],
        "trusted_image": np.eye(CLASSES)[BATCH["trusted_label"]],
    }
    target = np.concatenate([hard[name] for name in names])
    want = -(target * special.log_softmax(np.asarray(output.logits, np.float64), axis=-1)).sum(-1).mean()
    np.testing.assert_allclose(got, want, rtol=1e-5)
