"""How right the list of suspected labels is from its head down, as held-out trusted rows tell, and how sure beliefs.

A held-out row plays a noisy one under every label that T̂ might give it (`decide.Answers`): of the labels that would
stand in the list, some would be wrong. Rows are held to be drawn as the noisy ones are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from kdmlc_jax.labels.decide import Answers
from kdmlc_jax.labels.posterior import Interval

FEW = 5.0  # with fewer held-out rows' worth in the list nothing is said of it


class Depth(NamedTuple):
    """The head of the list: its `first` labels."""

    first: int
    wrong: Interval  # share of them that are wrong, with its 90 % interval; NaN where too little is known
    worth: float  # so many held-out rows would stand there


class Held(NamedTuple):
    """What held-out rows say of a list and of beliefs."""

    depths: tuple[Depth, ...] = ()
    confidence: Float[np.ndarray, " n"] = np.zeros(0)  # of the suggestion, a held-out row under each label
    right: Bool[np.ndarray, " n"] = np.zeros(0, bool)  # whether it is
    weight: Float[np.ndarray, " n"] = np.zeros(0)  # chance of that label


def label_score(found: Answers, score: str) -> Float[np.ndarray, "M C"]:
    """As `table.believed_columns` has it, of held-out rows under each label."""
    if score == "p_given":
        return found.p_given
    return np.clip((found.p_given - found.other + 1.0) / 2.0, 0.0, 1.0)


def listed(found: Answers) -> Bool[np.ndarray, "M C"]:
    """Whether a row would stand in the list: another class is suggested, or the given label more likely wrong than
    right. Labels of classes that are never changed (`candidates.guarded`) do not."""
    doubtful = (found.answer != np.arange(found.weight.shape[1])) | (found.p_given < 0.5)
    return doubtful & (found.sure >= 0)


def share(part: Float[np.ndarray, " M"], whole: Float[np.ndarray, " M"]) -> Interval:
    """Σ part / Σ whole with a 90 % interval: its variance by the delta method, never less than that of Σ whole
    independent rows with one more right and one more wrong among them."""
    total = whole.sum()
    ratio, smooth = part.sum() / total, (part.sum() + 1) / (total + 2)
    spread = np.sqrt(((part - ratio * whole) ** 2).sum()) / total
    spread = 1.645 * max(spread, np.sqrt(smooth * (1 - smooth) / (total + 2)))
    return Interval(float(ratio), float(max(0.0, smooth - spread)), float(min(1.0, smooth + spread)))


def depths(
    drawn: Answers, careful: Answers, scores: Float[np.ndarray, " n"], score: str, counts: Sequence[int]
) -> tuple[Depth, ...]:
    """How many of the first k labels in the list are wrong, for each k of `counts` that the list is long enough for.

    A held-out row stands among the first k where its score is no higher than theirs. The interval's lower end is the
    lesser of those by T̂ and by as little noise as trusted rows allow.

    Args:
      drawn, careful: `decide.Answers` with given labels drawn from T̂, and with as little noise as may be.
      scores: label_score of the labels in the list.
      score: which it is, one of `table.SCORES`.
      counts: k.
    """
    ordered, found = np.sort(scores), []
    for k in counts:
        if not 0 < k <= len(ordered):
            continue
        parts = []
        for each in (drawn, careful):
            there = each.weight * (listed(each) & (label_score(each, score) <= ordered[k - 1] + 1e-9))
            wrong = there * (np.arange(there.shape[1]) != each.label[:, None])
            parts.append((wrong.sum(axis=1), there.sum(axis=1)))
        worth = min(float(whole.sum()) for _, whole in parts)
        if worth < FEW:
            found.append(Depth(k, Interval(np.nan, np.nan, np.nan), worth))
            continue
        likely, least = (share(*each) for each in parts)
        found.append(Depth(k, likely._replace(low=min(likely.low, least.low)), worth))
    return tuple(found)


def told(
    drawn: Answers | None,
    careful: Answers | None,
    suspected: Float[np.ndarray, " n"],
    score: str,
    counts: Sequence[int],
) -> Held:
    """What held-out rows say of the labels `suspected`, by their label_score; nothing where none are held out."""
    if drawn is None or careful is None:
        return Held()
    some = drawn.weight > 0
    right = (drawn.answer == drawn.label[:, None])[some]
    confidence = np.maximum(drawn.p_given, drawn.other)[some]
    return Held(depths(drawn, careful, suspected, score, counts), confidence, right, drawn.weight[some])


def in_doubt(
    suggested: Int[np.ndarray, " N"], given: Int[np.ndarray, " N"], decision: np.ndarray
) -> Bool[np.ndarray, " N"]:
    """Which labels stand in the list: another class is suggested, or a person is to look."""
    return (suggested != given) | (decision != "keep")
