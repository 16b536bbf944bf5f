"""Labels it can vouch for: from features and trusted rows to corrected labels, a confidence, a decision and a verdict.

Two answers that are not mixed up. For training, `corrected` holds the labels that teach better classifiers, as far as
held-out rows can tell; for a person, `decision` names the changes that keep a promised precision.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from kdmlc_jax.labels import decide
from kdmlc_jax.labels.cross_fit import Chain, Crossed, cross_fit
from kdmlc_jax.labels.linear import LinearBeliefs, coordinates
from kdmlc_jax.labels.pooling import Folds, Network
from kdmlc_jax.labels.posterior import Interval
from kdmlc_jax.labels.purify.checks import check_label_pair
from kdmlc_jax.labels.referee import head_coordinates, judge
from kdmlc_jax.labels.stacking import View, taught_by_given
from kdmlc_jax.labels.verdict import Verdict

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


class Candidate(NamedTuple):
    """Labels changed where the posterior of the suggestion is at least `threshold`; gains over the given labels."""

    threshold: float  # infinity: the given labels
    changes: int
    taught: float  # cross-entropy that heads taught these labels save on held-out rows, with its standard error
    taught_error: float
    near_best: bool  # within a standard error of the candidate that teaches best
    right: float  # labels put right less labels made wrong, a held-out row, given labels drawn from T
    right_low: float  # 95 % lower bound of that, with as little noise as trusted rows allow


GIVEN = Candidate(np.inf, 0, 0.0, 0.0, True, 0.0, 0.0)


class Vouched(NamedTuple):
    """What `vouch` returns, for the noisy rows."""

    suggested: Int[np.ndarray, " N"]  # the most likely class
    corrected: Int[np.ndarray, " N"]  # to train on
    decision: np.ndarray  # str[N]: keep, correct or review
    confidence: Float[np.ndarray, " N"]  # that `corrected` is right
    given_right: Float[np.ndarray, " N"]  # that the given label is
    posterior: Float[np.ndarray, "N C"]
    transition: Float[np.ndarray, "C C"]
    threshold: float  # of `corrected`; infinity: all given labels stand
    candidates: list[Candidate]  # the given labels first
    verdict: Verdict
    score: str  # what ranks wrong labels first: p_given or margin


def rate_interval(full: Chain, chains: list[Chain]) -> Interval:
    """The share of wrong labels, its 90 % interval widened by the jackknife over folds, (K - 1)/K Σ_k (r_k - r̄)².

    The interval of `full` is of trusted rows alone, T̂'s shape given; that of the folds is of T̂ as well.
    """
    rates, wrong = np.array([c.noise.rate for c in chains]), full.wrong
    spread = 1.645 * (((rates - rates.mean()) ** 2).sum() * (len(rates) - 1) / len(rates)) ** 0.5
    low = wrong.estimate - np.hypot(wrong.estimate - wrong.low, spread)
    high = wrong.estimate + np.hypot(wrong.high - wrong.estimate, spread)
    return Interval(wrong.estimate, float(max(0.0, low)), float(min(1.0, high)))


def replaced(
    posterior: Float[np.ndarray, "N C"], given_label: Int[np.ndarray, " N"], threshold: float | int
) -> Int[np.ndarray, " N"]:
    """The most likely class where its posterior is `threshold` or more, else the given label."""
    return np.where(posterior.max(axis=1) >= threshold, posterior.argmax(axis=1), given_label)


def choose(candidates: list[Candidate], shown: bool) -> int:
    """The candidate to train on: that with most labels right to expect, of those that stand; else 0, the given labels.

    There are two judges, heads and counts, and given labels have the benefit of the doubt. A candidate stands if its
    heads are better by more than two and a half standard errors, and within one of the best; two are enough, however
    good others are, where a bound on its gain in right labels is above 0 and it is `shown` that any label is wrong.
    """
    stand = []
    for number, c in enumerate(candidates):
        counted = shown and c.right_low > 0 and c.taught > 2 * c.taught_error
        taught = c.near_best and c.taught > 2.5 * c.taught_error
        if c.right > 0 and (counted or taught):
            stand.append(number)
    return max(stand, key=lambda n: candidates[n].right, default=0)


def judge_candidates(
    x: Float[np.ndarray, "N d"],
    t: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    crossed: Crossed,
    own_given: Int[np.ndarray, " M"] | None,
    seed: int,
) -> list[Candidate]:
    """The given labels and those changed above each of THRESHOLDS, with both gains; x, t: `head_coordinates`."""
    full, chains = crossed
    held, drawn = (held_answers(chains, label, own_given, careful) for careful in (True, False))
    sets = [
        (c.held, np.stack([given_label, *(replaced(c.posterior, given_label, at) for at in THRESHOLDS)]))
        for c in chains
    ]
    judged = judge(x, t, label, sets, full.posterior.shape[1], seed)
    gain, error = judged.gain()
    behind, doubt = judged.gain(over=int(gain.argmax()))
    found = [GIVEN]
    for number, at in enumerate(THRESHOLDS, start=1):
        count = int((replaced(full.posterior, given_label, at) != given_label).sum())
        near = bool(-behind[number] <= doubt[number])
        right, _ = decide.expected_gain(drawn, at)
        least, doubt_of_it = decide.expected_gain(held, at)
        found.append(
            Candidate(at, count, float(gain[number]), float(error[number]), near, right, least - 1.645 * doubt_of_it)
        )
    return found


def vouch(
    features: Float[np.ndarray, "N D"],
    given_label: Int[np.ndarray, " N"],
    trusted_features: Float[np.ndarray, "M E"],
    trusted_label: Int[np.ndarray, " M"],
    classes: int,
    own_given: Int[np.ndarray, " M"] | None = None,
    network: Network | Folds | None = None,
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
    corrected, threshold, candidates = given_label, np.inf, [GIVEN]
    held, rate, likely = None, full.wrong, np.nan
    sure, kept, score = np.zeros(len(rows), bool), decide.NOTHING, "p_given"
    if chains:
        rate = rate_interval(full, alone.folds)
        held, drawn = (held_answers(chains, trusted_label, own_given, careful) for careful in (True, False))
        score, looks = decide.ranking(drawn), head_coordinates(features, trusted_features, seed)
        likely = decide.measured_precision(drawn, 0.0)[0]
        shown = rate.low > 0
        corrected, threshold, candidates = to_train_on(both, *looks, trusted_label, given_label, own_given, shown, seed)
        kept, by = promised(both, trusted_label, given_label, own_given, precision)
        sure = decide.decisions(by.posterior, given_label, kept.threshold) == decide.CORRECT
        q[sure] = by.posterior[sure]
    suggested = q.argmax(axis=1)
    decision = np.where(sure, decide.CORRECT, decide.decisions(q, given_label, np.inf))
    corrected = np.where(sure, suggested, corrected)
    changed = corrected != given_label
    verdict = summed_up(decision, q, changed, kept, likely, rate, held, precision, whole, trusted_label)
    own, sure_of, found = q[rows, given_label], q[rows, corrected], full.noise.transition
    return Vouched(*(suggested, corrected, decision, sure_of, own, q, found, threshold, candidates, verdict, score))


def to_train_on(
    crossed: list[Crossed],
    x: Float[np.ndarray, "N d"],
    t: Float[np.ndarray, "M d"],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None,
    shown: bool,
    seed: int,
) -> tuple[Int[np.ndarray, " N"], float, list[Candidate]]:
    """Labels, threshold and candidates of the first of `crossed` that changes any; else the given labels.

    Beliefs with a network in them come first; without, all trusted rows can judge.
    """
    for each in crossed:
        candidates = judge_candidates(x, t, label, given_label, each, own_given, seed)
        best = choose(candidates, shown)
        if best:
            break
    threshold = candidates[best].threshold
    return replaced(each.full.posterior, given_label, threshold), threshold, candidates


def promised(
    crossed: list[Crossed],
    label: Int[np.ndarray, " M"],
    given_label: Int[np.ndarray, " N"],
    own_given: Int[np.ndarray, " M"] | None,
    precision: float,
    risk: float = 0.1,
) -> tuple[decide.Promise, Chain]:
    """The promise for most changes, and the chain it is of; the risk is shared among those asked."""
    best, by, most = decide.NOTHING, crossed[0].full, 0
    for full, chains in crossed:
        q = full.posterior
        sure = q.max(axis=1)[q.argmax(axis=1) != given_label]
        kept = decide.promise(held_answers(chains, label, own_given), sure, precision, risk / len(crossed))
        count = int((sure >= kept.threshold).sum())
        if by is full or count > most:
            best, by, most = kept, full, count
    return best, by


def held_answers(
    chains: list[Chain], label: Int[np.ndarray, " M"], own_given: Int[np.ndarray, " M"] | None, careful: bool = True
) -> decide.Answers:
    """What every held-out trusted row is answered, given labels drawn from its chain's T̂, or with as little noise as
    trusted rows allow (`careful`)."""
    parts = []
    for c in chains:
        own = None if own_given is None else own_given[c.held]
        drawn_from = c.low if careful else c.noise.transition
        parts.append(decide.answers(c.trusted, label[c.held], c.noise.transition, drawn_from, own))
    return decide.join(parts)


def summed_up(
    decision: np.ndarray,
    posterior: Float[np.ndarray, "N C"],
    changed: Bool[np.ndarray, " N"],
    kept: decide.Promise,
    likely: float,
    rate: Interval,
    held: decide.Answers | None,
    precision: float,
    beliefs: LinearBeliefs,
    label: Int[np.ndarray, " M"],
) -> Verdict:
    """The verdict, with reasons and help where no change is promised; `likely`: precision of all suggestions by T̂."""
    corrections, review = decision == decide.CORRECT, decision == decide.REVIEW
    expected = float(posterior.max(axis=1)[review].mean()) if review.any() else float("nan")
    reasons, helps = [], []
    if held is None:
        rate = Interval(float("nan"), float("nan"), float("nan"))
        reasons.append(f"{len(label)} trusted rows are too few to hold any out")
        helps.append("trusted labels, five a class or more")
    elif not corrections.any():
        accuracy = float(np.mean(beliefs.trusted.argmax(axis=1) == label))
        if rate.low == 0:
            reasons.append("it cannot be shown that any label is wrong")
        if kept.precision >= precision:
            few = f"{len(held.label)} held-out trusted rows are too few to promise a precision of {precision:g}"
            reasons.append(f"{few} (measured {kept.precision:.2f})")
        elif not np.isnan(kept.precision):
            least = f"{kept.precision:.2f} if as few labels are wrong as may be"
            reasons.append(f"on held-out trusted rows {likely:.2f} of all suggestions are right, {least}")
        needed = decide.rows_needed(held, precision)
        if np.isfinite(needed) and needed < 20 * len(label):
            helps.append(f"about {max(needed, 1.2 * len(label)):.0f} trusted rows ({len(label)} now)")
        foretold = f"these foretell {100 * accuracy:.0f} % of the trusted labels"
        helps.append(f"better features, by a pretrained encoder (kdmlc_jax.embed; {foretold})")
    return Verdict(
        len(posterior),
        int(corrections.sum()),
        Interval(kept.precision, kept.low, kept.high),
        int(review.sum()),
        expected,
        rate,
        int(changed.sum()),
        tuple(reasons),
        tuple(helps),
    )
