"""A network that a run has left as one function, from what it was trained on to probabilities."""

import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from kdmlc_jax import nets
from kdmlc_jax.data import augment
from kdmlc_jax.storage import networks


class Deployed(NamedTuple):
    """What `storage.networks.save` has written, and its network."""

    about: dict[str, Any]
    module: nn.Module
    variables: Any

    @property
    def takes_features(self) -> bool:
        """Whether it is shown vectors instead of pixels."""
        return bool(self.about.get("values") == "features")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input: (H, W, K) pixels, or (D,) features."""
        shape = tuple(self.about["image_shape"])
        return shape[-1:] if self.takes_features else shape

    @property
    def dtype(self) -> np.dtype:
        """uint8 for pixels, float32 for features."""
        return np.dtype(np.float32 if self.takes_features else np.uint8)

    @property
    def parameters(self) -> int:
        """How many weights training moved."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    def probabilities(self, inputs: jax.Array) -> jax.Array:
        """f32[B, C] of inputs [B, *shape]: normalised, classified, softmax."""
        mean, std = (jnp.asarray(self.about[name], jnp.float32) for name in ("mean", "std"))
        images = inputs.reshape(inputs.shape[0], *self.about["image_shape"])
        with nn.intercept_methods(as_convolutions):
            output: Any = self.module.apply(self.variables, augment.normalise(images, mean, std), train=False)
        return jax.nn.softmax(output.logits)

    def examples(self, count: int) -> np.ndarray:
        """Random inputs [count, *shape]: any pixels, or features with the training ones' mean and deviation."""
        rng = np.random.default_rng(0)
        if not self.takes_features:
            return rng.integers(0, 256, (count, *self.shape)).astype(self.dtype)
        drawn = rng.normal(self.about["mean"], self.about["std"], (count, *self.shape))
        return drawn.astype(self.dtype)


def read(directory: pathlib.Path) -> Deployed:
    """The network saved in `directory`; raises as `storage.networks.read`."""
    about, variables = networks.read(directory)
    return Deployed(about, nets.build(about["net"], len(about["class_names"])), variables)


def as_convolutions(next_method: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    """Flax's interceptor: a layer that has a form for other programs than XLA (`grouped`) takes that."""
    other = getattr(context.module, "grouped", None)
    return other(*args) if other and context.method_name == "__call__" else next_method(*args, **kwargs)
