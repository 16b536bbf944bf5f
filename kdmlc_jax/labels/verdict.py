"""One paragraph at the end of a run: what to apply, what to look at, how many labels are wrong."""

import dataclasses
import math

from kdmlc_jax.labels.posterior import Interval


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Figures of a set of corrections; shares and precisions are fractions.

    `precision` is that of the changes in decision = correct, measured on trusted rows held out of everything;
    `review_precision` is expected of the suggestions in decision = review. `reasons` say why nothing should be applied,
    `helps` what would change that.
    """

    rows: int
    corrections: int
    precision: Interval
    reviews: int
    review_precision: float
    wrong: Interval  # share of given labels
    trained_on: int  # labels changed for training
    reasons: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()

    @property
    def apply(self) -> bool:
        """Whether any correction may be applied unseen."""
        return self.corrections > 0

    def text(self) -> str:
        """The paragraph."""
        if self.apply:
            start = f"Apply {self.corrections} corrections (held-out precision {_range(self.precision)})"
        else:
            start = "Do not apply corrections unseen"
        parts = [start + (f": {'; '.join(self.reasons)}." if self.reasons else ".")]
        if self.reviews:
            expected = "" if math.isnan(self.review_precision) else f" (expected precision {self.review_precision:.2f})"
            parts.append(f"Review {self.reviews}{' more' if self.apply else ''}{expected}; keep the rest.")
        if math.isnan(self.wrong.estimate):
            parts.append("How many labels are wrong was not assessed.")
        else:
            low, high = (round(100 * v) for v in self.wrong[1:])
            parts.append(f"Estimated wrong labels: {100 * self.wrong.estimate:.0f} % ({low}-{high}).")
            found = (self.corrections + self.reviews) / self.rows
            if found < self.wrong.low:
                parts.append("Those not pointed at cannot be told from right ones.")
            elif found > self.wrong.high:
                parts.append("More are pointed at than are wrong: for many, both labels are about as likely.")
        changed = f"with {self.trained_on} labels changed" if self.trained_on else "with the given labels"
        parts.append(f"Train {changed}.")
        if self.helps:
            parts.append(f"What would help: {'; '.join(self.helps)}.")
        return " ".join(parts)


def not_assessed(why: str) -> str:
    """What is said where nothing could be asked."""
    return (
        f"Labels not assessed: {why}. All given labels stand. suggested_label is what the method believes, nothing "
        "vouches for it: do not apply it unseen. What would help: trusted labels, some of each class."
    )


def _range(interval: Interval) -> str:
    return f"{interval.estimate:.2f}, 90 % interval {interval.low:.2f}-{interval.high:.2f}"
