"""Contrastive training: features that no label reaches, the loss by hand, and the probes that measure features."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from sklearn.metrics import log_loss

from kdmlc_jax import nets, train_state
from kdmlc_jax.methods.parts import contrastive

CLASSES, SHAPE = 3, (8, 8, 1)


def batch_of(seed, trusted=True):
    keys = iter(jax.random.split(jax.random.key(seed), 8))
    batch = {name: jax.random.normal(next(keys), (8, *SHAPE)) for name in ("view1", "view2", "image", "trusted_image")}
    batch |= {name: jax.random.randint(next(keys), (8,), 0, CLASSES) for name in ("label", "trusted_label")}
    return batch if trusted else {name: rows for name, rows in batch.items() if not name.startswith("trusted")}


@pytest.fixture(scope="module")
def learner():
    """A learner, its network and the rest of its state, and its compiled step."""
    made = contrastive.build(optax.sgd(0.1, momentum=0.9), CLASSES, temperature=0.5, probe_lr=0.1)

    @jax.jit
    def start(key, images):
        net = train_state.create(key, tiny.Linear(CLASSES, 6), optax.identity(), images)
        return net, made.init(jax.random.key(1), net, images)

    return *start(jax.random.key(0), jnp.zeros((2, *SHAPE))), jax.jit(made.step)


def contrast(first, second, temperature):
    """The mean over all views by a loop: one view's partner against all others."""
    z = np.concatenate([first, second]).astype(np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    losses, count = [], len(first)
    for i in range(2 * count):
        others = [np.exp(z[i] @ z[k] / temperature) for k in range(2 * count) if k != i]
        losses.append(-np.log(np.exp(z[i] @ z[(i + count) % (2 * count)] / temperature) / sum(others)))
    return np.mean(losses)


def test_one_step_by_hand(learner):
    """Protects the step: the loss of both views' projections at τ, of which each has statistics of its own batch and
    both move the running ones; the probe's cross-entropy; SGD on network and projector together."""
    net, beside, step = learner
    made = contrastive.build(optax.sgd(0.1, momentum=0.9), CLASSES, temperature=0.5, probe_lr=0.1)
    batch, moved, weights = batch_of(0), net, (net.params, beside.projector)

    @jax.jit
    def forward(net, images):
        output, statistics = train_state.train_forward(net, net.params, images)
        return made.projector.apply({"params": beside.projector}, output.features), statistics

    projected = []
    for name in ("view1", "view2"):
        rows, statistics = forward(moved, batch[name])
        projected.append(rows)
        moved = moved.replace(batch_stats=statistics)
    descent = jax.jit(jax.value_and_grad(made.loss, has_aux=True))
    (value, statistics), (gradient, _) = descent(weights, net, batch)
    assert float(value) == pytest.approx(contrast(*projected, 0.5), rel=1e-5)
    after, _, metrics, features = step(net, beside, batch)
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    for got in (statistics, after.batch_stats):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, moved.batch_stats)
    head = nets.head_of(net.params)
    for layer in set(net.params) - {head}:
        want = jax.tree.map(lambda w, g: w - 0.1 * g, net.params[layer], gradient[layer])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params[layer], want)
    layer = net.params[head]
    target = jax.nn.one_hot(batch["trusted_label"], CLASSES)
    p = np.asarray(jax.nn.softmax(features @ layer["kernel"] + layer["bias"][None]))
    want = log_loss(batch["trusted_label"], p, labels=range(CLASSES))
    assert float(made.probe_loss(layer, features, target)) == pytest.approx(want, rel=1e-4)
    assert float(metrics["probe_loss"]) == pytest.approx(want, rel=1e-4)


def changed(before, after):
    """Names of the top-level layers whose weights differ."""
    return {
        name
        for name in before
        if any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (before[name], after[name])), strict=True))
    }


