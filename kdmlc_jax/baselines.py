"""A run and the plain baselines below it."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax import closing, finished, parallel, train, warm_start
from kdmlc_jax import config as config_lib
from kdmlc_jax.config.words import expand, short, slug
from kdmlc_jax.errors import NoTrustedError


def baseline(config: ConfigDict, arguments: str) -> ConfigDict:
    """`config` with the method that `arguments` say: plain, from random weights, on the labels first given.

    It is trained as `config` is, so no recipe of its own counts but what it needs on every data set.
    """
    made = config.copy_and_resolve_references()
    config_lib.resolve(made, config_lib.parse_arguments(arguments), recipe="")
    made.baselines = ()
    if made.data.cross_fit:  # it has all trusted images too, and its labels are not asked for
        made.data.cross_fit, made.data.held_out = 0, 0.0
    made.teacher.freeze = False
    made.init_from = made.teacher.run = made.data.labels = made.data.features = ""
    return made


def run(config: ConfigDict, workdir: pathlib.Path, quiet: bool = False) -> dict[str, Any]:
    """Trains `config` in `workdir` and its baselines below it, prints what a newcomer wants to know, and returns the
    summary of the first.

    A baseline that learns from trusted images is left out where there are none, and that is said.
    """
    config = warm_start.seen(config)  # of a size of images that all share
    named = [(label, arguments) for label, method in config.baselines for arguments in expand(method)]
    runs = [(workdir / "baselines" / slug(short(arguments)), baseline(config, arguments)) for _, arguments in named]
    first = train.run(config, workdir, quiet, config.method.name, after=waiting(runs))
    summaries = [first | {"label": config.method.name}]
    left_out: dict[str, NoTrustedError] = {}
    for number, (label, (folder, made)) in enumerate(zip((label for label, _ in named), runs, strict=True), 1):
        try:
            summary = train.run(made, folder, quiet, label, after=waiting(runs[number:]))
            summaries.append(summary | {"label": label})
        except NoTrustedError as error:
            left_out[label] = error
    if parallel.is_main():
        for label, reason in left_out.items():
            print(f"baseline left out: {label} ({reason})", file=sys.stderr)
        print(closing.report(summaries, workdir))
    return first


def waiting(runs: Sequence[tuple[pathlib.Path, ConfigDict]]) -> list[ConfigDict]:
    """The configs of those that have not finished."""
    return [config for folder, config in runs if not (folder / finished.SUMMARY).exists()]
