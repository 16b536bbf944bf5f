"""Neighbours and their vote: the search against scikit-learn's, WANN's reach and vote against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from kdmlc_jax.labels import neighbours

RNG = np.random.default_rng(0)
ROWS, CLASSES = 120, 4
FEATURES = RNG.normal(size=(ROWS, 5)).astype(np.float32)
LABEL = RNG.integers(0, CLASSES, ROWS)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("count", "block"), [(1, 120), (7, 50), (119, 64)])
def test_against_sklearn(count, block):
    """Protects the search: the same neighbours as scikit-learn's, itself not among them, whatever the block; of queries
    that are no rows too."""
    model = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(unit(FEATURES))
    others = RNG.normal(size=(70, 5)).astype(np.float32)
    for queries, want in ((None, model.kneighbors()), (others, model.kneighbors(unit(others)))):
        cosine, got = neighbours.nearest(FEATURES, count, block, queries)
        np.testing.assert_array_equal(got, want[1])
        np.testing.assert_allclose(cosine, 1 - want[0] ** 2 / 2, atol=1e-6)


def test_memory_is_bounded_by_the_block():
    """Protects from N x N: what the compiled search keeps aside for 20 000 rows is a few blocks, 1.6 GB unblocked."""
    total, block = 20_000, 64
    compiled = neighbours.nearest.lower(jax.ShapeDtypeStruct((total, 16), jnp.float32), 20, block).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * total * (4 * block + 4 * 16 + 4 * 20)


@pytest.mark.parametrize(("width", "most"), [(60, 51), (51, 51), (30, 51), (60, 21), (9, 51)])
def test_reach_by_hand(width, most):
    """Protects k_i: the first of 11, 13, … whose neighbours' majority is the label, the last where none; a tie is the
    first class's; fewer neighbours than that end the search."""
    near_label = np.random.default_rng(1).integers(0, 2, (ROWS, width)) * np.where(np.arange(width) > 20, 1, 2)
    label = np.random.default_rng(2).integers(0, CLASSES, ROWS)
    last, want = min(most, width), []
    for near, own in zip(near_label, label, strict=True):
        right = [k for k in range(11, last, 2) if np.bincount(near[:k], minlength=CLASSES).argmax() == own]
        want.append(min(right, default=last))
    got = neighbours.reach(near_label, label, CLASSES, most=most)
    np.testing.assert_array_equal(got, want)
    assert len(set(want)) > 2 or width == 9


def test_vote_by_hand():
    """Protects p: of the k rows nearest, k that of the nearest one, votes weighed, one row more of evenly spread
    label."""
    near = np.stack([np.random.default_rng(row).permutation(ROWS)[:9] for row in range(30)])
    reach, weight = RNG.integers(1, 10, ROWS), RNG.random(ROWS) + 0.1
    votes = np.eye(CLASSES)[LABEL] * weight[:, None]
    want = []
    for rows in near:
        rows = rows[: reach[rows[0]]]
        part = sum(weight[row] * np.eye(CLASSES)[LABEL[row]] for row in rows) / weight[rows].sum()
        want.append((len(rows) * part + 1 / CLASSES) / (len(rows) + 1))
    arrays = jnp.asarray(near), jnp.asarray(reach, jnp.float32), jnp.asarray(votes, jnp.float32)
    np.testing.assert_allclose(neighbours.believed(*neighbours.share(*arrays)), want, atol=1e-6)
