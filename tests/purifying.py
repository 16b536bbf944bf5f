"""Labels to purify in tests, and DMLP's formulas in NumPy."""

import numpy as np
from scipy import special

CLASSES = 3


def clusters(rows=91, trusted=15, width=6, seed=0, wrong=0.4):
    """Features around a centre a class, given labels partly wrong, trusted ones, and the truth."""
    rng = np.random.default_rng(seed)
    truth = np.arange(rows + trusted) % CLASSES
    features = rng.normal(size=(CLASSES, width))[truth] + 0.3 * rng.normal(size=(len(truth), width))
    given = np.where(rng.random(rows) < wrong, rng.integers(0, CLASSES, rows), truth[:rows])
    return features[:rows].astype(np.float32), given, features[rows:].astype(np.float32), truth[rows:], truth[:rows]


def numpy_loss(label, rows, trusted, target, penalty, release=False):
    """L_val from its formula, ridge regression solved anew."""
    solution = np.linalg.solve(rows.T @ rows + penalty * np.eye(rows.shape[1]), rows.T @ label)
    logits = trusted @ solution
    read = special.softmax(logits, axis=1) if release else logits
    hits = -(target * special.log_softmax(read, axis=1)).sum(axis=1).mean()
    squares = ((logits - target) ** 2).sum() / (1 if release else len(target))
    mean = special.softmax(rows @ solution, axis=1).mean(axis=0)
    return hits + squares + special.rel_entr(np.full(len(mean), 1 / len(mean)), mean).sum()


def differences(function, at, step):
    """The gradient by central differences."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        moved = at.copy()
        moved[place] += step
        up = function(moved)
        moved[place] -= 2 * step
        gradient[place] = (up - function(moved)) / (2 * step)
    return gradient


def unit(features):
    """X of the fixed variant, in float64: rows of length 1 and a 1."""
    features = features.astype(np.float64)
    return np.append(features / np.linalg.norm(features, axis=1, keepdims=True), np.ones((len(features), 1)), axis=1)


def standard(rows):
    """What the head sees of X: columns centred and scaled, the bias as it is."""
    columns = rows[:, :-1] - rows[:, :-1].mean(axis=0)
    variance = columns.var(axis=0)
    return np.append(columns / np.sqrt(variance + 0.01 * variance.mean()), rows[:, -1:], axis=1)


def nearest_on_simplex(y):
    """The projection by its definition with sorted entries."""
    descending = -np.sort(-y, axis=1)
    threshold = (np.cumsum(descending, axis=1) - 1) / np.arange(1, y.shape[1] + 1)
    last = (descending > threshold).sum(axis=1) - 1
    return np.maximum(y - threshold[np.arange(len(y)), last][:, None], 0)


def accuracy(soft, truth):
    """The share of rows whose largest soft label is the true one."""
    return (soft.argmax(axis=1) == truth).mean()


def assert_on_simplex(soft):
    assert soft.dtype == np.float32 and np.isfinite(soft).all() and soft.min() >= 0
    np.testing.assert_allclose(soft.sum(axis=1), 1, atol=1e-5)
