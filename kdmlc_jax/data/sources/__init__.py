"""Data sets from the formats they are published in, one file per format. Nothing is downloaded or unpickled blindly."""

import importlib

from ml_collections import ConfigDict

from kdmlc_jax.data.sources.base import Images, Part, Source
from kdmlc_jax.errors import UserError, choose

__all__ = ["Images", "Part", "Source", "load"]

# data.source -> the module that reads it with `read(data) -> Source`
MODULES = {
    "digits": "digits",
    "mnist": "idx",
    "fashion_mnist": "idx",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "clothing1m": "clothing1m",
    "folder": "folder",
    "tfds": "tfds",
    "features": "features",
}


def load(data: ConfigDict) -> Source:
    """Reads the data set that a config's `data` names.

    Args:
      data: `config.data`; see `config.base` for its fields. An empty `dir` looks below the environment variable
        KDMLC_DATA, under the set's usual folder name.

    Raises:
      UserError: for an unknown name, no directory, and files that are missing, damaged or disagree.
    """
    choose("data.source", data.source, tuple(MODULES))
    for field in ("manifest", "trusted_file"):
        if data[field] and data.source != "folder":
            raise UserError(f'data.{field}: only data.source="folder" reads it, not "{data.source}"')
    module = importlib.import_module(f"{__name__}.{MODULES[data.source]}")
    source: Source = module.read(data)
    if source.test is not None and source.train.images.shape[1:] != source.test.images.shape[1:]:
        shapes = f"{source.train.images.shape[1:]} in training and {source.test.images.shape[1:]} in test"
        raise UserError(f"{source.name}: images have shape {shapes}, expected one shape [H, W, K]")
    return source
