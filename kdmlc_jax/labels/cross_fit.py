"""Every trusted row judged by beliefs, T̂ and corrections that it had no part in.

A row that is held out of the last fit, but whose neighbours' labels were corrected with its help, is not held out.
Here a fold's trusted labels enter nothing of the chain that judges it: not the choice of C, not the temperature,
not T̂, not the posterior of the noisy rows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.labels.linear import NEVER, LinearBeliefs, stratified
from kdmlc_jax.labels.pooling import ALONE, Folds, Network, evidence, fit_weights, log, pool
from kdmlc_jax.labels.posterior import (
    Interval,
    Noise,
    balance,
    counted_rate,
    fit_noise,
    most_noise,
    posterior,
    share_of_noise,
    towards_clean,
)
from kdmlc_jax.labels.stacking import View, stacked_beliefs

FOLDS = 5
PAIRS = 30  # trusted rows with a given label of their own, from which the rate is counted


class Chain(NamedTuple):
    """Beliefs, T̂ and posterior without the trusted rows `held`; what it believes of these."""

    held: Int[np.ndarray, " m"]
    trusted: Float[np.ndarray, "m C"]
    noisy: Float[np.ndarray, "N C"]
    noise: Noise
    low: Float[np.ndarray, "C C"]  # T with as little noise as trusted rows allow (90 %)
    wrong: Interval  # share of wrong labels
    posterior: Float[np.ndarray, "N C"]


class Crossed(NamedTuple):
    """A chain on all trusted rows, which holds out none, and one for each fold of them."""

    full: Chain
    folds: list[Chain]


def chain(
    beliefs: LinearBeliefs,
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None = None,
    held: Int[np.ndarray, " m"] | None = None,
) -> Chain:
    """T̂, as much of it as trusted rows confirm, and the posterior.

    Args:
      beliefs: of the noisy rows, followed by those of the trusted rows held out; fitted to the other trusted rows.
      label, own_given: of the trusted rows fitted to.
      given_label: of the noisy rows.
      held: the rows held out.
    """
    held = np.zeros(0, int) if held is None else held
    noisy, asked = beliefs.noisy[: len(given_label)], beliefs.noisy[len(given_label) :]
    pairs = count_pairs(label, own_given, noisy.shape[1])
    found = fit_noise(noisy, given_label, pairs=pairs)
    if own_given is not None and (own_given >= 0).sum() >= PAIRS:
        share = Interval(*(rate / found.rate for rate in counted_rate(label, own_given)))
    else:
        share = trusted_share(beliefs, label, given_label, found)
    share = Interval(*(min(most_noise(found.transition), each) for each in share))
    noise = Noise(towards_clean(found.transition, share.estimate), found.prior)
    q = posterior(noisy, noise.transition, given_label)
    wrong = Interval(*(found.rate * s for s in share))
    return Chain(held, asked, noisy, noise, towards_clean(found.transition, share.low), wrong, q)


def with_network(
    alone: Chain,
    beliefs: LinearBeliefs,
    rest: Int[np.ndarray, " m"],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    network: Network,
) -> tuple[Chain, tuple[float, float]]:
    """`alone` with the network's beliefs pooled in, and the mean gain in log-likelihood a row with its error.

    Weights are fitted to the rows that the network has not learned from: trusted ones of `rest`, by their label, and
    noisy ones, by the given label through T̂. Of the rows held out those remain that the network has not learned from.

    Args:
      alone, beliefs: of `chain`, fitted to the trusted rows `rest`.
      label, given_label: of all rows.
      network: of all rows.
    """
    unseen, fresh = network.held[rest], np.flatnonzero(network.fresh)
    ours = np.concatenate([log(beliefs.trusted[unseen]), log(alone.noisy[fresh])])
    theirs = np.concatenate([network.trusted[rest[unseen]], network.noisy[fresh]])
    true = np.eye(len(alone.low))[label[rest[unseen]]]
    likelihood = np.concatenate([true, alone.noise.transition.T[given_label[fresh]]])
    weights = fit_weights(ours, theirs, likelihood)
    more = evidence(ours, theirs, likelihood, weights) - evidence(ours, theirs, likelihood, ALONE)
    noisy = pool(log(alone.noisy), network.noisy, weights)
    kept = network.held[alone.held]
    asked = pool(log(alone.trusted[kept]), network.trusted[alone.held[kept]], weights)
    q = posterior(noisy, alone.noise.transition, given_label)
    pooled = alone._replace(held=alone.held[kept], trusted=asked, noisy=noisy, posterior=q)
    return pooled, (float(more.mean()), float(more.std() / max(1, len(more)) ** 0.5))


def trusted_share(
    beliefs: LinearBeliefs, label: Int[np.ndarray, " M"], given_label: Int[np.ndarray, " N"], found: Noise
) -> Interval:
    """`share_of_noise` for noise of T̂'s shape and for even noise of T̂'s rate: the mean, and what all intervals cover.

    Classes that a classifier mistakes for each other enter T̂'s shape where labels do not: the truth lies between. Each
    is asked with the trusted rows as they are and in `balance`; the mean is of those as they are.
    """
    classes = len(found.transition)
    even = (1.0 - found.rate) * np.eye(classes) + found.rate * (1.0 - np.eye(classes)) / max(1, classes - 1)
    rows, some = beliefs.fold != NEVER, beliefs.some[beliefs.some < len(given_label)]
    asked = beliefs.trusted[rows], label[rows], beliefs.fold[rows], beliefs.folds[:, : len(some)], given_label[some]
    even_rows = balance(label, given_label, rows)[rows]
    one, two, *balanced = (
        share_of_noise(*asked, matrix, weight) for weight in (None, even_rows) for matrix in (found.transition, even)
    )
    low, high = (
        pick(getattr(each, end) for each in (one, two, *balanced)) for pick, end in ((min, "low"), (max, "high"))
    )
    return Interval((one.estimate + two.estimate) / 2, low, high)


def count_pairs(
    label: Int[np.ndarray, " M"], own_given: Int[np.ndarray, " M"] | None, classes: int
) -> Float[np.ndarray, "C C"] | None:
    """n[y, ỹ] of trusted rows whose own given label is known (-1: not known); None where none is."""
    if own_given is None:
        return None
    known = own_given >= 0
    count = np.zeros((classes, classes))
    np.add.at(count, (label[known], own_given[known]), 1.0)
    return count


def cross_fit(
    views: list[View],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    classes: int,
    own_given: Int[np.ndarray, " M"] | None = None,
    fold: Int[np.ndarray, " M"] | None = None,
    network: Network | Folds | None = None,
    seed: int = 0,
) -> tuple[LinearBeliefs, Crossed, Crossed | None]:
    """The chain on all trusted rows, and one for each fold that is held out of all of it.

    Args:
      views: of the noisy and the trusted rows; no trusted label has a part in them.
      label: of the trusted rows.
      given_label: of the noisy rows.
      classes: C.
      own_given: the trusted rows' own given labels, -1 where not known.
      fold: of each trusted row, `linear.NEVER` for never held out; None = drawn.
      network: that has learned from these labels; or several, each without the trusted rows of one fold. Those folds
        are the chains' then, and a fold's chain asks its own network alone, weighed by fresh noisy rows; without any of
        these no network is asked.
      seed: draws the folds.

    Returns:
      Beliefs on all trusted rows; the linear chains, up to FOLDS of them: a trusted row that is alone in its class is
      held out of none; the same with the network's beliefs, where these add to the likelihood of what they have not
      learned from, by two standard errors.

    Raises:
      UserError: as `stacked_beliefs`.
    """
    whole = stacked_beliefs(views, label, classes, seed)
    full, everyone = chain(whole, label, given_label, own_given), np.arange(len(label))
    pooled, (gain, error) = full, (0.0, 0.0)
    if isinstance(network, Folds):
        fold, joined = network.fold, network.joined() if network.networks[0].fresh.any() else None
    else:
        joined = network
    if joined is not None and (joined.fresh.any() or joined.held.any()):
        pooled, (gain, error) = with_network(full, whole, everyone, label, given_label, joined)
    use = network if gain > 2 * error else None
    if fold is None:
        fold = stratified(label, min(FOLDS, len(label)), seed + 1)
    chains, beside = [], []
    for k in np.unique(fold[fold != NEVER]):
        held, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        if len(rest) < 2:
            continue
        without = [View(np.concatenate([v.noisy, v.trusted[held]]), v.trusted[rest]) for v in views]
        found = stacked_beliefs(without, label[rest], classes, seed)
        own = None if own_given is None else own_given[rest]
        chains.append(chain(found, label[rest], given_label, own, held))
        if use is not None:
            own_network = use.networks[k] if isinstance(use, Folds) else use
            beside.append(with_network(chains[-1], found, rest, label, given_label, own_network)[0])
    return whole, Crossed(full, chains), Crossed(pooled, [c for c in beside if len(c.held)]) if use else None
