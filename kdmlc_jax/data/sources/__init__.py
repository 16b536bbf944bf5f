"""Data sets from the formats they are published in, a module each, found by its name (`kdmlc_jax.registry`).

A source has `load(data) -> Source`, given a config's `data`. Nothing is downloaded or unpickled blindly.
"""

import sys

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax import registry
from kdmlc_jax.data.formats import classes
from kdmlc_jax.data.sources.base import Source
from kdmlc_jax.errors import UserError


def load(data: ConfigDict) -> Source:
    """Reads the data set that `config.data` names.

    Raises:
      UserError: for an unknown name, no directory, and files that are missing, damaged or disagree.
    """
    module = registry.get(sys.modules[__name__], "data.source", data.source)
    for field in ("manifest", "trusted_file", "path_column", "label_column", "split_column"):
        if data[field] and data.source != "folder":
            raise UserError(f'data.{field}: only data.source="folder" reads it, not "{data.source}"')
    source: Source = module.load(data)
    if source.test is not None and source.train.images.shape[1:] != source.test.images.shape[1:]:
        shapes = f"{source.train.images.shape[1:]} in training and {source.test.images.shape[1:]} in test"
        raise UserError(f"{source.name}: images have shape {shapes}, expected one shape [H, W, K]")
    train = source.train
    labels = train.labels if train.truth is None else np.where(train.labels >= 0, train.labels, train.truth)
    return source._replace(notes=(*source.notes, *classes.count_notes(source.class_names, labels)))
