"""The label-correction network: what the image and its given label say together about the true label."""

import jax.numpy as jnp
from flax import linen as nn
from jax.nn import log_sigmoid, log_softmax

from kdmlc_jax.shapes import Features, Labels, Logits


class Corrector(nn.Module):
    """g_α(h, ỹ): Embed(C, 128) ⊕ h → Dense 128 tanh → Dense 128 tanh → Dense C.

    Plain: softmax of the last layer (MLC). Residual: the last layer starts at 0 and is added to `prior` logits, so
    that correction starts as the prior's own belief [ours]. Skip: one more output a = σ(·) gates the given label in,
    p = (1-a)·softmax + a·onehot(ỹ) (MLC on Clothing1M).

    Source: MLC's release (embedding xavier-uniform, dense layers xavier-normal, biases 0).
    """

    num_classes: int
    residual: bool = False
    skip: bool = False
    hidden: int = 128

    @nn.compact
    def __call__(self, features: Features, given_label: Labels, prior: Logits | None = None) -> Logits:
        """Log-probabilities of the true label; the caller stops the gradient of h(x)."""
        xavier = nn.initializers.xavier_normal()
        embedded = nn.Embed(self.num_classes, 128, embedding_init=nn.initializers.xavier_uniform())(given_label)
        x = jnp.concatenate([features, embedded], axis=-1)
        for _ in range(2):
            x = jnp.tanh(nn.Dense(self.hidden, kernel_init=xavier)(x))
        last = nn.initializers.zeros if self.residual else xavier
        logits = nn.Dense(self.num_classes, kernel_init=last)(x)
        log_p = log_softmax(logits if prior is None else logits + prior)
        if not self.skip:
            return log_p
        gate = nn.Dense(1, kernel_init=xavier)(x)
        corrected = log_sigmoid(-gate) + log_p
        given = given_label[:, None] == jnp.arange(self.num_classes)[None]
        return jnp.where(given, jnp.logaddexp(corrected, log_sigmoid(gate)), corrected)
