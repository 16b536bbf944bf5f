"""student/ and teacher/: each network's weights, and what a program needs beside them to run it."""

import pathlib

import numpy as np

from kdmlc_jax.outputs.base import Result
from kdmlc_jax.storage import networks


def write(result: Result, workdir: pathlib.Path) -> None:
    """A folder for each network; see `storage.networks.save`."""
    for name, net in result.networks.items():
        networks.save(workdir / name, net, description(result, name))


def description(result: Result, network: str) -> dict:
    """The network by name and what it takes, as JSON."""
    return {
        "net": result.config[network].net,
        "class_names": list(result.dataset.class_names),
        "image_shape": list(result.dataset.images.shape[1:]),
        "mean": result.mean.tolist(),
        "std": result.std.tolist(),
        **preprocessing(result),
    }


def preprocessing(result: Result) -> dict:
    """What happens to images before the mean is taken out: `values` that they have, and how they come to their size."""
    if result.dataset.images.dtype != np.uint8:
        return {"values": "features", "resize": "none"}
    return {"values": "uint8", "resize": "centre_square" if result.dataset.side else "none"}
