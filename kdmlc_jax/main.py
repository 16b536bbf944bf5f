"""Trains one method: `python -m kdmlc_jax.main --config configs/digits.py --workdir runs/digits`.

Flags only; everything heavy is imported after they are understood.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax import limits
from kdmlc_jax.cli import Parser, add_launch, guarded, parse, start
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files

EPILOG = """two commands:
  python -m kdmlc_jax.main --config configs/digits.py --workdir runs/digits      digits with wrong labels, 2 minutes
  python -m kdmlc_jax.main --config configs/folder.py:dir=photos --workdir runs/photos      a folder per class of yours
any field of the config can be set:  --config.optim.lr=0.05 --config.method.kd_weight=0.5
arguments in the config's name set the usual ones:  --config configs/digits.py:preset=paper,rate=0.8,seed=1
a run that was cut goes on where it stopped when given the same --workdir
"""


def main(argv: list[str]) -> None:
    """Resolves the config, trains it and its baselines, and prints what came out; without words it says how."""
    parser = Parser(
        "kdmlc_jax.main",
        "Train a small network from images whose labels are partly wrong, and correct the labels.",
        EPILOG,
    )
    parser.add_argument("--config", metavar="FILE.py[:a=1,b=2]", help="config file, such as configs/digits.py")
    parser.add_argument(
        "--workdir", metavar="DIR", help="where the run's files go (default: runs/<config's name>); alone: go on there"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress; the figures at the end, and errors, alone")
    parser.add_argument(
        "--fail-on", metavar="noise=0.1,flagged=500", help="end with status 5 where more labels are wrong, or flagged"
    )
    parser.add_argument(
        "--profile", action="store_true", help="train nothing: trace a few steps, print their ten dearest operations"
    )
    add_launch(parser)
    if not argv:
        print(parser.format_help())
        return
    flags, overrides = parse(parser, argv)
    allowed = limits.parse(flags.fail_on) if flags.fail_on is not None else {}
    config, workdir = resolve(flags.config, flags.workdir, overrides)
    config_lib.check(config)

    from kdmlc_jax import baselines, profiling

    start(flags)
    if flags.profile:
        print(profiling.profile(config, workdir).text())
        return
    summary = baselines.run(config, workdir, flags.quiet)
    limits.check(allowed, summary)


def resolve(spec: str | None, workdir: str | None, overrides: dict[str, str]) -> tuple[ConfigDict, pathlib.Path]:
    """The config and its folder; a folder that holds a run and no --config mean: go on with that run.

    Raises:
      UserError: where neither is given.
    """
    if spec is None:
        if not workdir or not files.exists(pathlib.Path(workdir) / "config.json"):
            there = f"{workdir} holds no run to go on with; " if workdir else ""
            raise UserError(f"--config is missing: {there}give a config file, such as configs/folder.py:dir=photos")
        config = config_lib.read(pathlib.Path(workdir) / "config.json")
        for field, value in overrides.items():
            config_lib.assign(config, field, value)
        return config, pathlib.Path(workdir)
    config = config_lib.load(spec, overrides)
    return config, pathlib.Path(workdir or f"runs/{config.name}")


def run(
    config: str | ConfigDict, workdir: str | pathlib.Path, overrides: Mapping[str, str] = {}, quiet: bool = False
) -> dict[str, Any]:
    """Trains one config, without its baselines, or goes on where `workdir` stopped: `kdmlc_jax.run`.

    Args:
      config: "configs/digits.py:rate=0.8", or what `kdmlc_jax.config.load` returns of that.
      workdir: where the run's files go.
      overrides: {"optim.lr": "0.05"}, in a config that is named.
      quiet: whether nothing is printed.

    Returns:
      What is in summary.json.

    Raises:
      UserError: a ValueError, for bad input; StorageError, NonFiniteError and StoppedError as `train.run`.
    """
    made = config_lib.load(config, overrides) if isinstance(config, str) else config
    config_lib.check(made)

    from kdmlc_jax import parallel, train

    parallel.keep_compiled()
    return train.run(made, workdir, quiet)


if __name__ == "__main__":
    guarded(main)
