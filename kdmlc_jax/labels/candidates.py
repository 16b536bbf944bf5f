"""Sets of labels to train on, and which of them the judges let stand: the given ones have the benefit of the doubt.

There are two judges. Heads that are taught each set (`referee`) are asked for held-out trusted rows; and held-out rows
are counted that would be put right or made wrong (`decide`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from kdmlc_jax.labels import decide
from kdmlc_jax.labels.cross_fit import Chain, Crossed
from kdmlc_jax.labels.decide import Threshold
from kdmlc_jax.labels.posterior import balance
from kdmlc_jax.labels.referee import Judged, judge

FEWEST = 3  # trusted rows of a class, for labels given so to be changed
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class Candidate(NamedTuple):
    """Labels changed where the posterior of the suggestion is at least `threshold`; gains over the given labels."""

    threshold: Threshold  # for each suggested class; infinity: the given labels
    changes: int
    taught: float  # cross-entropy that heads taught these labels save on held-out rows, with its standard error
    taught_error: float
    near_best: bool  # within a standard error of the candidate that teaches best
    right: float  # labels put right less labels made wrong, a held-out row, given labels drawn from T
    right_low: float  # 95 % lower bound of that, with as little noise as trusted rows allow
    even: bool = True  # heads are better by 1.5 standard errors, too, with held-out rows weighed by `balance`
    by_class: tuple[tuple[float, float], ...] = ()  # `taught` and its error, of the held-out rows of each class
    name: str = "posterior"  # or that of a proposal


GIVEN = Candidate(np.inf, 0, 0.0, 0.0, True, 0.0, 0.0, name="given")


class Chosen(NamedTuple):
    """Labels to train on."""

    labels: Int[np.ndarray, " N"]
    threshold: Threshold  # infinity: all given labels stand; NaN: those of a proposal
    candidates: list[Candidate]  # the given labels first


def replaced(
    posterior: Float[np.ndarray, "N C"],
    given_label: Int[np.ndarray, " N"],
    threshold: Threshold,
) -> Int[np.ndarray, " N"]:
    """The most likely class where its posterior is `threshold` (of that class) or more, else the given label."""
    suggested = posterior.argmax(axis=1)
    limit = np.broadcast_to(threshold, posterior.shape[1])[suggested]
    return np.where(posterior.max(axis=1) >= limit, suggested, given_label)


def asked_of(chains: list[Chain]) -> Int[np.ndarray, " m"]:
    """The trusted rows that are held out of some chain, in the order of `held_answers`."""
    return np.concatenate([c.held for c in chains])


def is_open(label: Int[np.ndarray, " M"], chains: list[Chain]) -> Bool[np.ndarray, " C"]:
    """Whether labels given as each class may be changed: FEWEST trusted rows or more, some of them held out."""
    classes = chains[0].noisy.shape[1]
    count, held = (np.bincount(rows, minlength=classes) for rows in (label, label[asked_of(chains)]))
    return (count >= FEWEST) & (held > 0)


def guarded(crossed: Crossed, label: Int[np.ndarray, " M"], given_label: Int[np.ndarray, " N"]) -> Crossed:
    """The same, sure of the given labels of every class that is not open: too little could show that changes of these
    are wrong."""
    closed = ~is_open(label, crossed.folds)[given_label]
    certain = np.eye(crossed.full.posterior.shape[1])[given_label[closed]]

    def guard(one: Chain) -> Chain:
        q = one.posterior.copy()
        q[closed] = certain
        return one._replace(posterior=q)

    return Crossed(guard(crossed.full), [guard(c) for c in crossed.folds])


def choose(candidates: list[Candidate], shown: bool) -> int:
    """The candidate to train on: that with most labels right to expect, of those that stand; else 0, the given labels.

    A candidate stands if its heads are better by more than two and a half standard errors, and within one of the best;
    two are enough, however good others are, where a bound on its gain in right labels is above 0 and it is `shown` that
    any label is wrong. Nearer the given labels' proportions of classes one and a half is enough. Thresholds of each
    class count where none for all of them stands: they fit held-out rows more closely, and were worse where both stood
    (benchmarks).
    """
    stand = []
    for number, c in enumerate(candidates):
        counted = shown and c.right_low > 0 and c.taught > 2 * c.taught_error
        taught = c.near_best and c.taught > 2.5 * c.taught_error
        if c.right > 0 and c.even and (counted or taught):
            stand.append(number)
    return max(stand, key=lambda n: (np.ndim(candidates[n].threshold) == 0, candidates[n].right), default=0)


def held_answers(
    chains: list[Chain], label: Int[np.ndarray, " M"], own_given: Int[np.ndarray, " M"] | None, careful: bool = True
) -> list[decide.Answers]:
    """What every held-out trusted row is answered, a chain at a time, given labels drawn from the chain's T̂, or with as
    little noise as trusted rows allow (`careful`)."""
    parts, closed = [], ~is_open(label, chains)
    for c in chains:
        own = None if own_given is None else own_given[c.held]
        drawn_from = c.low if careful else c.noise.transition
        found = decide.answers(c.trusted, label[c.held], c.noise.transition, drawn_from, own)
        parts.append(found._replace(sure=np.where(closed, -1.0, found.sure)))  # see `guarded`
    return parts


def to_train_on(
    crossed: list[Crossed],
    x: Float[np.ndarray, "N d"],
    t: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None,
    shown: bool,
    proposals: Mapping[str, Int[np.ndarray, " N"]],
    unseen: Bool[np.ndarray, " M"],
    seed: int,
) -> Chosen:
    """The candidate that stands in the first of `crossed` where any does, or a proposal that teaches surely better
    than that; else the given labels.

    Beliefs with a network in them come first; without, all trusted rows can judge. A proposal is judged by heads alone,
    on the rows that had no part in it, and has to be better by two and a half standard errors.

    Args:
      crossed: chains with the network's beliefs in them, and without.
      x, t: `referee.head_coordinates` of the noisy and trusted rows.
      label, given_label, own_given: as in `vouch`.
      shown: whether it is that any label is wrong.
      proposals: labels from elsewhere, by name.
      unseen: the trusted rows that proposals were made without.
      seed: draws the judges' parts.
    """
    for each in crossed:
        candidates, judged = judge_candidates(x, t, label, given_label, each, own_given, proposals, seed)
        best = choose(candidates, shown)
        if best:
            break
    q, ours = each.full.posterior, len(candidates)
    labels, threshold = replaced(q, given_label, candidates[best].threshold), candidates[best].threshold
    rows = judged.rows[unseen[judged.rows]]
    if not (proposals and len(rows) > 1):
        return Chosen(labels, threshold, candidates)
    weight = balance(label, given_label, np.isin(np.arange(len(label)), rows))
    over_given, over_best, even = judged.gain(0, rows), judged.gain(best, rows), judged.gain(best, rows, weight)
    surest = 0.0
    for number, (name, proposed) in enumerate(proposals.items(), start=ours):
        right = float((q[np.arange(len(q)), proposed] - q[np.arange(len(q)), given_label]).mean())
        taught, error, better, doubt = (float(figure[number]) for figure in (*over_given, *over_best))
        classes, count = by_class(judged, number, label, rows, q.shape[1]), int((proposed != given_label).sum())
        fair = bool(even[0][number] > 1.5 * even[1][number])
        candidates.append(
            Candidate(np.nan, count, taught, error, better >= -doubt, right, -np.inf, fair, classes, name)
        )
        if right > 0 and fair and better > max(2.5 * doubt, surest):
            surest, labels, threshold = better, proposed, np.nan
    return Chosen(labels, threshold, candidates)


def judge_candidates(
    x: Float[np.ndarray, "N d"],
    t: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    crossed: Crossed,
    own_given: Int[np.ndarray, " M"] | None,
    proposals: Mapping[str, Int[np.ndarray, " N"]],
    seed: int,
) -> tuple[list[Candidate], Judged]:
    """The given labels and those changed above each of THRESHOLDS, and above thresholds of each class, with both gains;
    and what heads say of these and then of the proposals."""
    full, chains = crossed
    held, drawn = (held_answers(chains, label, own_given, careful) for careful in (True, False))
    # A fold's thresholds are those that gain most in the other folds.
    others = [decide.join([*drawn[:k], *drawn[k + 1 :]] or drawn) for k in range(len(chains))]
    limits, final = ([limits_of(found) for found in others], limits_of(decide.join(drawn)))
    sets = []
    for c, own in zip(chains, limits, strict=True):
        ours = [replaced(c.posterior, given_label, at) for at in own]
        sets.append((c.held, np.stack([given_label, *ours, *proposals.values()])))
    classes = full.posterior.shape[1]
    judged = judge(x, t, label, sets, classes, seed)
    weight = balance(label, given_label, np.isin(np.arange(len(label)), judged.rows))
    (gain, error), (even, even_error) = judged.gain(), judged.gain(weight=weight)
    behind, doubt = judged.gain(int(gain[: 1 + len(final)].argmax()))
    asked = asked_of(chains)
    found = [GIVEN]
    for number, at in enumerate(final, start=1):
        count = int((replaced(full.posterior, given_label, at) != given_label).sum())
        near = bool(-behind[number] <= doubt[number])
        likely, least = (
            np.concatenate([decide.gains(part, own[number - 1]) for part, own in zip(parts, limits, strict=True)])
            for parts in (drawn, held)
        )
        right = min(likely.mean(), (likely * weight[asked]).mean())
        low = min(decide.low_mean(each) for each in (least, least * weight[asked]))
        fair = bool(even[number] > 1.5 * even_error[number])
        figures = (float(gain[number]), float(error[number]), near, float(right), low, fair)
        found.append(Candidate(at, count, *figures, by_class(judged, number, label, judged.rows, classes)))
    return found, judged


def limits_of(found: decide.Answers) -> list[Threshold]:
    """THRESHOLDS, and those of each class that gain most on held-out rows."""
    return [*THRESHOLDS, decide.class_thresholds(found, THRESHOLDS)]


def by_class(
    judged: Judged, number: int, label: Int[np.ndarray, " M"], rows: Int[np.ndarray, " m"], classes: int
) -> tuple[tuple[float, float], ...]:
    """What heads taught candidate `number` gain over the given labels on the held-out rows of each class, with its
    error; NaN and infinity for a class without any."""
    found = []
    for c in range(classes):
        some = rows[label[rows] == c]
        gain, error = (
            judged.gain(rows=some) if len(some) else (np.full(number + 1, np.nan), np.full(number + 1, np.inf))
        )
        found.append((float(gain[number]), float(error[number])))
    return tuple(found)
