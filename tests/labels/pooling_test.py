"""A network's beliefs beside a linear classifier's: what they are worth, judged where it could not learn the labels."""

import numpy as np
import pytest

from kdmlc_jax.labels import cross_fit, pooling
from kdmlc_jax.labels.linear import log_softmax
from kdmlc_jax.labels.pooling import Folds, Network
from kdmlc_jax.labels.stacking import View

CLASSES = 4


def beliefs(rng, true, strength):
    """Log-beliefs that favour the true class by about `strength`, with noise that makes them calibrated."""
    scores = rng.normal(size=(len(true), CLASSES)) * strength**0.5
    scores[np.arange(len(true)), true] += strength
    return log_softmax(scores)


def test_a_pool_is_the_product_of_powers():
    """Protects the formula, and that weights (1, 0) leave the linear classifier as it is."""
    rng = np.random.default_rng(0)
    one, two = (log_softmax(rng.normal(size=(5, 3))) for _ in range(2))
    want = np.exp(one) ** 0.5 * np.exp(two) ** 2
    got = pooling.pool(one, two, np.array([0.5, 2.0]))
    np.testing.assert_allclose(got, want / want.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(pooling.pool(one, two, pooling.ALONE), np.exp(one))


def test_weights_follow_what_each_is_worth():
    """Protects the fit: independent calibrated beliefs both count fully, noise counts nothing, an overconfident one
    less; through given labels as from true ones."""
    rng = np.random.default_rng(1)
    true = rng.integers(0, CLASSES, 3000)
    one, two = beliefs(rng, true, 1.0), beliefs(rng, true, 2.0)
    seen = np.eye(CLASSES)[true]
    np.testing.assert_allclose(pooling.fit_weights(one, two, seen), [1.0, 1.0], atol=0.15)
    np.testing.assert_allclose(pooling.fit_weights(one, log_softmax(5 * two), seen), [1.0, 0.2], atol=0.15)
    lot = log_softmax(rng.normal(size=two.shape))
    np.testing.assert_allclose(pooling.fit_weights(one, lot, seen), [1.0, 0.0], atol=0.15)
    transition = 0.6 * np.eye(CLASSES) + 0.4 * np.roll(np.eye(CLASSES), 1, axis=1)
    given = np.where(rng.random(3000) < 0.4, (true + 1) % CLASSES, true)
    np.testing.assert_allclose(pooling.fit_weights(one, two, transition.T[given]), [1.0, 1.0], atol=0.25)


def problem(seed, sharp, rows=600, trusted=120):
    """Weak features, labels 40 % wrong, and a network that knows `sharp` more where it has learned nothing, and
    repeats what it was taught where it has."""
    rng = np.random.default_rng(seed)
    true = rng.permutation(np.arange(rows + trusted) % CLASSES)
    x = np.random.default_rng(7).normal(size=(CLASSES, 6))[true] * 0.7 + rng.normal(size=(rows + trusted, 6))
    given = np.where(rng.random(rows + trusted) < 0.4, (true + 1) % CLASSES, true)
    fresh, held = np.arange(rows) >= rows // 2, np.arange(trusted) >= trusted // 3
    knows = beliefs(rng, true, sharp)
    taught = np.concatenate([np.where(held, -1, true[:trusted]), np.where(fresh, -1, given[trusted:])])
    knows[taught >= 0] = log_softmax(3 * np.eye(CLASSES)[taught[taught >= 0]])
    network = Network(knows[trusted:], knows[:trusted], fresh, held)
    return View(x[trusted:], x[:trusted]), true[:trusted], given[trusted:], true[trusted:], network


def test_a_network_that_knows_more_is_heard():
    """Protects what a network adds, on rows it has not learned from and only by those it has not."""
    view, label, given, true, network = problem(0, 3.0)
    _, linear, pooled = cross_fit.cross_fit([view], label, given, CLASSES, network=network)
    right = [
        np.mean(c.posterior.argmax(axis=1)[network.fresh] == true[network.fresh]) for c in (linear.full, pooled.full)
    ]
    assert right[1] > right[0] + 0.1
    assert set(np.concatenate([c.held for c in pooled.folds])) == set(np.flatnonzero(network.held))
    assert set(np.concatenate([c.held for c in linear.folds])) == set(range(len(label)))


def test_a_network_that_repeats_its_labels_is_not_heard():
    """Protects from memory taken for knowledge: a network that is sure of all it was taught, and knows nothing else."""
    view, label, given, _, network = problem(0, 1e-6)
    assert cross_fit.cross_fit([view], label, given, CLASSES, network=network)[2] is None


def test_held_out_rows_do_not_judge_themselves():
    """Protects the held-out fold from its labels' part in the weights."""
    view, label, given, _, network = problem(1, 3.0)
    fold = np.where(network.held, np.arange(len(label)) % 3, -1)
    other = np.where(fold == 1, (label + 2) % CLASSES, label)
    one, two = (
        cross_fit.cross_fit([view], labels, given, CLASSES, fold=fold, network=network)[2].folds
        for labels in (label, other)
    )
    np.testing.assert_array_equal(one[1].trusted, two[1].trusted)
    np.testing.assert_array_equal(one[1].posterior, two[1].posterior)
    assert not np.array_equal(one[0].trusted, two[0].trusted)


@pytest.mark.parametrize("least", [pooling.LEAST])
def test_no_belief_is_impossible(least):
    """Protects logarithms of beliefs that are 0."""
    assert pooling.log(np.array([[0.0, 1.0]])).tolist() == [[pytest.approx(np.log(least)), 0.0]]


def folded(seed):
    """Three networks, each without a third of the trusted rows."""
    view, label, given, true, network = problem(seed, 3.0)
    rng, fold = np.random.default_rng(seed), np.arange(len(label)) % 3
    networks = []
    for k in range(3):
        held, knows = fold == k, beliefs(rng, np.concatenate([label, true]), 3.0)
        taught = np.concatenate([np.where(held, -1, label), np.where(network.fresh, -1, given)])
        knows[taught >= 0] = log_softmax(3 * np.eye(CLASSES)[taught[taught >= 0]])
        networks.append(Network(knows[len(label) :], knows[: len(label)], network.fresh, held))
    return view, label, given, Folds(fold, networks)


def test_a_row_is_asked_of_the_network_without_it():
    """Protects cross-fitting: of a trusted row, what the network believes that has not learned from it; of noisy rows,
    the mean."""
    *_, folds = folded(0)
    joined = folds.joined()
    for row in (0, 1, 5):
        np.testing.assert_array_equal(joined.trusted[row], folds.networks[row % 3].trusted[row])
    np.testing.assert_allclose(joined.noisy, sum(each.noisy for each in folds.networks) / 3)
    assert joined.held.all()


def test_a_fold_judges_by_its_own_network():
    """Protects "held out of everything": what other folds' networks, which have learned its labels, believe changes
    nothing in a fold's chain; and all trusted rows judge."""
    view, label, given, folds = folded(1)
    changed = folds._replace(
        networks=[
            folds.networks[0],
            *(
                each._replace(
                    noisy=log_softmax(each.noisy + np.random.default_rng(3).normal(size=each.noisy.shape) * 0.1),
                    trusted=log_softmax(each.trusted + 0.1 * np.eye(CLASSES)[label]),
                )
                for each in folds.networks[1:]
            ),
        ]
    )
    one, two = (cross_fit.cross_fit([view], label, given, CLASSES, network=each)[2] for each in (folds, changed))
    np.testing.assert_array_equal(one.folds[0].posterior, two.folds[0].posterior)
    np.testing.assert_array_equal(one.folds[0].trusted, two.folds[0].trusted)
    assert not np.array_equal(one.folds[1].posterior, two.folds[1].posterior)
    assert sorted(np.concatenate([c.held for c in one.folds])) == list(range(len(label)))


def test_without_fresh_rows_no_fold_asks_a_network():
    """Protects a fold from weights that its own labels have had a part in."""
    view, label, given, folds = folded(2)
    blind = folds._replace(networks=[each._replace(fresh=np.zeros_like(each.fresh)) for each in folds.networks])
    assert cross_fit.cross_fit([view], label, given, CLASSES, network=blind)[2] is None
