"""Labels it can vouch for: from features and trusted rows to corrected labels, a confidence, a decision and a verdict.

Two answers that are not mixed up. For training, `corrected` holds the labels that teach better classifiers, as far as
held-out rows can tell; for a person, `decision` names the changes that keep a promised precision.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.labels import decide
from kdmlc_jax.labels.candidates import GIVEN, Chosen, asked_of, guarded, held_answers, to_train_on
from kdmlc_jax.labels.cross_fit import Chain, Crossed, cross_fit
from kdmlc_jax.labels.linear import LinearBeliefs, coordinates
from kdmlc_jax.labels.pooling import Folds, Network
from kdmlc_jax.labels.posterior import Interval, balance
from kdmlc_jax.labels.purify.checks import check_label_pair
from kdmlc_jax.labels.referee import head_coordinates
from kdmlc_jax.labels.stacking import View, taught_by_given
from kdmlc_jax.labels.verdict import Verdict


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


def rate_interval(full: Chain, chains: list[Chain], asked: float = 1.0) -> Interval:
    """The share of wrong labels, its 90 % interval widened by the jackknife over folds, (K - 1)/K Σ_k (r_k - r̄)².

    The interval of `full` is of trusted rows alone, T̂'s shape given; that of the folds is of T̂ as well. Of labels of
    classes that no trusted row is held out of, all or none may be wrong; `asked` is the share of the others.
    """
    rates, wrong = np.array([c.noise.rate for c in chains]), full.wrong
    spread = 1.645 * (((rates - rates.mean()) ** 2).sum() * (len(rates) - 1) / len(rates)) ** 0.5
    low = wrong.estimate - np.hypot(wrong.estimate - wrong.low, spread)
    high = wrong.estimate + np.hypot(wrong.high - wrong.estimate, spread)
    return Interval(wrong.estimate, float(max(0.0, low - (1.0 - asked))), float(min(1.0, high + (1.0 - asked))))


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
    full, chains = both[0]
    q, rows = full.posterior.copy(), np.arange(len(given_label))
    chosen, rate, held, drawn = Chosen(given_label, np.inf, [GIVEN]), full.wrong, None, None
    sure, kept, number, score = np.zeros(len(rows), bool), decide.NOTHING, 0, "p_given"
    if chains:
        both = [guarded(each, trusted_label, given_label) for each in both]
        judged = np.isin(given_label, trusted_label[asked_of(chains)])
        rate = rate_interval(full, alone.folds, float(judged.mean()))
        held, drawn = (
            decide.join(held_answers(chains, trusted_label, own_given, careful)) for careful in (True, False)
        )
        score, looks = decide.ranking(drawn), head_coordinates(features, trusted_features, seed)
        unseen = network.held if isinstance(network, Network) else np.full(len(trusted_label), network is None)
        chosen = to_train_on(both, *looks, trusted_label, given_label, own_given, rate.low > 0, proposals, unseen, seed)
        kept, number = promised(both, trusted_label, given_label, own_given, precision)
        by = both[number].full
        sure = decide.decisions(by.posterior, given_label, kept.threshold) == decide.CORRECT
        q[sure] = by.posterior[sure]
    suggested = q.argmax(axis=1)
    decision = np.where(sure, decide.CORRECT, decide.decisions(q, given_label, np.inf))
    corrected = np.where(sure, suggested, chosen.labels)
    review, expected, least = decision == decide.REVIEW, np.nan, np.nan
    if held is not None and drawn is not None and (review & judged).any():
        limit, there = kept.threshold if number == 0 else np.inf, q[review & judged]
        expected, least = (decide.review_precision(each, there, limit, k) for each, k in ((drawn, 10), (held, 0)))
    verdict = Verdict(
        len(q),
        int(sure.sum()),
        Interval(kept.precision, kept.low, kept.high),
        int(review.sum()),
        expected,
        least,
        rate if held is not None else Interval(np.nan, np.nan, np.nan),
        int((corrected != given_label).sum()),
    )
    if held is None or not sure.any():
        useless = network is not None and pooled is None
        reasons, helps = why_none(kept, rate, held, drawn, precision, whole, trusted_label, useless)
        verdict = dataclasses.replace(verdict, reasons=reasons, helps=helps)
    own, sure_of, found = q[rows, given_label], q[rows, corrected], full.noise.transition
    return Vouched(suggested, corrected, decision, sure_of, own, q, found, chosen, verdict, score)


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


def why_none(
    kept: decide.Promise,
    rate: Interval,
    held: decide.Answers | None,
    drawn: decide.Answers | None,
    precision: float,
    beliefs: LinearBeliefs,
    label: Int[np.ndarray, " M"],
    useless: bool,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Why no change is promised, and what would help.

    Args:
      kept: the promise that was tried.
      rate: share of wrong labels.
      held, drawn: held-out rows with as little noise as may be, and with T̂'s; None where none could be held out.
      precision: to be promised.
      beliefs, label: of the trusted rows.
      useless: a network was asked, and adds nothing.
    """
    if held is None or drawn is None:
        few = f"{len(label)} trusted rows are too few to hold any out"
        return (few,), ("trusted labels, five a class or more",)
    reasons, helps = [], []
    alone = np.setdiff1d(np.arange(beliefs.trusted.shape[1]), held.label)
    if len(alone):
        named = (
            f"class{'es' if len(alone) > 1 else ''} {', '.join(map(str, alone[:5]))}{', …' if len(alone) > 5 else ''}"
        )
        reasons.append(f"no trusted row of {named} could be held out, so that labels given so stand")
        helps.append("two trusted rows a class or more")
    accuracy = float(np.mean(beliefs.trusted.argmax(axis=1) == label))
    if rate.low == 0:
        reasons.append("it cannot be shown that any label is wrong")
    if kept.precision >= precision:
        few = f"{len(held.label)} held-out trusted rows are too few to promise a precision of {precision:g}"
        reasons.append(f"{few} (of the changes they would get, {kept.precision:.2f} are right)")
    elif not np.isnan(kept.precision):
        likely = decide.measured_precision(drawn, 0.0)[0]
        least = (
            f", or {kept.precision:.2f} if as few labels are wrong as may be" if kept.precision < likely - 0.005 else ""
        )
        reasons.append(f"of the changes that held-out trusted rows would get, {likely:.2f} are right{least}")
    if useless:
        reasons.append("the networks add nothing to what a linear classifier knows")
    needed = decide.rows_needed(held, precision)
    if np.isfinite(needed) and needed < 20 * len(label):
        helps.append(f"about {max(needed, 1.2 * len(label)):.0f} trusted rows ({len(label)} now)")
    foretold = f"these foretell {100 * accuracy:.0f} % of the trusted labels"
    helps.append(f"better features, by a pretrained encoder (kdmlc_jax.embed; {foretold})")
    if useless:
        helps.append("longer training")
    return tuple(reasons), tuple(helps)
