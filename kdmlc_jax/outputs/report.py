"""report.html, the page to look at and decide on; after the networks, whose features it needs."""

import pathlib

from kdmlc_jax import report
from kdmlc_jax.outputs.base import Result
from kdmlc_jax.storage import files

NAME = "report.html"


def write(result: Result, workdir: pathlib.Path) -> None:
    """See `report.page`."""
    dataset, table, beliefs = result.dataset, result.table, result.beliefs
    text = report.page(dataset, result.rows, table, beliefs, result.summary, result.history, workdir)
    files.write_text(workdir / NAME, text)
