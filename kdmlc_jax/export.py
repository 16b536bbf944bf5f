"""What leaves the house: a network that a run has left, as a function for another program."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float, UInt8

from kdmlc_jax import nets
from kdmlc_jax.data import augment
from kdmlc_jax.storage.networks import read


def load(directory: str | pathlib.Path) -> Callable[[UInt8[np.ndarray, "B H W K"]], Float[np.ndarray, "B C"]]:
    """The network saved in `directory`, as a function: images -> probabilities; UserError where it cannot be read."""
    _, output = open_network(pathlib.Path(directory))
    return lambda images: np.asarray(jax.nn.softmax(output(images).logits))


def open_network(directory: pathlib.Path) -> tuple[dict, Callable[[UInt8[np.ndarray, "B H W K"]], nets.Output]]:
    """What is said of the network in `directory`, and it as a function: images -> logits and features.

    Raises:
      UserError: where it cannot be read.
    """
    about, variables = read(directory)
    module = nets.build(about["net"], len(about["class_names"]))
    mean, std = (jnp.asarray(about[name], jnp.float32) for name in ("mean", "std"))
    return about, applied(module, variables, lambda images: augment.normalise(images, mean, std))


Applied = Callable[[UInt8[np.ndarray, "B H W K"]], nets.Output]


def applied(module: nn.Module, variables: Any, scaled: Callable) -> Applied:
    """images -> logits and features of a network, for images that `scaled` has made inputs of; compiled."""

    @jax.jit
    def output(images: jax.Array) -> Any:
        return module.apply(variables, scaled(images), train=False)

    return output
