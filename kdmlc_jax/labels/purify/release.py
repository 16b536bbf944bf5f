"""What DMLP's published code amounts to, for comparison.

Features as they are, λ = 0, the sum in place of the mean of squares, a softmax before that of the cross-entropy, decay
within the gradient, no simplex. Its condition for an exchange is never true, so the head, whose prior_weight is 2200
there, never reaches the labels and is left out here; its twins are identical, so there is one. In the end the labels
are put through a softmax.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.nn import log_softmax, softmax
from jaxtyping import Array, Float

from kdmlc_jax.labels.purify.checks import check_finite, check_label_pair, check_views
from kdmlc_jax.labels.purify.intrinsic import Descent, Regression, correct, imbalance
from kdmlc_jax.labels.purify.options import PurifyOptions
from kdmlc_jax.labels.purify.ridge import ridge_weights
from kdmlc_jax.labels.purify.turns import start_of, twins_of
from kdmlc_jax.shapes import Scalar


def purify_release(
    features: Any,
    given_label: Any,
    trusted_features: Any,
    trusted_label: Any,
    *,
    num_classes: int | None = None,
    ridge: float = 0.0,
    watch: Any = None,
    **options: Any,
) -> Float[np.ndarray, "N C"]:
    """Soft labels as `purify` gives them, by the release's form.

    Arguments, errors and what is returned are `purify`'s, but of `PurifyOptions` epochs, batch_size, seed, ridge (λ/B),
    label_rate, label_betas and label_decay alone have an effect; `watch` is shown nothing, for there is no exchange.
    """
    chosen = PurifyOptions(ridge=ridge, **options)
    views = check_views(features, trusted_features)
    given, target, classes = check_label_pair(given_label, trusted_label, views[0], num_classes)
    one_hot = np.eye(classes, dtype=np.float32)
    settings = (chosen.label_rate, *chosen.label_betas, chosen.label_decay)
    with jax.default_matmul_precision("highest"):
        twin = twins_of(views[:1], chosen, plain_rows)[0]
        start, known, how = start_of(given, one_hot), jnp.asarray(one_hot[target]), Descent(loss, adam, settings, as_is)
        labels = correct(start, twin.view, twin.batches, known, chosen.epochs, how)
    return check_finite(softmax(labels[:-1]), label_rate=chosen.label_rate)


def plain_rows(features: Float[np.ndarray, "N D"], padding: int) -> Float[np.ndarray, "_ D"]:
    """X: the features as they are; zeros for padding."""
    return np.concatenate([features, np.zeros((padding, features.shape[1]), np.float32)])


def loss(label: Float[Array, "B C"], data: Regression) -> Scalar:
    """L_val(Y) = mean_v CE(y_v, softmax(X_v W*)) + Σ_v ‖X_v W* - Y_v‖² + KL(uniform ‖ mean softmax(X W*))."""
    solution = ridge_weights(data.factor, data.rows, label)
    logits = data.trusted @ solution
    hits = -jnp.mean(jnp.sum(data.target * log_softmax(softmax(logits)), axis=1))
    return hits + jnp.sum((logits - data.target) ** 2) + imbalance(data.rows @ solution, data.weight)


def adam(rate: float, beta1: float, beta2: float, decay: float) -> Any:
    """Adam with its weight decay in the gradient."""
    return optax.chain(optax.add_decayed_weights(decay), optax.adam(rate, beta1, beta2))


def as_is(labels: jax.Array) -> jax.Array:
    """No simplex."""
    return labels
