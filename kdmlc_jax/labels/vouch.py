"""Labels it can vouch for: from features and trusted rows to corrected labels, a confidence, a decision and a verdict.

Two answers that are not mixed up. For training, `corrected` holds the labels that teach better classifiers, as far as
held-out rows can tell; for a person, `decision` names the changes that keep a promised precision.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from kdmlc_jax.labels import decide
from kdmlc_jax.labels.candidates import FEWEST, GIVEN, Chosen, asked_of, guarded, held_answers, is_open, to_train_on
from kdmlc_jax.labels.cross_fit import Chain, Crossed, cross_fit
from kdmlc_jax.labels.linear import LinearBeliefs, coordinates
from kdmlc_jax.labels.pooling import Folds, Network
from kdmlc_jax.labels.posterior import Interval, balance
from kdmlc_jax.labels.purify.checks import check_label_pair
from kdmlc_jax.labels.referee import head_coordinates
from kdmlc_jax.labels.stacking import View, taught_by_given
from kdmlc_jax.labels.verdict import Verdict

NOT_ASSESSED = Interval(np.nan, np.nan, np.nan)


class Vouched(NamedTuple):
    """What `vouch` returns, for the noisy rows."""

    suggested: Int[np.ndarray, " N"]  # the most likely class
    corrected: Int[np.ndarray, " N"]  # to train on
    decision: np.ndarray  # str[N]: keep, correct or review
    confidence: Float[np.ndarray, " N"]  # that `corrected` is right
    given_right: Float[np.ndarray, " N"]  # that the given label is
    posterior: Float[np.ndarray, "N C"]
    transition: Float[np.ndarray, "C C"]
    chosen: Chosen  # what `corrected` comes from, and all that was judged
    verdict: Verdict
    score: str  # what ranks wrong labels first: p_given or margin
    drawn: decide.Answers | None = None  # held-out rows, given labels drawn from T̂; None where none are held out
    held: decide.Answers | None = None  # the same with as little noise as may be


def rate_interval(crossed: Crossed, label: Int[np.ndarray, " M"], given_label: Int[np.ndarray, " N"]) -> Interval:
    """The share of wrong labels, its 90 % interval widened by the jackknife over folds, (K - 1)/K Σ_k (r_k - r̄)².

    The interval of the full chain is of trusted rows alone, T̂'s shape given; that of the folds is of T̂ as well. Of
    labels of classes that no trusted row is held out of, all or none may be wrong.
    """
    full, chains = crossed
    rates, wrong = np.array([c.noise.rate for c in chains]), full.wrong
    spread = 1.645 * (((rates - rates.mean()) ** 2).sum() * (len(rates) - 1) / len(rates)) ** 0.5
    unknown = 1.0 - np.isin(given_label, label[asked_of(chains)]).mean()
    low = wrong.estimate - np.hypot(wrong.estimate - wrong.low, spread) - unknown
    high = wrong.estimate + np.hypot(wrong.high - wrong.estimate, spread) + unknown
    return Interval(wrong.estimate, float(max(0.0, low)), float(min(1.0, high)))


class Asked(NamedTuple):
    """What held-out trusted rows say; by default, where there are none, nothing."""

    chosen: Chosen
    kept: decide.Promise
    by: Chain  # that the promise is of
    rate: Interval = NOT_ASSESSED
    held: decide.Answers | None = None  # with as little noise as may be
    drawn: decide.Answers | None = None  # with T̂'s
    review: tuple[float, float] = (np.nan, np.nan)  # how many suggestions in review are right, by drawn and by held
    score: str = "p_given"


def ask(
    crossed: list[Crossed],
    looks: tuple[Float[np.ndarray, "N d"], Float[np.ndarray, "M d"]],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None,
    rate: Interval,
    proposals: Mapping[str, Int[np.ndarray, " N"]],
    unseen: Bool[np.ndarray, " M"],
    precision: float,
    seed: int,
) -> Asked:
    """Asks them which labels to train on, which changes to promise, and how far to believe the others.

    Args:
      crossed: chains with the network's beliefs in them, where it is worth asking, and without.
      looks, proposals, unseen, seed: of `to_train_on`.
      label, given_label, own_given, precision: of `vouch`.
      rate: share of wrong labels.
    """
    guards = [guarded(each, label, given_label) for each in crossed]
    chosen = to_train_on(guards, *looks, label, given_label, own_given, rate.low > 0, proposals, unseen, seed)
    kept, number = promised(guards, label, given_label, own_given, precision)
    q, chains = crossed[0].full.posterior, crossed[0].folds
    held, drawn = (decide.join(held_answers(chains, label, own_given, careful)) for careful in (True, False))
    limit, review = kept.threshold if number == 0 else np.inf, decide.decisions(q, given_label, np.inf)
    there = q[(review == decide.REVIEW) & is_open(label, chains)[given_label]]
    foretold = decide.review_precision(drawn, there, limit, 10.0), decide.review_precision(held, there, limit, 0.0)
    return Asked(chosen, kept, guards[number].full, rate, held, drawn, foretold, decide.ranking(drawn))


def vouch(
    features: Float[np.ndarray, "N D"],
    given_label: Int[np.ndarray, " N"],
    trusted_features: Float[np.ndarray, "M E"],
    trusted_label: Int[np.ndarray, " M"],
    classes: int,
    own_given: Int[np.ndarray, " M"] | None = None,
    network: Network | Folds | None = None,
    proposals: Mapping[str, Int[np.ndarray, " N"]] = {},
    precision: float = 0.9,
    seed: int = 0,
) -> Vouched:
    """Corrects labels on features, and on what a network believes, and says how far it may be trusted.

    Args:
      features: of the noisy rows: a network's, published ones, pixels.
      given_label: ỹ.
      trusted_features, trusted_label: rows whose label is known to be right, one or more of each class: of a class
        without one nothing is known, and all of its rows would be taken for others.
      classes: C.
      own_given: the trusted rows' own given labels, -1 where not known.
      network: log-beliefs of a network that was trained on these labels, or of several; see `cross_fit`.
      proposals: labels of the noisy rows from elsewhere, by name: a method's own, another run's. No trusted row that
        `network` calls held had a part in them; without a network, none at all.
      precision: promised of `decision` = correct.
      seed: draws folds.

    Returns:
      Labels, confidence, decision and verdict.

    Raises:
      UserError: as `check_label_pair`, `linear_beliefs` and `promise`.
    """
    plain = View(*coordinates(features, trusted_features))
    given_label, trusted_label, _ = check_label_pair(given_label, trusted_label, plain, classes)
    views = [plain, taught_by_given(features, given_label, trusted_features, classes, seed)]
    whole, alone, pooled = cross_fit(views, trusted_label, given_label, classes, own_given, network=network, seed=seed)
    both = [alone] if pooled is None or not pooled.folds else [pooled, alone]
    full, q, rows = both[0].full, both[0].full.posterior.copy(), np.arange(len(given_label))
    if both[0].folds:
        looks = head_coordinates(features, trusted_features, seed)
        unseen = network.held if isinstance(network, Network) else np.full(len(trusted_label), network is None)
        rate = rate_interval(alone, trusted_label, given_label)
        asked = ask(both, looks, trusted_label, given_label, own_given, rate, proposals, unseen, precision, seed)
    else:
        asked = Asked(Chosen(given_label, np.inf, [GIVEN]), decide.NOTHING, full)
    sure = decide.decisions(asked.by.posterior, given_label, asked.kept.threshold) == decide.CORRECT
    q[sure] = asked.by.posterior[sure]
    suggested, decision = q.argmax(axis=1), decide.decisions(q, given_label, np.inf)
    decision, corrected = np.where(sure, decide.CORRECT, decision), np.where(sure, suggested, asked.chosen.labels)
    verdict = counted(decision, corrected != given_label, asked)
    if not sure.any():
        useless = network is not None and pooled is None
        verdict = explained(verdict, asked, precision, whole, trusted_label, useless)
    right, given_right = (q[rows, label] for label in (corrected, given_label))
    found = full.noise.transition
    about = asked.chosen, verdict, asked.score, asked.drawn, asked.held
    return Vouched(suggested, corrected, decision, right, given_right, q, found, *about)


def counted(decision: np.ndarray, changed: Bool[np.ndarray, " N"], asked: Asked) -> Verdict:
    """The verdict, without reasons yet."""
    corrections, reviews = (int((decision == name).sum()) for name in (decide.CORRECT, decide.REVIEW))
    precision = Interval(*asked.kept[1:])
    return Verdict(len(decision), corrections, precision, reviews, *asked.review, asked.rate, int(changed.sum()))


def promised(
    crossed: list[Crossed],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None,
    precision: float,
    risk: float = 0.1,
) -> tuple[decide.Promise, int]:
    """The promise for most changes, and which of `crossed` it is of; the risk is shared among those asked."""
    found, changed = [], []
    for full, chains in crossed:
        q = full.posterior
        sure = q.max(axis=1)[q.argmax(axis=1) != given_label]
        held = asked_of(chains)
        weight = balance(label, given_label, np.isin(np.arange(len(label)), held))[held]
        answers = decide.join(held_answers(chains, label, own_given))
        found.append(decide.promise(answers, sure, precision, risk / len(crossed), weight))
        changed.append((sure >= found[-1].threshold).sum())
    best = int(np.argmax(changed))
    return found[best], best


def explained(
    verdict: Verdict,
    asked: Asked,
    precision: float,
    beliefs: LinearBeliefs,
    label: Int[np.ndarray, " M"],
    useless: bool,
) -> Verdict:
    """`verdict` with why no change is promised, and what would help.

    Args:
      verdict: without.
      asked: what held-out rows say.
      precision: to be promised.
      beliefs, label: of the trusted rows.
      useless: a network was asked, and adds nothing.
    """
    kept, held, drawn = asked.kept, asked.held, asked.drawn
    if held is None or drawn is None:
        few = f"{len(label)} trusted rows are too few to hold any out"
        return dataclasses.replace(verdict, reasons=(few,), helps=("trusted labels, five a class or more",))
    reasons, helps = [], []
    alone = np.flatnonzero(np.bincount(label, minlength=beliefs.trusted.shape[1]) < FEWEST)
    if len(alone):
        named = (
            f"class{'es' if len(alone) > 1 else ''} {', '.join(map(str, alone[:5]))}{', …' if len(alone) > 5 else ''}"
        )
        reasons.append(f"labels given as {named} stand: fewer than {FEWEST} trusted rows")
        helps.append(f"{FEWEST} trusted rows a class or more")
    accuracy = float(np.mean(beliefs.trusted.argmax(axis=1) == label))
    if verdict.wrong.low == 0:
        reasons.append("it cannot be shown that any label is wrong")
    if kept.precision >= precision:
        few = f"{len(held.label)} held-out trusted rows are too few to promise a precision of {precision:g}"
        reasons.append(f"{few} (of the changes they would get, {kept.precision:.2f} are right)")
    elif not np.isnan(kept.precision):
        reasons.append(_right(decide.measured_precision(drawn, 0.0)[0], kept.precision))
    if useless:
        reasons.append("the networks add nothing to what is known without them")
    needed = decide.rows_needed(held, precision)
    if np.isfinite(needed) and needed < 20 * len(label):
        helps.append(f"about {max(needed, 1.2 * len(label)):.0f} trusted rows ({len(label)} now)")
    foretold = f"these foretell {100 * accuracy:.0f} % of the trusted labels"
    helps.append(f"better features, by a pretrained encoder (kdmlc_jax.embed; {foretold})")
    if useless:
        helps.append("longer training")
    return dataclasses.replace(verdict, reasons=tuple(reasons), helps=tuple(helps))


def _right(likely: float, least: float) -> str:
    """Which share of changes is right, with that at the fewest wrong labels where it reads as less."""
    share, low = f"{likely:.2f}", f"{least:.2f}"
    fewest = f", or {low} if as few labels are wrong as may be" if low < share else ""
    return f"of the changes that held-out trusted rows would get, {share} are right{fewest}"
