"""A purifier's rows: how features become X, and the parts of X that share a ridge regression."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.purify.ridge import ridge_factor

# (features f32[N, D], rows of zeros to add) -> X
Form = Callable[[np.ndarray, int], np.ndarray]


class View(NamedTuple):
    """What a purifier looks at; the last row of X is zeros, and batches are padded with its index."""

    rows: jax.Array  # X, f32[N+1, K]
    trusted: jax.Array  # X_v, f32[M, K]
    centre: jax.Array  # f32[K], as is scale: what the head subtracts and divides by
    scale: jax.Array


class Batches(NamedTuple):
    """The fixed partition of a purifier's rows."""

    part: jax.Array  # i32[batches, B], row numbers
    factor: jax.Array  # f32[batches, K, K], of `ridge_factor`


def unit_rows(features: Float[np.ndarray, "N D"], padding: int) -> Float[np.ndarray, "_ _"]:
    """X: f32[N + padding, D + 1], of features divided by their length, and a 1; zeros for padding."""
    rows = np.zeros((len(features) + padding, features.shape[1] + 1), np.float32)
    unit = rows[: len(features), :-1]
    # By the largest entry first: the square of 1e20 is no float32, and that of 1e-30 is 0.
    largest = np.maximum(features.max(axis=1), -features.min(axis=1))[:, None]
    np.divide(features, np.where(largest > 0, largest, 1), out=unit)
    unit /= np.where(largest > 0, np.sqrt(np.einsum("nd,nd->n", unit, unit))[:, None], 1)
    rows[: len(features), -1] = 1.0
    return rows


def view_of(name: str, features: np.ndarray, trusted: np.ndarray, form: Form) -> View:
    """X and X_v of `form`.

    Raises:
      UserError: where all rows of X are equal; `name` is that of the features.
    """
    rows = form(features, 1)
    most, blocks = 1e-6 * np.abs(rows[0]).max(), np.array_split(rows[:-1], -(-len(features) // 4096))
    if all(np.abs(block - rows[0]).max() <= most for block in blocks):
        scaled = " once scaled to length 1" if form is unit_rows else ""
        raise UserError(f"{name}: all {len(features)} rows are equal{scaled}, expected rows that differ")
    x = jnp.asarray(rows)
    return View(x, jnp.asarray(form(trusted, 0)), *moments(x))


@jax.jit
def moments(rows: Float[Array, "N K"]) -> tuple[Float[Array, " K"], Float[Array, " K"]]:
    """The columns' mean and deviation (raised where all but constant); 0 and 1 for the last, the bias."""
    columns = rows[:-1, :-1]
    variance = jnp.var(columns, axis=0)
    scale = jnp.sqrt(variance + 0.01 * jnp.mean(variance))
    return jnp.append(jnp.mean(columns, axis=0), 0.0), jnp.append(scale, 1.0)


def partition(order: Int[np.ndarray, " N"], size: int) -> Int[np.ndarray, "parts B"]:
    """`order` cut into parts of at most `size`, whose lengths differ by one at most, padded by len(order)."""
    parts = np.array_split(order, -(-len(order) // size))
    index = np.full((len(parts), len(parts[0])), len(order), np.int32)
    for row, part in zip(index, parts, strict=True):
        row[: len(part)] = part
    return index


def batches_of(name: str, view: View, index: Int[np.ndarray, "parts B"], ridge: float) -> Batches:
    """The parts `index` of `view`, and their factors.

    Raises:
      UserError: where XᵀX + λI cannot be inverted; `name` is that of the features.
    """
    (size, width), need = (index.shape[1], view.rows.shape[1]), "expected a larger ridge"
    if ridge == 0 and width > size:
        raise UserError(f"{name}: {width} columns in batches of {size} rows make XᵀX singular, {need}")
    factor = factors(view.rows, jnp.asarray(index), ridge)
    pivots = np.diagonal(np.asarray(factor), axis1=1, axis2=2)
    bad = np.flatnonzero(~((pivots.min(axis=1) / pivots.max(axis=1)) ** 2 > 1e-6))  # NaN is a negative pivot's
    if bad.size:
        cause = "columns that depend on one another, or are constant"
        raise UserError(f"{name}: XᵀX of batch {bad[0]} is singular at ridge={ridge:g} ({cause}), {need}")
    return Batches(jnp.asarray(index), factor)


@jax.jit
def factors(rows: Float[Array, "N K"], index: Int[Array, "parts B"], ridge: Any) -> Float[Array, "parts F F"]:
    """`ridge_factor` of each part, λ = ridge · B."""
    return jax.lax.map(lambda part: ridge_factor(rows[part], ridge * jnp.sum(part < len(rows) - 1)), index)
