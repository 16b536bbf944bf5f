"""report.html, the page to look at and decide on; after the networks, whose features it needs."""

import pathlib

from kdmlc_jax import report
from kdmlc_jax.outputs.base import Result
from kdmlc_jax.report.pages import watched
from kdmlc_jax.storage import files

NAME = "report.html"


def write(result: Result, workdir: pathlib.Path) -> None:
    """See `report.page`."""
    dataset, table, beliefs, config = result.dataset, result.table, result.beliefs, result.config.to_dict()
    page = report.page(dataset, result.rows, table, beliefs, result.summary, result.history, workdir, config=config)
    files.write_text(workdir / NAME, watched(page, workdir / NAME))