def test_labels_do_not_reach_the_features(learner):
    """Protects self-supervision: with other labels and other labelled images only the probe moves otherwise."""
    net, beside, step = learner
    batch, other = batch_of(0), batch_of(1)
    one, _, _, _ = step(net, beside, batch)
    labelled = {name: other[name] for name in ("label", "trusted_label", "trusted_image", "image")}
    two, _, _, _ = step(net, beside, batch | labelled)
    assert changed(net.params, one.params) == set(net.params)
    assert changed(one.params, two.params) == {nets.head_of(net.params)}


def test_views_do_not_reach_the_probe(learner):
    """Protects the measure: the probe learns from the labelled images' features alone."""
    net, beside, step = learner
    batch, other = batch_of(0), batch_of(1)
    one, _, _, _ = step(net, beside, batch)
    two, _, _, _ = step(net, beside, batch | {"view1": other["view1"], "view2": other["view2"]})
    head = nets.head_of(net.params)
    assert head not in changed(one.params, two.params)
    assert changed(one.params, two.params) == set(net.params) - {head}


def test_without_trusted_images_the_given_labels_measure(learner):
    """Protects runs without trusted labels: the probe then learns from the noisy images."""
    net, beside, step = learner
    batch = batch_of(0, trusted=False)
    one, _, _, features = step(net, beside, batch)
    np.testing.assert_allclose(features, train_state.evaluate(net, batch["image"]).features, rtol=1e-5, atol=1e-6)
    two, _, _, _ = step(net, beside, batch | {"label": (batch["label"] + 1) % CLASSES})
    assert changed(one.params, two.params) == {nets.head_of(net.params)}


def test_neighbours_vote():
    """Protects the kNN probe: votes by hand, rows without a class do not vote, and no logit is infinite."""
    rng = np.random.default_rng(0)
    bank, features = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rng.normal(size=(40, 4)), rng.normal(size=(5, 4)))
    )
    label = rng.integers(-1, CLASSES, 40)
    vote = jax.jit(contrastive.knn_logits, static_argnums=3)
    got = vote(*(jnp.asarray(x, jnp.float32) for x in (features, bank)), jnp.asarray(label), CLASSES)
    known = np.flatnonzero(label >= 0)
    for row, feature in zip(got, features, strict=True):
        cosine = bank[known] @ feature
        nearest = np.argsort(-cosine)[:20]
        votes = [np.exp((cosine[nearest] - 1) / 0.07)[label[known[nearest]] == c].sum() for c in range(CLASSES)]
        np.testing.assert_allclose(row, np.log(np.array(votes) + 1e-20), rtol=1e-3, atol=1e-3)
    empty = vote(jnp.ones((2, 4)) / 2, jnp.zeros((6, 4)), jnp.full(6, -1), CLASSES)
    assert jnp.isfinite(empty).all()


def test_rows_without_a_class_crowd_out_no_vote():
    """Protects the first epochs: a queue half empty still has the known rows vote, however near the others are."""
    feature = jnp.asarray([[1.0, 0.0]])
    bank = jnp.asarray([[1.0, 0.0]] * 30 + [[0.0, 1.0]] * 5)
    got = contrastive.knn_logits(feature, bank, jnp.asarray([-1] * 30 + [1] * 5, jnp.int32), 3)
    np.testing.assert_allclose(got[0, 1], np.log(5) - 1 / 0.07, rtol=1e-4)


def test_features_side_by_side():
    """Protects the joint space: its cosine is the mean of the networks' cosines."""
    rng = np.random.default_rng(0)
    one, two = (jnp.asarray(rng.normal(size=(5, size)), jnp.float32) for size in (3, 7))
    joint = contrastive.side_by_side({"a": one, "b": 10.0 * two})
    cosine = lambda x: np.asarray(x @ x.T / np.outer(*[np.linalg.norm(x, axis=1)] * 2))  # noqa: E731
    np.testing.assert_allclose(joint @ joint.T, (cosine(one) + cosine(two)) / 2, atol=1e-5)
