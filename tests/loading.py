"""Loading a data set in a test as a config that names it does."""

import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax.data import sources
from kdmlc_jax.errors import UserError


def load(source, folder="", **fields):
    """The set `source` in `folder`, with other fields of a config's `data`."""
    data = config_lib.base().data
    data.source, data.dir = source, str(folder)
    data.update(fields)
    return sources.load(data)


def error_of(source, folder, **fields):
    """The one line that loading fails with."""
    with pytest.raises(UserError) as caught:
        load(source, folder, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)
