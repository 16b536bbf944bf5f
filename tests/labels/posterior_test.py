"""T̂ by EM and the posterior: against the matrix that drew the labels, a general optimiser, and by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import binomtest

from kdmlc_jax.labels import posterior as estimate


def drawn(seed, rows, matrix, sharp=2.0):
    """Exactly calibrated beliefs, true labels and given labels drawn from `matrix`."""
    rng = np.random.default_rng(seed)
    classes = len(matrix)
    z = rng.normal(size=(rows, classes)) * sharp
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    label = (p.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, classes - 1)
    given = (matrix[label].cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1).clip(0, classes - 1)
    return p, label, given


PAIR = 0.6 * np.eye(5) + 0.4 * np.roll(np.eye(5), 1, axis=1)
UNIFORM = 0.2 * np.eye(5) + 0.8 / 5


@pytest.mark.parametrize("matrix", [PAIR, UNIFORM, np.eye(5)], ids=["pair", "uniform", "clean"])
def test_noise_is_found(matrix):
    """Protects T̂ and the rate from strong, even and no noise; uncertain beliefs must not count as noise."""
    p, label, given = drawn(0, 8000, matrix)
    noise = estimate.fit_noise(p, given)
    assert np.abs(noise.transition - matrix).max() < 0.05
    assert noise.rate == pytest.approx(np.mean(given != label), abs=0.015)
    np.testing.assert_allclose(noise.prior, np.bincount(label) / len(label), atol=0.02)
    np.testing.assert_allclose(noise.transition.sum(axis=1), 1, rtol=1e-9)


def test_em_ends_at_the_greatest_likelihood():
    """Protects the E and the M step: no matrix that a general optimiser finds is likelier (no prior)."""
    p, _, given = drawn(1, 300, PAIR[:3, :3] / PAIR[:3, :3].sum(axis=1, keepdims=True))
    p = p[:, :3]

    def missed(flat):
        t = np.exp(flat.reshape(3, 3))
        t /= t.sum(axis=1, keepdims=True)
        return -np.log((p * t.T[given]).sum(axis=1)).mean()

    want = min(minimize(missed, np.random.default_rng(s).normal(size=9)).fun for s in range(3))
    got = estimate.fit_noise(p, given, strength=0, steps=3000).transition
    assert missed(np.log(got + 1e-12)) <= want + 1e-4


def test_rare_classes_are_taken_to_be_like_the_others():
    """Protects the prior: a class with hardly a row gets the rate of the rest, not the identity and not an even row."""
    p, label, given = drawn(2, 4000, UNIFORM)
    rows = (label != 4) | (np.cumsum(label == 4) <= 2)
    p = p[rows] * np.where(np.arange(5) == 4, 1e-3, 1)
    noise = estimate.fit_noise(p / p.sum(axis=1, keepdims=True), given[rows], strength=20)
    assert noise.transition[4, 4] == pytest.approx(0.36, abs=0.15)


def test_known_pairs_count():
    """Protects `pairs`: with beliefs that know nothing, T̂ is what the trusted rows' own given labels say."""
    _, _, given = drawn(3, 500, PAIR)
    pairs = 1e6 * PAIR
    noise = estimate.fit_noise(np.full((500, 5), 0.2), given, pairs=pairs)
    np.testing.assert_allclose(noise.transition, PAIR, atol=1e-3)


def test_posterior_by_hand():
    """Protects which axis of T is the given label."""
    matrix = np.array([[0.5, 0.5], [0.1, 0.9]])
    got = estimate.posterior(np.array([[0.4, 0.6], [0.4, 0.6]]), matrix, np.array([0, 1]))
    np.testing.assert_allclose(got, [[0.2 / 0.26, 0.06 / 0.26], [0.2 / 0.74, 0.54 / 0.74]])


def test_posterior_is_calibrated_and_right_more_often():
    """Protects Bayes' rule: with the true matrix, sureness is the share of right answers, above that of p alone."""
    p, label, given = drawn(4, 6000, PAIR)
    q = estimate.posterior(p, PAIR, given)
    right = q.argmax(axis=1) == label
    assert q.max(axis=1).mean() == pytest.approx(right.mean(), abs=0.02)
    assert right.mean() > np.mean(p.argmax(axis=1) == label) + 0.02


