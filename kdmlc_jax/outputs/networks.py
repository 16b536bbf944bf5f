"""student/ and teacher/: each network's weights, and what a program needs beside them to run it."""

import pathlib

import numpy as np

from kdmlc_jax.outputs.base import Result
from kdmlc_jax.shapes import ON_FEATURES
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
        **preprocessing(result, network),
    }


def preprocessing(result: Result, network: str) -> dict:
    """What the network is shown: its shape, mean and deviation, and `values`."""
    fixed = {name: rows.tolist() for name, rows in result.fixed.items()}
    if result.dataset.shows_features and result.config[network].net.startswith(ON_FEATURES):
        mean, std = fixed["features_mean"], fixed["features_std"]
        return {"image_shape": [1, 1, len(mean)], "mean": mean, "std": std, "values": "features", "resize": "none"}
    shape = list(result.dataset.images.shape[1:])
    return {"image_shape": shape, "mean": fixed["mean"], "std": fixed["std"], **values(result)}


def values(result: Result) -> dict:
    """What they are before the mean is taken out, and how images come to their size."""
    if result.dataset.images.dtype != np.uint8:
        return {"values": "features", "resize": "none"}
    return {"values": "uint8", "resize": "centre_square" if result.dataset.side else "none"}
