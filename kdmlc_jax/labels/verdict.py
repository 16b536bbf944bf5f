"""One paragraph at the end of a run: what to apply, what to look at, how many labels are wrong."""

import dataclasses
import math

from kdmlc_jax.labels.posterior import Interval


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Figures of a set of corrections; shares and precisions are fractions.

    `precision` is that of the changes in decision = correct, measured on trusted rows held out of everything;
    `review_precision` is expected of the suggestions in decision = review, as held-out rows tell. `reasons` say why
    nothing should be applied, `helps` what would change that.
    """

    rows: int
    corrections: int
    precision: Interval
    reviews: int
    review_precision: float
    review_least: float  # that if as few labels are wrong as may be
    wrong: Interval  # share of given labels
    trained_on: int  # labels changed for training
    reasons: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()

    @property
    def apply(self) -> bool:
        """Whether any correction may be applied unseen."""
        return self.corrections > 0

    def text(self) -> str:
        """The paragraph: how many are wrong, what to apply, what to look at, what to train on, what would help."""
        if math.isnan(self.wrong.estimate):
            parts = ["How many labels are wrong was not assessed."]
        else:
            low, high = (round(100 * v) for v in self.wrong[1:])
            share = f"{100 * self.wrong.estimate:.0f} % of the {self.rows} labels"
            parts = [f"Estimated wrong: {share} (90 % interval {low}-{high})."]
        if self.apply:
            held = f"held-out precision {_range(self.precision)}"
            start = f"Apply {self.corrections} corrections (decision = correct; {held})"
        else:
            start = "Do not apply corrections unseen"
        parts.append(start + (f": {'; '.join(self.reasons)}." if self.reasons else "."))
        if self.reviews:
            expected = ""
            if not math.isnan(self.review_precision):
                expected = f", about {100 * self.review_precision:.0f} % of the suggestions are right"
                if self.review_least < self.review_precision - 0.05:
                    expected += f", or {100 * self.review_least:.0f} % if as few labels are wrong as may be"
            parts.append(f"Review {self.reviews}{' more' if self.apply else ''} (decision = review{expected}).")
        found = (self.corrections + self.reviews) / self.rows
        if found < self.wrong.low:
            parts.append("Wrong labels not pointed at cannot be told from right ones.")
        elif found > self.wrong.high:
            parts.append("More are pointed at than are wrong: for many, both labels are about as likely.")
        parts.append("Keep the rest.")
        if self.trained_on:
            taught = "on held-out trusted rows these teach better, though not each is right"
            parts.append(f"To train again, use corrected_label ({self.trained_on} labels changed: {taught}).")
        else:
            parts.append("To train again, use the given labels: no change was shown to teach better.")
        if self.helps:
            parts.append(f"What would help: {'; '.join(self.helps)}.")
        return " ".join(parts)


def not_assessed(why: str, agreement: float | None = None) -> str:
    """What is said where nothing could be asked.

    Args:
      why: a clause.
      agreement: share of validation images, whose labels no network has learned from, that the network to deploy gives
        the label they carry.
    """
    weaker = ""
    if agreement is not None:
        weaker = (
            f"The network gives {100 * agreement:.0f} % of the validation images, whose labels it has not learned "
            f"from, the label they carry; were it never wrong, {100 - 100 * agreement:.0f} % of labels would be. How "
            "much of that is its own fault cannot be told without trusted labels. "
        )
    return (
        f"Labels not assessed: {why}. All given labels stand. suggested_label is what the method believes, nothing "
        f"vouches for it: do not apply it unseen. {weaker}What would help: trusted labels, some of each class."
    )


def _range(interval: Interval) -> str:
    return f"{interval.estimate:.2f}, 90 % interval {interval.low:.2f}-{interval.high:.2f}"