def test_towards_clean_scales_the_rate():
    """Protects the conservative matrix: its share of wrong labels is `share` of T's."""
    prior = np.array([0.5, 0.2, 0.1, 0.1, 0.1])
    for share in (0, 0.25, 1):
        matrix = estimate.towards_clean(PAIR, share)
        assert estimate.Noise(matrix, prior).rate == pytest.approx(share * 0.4)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)


def shares(rate, mistaken):
    """20 draws with pair noise: EM's rate, and the interval that 200 trusted rows allow; some rows taken for y + 1."""
    matrix = (1 - rate) * np.eye(5) + rate * np.roll(np.eye(5), 1, axis=1)
    for seed in range(20):
        p, label, given = drawn(seed, 3000, matrix)
        p = np.where(np.random.default_rng(seed).random((3000, 1)) < mistaken, np.roll(p, 1, axis=1), p)
        rest, few = slice(200, None), slice(0, 200)
        noise = estimate.fit_noise(p[rest], given[rest])
        fold = np.zeros(200, int)
        share = estimate.share_of_noise(p[few], label[few], fold, p[None, rest], given[rest], noise.transition)
        yield noise.rate, *(noise.rate * s for s in share)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_rate_interval_covers(rate):
    """Protects the 90 % interval, with calibrated beliefs, and that it says something."""
    found = np.array(list(shares(rate, 0.0)))
    assert np.mean((found[:, 2] <= rate) & (rate <= found[:, 3])) >= 0.75
    assert np.mean(found[:, 3] - found[:, 2]) < 0.15


def test_trusted_rows_tell_confusions_from_noise():
    """Protects clean labels from beliefs that mistake classes, which EM takes for noise."""
    found = np.array(list(shares(0.0, 0.2)))
    assert found[:, 0].mean() > 0.1
    assert found[:, 2].mean() < 0.03 and found[:, 1].mean() < 0.5 * found[:, 0].mean()


def test_counted_rate_has_wilsons_interval():
    """Protects the interval of counted pairs, -1 left out: SciPy's."""
    own, label = np.array([0, 1, 1, 2, 2, 2, -1, -1]), np.array([0, 0, 1, 2, 2, 0, 0, 1])
    want = binomtest(2, 6).proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose(estimate.counted_rate(label, own), (1 / 3, want.low, want.high), rtol=1e-3)
    assert estimate.counted_rate(label, np.full(8, -1)) == (0, 0, 1)


def test_beliefs_that_say_nothing_leave_the_share_open():
    """Protects from certainty without evidence: even beliefs allow every share of the noise."""
    p, label, given = np.full((60, 5), 0.2), np.arange(60) % 5, np.arange(60) % 5
    share = estimate.share_of_noise(p, label, np.zeros(60, int), p[None], given, PAIR)
    assert share.low == 0 and share.high > 2 and share.low < share.estimate < share.high


def test_no_share_of_noise_is_more_than_a_matrix_holds():
    """Protects posteriors: of uneven noise the even matrix allows a share that would turn T̂'s diagonal negative."""
    matrix = np.array([[0.3, 0.7, 0.0], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]])
    least = estimate.towards_clean(matrix, estimate.most_noise(matrix)).min(axis=1)
    assert least.min() >= 0 and estimate.towards_clean(matrix, estimate.most_noise(matrix))[0, 0] == pytest.approx(0.02)


def test_standard_error_of_few_rows():
    """Protects decisions from a handful of rows that happen to agree: Student's t, and nothing known of one row."""
    values = np.random.default_rng(0).normal(size=(3, 400))
    np.testing.assert_allclose(estimate.standard_error(values), values.std(axis=1) / 20.0, rtol=0.02)
    assert estimate.standard_error(np.array([1.0, 3.0])) == pytest.approx(6.99, abs=0.02)  # 13.97 / 2
    assert np.isinf(estimate.standard_error(np.array([1.0])))
