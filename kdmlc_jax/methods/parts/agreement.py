"""Two networks side by side: what they agree on, and what that says about labels (Blind-KD, arXiv 2211.11355)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.nn import log_softmax, softmax

from kdmlc_jax.labels.thresholds import Split
from kdmlc_jax.shapes import Labels, Logits, PerImage, Scalar, SoftLabels
from kdmlc_jax.train_state import NetState

LATE = 2  # epochs after which a tipping point shows
BETA = (0.70, 0.55, 0.45, 0.30)  # by group, from the least agreement to the most


def tipping_point(confidence: Sequence[float]) -> int | None:
    """The first epoch e ≥ 2, from 0, with m_e above m_{e-2}, m_{e-1}, m_{e+1} and m_{e+2}; None if there is none."""
    m = list(confidence)
    for e in range(LATE, len(m) - LATE):
        if m[e] > max(m[e - 2], m[e - 1], m[e + 1], m[e + 2]):
            return e
    return None


def confidences(history: list[dict]) -> list[float]:
    """m_e of every epoch so far."""
    return [row["student_confidence"] for row in history]


def ends_blind(history: list[dict]) -> bool:
    """Whether the first phase is over: two epochs after a tipping point."""
    return tipping_point(confidences(history)) is not None


def weights(net: NetState) -> dict[str, Any]:
    """Parameters and batch statistics, as `NetState.replace` takes them."""
    return {"params": net.params, "batch_stats": net.batch_stats}


def blind_loss(teacher_logits: Logits, student_logits: Logits, given_label: Labels, count: float | int) -> Scalar:
    """Σ_{i, c≠ỹ_i} (z_T,ic - z_S,ic)² / count: the student follows the teacher but for the given label's own logit."""
    others = 1.0 - jax.nn.one_hot(given_label, teacher_logits.shape[1])
    return jnp.sum(others * (teacher_logits - student_logits) ** 2) / count


def log_agreement(teacher_logits: Logits, student_logits: Logits) -> Logits:
    """log p^A, p^A ∝ p^T p^S: as logarithms two certain networks that differ still give a distribution."""
    return log_softmax(log_softmax(teacher_logits) + log_softmax(student_logits))


def given_agreement(log_p: Logits, given_label: Labels) -> PerImage:
    """p^A at the given label, from log p^A."""
    return jnp.exp(jnp.take_along_axis(log_p, given_label[:, None], axis=1)[:, 0])


def belief_weight(agreement: PerImage, split: Split) -> PerImage:
    """β of images with agreement P: less of it, the less P is."""
    borders = jnp.stack([split.lower_mean, split.threshold, split.upper_mean])
    return jnp.array(BETA)[jnp.sum(agreement[:, None] >= borders[None], axis=1)]


def softened_label(given_label: Labels, student_logits: Logits, beta: PerImage) -> SoftLabels:
    """t ∝ ((1-β) onehot(ỹ) + β p^S)^(1+β)."""
    beta = beta[:, None]
    mixed = (1.0 - beta) * jax.nn.one_hot(given_label, student_logits.shape[1]) + beta * softmax(student_logits)
    sharp = mixed ** (1.0 + beta)
    return sharp / jnp.sum(sharp, axis=1, keepdims=True)


def label_score(agreement: PerImage, border: Scalar) -> PerImage:
    """P bent to ½ at `border`, below which labels are taken for wrong; 0 and 1 stay."""
    below, above = agreement / jnp.maximum(border, 1e-6), (agreement - border) / jnp.maximum(1.0 - border, 1e-6)
    return jnp.where(agreement < border, 0.5 * below, 0.5 + 0.5 * above)
