"""Nearest neighbours, exact, and their vote; WANN's reach (Di Salvo et al. 2025, TMLR, arXiv 2408.14358).

Functions of arrays. Likeness is the cosine: as `purify` and `propagation` have it.

    n_i1, n_i2, …      the other rows, those of greatest cosine first
    k_i                of row i, WANN: the least k of 11, 13, …, 49 for which most of n_i1 … n_ik have the label of
                       row i, 51 where none
    reliability_i      1 / k_i
    p(c | x)           (k Σ_j w_j [y_j = c] / Σ_j w_j + 1/C) / (k + 1) over the k rows nearest to x, k that of the
                       nearest one; w their reliability (kNN: k fixed, w = 1)

Ours: one more neighbour of evenly spread label (rule of succession); cosines, where WANN's release
(github.com/francescodisalvo05/wann-noisy-labels) has Euclidean distances. A tie is the first class's, as there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LEAST, MOST = 11, 51  # of WANN's k


@functools.partial(jax.jit, static_argnames=("neighbours", "block"))
def nearest(
    features: Float[Array | np.ndarray, "N D"],
    neighbours: int,
    block: int,
    queries: Float[Array | np.ndarray, "Q D"] | None = None,
) -> tuple[Float[Array, "Q k"], Int[Array, "Q k"]]:
    """Cosines and numbers of the k rows of greatest cosine to each query, the greatest first, in memory of block·N.

    Without queries, of the other rows to each row: k is 1 to N - 1. Features are finite; rows of zeros have cosine 0
    with all. block is 1 to Q.
    """
    rows = unit(jnp.asarray(features))
    asked = rows if queries is None else unit(jnp.asarray(queries))
    total = len(asked)

    def search(start: jax.Array) -> tuple[jax.Array, jax.Array]:
        part = jnp.minimum(start + jnp.arange(block), total - 1)
        cosine = jnp.matmul(asked[part], rows.T, precision="highest")
        if queries is None:
            cosine = jnp.where(part[:, None] == jnp.arange(total)[None], -jnp.inf, cosine)
        cosine, other = jax.lax.top_k(cosine, neighbours)
        return cosine, other

    found = jax.lax.map(search, jnp.arange(0, total, block))
    cosine, index = (part.reshape(-1, neighbours)[:total] for part in found)
    return cosine, index.astype(jnp.int32)


def nearest_at_once(
    features: Float[Array | np.ndarray, "N D"], neighbours: int, queries: Float[Array | np.ndarray, "Q D"]
) -> Int[Array, "Q k"]:
    """The numbers that `nearest` has of queries, in one block of all of them."""
    cosine = jnp.matmul(unit(jnp.asarray(queries)), unit(jnp.asarray(features)).T, precision="highest")
    return jax.lax.top_k(cosine, neighbours)[1]


def unit(features: Float[Array, "N D"]) -> Float[Array, "N D"]:
    """Rows of length 1; those of zeros stay."""
    # By the largest entry first: the square of 1e20 is no float32, and that of 1e-30 is 0.
    largest = jnp.max(jnp.abs(features), axis=1, keepdims=True)
    rows = features / jnp.where(largest > 0, largest, 1.0)
    length = jnp.sqrt(jnp.sum(rows**2, axis=1, keepdims=True))
    return rows / jnp.where(length > 0, length, 1.0)


def reach(
    near_label: Int[np.ndarray, "N K"], label: Int[np.ndarray, " N"], classes: int, least: int = LEAST, most: int = MOST
) -> Int[np.ndarray, " N"]:
    """WANN's k_i.

    Args:
      near_label: the labels of each row's neighbours, the nearest first; K below `most` ends the search there.
      label: of each row, in [0, classes).
      classes: C.
      least, most: of k.
    """
    rows, last = np.arange(len(label)), min(most, near_label.shape[1])
    count, found = np.zeros((len(label), classes), np.int32), np.full(len(label), last)
    for k in range(1, last):
        count[rows, near_label[:, k - 1]] += 1
        if k >= least and (k - least) % 2 == 0:
            agrees = count.argmax(axis=1) == label
            found[agrees & (found == last)] = k
    return found


@jax.jit
def share(
    near: Int[Array, "Q K"], reach: Float[Array, " N"], votes: Float[Array, "N C"]
) -> tuple[Float[Array, "Q C"], Float[Array, " Q"]]:
    """Each class's votes among the k nearest rows, and k: the reach of the nearest one.

    Args:
      near: rows, the nearest first; k is at most K.
      reach: k of each row.
      votes: of each row for each class.
    """
    k = reach[near[:, 0]]

    def add(j: Any, total: jax.Array) -> jax.Array:
        return total + jnp.where(j < k, 1.0, 0.0)[:, None] * votes[near[:, j]]

    total = jax.lax.fori_loop(0, near.shape[1], add, jnp.zeros((len(near), votes.shape[1])))
    return total, jnp.minimum(k, near.shape[1])


def believed(total: Float[Array, "Q C"], k: Float[Array, " Q"]) -> Float[Array, "Q C"]:
    """p(c | x) from what `share` returns."""
    part = total / jnp.sum(total, axis=1, keepdims=True)
    return (k[:, None] * part + 1.0 / total.shape[1]) / (k[:, None] + 1.0)
