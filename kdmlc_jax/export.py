"""The deployed network leaves the house: its weights and what is needed to run it."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from kdmlc_jax import files, nets
from kdmlc_jax.data import augment
from kdmlc_jax.state import NetState


def save(directory: pathlib.Path, net: NetState, description: dict) -> None:
    """Writes `network.json` (net, class_names, image_shape, mean, std) and `weights.msgpack` (Flax variables).

    The weights are the averaged ones where an average is kept, the same that were evaluated.
    """
    files.make_directory(directory)
    variables = net.ema if net.ema is not None else {"params": net.params, "batch_stats": net.batch_stats}
    with files.atomic_write(directory / "weights.msgpack") as file:
        file.write(serialization.msgpack_serialize(jax.device_get(variables)))
    files.write_json(directory / "network.json", description)


def load(directory: str | pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """The network saved in `directory`, as a function: images u8[B, H, W, K] -> probabilities f32[B, C]."""
    directory = pathlib.Path(directory)
    about = json.loads((directory / "network.json").read_text())
    variables = serialization.msgpack_restore((directory / "weights.msgpack").read_bytes())
    module = nets.build(about["net"], len(about["class_names"]))
    mean, std = (jnp.asarray(about[name], jnp.float32) for name in ("mean", "std"))

    @jax.jit
    def predict(images: jax.Array) -> jax.Array:
        output: Any = module.apply(variables, augment.normalise(images, mean, std), train=False)
        return jax.nn.softmax(output.logits)

    return lambda images: np.asarray(predict(images))
