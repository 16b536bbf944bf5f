"""Labels propagated from some rows to all over the graph of nearest neighbours (Iscen et al. 2019, arXiv 1904.04717).

Pure functions on arrays of any modality. Features may be anything whose cosines mean likeness: the pooled output of a
network, embeddings of texts or sounds, table columns brought to one scale.

    import numpy as np
    from sklearn.datasets import load_digits

    from kdmlc_jax.labels.propagation import propagate

    digits, label = load_digits(return_X_y=True)
    known = np.random.default_rng(0).permutation(len(digits))[:100]  # of 1797, checked by hand
    seeds = np.full(len(digits), -1)
    seeds[known] = label[known]

    soft, confidence = propagate(digits, seeds)
    right = (soft.argmax(axis=1) == label)[seeds < 0]
    print(right.mean())  # 0.94 of the others are right
    print(right[confidence[seeds < 0] > np.median(confidence)].mean())  # 0.996 of the surer half

With v_i the rows divided by their length:

    A_ij = max(⟨v_i, v_j⟩, 0)^power  for the `neighbours` j ≠ i of greatest ⟨v_i, v_j⟩, else 0
    W = A + Aᵀ ;  D = diag(W 1) ;  W_n = D^-½ W D^-½
    (I - α W_n) Z = Y ,  Y_ic = w_i / Σ_{j of class c} w_j  for seeds i of class c, else 0
    soft label_i = max(Z_i, 0) / Σ_c max(Z_ic, 0) ;  confidence_i = 1 - H(soft label_i) / log C

The neighbours are exact, found `block` rows at a time; conjugate gradients solve for all classes at once. A class does
not win by the number of its seeds: Y's columns sum to 1, as in Iscen et al.'s release (the paper has w = 1 and no
division). α, the power and the steps are theirs; 20 neighbours (they have 50) are AML-KD's (doi
10.1109/TNNLS.2023.3335829). Ours: similarities up to 1e-6 count as none; confidence is not divided by the greatest; a
seed is no exception, so its label is what the graph says and may be another than it came with.

- A row that no seed reaches (no similarity above 0, no path, or none of `steps` edges) has the even label 1/C and
  confidence 0. A row of zeros is like no other. A seed to which nothing is similar keeps its label.
- Copies are neighbours of similarity 1. More than `neighbours` copies of a row have no edge to anything else but from
  rows nearest to them: then ask for more neighbours, or propagate over one of each.
- A class without a seed has probability 0 everywhere; it is refused unless `num_classes` says that it exists.

Time is O(N² D), memory O(N (D + neighbours + C + block)). On an accelerator sums come in any order: the last bits may
differ from call to call.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from kdmlc_jax.arrays import check_features, check_labels
from kdmlc_jax.errors import UserError, in_range, whole
from kdmlc_jax.labels.neighbours import nearest
from kdmlc_jax.losses import entropy

# Below it a similarity is the rounding of 0: scaled by the degrees it could become the only edge of a row.
_LEAST_SIMILARITY = 1e-6


class Propagated(NamedTuple):
    """What `propagate` returns: soft labels f32[N, C], rows on the simplex, and confidence f32[N] in [0, 1]."""

    soft_label: Float[np.ndarray, "N C"]
    confidence: Float[np.ndarray, " N"]


class Graph(NamedTuple):
    """An edge from each row to each of its k neighbours, and the same back, W = A + Aᵀ, of which A is kept."""

    neighbour: Int[Array, "N k"]
    weight: Float[Array, "N k"]


def propagate(
    features: ArrayLike,
    seeds: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    num_classes: int | None = None,
    neighbours: float | int = 20,
    alpha: float | int = 0.99,
    power: float | int = 3.0,
    steps: int = 20,
    tolerance: float | int = 1e-6,
    block: int = 512,
) -> Propagated:
    """Soft labels for all rows from the labels of some, the seeds: rows near each other get labels alike.

    See the module for the formula.

    Args:
      features: f[N, D], finite.
      seeds: i[N] in 0..C-1, -1 = no seed.
      weights: f[N], 0 or more: how much each seed counts beside others of its class, 0 = no seed; None = 1.
      num_classes: C; None = 1 + the largest seed, and then each class has a seed.
      neighbours: k, 1 to N - 1.
      alpha: α in [0, 0.9999]: how much a row takes from its neighbours; 0 leaves the seeds alone.
      power: of similarities, 0 or more; 0 makes all edges alike.
      steps: of conjugate gradients at most, 1 or more.
      tolerance: of ‖Y - (I - αW_n) Z‖ / ‖Y‖, for each class, at which steps end, in [1e-8, 1].
      block: rows compared with all others at once, 1 or more; 4·block·N bytes and more of memory.

    Raises:
      UserError: one line that names the argument, what it holds and what is allowed; also for seeds of fewer than two
        classes, and for features in which no two neighbours are alike.
    """
    for name, count in {"neighbours": neighbours, "steps": steps, "block": block}.items():
        whole(name, count, 1)
    if num_classes is not None:
        whole("num_classes", num_classes, 2)
    in_range("alpha", alpha, 0.0, 0.9999)
    in_range("power", power, 0.0)
    in_range("tolerance", tolerance, 1e-8, 1.0)
    rows = check_features("features", features)
    columns = seed_columns(seeds, weights, len(rows), num_classes)
    if neighbours >= len(rows):
        raise UserError(f"neighbours: {neighbours} is out of range, expected 1 to {len(rows) - 1}, the other rows")
    similarity, neighbour = nearest(rows, int(neighbours), min(int(block), len(rows)))
    graph = normalised(similarity, neighbour, float(power))
    if not jnp.any(graph.weight > 0):
        raise UserError(f"features: no row has a neighbour of similarity above 0 (at power={power:g}), expected some")
    z = solve(graph, jnp.asarray(columns), alpha, steps=int(steps), tolerance=float(tolerance))
    return Propagated(*(np.asarray(part) for part in read(z)))


@jax.jit
def normalised(similarity: Float[Array, "N k"], neighbour: Int[Array, "N k"], power: Any) -> Graph:
    """W_n = D^-½ (A + Aᵀ) D^-½ with A = max(similarity, 0)^power, D its sums; what has no edge keeps none.

    `similarity` is to `neighbour`, other rows, none twice; power is 0 or more.
    """
    alike = similarity > _LEAST_SIMILARITY
    weight = jnp.where(alike, jnp.where(alike, similarity, 1.0) ** power, 0.0)
    degree = multiply(Graph(neighbour, weight), jnp.ones((len(weight), 1)))[:, 0]
    scale = jnp.where(degree > 0, jax.lax.rsqrt(jnp.where(degree > 0, degree, 1.0)), 0.0)
    return Graph(neighbour, weight * scale[:, None] * scale[neighbour])


def multiply(graph: Graph, z: Float[Array, "N C"]) -> Float[Array, "N C"]:
    """(A + Aᵀ) z: f32[N, C] from f32[N, C]; a neighbour of each row at a time, or memory would be k times that of z."""

    def add(j: jax.Array, total: jax.Array) -> jax.Array:
        weight, other = graph.weight[:, j, None], graph.neighbour[:, j]
        return (total + weight * z[other]).at[other].add(weight * z)

    return jax.lax.fori_loop(0, graph.neighbour.shape[1], add, jnp.zeros_like(z))


@functools.partial(jax.jit, static_argnames=("steps",))
def solve(graph: Graph, columns: Float[Array, "N C"], alpha: Any, steps: int, tolerance: Any) -> Float[Array, "N C"]:
    """Z of (I - α W_n) Z = Y by conjugate gradients from 0, all columns at once, each with step sizes of its own.

    jax.scipy's, of one column, takes four times as long for 100 classes when mapped over them (it then gathers numbers,
    not rows); given all columns as one unknown, it has one step size for all.

    W_n is of `normalised`: its eigenvalues are in [-1, 1], α in [0, 1). A column is left as it is where its
    ‖residual‖ / ‖y‖ is down to the tolerance.
    """

    def squares(z: jax.Array) -> jax.Array:
        return jnp.sum(z**2, axis=0, keepdims=True)

    enough = tolerance**2 * squares(columns)

    def step(state: tuple) -> tuple:
        count, z, residual, direction, size = state
        image = direction - alpha * multiply(graph, direction)
        curvature = jnp.sum(direction * image, axis=0, keepdims=True)
        rate = jnp.where(size > enough, size / jnp.where(curvature > 0, curvature, 1.0), 0.0)
        z, residual = z + rate * direction, residual - rate * image
        left = squares(residual)
        return count + 1, z, residual, residual + left / jnp.where(size > 0, size, 1.0) * direction, left

    start = (0, jnp.zeros_like(columns), columns, columns, squares(columns))
    return jax.lax.while_loop(lambda state: (state[0] < steps) & jnp.any(state[4] > enough), step, start)[1]


@jax.jit
def read(z: Float[Array, "N C"]) -> tuple[Float[Array, "N C"], Float[Array, " N"]]:
    """Soft label and confidence; even and 0 where no class is above 0."""
    z = jnp.maximum(z, 0.0)
    largest = jnp.max(z, axis=1, keepdims=True)
    reached = largest > 0
    z = jnp.where(reached, z / jnp.where(reached, largest, 1.0), 1.0)
    soft = z / jnp.sum(z, axis=1, keepdims=True)
    sure = jnp.clip(1.0 - entropy(soft) / np.log(z.shape[1]), 0.0, 1.0)
    return soft, jnp.where(reached[:, 0], sure, 0.0)


def seed_columns(
    seeds: ArrayLike, weights: ArrayLike | None, total: int, num_classes: int | None
) -> Float[np.ndarray, "N C"]:
    """Y f32[N, C], columns with a seed sum to 1; UserError for what cannot be used."""
    label, weight = np.asarray(seeds), np.ones(total) if weights is None else np.asarray(weights)
    for name, array in (("seeds", label), ("weights", weight)):
        if array.shape != (total,):
            raise UserError(f"{name}: shape {array.shape}, expected [{total}], one for each row of features")
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"seeds: {label.dtype}, expected integers, -1 for no seed")
    if not (jnp.issubdtype(weight.dtype, jnp.floating) or jnp.issubdtype(weight.dtype, jnp.integer)):
        raise UserError(f"weights: {weight.dtype}, expected real numbers")
    weight = weight.astype(np.float64)
    bad = np.flatnonzero(~((weight >= 0) & np.isfinite(weight)))
    if bad.size:
        raise UserError(f"weights row {bad[0]}: {weight[bad[0]]:g} is out of range, expected finite, 0 or more")
    classes = int(label.max()) + 1 if num_classes is None else int(num_classes)
    # -1 is checked as class 0, and with it labels of which none is a seed.
    check_labels(np.where(label == -1, 0, label), max(classes, 1), "seeds (-1 = none)")
    chosen = np.flatnonzero((label != -1) & (weight > 0))
    present = np.unique(label[chosen])
    if len(present) < 2:
        there = f"class {present[0]} only" if len(present) else "none (all are -1 or of weight 0)"
        raise UserError(f"seeds: {there}, expected seeds of two classes or more")
    if num_classes is None and len(present) < classes:
        first = int(np.argmin(np.append(present == np.arange(len(present)), False)))
        missing = f"{classes - len(present)} of {classes} classes, class {first} first, have no seed"
        raise UserError(f"seeds: {missing}, expected one or more of each, or num_classes={classes} if that is meant")
    own, share = label[chosen], weight[chosen] / weight[chosen].max()
    columns = np.zeros((total, classes), np.float32)
    columns[chosen, own] = share / np.bincount(own, share)[own]
    return columns
