"""SimCLR as a method: features that saw no label, the probes that measure them, and what else the step may not move."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from kdmlc_jax import methods, train
from kdmlc_jax.errors import UserError
from kdmlc_jax.methods.base import Info, Streams, Traits
from kdmlc_jax.methods.parts import contrastive
from kdmlc_jax.methods.simclr import SimCLR

CLASSES, SHAPE = 3, (8, 8, 1)
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=24, num_trusted=12)


def test_learns_digits_without_labels(tmp_path):
    """Protects the point: probes on 100 trusted digits are far better on learned features than on those of the first
    epoch, whatever the noise; the network is left for others to start from."""
    fields = {"data.noisy": 0.0, "noise.rate": 0.9, "train.epochs": 4}
    config = tiny.config("method=simclr,encoders=student,student=cnn4", fields)
    summary = train.run(config, tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.15
    for name in ("student", "knn"):
        assert summary["networks"][name]["last"] > max(0.45, rows[0][f"{name}_test"])
    assert (tmp_path / "student" / "weights.msgpack").is_file()


def test_both_networks_learn_and_vote():
    """Protects the kNN probe: the queue moves up by the step's features of both networks side by side, each network
    learns, and a prediction is the vote of the queue."""
    learner = contrastive.build(optax.sgd(0.1), CLASSES, temperature=0.5, probe_lr=0.1)
    modules = {"student": tiny.Linear(CLASSES, 4), "teacher": tiny.Linear(CLASSES, 6)}
    method = SimCLR(Traits("student", "knn"), modules, learner, queue=12, epochs=1, streams=Streams())
    before = jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, *SHAPE)))
    names = ("image", "view1", "view2", "trusted_image")
    batch = {name: jax.random.normal(jax.random.key(at), (4, *SHAPE)) for at, name in enumerate(names)}
    batch |= {"label": jnp.zeros(4, jnp.int32), "trusted_label": jnp.array([2, 0, 1, 1])}
    state, metrics = jax.jit(method.step)(before, batch, jax.random.key(2))
    assert {"loss", "probe_loss", "teacher_loss", "teacher_probe_loss"} == set(metrics)
    for name, net in method.networks(state).items():
        assert not np.array_equal(net.params["Dense_0"]["kernel"], before.nets[name].params["Dense_0"]["kernel"])
    assert len(state.queue) == 12 and (state.queue_label[:8] == -1).all()
    np.testing.assert_array_equal(state.queue_label[8:], batch["trusted_label"])
    want = contrastive.joint_features(before.nets, batch["trusted_image"])
    np.testing.assert_allclose(state.queue[8:], want, rtol=1e-4, atol=1e-5)
    features = contrastive.joint_features(state.nets, batch["image"])
    votes = np.exp((features @ state.queue[8:].T - 1) / 0.07) @ np.eye(CLASSES)[batch["trusted_label"]]
    got = jax.nn.softmax(method.predict(state, batch["image"]))
    np.testing.assert_allclose(got, votes / votes.sum(axis=1, keepdims=True), rtol=1e-3, atol=1e-5)


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
