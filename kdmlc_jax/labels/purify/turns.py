"""Two purifiers take turns: each label meets one of them, then the other."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.labels.purify import intrinsic
from kdmlc_jax.labels.purify.extrinsic import Penalties, head_logits, train_head
from kdmlc_jax.labels.purify.options import PurifyOptions
from kdmlc_jax.labels.purify.rows import Batches, Form, View, batches_of, partition, view_of
from kdmlc_jax.labels.purify.simplex import project_simplex

# NumPy's generators here are seeded (seed, _STREAM, twin): no stream of data.splits or data.pipeline.
_STREAM = 200


Watch = Callable[[int, jax.Array], None]  # (epochs so far, labels f32[N, C])


class Twin(NamedTuple):
    """One purifier."""

    view: View
    batches: Batches
    random: np.random.Generator


class Head(NamedTuple):
    """What a twin's head has come to."""

    log_belief: jax.Array  # f32[N, C]
    of_trusted: jax.Array  # logits f32[M, C]
    rate: float


def twins_of(views: Sequence[tuple[np.ndarray, np.ndarray]], options: PurifyOptions, form: Form) -> list[Twin]:
    """A purifier for each of `views`, (features, trusted features); one view of both is held once.

    Raises:
      UserError: for features that are all equal, or whose ridge regression cannot be solved.
    """
    twins: list[Twin] = []
    for number, (features, trusted) in enumerate(views):
        shared = number > 0 and features is views[0][0]
        name = "second_features" if number and not shared else "features"
        view = twins[0].view if shared else view_of(name, features, trusted, form)
        random = np.random.default_rng((options.seed, _STREAM, number))
        index = partition(random.permutation(len(features)), options.batch_size)
        twins.append(Twin(view, batches_of(name, view, index, options.ridge), random))
    return twins


def take_turns(
    twins: Sequence[Twin],
    given: Int[np.ndarray, " N"],
    target: Int[np.ndarray, " M"],
    classes: int,
    options: PurifyOptions,
    watch: Watch | None = None,
) -> tuple[list[jax.Array], list[Head]]:
    """Both labels f32[N+1, C], whose last rows are padding, and both heads after all epochs; `watch` is shown the mean
    of the two after each exchange."""
    total, one_hot = len(given), np.eye(classes, dtype=np.float32)
    settings = options.label_rate, *options.label_betas, options.label_decay
    how = intrinsic.Descent(intrinsic.validation_loss, intrinsic.adamw, settings, project_simplex)
    known, penalties = jnp.asarray(one_hot[target]), Penalties(options.prior_weight, options.entropy_weight)
    labels = [start_of(given, one_hot)] * len(twins)
    weights = [(jnp.zeros((twin.view.rows.shape[1], classes)),) * 2 for twin in twins]
    rates = [head_rate(twin, options) for twin in twins]
    log_beliefs = [jnp.zeros(())] * len(twins)
    for start in range(0, options.epochs, options.exchange_every):
        steps = min(options.exchange_every, options.epochs - start)
        drop = np.where(np.arange(start, start + steps) < options.head_drop, 1.0, 0.1)
        for k, twin in enumerate(twins):
            labels[k] = intrinsic.correct(labels[k], twin.view, twin.batches, known, steps, how)
            orders = head_batches(twin.random, total, steps, options.head_batch_size)
            rate = jnp.asarray(rates[k] * drop, jnp.float32)
            weights[k], log_beliefs[k] = train_head(weights[k], twin.view, labels[k], orders, rate, penalties)
            labels[k] = options.keep * labels[k] + (1 - options.keep) * jnp.exp(log_beliefs[k])
        labels.reverse()
        if watch is not None:
            watch(start + steps, jnp.mean(jnp.stack(labels), axis=0)[:-1])
    of_trusted = [head_logits(w[0], twin.view, twin.view.trusted) for w, twin in zip(weights, twins, strict=True)]
    heads = [Head(belief[:total], z, rate) for belief, z, rate in zip(log_beliefs, of_trusted, rates, strict=True)]
    return labels, heads


def start_of(given: Int[np.ndarray, " N"], one_hot: Float[np.ndarray, "C C"]) -> jax.Array:
    """The given labels f32[N+1, C], with a row for X's row of zeros."""
    return jnp.asarray(np.concatenate([one_hot[given], one_hot[:1]]))


def head_rate(twin: Twin, options: PurifyOptions) -> float:
    """N/(1000 D), .2 at most, unless one is chosen."""
    rows, columns = twin.view.rows.shape
    return min((rows - 1) / (1000 * (columns - 1)), 0.2) if options.head_rate is None else options.head_rate


def head_batches(random: np.random.Generator, total: int, epochs: int, size: int) -> jax.Array:
    """i32[epochs, batches, B]: all rows in another order each epoch, about 20 batches or more."""
    size = min(size, -(-total // 20))
    return jnp.asarray(np.stack([partition(random.permutation(total), size) for _ in range(epochs)]))
