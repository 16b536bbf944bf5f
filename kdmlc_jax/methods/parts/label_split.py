"""The labels of a whole set, split by how far two networks agree on them (Blind-KD)."""

import jax.numpy as jnp
import numpy as np
from flax import struct

from kdmlc_jax.labels.thresholds import Split
from kdmlc_jax.methods.base import Info, Panel, Report
from kdmlc_jax.methods.parts.agreement import LATE, confidences, label_score, tipping_point
from kdmlc_jax.shapes import Matrix, Scalar
from kdmlc_jax.train_state import Bank

PANELS = (
    Panel(
        *("Tipping point", "curve", ("student_confidence",), "epoch"),
        note="Mean of the student's largest belief by epoch; the line is the epoch by which the labels were split.",
    ),
    Panel(
        *("Agreement on the given label", "histogram", ("agreement",), "threshold"),
        note="P of every noisy image; the line is Otsu's threshold, below which labels are taken for wrong.",
    ),
    Panel(
        *("T̂ counted from what both networks agree on", "matrix", ("transition",)),
        note="Rows the true class, columns the label it is given.",
    ),
)


class LabelSplit(struct.PyTreeNode):
    """P of all noisy images, and where it is cut."""

    agreement: Bank  # f32[N], P; 1 before the split
    split: Split
    border: Scalar  # labels with less agreement are taken for wrong
    epoch: Scalar  # i32[], the one that split the labels, from 1; 0 before, negative without a tipping point
    counted: Matrix  # T̂ by p^A on the noisy images
    trusted: Matrix | None  # T̂ by p^T on the trusted images, where there are any

    def report(self) -> Report:
        """Flags and scores by P, and the split."""
        agreement = self.agreement.rows
        known = {} if self.trusted is None else {"transition_trusted": self.trusted}
        score = label_score(agreement, self.border)
        return Report(
            columns={"is_label_issue": agreement < self.border, "label_score": score, "agreement": agreement},
            figures={**self.split._asdict(), "epoch": self.epoch, "transition": self.counted, **known},
        )

    def __str__(self) -> str:
        """In one line."""
        how = "tipping point in" if self.epoch > 0 else "no tipping point in time, labels split by"
        wrong = float(np.mean(np.asarray(self.agreement.rows) < self.border))
        threshold, low, high = map(float, self.split)
        return (
            f"{how} epoch {abs(int(self.epoch))}; agreement: threshold {threshold:.3f}, class means {low:.3f} and "
            f"{high:.3f}; {wrong:.1%} of the labels held wrong"
        )


def unsplit(info: Info) -> LabelSplit:
    """Before the split: no label is wrong."""
    zero, even = jnp.zeros(()), jnp.full((info.num_classes,) * 2, 1.0 / info.num_classes)
    return LabelSplit(
        agreement=Bank(jnp.ones(info.num_noisy)),
        split=Split(zero, zero, zero),
        border=zero,
        epoch=jnp.zeros((), jnp.int32),
        counted=even,
        trusted=jnp.copy(even) if info.num_trusted else None,
    )


def splitting_epoch(history: list[dict]) -> tuple[int, bool]:
    """The third-last epoch, from 0, and whether it is the tipping point."""
    epoch = max(len(history) - 1 - LATE, 0)
    return epoch, tipping_point(confidences(history)) == epoch
