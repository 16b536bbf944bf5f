"""A run and the plain baselines below it."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax import closing, finished, parallel, report, train, warm_start
from kdmlc_jax import config as config_lib
from kdmlc_jax.config.words import expand, short, slug
from kdmlc_jax.errors import NoTrustedError, reading
from kdmlc_jax.outputs.report import NAME
from kdmlc_jax.storage import door, files


def baseline(config: ConfigDict, arguments: str) -> ConfigDict:
    """`config` with the method that `arguments` say: plain, from random weights, on the labels first given.

    It is trained as `config` is, so no recipe of its own counts but what it needs on every data set.
    """
    made = config.copy_and_resolve_references()
    config_lib.resolve(made, config_lib.parse_arguments(arguments), recipe="")
    made.baselines = ()
    if made.data.cross_fit:  # it has all trusted images too, and its labels are not asked for
        made.data.cross_fit, made.data.held_out = 0, 0.0
    for place in (made.teacher, made.student):
        place.freeze, place.lr_below = False, 1.0
    made.init_from = made.teacher.run = made.data.labels = made.data.features = ""
    return made


def cells(config: ConfigDict, workdir: pathlib.Path) -> list[tuple[str, str, pathlib.Path]]:
    """The label, the arguments and the folder of each baseline."""
    found = [(label, arguments) for label, method in config.baselines for arguments in expand(method)]
    return [(label, arguments, workdir / "baselines" / slug(short(arguments))) for label, arguments in found]


def ended(config: ConfigDict, workdir: pathlib.Path) -> list[dict]:
    """The summaries of those baselines that have ended, each with its `label`."""
    found = ((label, finished.read(folder)) for label, _, folder in cells(config, workdir))
    return [summary | {"label": label} for label, summary in found if summary is not None]


def run(config: ConfigDict, workdir: pathlib.Path, quiet: bool = False) -> dict[str, Any]:
    """Trains `config` in `workdir` and its baselines below it, prints what a newcomer wants to know, and returns the
    summary of the first.

    A baseline that learns from trusted images is left out where there are none, and that is said.
    """
    config = warm_start.seen(config)  # of a size of images that all share
    runs = [(label, folder, baseline(config, arguments)) for label, arguments, folder in cells(config, workdir)]
    first = train.run(config, workdir, quiet, config.method.name, after=waiting(runs))
    summaries = [first | {"label": config.method.name}]
    left_out: dict[str, NoTrustedError] = {}
    for number, (label, folder, made) in enumerate(runs, 1):
        try:
            summary = train.run(made, folder, quiet, label, after=waiting(runs[number:]))
            summaries.append(summary | {"label": label})
        except NoTrustedError as error:
            left_out[label] = error
    if parallel.is_main():
        for label, reason in left_out.items():
            print(f"baseline left out: {label} ({reason})", file=sys.stderr)
        show(summaries, workdir)
        print(closing.report(summaries, workdir))
    return first


def waiting(runs: Sequence[tuple[str, pathlib.Path, ConfigDict]]) -> list[ConfigDict]:
    """The configs of those that have not finished."""
    return [config for _, folder, config in runs if not files.exists(folder / finished.SUMMARY)]


def show(summaries: list[dict], workdir: pathlib.Path) -> None:
    """Puts the baselines into the page of the run, which was written before them."""
    page = workdir / NAME
    if len(summaries) < 2 or not files.exists(page):
        return
    with reading(page, "the page of a run"):
        before = door.read_text(page)
    after = report.with_baselines(before, summaries[0], summaries[1:])
    if after != before:
        finished.renew(workdir, NAME, after)
