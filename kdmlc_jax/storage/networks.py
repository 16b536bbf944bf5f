"""A network on disk, its weights and what is needed to run it: written when a run ends, read where another starts."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import serialization

from kdmlc_jax import nets
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files
from kdmlc_jax.train_state import NetState, named_leaves


def save(directory: pathlib.Path, net: NetState, description: dict) -> None:
    """Writes `network.json` (net, class_names, image_shape, mean, std) and `weights.msgpack` (Flax variables).

    The weights are the averaged ones where an average is kept, the same that were evaluated.
    """
    files.make_directory(directory)
    variables = net.ema if net.ema is not None else {"params": net.params, "batch_stats": net.batch_stats}
    with files.atomic_write(directory / "weights.msgpack") as file:
        file.write(serialization.msgpack_serialize(jax.device_get(variables)))
    files.write_json(directory / "network.json", description)


def read(directory: pathlib.Path) -> tuple[dict, Any]:
    """What `save` has written, the description and the variables; raises UserError where it cannot be read."""
    try:
        about = json.loads((directory / "network.json").read_text())
        saved = serialization.msgpack_restore((directory / "weights.msgpack").read_bytes())
        about |= {"net": str(about["net"]), "class_names": [str(name) for name in about["class_names"]]}
        return about, {**saved, "params": {**saved["params"]}}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file, expected the network that a run has left") from None
    except Exception as error:  # damaged bytes raise nearly anything
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{directory}: cannot be read as a network ({reason})") from None


def start(net: NetState, about: dict, saved: Any, class_names: Sequence[str], place: str) -> tuple[NetState, bool]:
    """`net` with weights that `read` gave, and whether its last layer is the saved one: not where the classes differ.

    Raises:
      UserError: naming `place` and the first array that is absent or of another shape.
    """
    head, same = nets.head_of(net.params), about["class_names"] == list(class_names)
    wanted = {"params": net.params, "batch_stats": net.batch_stats}
    if not same:
        saved = {**saved, "params": {**saved["params"], head: net.params[head]}}
    have, leaves = named_leaves(saved), named_leaves(wanted)
    for name, leaf in leaves.items():
        there = getattr(have.get(name), "shape", "absent")
        if there != leaf.shape:
            raise UserError(f"{place}: {name} is {there} there and {leaf.shape} here")
    new = [jnp.asarray(have[name], leaf.dtype) for name, leaf in leaves.items()]
    taken = jax.tree.unflatten(jax.tree.structure(wanted), new)
    return net.with_weights(taken["params"], taken["batch_stats"]), same
