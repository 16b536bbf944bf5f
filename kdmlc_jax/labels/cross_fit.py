"""Every trusted row judged by beliefs, T̂ and corrections that it had no part in.

A row that is held out of the last fit, but whose neighbours' labels were corrected with its help, is not held out.
Here a fold's trusted labels enter nothing of the chain that judges it: not the choice of C, not the temperature,
not T̂, not the posterior of the noisy rows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.labels.linear import NEVER, LinearBeliefs, stratified
from kdmlc_jax.labels.pooling import ALONE, Network, evidence, fit_weights, log, pool
from kdmlc_jax.labels.posterior import (
    Interval,
    Noise,
    counted_rate,
    fit_noise,
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
    gain: tuple[float, float] = (0.0, 0.0)  # log-likelihood that the network adds, a row, with its standard error


def chain(
    beliefs: LinearBeliefs,
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None = None,
    held: Int[np.ndarray, " m"] | None = None,
    network: Network | None = None,
) -> Chain:
    """T̂, as much of it as trusted rows confirm, and the posterior, of the network's beliefs too where there are any.

    Args:
      beliefs: of the noisy rows, followed by those of the trusted rows held out; fitted to the other trusted rows.
      label, own_given: of the trusted rows fitted to.
      given_label: of the noisy rows.
      held: the rows held out.
      network: of the rows of `beliefs.noisy`, and of the trusted rows fitted to.
    """
    held = np.zeros(0, int) if held is None else held
    noisy, asked = beliefs.noisy[: len(given_label)], beliefs.noisy[len(given_label) :]
    pairs = count_pairs(label, own_given, noisy.shape[1])
    found = fit_noise(noisy, given_label, pairs=pairs)
    if own_given is not None and (own_given >= 0).sum() >= PAIRS:
        most = 0.98 / (1.0 - float(np.diagonal(found.transition).min()))
        share = Interval(*(min(most, rate / found.rate) for rate in counted_rate(label, own_given)))
    else:
        share = trusted_share(beliefs, label, given_label, found)
    noise = Noise(towards_clean(found.transition, share.estimate), found.prior)
    gain = (0.0, 0.0)
    if network is not None:
        noisy, asked, gain = with_network(beliefs, label, given_label, noise.transition, network)
    q = posterior(noisy, noise.transition, given_label)
    wrong = Interval(*(found.rate * s for s in share))
    return Chain(held, asked, noisy, noise, towards_clean(found.transition, share.low), wrong, q, gain)


def with_network(
    beliefs: LinearBeliefs,
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    transition: Float[np.ndarray, "C C"],
    network: Network,
) -> tuple[Float[np.ndarray, "N C"], Float[np.ndarray, "m C"], tuple[float, float]]:
    """Pooled beliefs of the noisy rows and of those held out, and the mean gain in log-likelihood with its error.

    Weights are fitted to the rows that the network has not learned from: trusted ones by their label, noisy ones by
    the given label through T̂.
    """
    rows, fresh = len(given_label), np.flatnonzero(network.fresh)
    linear, trusted = log(beliefs.noisy), log(beliefs.trusted)
    sides = [(trusted[network.held], network.trusted[network.held]), (linear[fresh], network.noisy[fresh])]
    both = [np.concatenate(side) for side in zip(*sides, strict=True)]
    seen = np.eye(len(transition))[label[network.held]], transition.T[given_label[fresh]]
    weights = fit_weights(*both, np.concatenate(seen))
    more = evidence(*both, np.concatenate(seen), weights) - evidence(*both, np.concatenate(seen), ALONE)
    pooled = pool(linear, network.noisy, weights)
    gain = float(more.mean()), float(more.std() / len(more) ** 0.5)
    return pooled[:rows], pooled[rows:], gain


def trusted_share(
    beliefs: LinearBeliefs, label: Int[np.ndarray, " M"], given_label: Int[np.ndarray, " N"], found: Noise
) -> Interval:
    """`share_of_noise` for noise of T̂'s shape and for even noise of T̂'s rate: the mean, and what both intervals cover.

    Classes that a classifier mistakes for each other enter T̂'s shape where labels do not: the truth lies between.
    """
    classes = len(found.transition)
    even = (1.0 - found.rate) * np.eye(classes) + found.rate * (1.0 - np.eye(classes)) / max(1, classes - 1)
    rows, some = beliefs.fold != NEVER, beliefs.some[beliefs.some < len(given_label)]
    one, two = (
        share_of_noise(
            beliefs.trusted[rows],
            label[rows],
            beliefs.fold[rows],
            beliefs.folds[:, : len(some)],
            given_label[some],
            matrix,
        )
        for matrix in (found.transition, even)
    )
    return Interval((one.estimate + two.estimate) / 2, min(one.low, two.low), max(one.high, two.high))


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
    network: Network | None = None,
    seed: int = 0,
) -> tuple[LinearBeliefs, Chain, list[Chain]]:
    """The chain on all trusted rows, and one for each fold that is held out of all of it.

    Args:
      views: of the noisy and the trusted rows; no trusted label has a part in them.
      label: of the trusted rows.
      given_label: of the noisy rows.
      classes: C.
      own_given: the trusted rows' own given labels, -1 where not known.
      fold: of each trusted row, `linear.NEVER` for never held out; None = drawn, of the rows that may be.
      network: counts where it adds to the likelihood, by two standard errors; trusted rows that it has learned from
        are then never held out.
      seed: draws the folds.

    Returns:
      Beliefs on all trusted rows, their chain (nothing held), and up to FOLDS chains. A trusted row that is alone in
      its class is held out of none.

    Raises:
      UserError: as `stacked_beliefs`.
    """
    whole = stacked_beliefs(views, label, classes, seed)
    full = chain(whole, label, given_label, own_given, network=network)
    if network is not None and full.gain[0] <= 2 * full.gain[1]:
        network, full = None, chain(whole, label, given_label, own_given)
    if fold is None:
        may = np.flatnonzero(np.full(len(label), True) if network is None else network.held)
        fold = np.full(len(label), NEVER)
        fold[may] = stratified(label[may], min(FOLDS, len(may)), seed + 1)
    chains = []
    for k in np.unique(fold[fold != NEVER]):
        held, rest = np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        if len(rest) < 2:
            continue
        without = [View(np.concatenate([v.noisy, v.trusted[held]]), v.trusted[rest]) for v in views]
        found = stacked_beliefs(without, label[rest], classes, seed)
        own = None if own_given is None else own_given[rest]
        beside = network and Network(
            np.concatenate([network.noisy, network.trusted[held]]),
            network.trusted[rest],
            np.append(network.fresh, np.full(len(held), False)),
            network.held[rest],
        )
        chains.append(chain(found, label[rest], given_label, own, held, beside))
    return whole, full, chains
