"""A network on disk, its weights and what is needed to run it: written when a run ends, read where another starts."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from kdmlc_jax import nets
from kdmlc_jax.errors import StorageError, UserError, reading
from kdmlc_jax.storage import door, files
from kdmlc_jax.train_state import NetState, named_leaves

WEIGHTS, ABOUT, SUM = "weights.msgpack", "network.json", "weights_sha256"


def save(directory: pathlib.Path, net: NetState, description: dict) -> None:
    """Writes `weights.msgpack` (Flax variables) and `network.json` (net, class_names, image_shape, mean, std …).

    The weights are the averaged ones where an average is kept, the same that were evaluated. `network.json` holds their
    SHA-256 and its own.
    """
    files.make_directory(directory)
    variables = net.ema if net.ema is not None else {"params": net.params, "batch_stats": net.batch_stats}
    data = serialization.msgpack_serialize(jax.device_get(variables))
    with files.atomic_write(directory / WEIGHTS) as file:
        file.write(data)
    files.write_sealed(directory / ABOUT, description | {SUM: hashlib.sha256(data).hexdigest()})


def read(directory: pathlib.Path) -> tuple[dict, Any]:
    """What `save` has written, the description and the variables, as they were written.

    Raises:
      UserError: where there is no network.
      StorageError: where it cannot be read, is not what was written, or is not finite or not of its network's shapes.
    """
    what = "the network that a run has left"
    about = files.read_sealed(directory / ABOUT, what)
    with reading(directory / WEIGHTS, what):
        data = door.read(directory / WEIGHTS)
    with reading(directory, "a network", StorageError):
        if about.pop(SUM, None) != hashlib.sha256(data).hexdigest():
            raise ValueError(f"{WEIGHTS} is not what was written: its sha256 is another")
        about |= {"net": str(about["net"]), "class_names": [str(name) for name in about["class_names"]]}
        saved = serialization.msgpack_restore(data)
        variables = {"batch_stats": {}, **saved, "params": {**saved["params"]}}
        _check(about, variables)
    return about, variables


def _check(about: dict, variables: dict) -> None:
    """Raises ValueError where the description makes no sense, or an array is not of its network or not finite."""
    shape, numbers = about["image_shape"], [*about["mean"], *about["std"]]
    if len(shape) != 3 or not all(isinstance(each, int) and each > 0 for each in shape):
        raise ValueError(f"image_shape is {shape}, expected three whole numbers")
    if len(numbers) != 2 * shape[2] or not np.isfinite(numbers).all() or min(about["std"]) <= 0:
        raise ValueError(f"mean and std are {numbers}, expected {shape[2]} finite numbers each, std above 0")
    module = nets.build(about["net"], len(about["class_names"]))
    if hasattr(module, "sized"):  # by what it has learned from
        module = module.sized(variables["params"])
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    made = jax.eval_shape(lambda image: module.init(jax.random.key(0), image, train=False), image)
    wanted, have = named_leaves({"batch_stats": {}, **made}), named_leaves(variables)
    for name in sorted(wanted.keys() | have.keys()):
        there, right = (getattr(leaves.get(name), "shape", "absent") for leaves in (have, wanted))
        if there != right:
            raise ValueError(f"{name} is {there}, expected {right} in {about['net']}")
        if not np.isfinite(have[name]).all():
            raise ValueError(f"{name} has NaN or infinity")


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
