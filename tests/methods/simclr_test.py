"""SimCLR as a method: features that saw no label, the probes that measure them, and what else the step may not move."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from kdmlc_jax import methods, nets, train, train_state
from kdmlc_jax.errors import UserError
from kdmlc_jax.methods import simclr
from kdmlc_jax.methods.base import Info

CLASSES, SHAPE = 3, (8, 8, 1)
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=24, num_trusted=12)


def batch_of(seed, trusted=True):
    keys = iter(jax.random.split(jax.random.key(seed), 8))
    batch = {name: jax.random.normal(next(keys), (8, *SHAPE)) for name in ("view1", "view2", "image", "trusted_image")}
    batch |= {name: jax.random.randint(next(keys), (8,), 0, CLASSES) for name in ("label", "trusted_label")}
    return batch if trusted else {name: rows for name, rows in batch.items() if not name.startswith("trusted")}


@pytest.fixture(scope="module")
def learner():
    """A learner, its network and the rest of its state, and its compiled step."""
    made = simclr.SimCLR(optax.sgd(0.1, momentum=0.9), CLASSES, temperature=0.5, probe_lr=0.1)
    net = train_state.create(jax.random.key(0), nets.build("cnn2", CLASSES), optax.identity(), jnp.zeros((2, *SHAPE)))
    return net, made.init(jax.random.key(1), net, jnp.zeros((2, *SHAPE))), jax.jit(made.step)


def changed(before, after):
    """Names of the top-level layers whose weights differ."""
    return {
        name
        for name in before
        if any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True))
    }


def test_labels_do_not_reach_the_features(learner):
    """Protects self-supervision: with other labels and other labelled images only the probe moves otherwise."""
    net, contrast, step = learner
    batch, other = batch_of(0), batch_of(1)
    one, _, _, _ = step(net, contrast, batch)
    labelled = {name: other[name] for name in ("label", "trusted_label", "trusted_image", "image")}
    two, _, _, _ = step(net, contrast, batch | labelled)
    assert changed(net.params, one.params) == set(net.params)
    assert changed(one.params, two.params) == {nets.head_of(net.params)}


def test_views_do_not_reach_the_probe(learner):
    """Protects the measure: the probe learns from the labelled images' features alone."""
    net, contrast, step = learner
    batch, other = batch_of(0), batch_of(1)
    one, _, _, _ = step(net, contrast, batch)
    two, _, _, _ = step(net, contrast, batch | {"view1": other["view1"], "view2": other["view2"]})
    head = nets.head_of(net.params)
    assert head not in changed(one.params, two.params)
    assert changed(one.params, two.params) == set(net.params) - {head}


def test_without_trusted_images_the_given_labels_measure(learner):
    """Protects runs without trusted labels: the probe then learns from the noisy images."""
    net, contrast, step = learner
    batch = batch_of(0, trusted=False)
    one, _, _, features = step(net, contrast, batch)
    np.testing.assert_allclose(features, train_state.evaluate(net, batch["image"]).features, rtol=1e-5, atol=1e-6)
    two, _, _, _ = step(net, contrast, batch | {"label": (batch["label"] + 1) % CLASSES})
    assert changed(one.params, two.params) == {nets.head_of(net.params)}


def test_neighbours_vote():
    """Protects the kNN probe: votes by hand, rows without a class do not vote, and no logit is infinite."""
    rng = np.random.default_rng(0)
    bank, features = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(40, 4)), rng.normal(size=(5, 4)))
    )
    label = rng.integers(-1, CLASSES, 40)
    got = simclr.knn_logits(*(jnp.asarray(x, jnp.float32) for x in (features, bank)), jnp.asarray(label), CLASSES)
    known = np.flatnonzero(label >= 0)
    for row, feature in zip(got, features, strict=True):
        cosine = bank[known] @ feature
        nearest = np.argsort(-cosine)[:20]
        votes = [np.exp((cosine[nearest] - 1) / 0.07)[label[known[nearest]] == c].sum() for c in range(CLASSES)]
        np.testing.assert_allclose(row, np.log(np.array(votes) + 1e-20), rtol=1e-3, atol=1e-3)
    empty = simclr.knn_logits(jnp.ones((2, 4)) / 2, jnp.zeros((6, 4)), jnp.full(6, -1), CLASSES)
    assert jnp.isfinite(empty).all()


def test_features_side_by_side():
    """Protects the joint space: its cosine is the mean of the networks' cosines."""
    rng = np.random.default_rng(0)
    one, two = (jnp.asarray(rng.normal(size=(5, size)), jnp.float32) for size in (3, 7))
    joint = simclr.side_by_side({"a": one, "b": 10.0 * two})
    cosine = lambda x: np.asarray(x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2))  # noqa: E731
    np.testing.assert_allclose(joint @ joint.T, (cosine(one) + cosine(two)) / 2, atol=1e-5)


def test_learns_digits_without_labels(tmp_path):
    """Protects the point: a linear probe on 100 trusted digits is far better on learned features than on random ones,
    whatever the noise; both networks are left for others to start from."""
    fields = {"data.noisy": 0.0, "noise.rate": 0.9, "train.epochs": 12}
    config = tiny.config("method=simclr,teacher=cnn8,student=cnn6", fields)
    summary = train.run(config, tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.3
    for name in ("student", "teacher", "knn"):
        assert summary["networks"][name]["last"] > max(0.65, rows[0][f"{name}_test"])
    assert {path.parent.name for path in tmp_path.glob("*/weights.msgpack")} == {"student", "teacher"}


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
    assert method.deployed == "teacher" and set(method.networks) == set(current.nets) == {"teacher"}
