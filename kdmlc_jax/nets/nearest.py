"""The vote of the nearest rows of a memory as a network: what it has learned from is its weights."""

import re

import jax
import jax.numpy as jnp
from flax import linen as nn

from kdmlc_jax.labels import neighbours
from kdmlc_jax.nets.base import Output
from kdmlc_jax.shapes import Images

FORM = "nearest<k>"
EXAMPLES = ("nearest51",)


class Nearest(nn.Module):
    """z = log p of `labels.neighbours`, of at most `most` rows; the features are the flattened image x itself.

    Parameters: `rows` [M, D] of length 1; `reach` [M], how many rows vote where this one is the nearest; the last
    layer's kernel [M, C], each row's votes. Memory is 4·B·M bytes a few times over: a matter of the batch.
    """

    num_classes: int
    most: int
    count: int = 1  # M of a new network; one with weights has theirs

    def sized(self, params: dict) -> "Nearest":
        """The network with as many rows as `params` has, which its name does not tell."""
        return self.clone(count=len(params["rows"]))

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, H·W·K]."""
        x = images.reshape(images.shape[0], -1)
        if self.is_initializing():
            rows = self.param("rows", nn.initializers.zeros, (self.count, x.shape[1]))
            reach = self.param("reach", nn.initializers.ones, (self.count,))
        else:
            rows, reach = (jnp.asarray(self.get_variable("params", name)) for name in ("rows", "reach"))
        count = len(rows)
        near = neighbours.nearest_at_once(rows, min(self.most, count), x)
        k = jnp.minimum(reach[jax.lax.index_in_dim(near, 0, 1, keepdims=False)], near.shape[1])
        voting = jnp.where(jnp.arange(near.shape[1])[None] < k[:, None], 1.0, 0.0)
        chosen = jnp.zeros((x.shape[0], count)).at[jnp.arange(x.shape[0])[:, None], near].add(voting)
        # Positive before it is fitted: votes are counted, and their logarithm is taken.
        votes = nn.Dense(self.num_classes, use_bias=False, kernel_init=nn.initializers.uniform(1.0))(chosen)
        return Output(jnp.log(neighbours.believed(votes, k)), x)


def build(name: str, num_classes: int) -> Nearest | None:
    """The network, or None where the name is not of this form."""
    match = re.fullmatch(r"nearest([1-9]\d{0,3})", name)
    return Nearest(num_classes, int(match[1])) if match else None
