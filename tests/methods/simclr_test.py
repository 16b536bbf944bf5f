"""SimCLR as a method: features that saw no label, the probes that measure them, and what else the step may not move."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import methods, train
from kdmlc_jax.errors import UserError
from kdmlc_jax.methods.base import Info
from kdmlc_jax.methods.parts.contrastive import joint_features

CLASSES, SHAPE = 3, (8, 8, 1)
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=24, num_trusted=12)


def test_learns_digits_without_labels(tmp_path):
    """Protects the point: probes on 100 trusted digits are far better on learned features than on those of the first
    epoch, whatever the noise; the network is left for others to start from."""
    fields = {"data.noisy": 0.0, "noise.rate": 0.9, "train.epochs": 5}
    config = tiny.config("method=simclr,encoders=student,student=cnn6", fields)
    summary = train.run(config, tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    for name in ("student", "knn"):
        assert summary["networks"][name]["last"] > max(0.5, rows[0][f"{name}_test"])
    assert (tmp_path / "student" / "weights.msgpack").is_file()


def test_both_networks_learn_and_vote():
    """Protects the kNN probe: the queue moves up by the step's features of both networks side by side, each network
    learns, and a prediction is the vote of the queue."""
    config = tiny.config("method=simclr,teacher=mlp6,student=mlp4", {"train.trusted_batch_size": 4})
    method = methods.get("simclr").make(config, INFO)
    before = jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, *SHAPE)))
    keys = jax.random.split(jax.random.key(1), 4)
    batch = {
        name: jax.random.normal(key, (8, *SHAPE)) for name, key in zip(("image", "view1", "view2"), keys, strict=False)
    }
    batch |= {"label": jnp.zeros(8, jnp.int32), "trusted_label": jnp.array([2, 0, 1, 1])}
    batch["trusted_image"] = jax.random.normal(keys[3], (4, *SHAPE))
    state, metrics = jax.jit(method.step)(before, batch, jax.random.key(2))
    assert {"loss", "probe_loss", "teacher_loss", "teacher_probe_loss"} == set(metrics)
    for name, net in method.networks(state).items():
        assert not np.array_equal(net.params["Dense_0"]["kernel"], before.nets[name].params["Dense_0"]["kernel"])
    assert len(state.queue) == 12 and (state.queue_label[:8] == -1).all()
    np.testing.assert_array_equal(state.queue_label[8:], batch["trusted_label"])
    features = jax.jit(joint_features)
    want = features(before.nets, batch["trusted_image"])
    np.testing.assert_allclose(state.queue[8:], want, rtol=1e-4, atol=1e-5)
    logits = jax.jit(method.predict)(state, batch["image"])
    votes = (
        np.exp((features(state.nets, batch["image"]) @ state.queue[8:].T - 1) / 0.07)
        @ np.eye(CLASSES)[batch["trusted_label"]]
    )
    np.testing.assert_allclose(jax.nn.softmax(logits), votes / votes.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ("encoders=student,temperature=0", r"method.temperature: 0.0 is outside \[0.001, inf\]"),
        ("encoders=studnt", r'method.encoders: "studnt" is not one of .* \(did you mean "student"\?\)'),
        ("probe_lr=-1", r"method.probe_lr: -1.0 is outside"),
    ],
)
def test_bad_options(options, message):
    """Protects a person from a run that starts with an option out of its range."""
    with pytest.raises(UserError, match=message):
        methods.get("simclr").make(tiny.config(f"method=simclr,{options}"), INFO)


def test_features_cannot_be_seen_in_two_views():
    """Protects data that are features already: said before any step."""
    with pytest.raises(UserError, match=r"SimCLR needs images, these are features of 40 columns"):
        methods.get("simclr").make(tiny.config("method=simclr"), INFO._replace(image_shape=(1, 1, 40)))


def test_one_network_alone():
    """Protects `encoders`: only the network that is asked for learns, and it is the one deployed."""
    method = methods.get("simclr").make(tiny.config("method=simclr,encoders=teacher"), INFO)
    current = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((2, *SHAPE)))
    assert method.traits.deployed == "teacher" and set(method.networks(current)) == {"teacher"}
