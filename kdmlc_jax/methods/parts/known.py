"""What is known of the images without the run's networks: beliefs on features that no noisy label has taught.

    p₀(y | x)     `labels.stacking`: calibrated, of a trusted image by fits that did not have it
    T₀            `labels.cross_fit.chain`: as much noise as trusted images confirm
    q₀(y | x, ỹ)  ∝ p₀(y | x) T₀[y, ỹ]

A corrector that starts as q₀ need not find out anew what a logistic regression says at once.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.cross_fit import chain
from kdmlc_jax.labels.linear import coordinates
from kdmlc_jax.labels.pooling import log
from kdmlc_jax.labels.stacking import View, stacked_beliefs, taught_by_given
from kdmlc_jax.labels.transition import halfway
from kdmlc_jax.methods.base import DatasetView, Info
from kdmlc_jax.methods.parts.fitted import flattened
from kdmlc_jax.shapes import Labels, Logits
from kdmlc_jax.train_state import Bank


class Known(struct.PyTreeNode):
    """log p₀ of all images of the noisy and of the trusted split, and T₀."""

    noisy: Bank  # f32[N, C]
    trusted: Bank  # f32[M, C]
    transition: Float[Array, "C C"]

    def of_noisy(self, index: Labels) -> Logits:
        """log p₀ of noisy images."""
        return jnp.asarray(self.noisy.rows)[index]

    def of_trusted(self, index: Labels) -> Logits:
        """log p₀ of trusted images."""
        return jnp.asarray(self.trusted.rows)[index]


def nothing(info: Info) -> Known:
    """Before anything is known: even beliefs."""
    even = -jnp.log(float(info.num_classes))
    noisy, trusted = (Bank(jnp.full((n, info.num_classes), even)) for n in (info.num_noisy, info.num_trusted))
    return Known(noisy, trusted, halfway(info.num_classes))


def found(view: DatasetView, net: Any, info: Info) -> Known:
    """What `data.features` says of all images, or the vectors themselves that stand for them.

    Raises:
      UserError: for images without features.
    """
    rows = view.features
    if rows is None and info.is_features:
        rows = {split: view.map(split, flattened, net) for split in ("noisy", "trusted")}
    if rows is None:
        raise UserError('method.form: "posterior" needs features, data.features or data.source=features')
    noisy, trusted = rows["noisy"], rows["trusted"]

    def fitted() -> tuple[np.ndarray, ...]:
        given, label, classes = view.given_label, view.trusted_label, info.num_classes
        views = [View(*coordinates(noisy, trusted)), taught_by_given(noisy, given, trusted, classes)]
        beliefs = stacked_beliefs(views, label, classes)
        transition = chain(beliefs, label, given).noise.transition
        return tuple(each.astype(np.float32) for each in (log(beliefs.noisy), log(beliefs.trusted), transition))

    log_noisy, log_trusted, transition = map(jnp.asarray, view.decide(fitted))
    view.note("corrected labels start from what features and trusted images say without the networks")
    return Known(Bank(log_noisy), Bank(log_trusted), transition)
