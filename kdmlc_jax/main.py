"""Trains one method: `python -m kdmlc_jax.main --config configs/digits.py --workdir runs/digits`.

Flags only; everything heavy is imported after they are understood.
"""

import argparse
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax.cli import EXITS, add_launch, guarded, parse, start

EPILOG = f"""any field of the config can be set:  --config.optim.lr=0.05 --config.method.kd_weight=0.5
arguments in the config's name set the usual ones:  --config configs/digits.py:preset=paper,rate=0.8,seed=1
a run that was cut goes on where it stopped when given the same --workdir
{EXITS}"""


def main(argv: list[str]) -> None:
    """Resolves the config, trains it and its baselines, and prints what came out."""
    parser = argparse.ArgumentParser(
        "python -m kdmlc_jax.main",
        description="Train a small network from images whose labels are partly wrong, and correct the labels.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE.py[:a=1,b=2]", help="config file (default: configs/digits.py)")
    parser.add_argument("--workdir", metavar="DIR", help="where the run's files go (default: runs/<config's name>)")
    add_launch(parser)
    flags, overrides = parse(parser, argv)
    config, workdir = resolve(flags.config, flags.workdir, overrides)
    config_lib.check(config)

    from kdmlc_jax import baselines

    start(flags)
    baselines.run(config, workdir)


def resolve(spec: str | None, workdir: str | None, overrides: dict[str, str]) -> tuple[ConfigDict, pathlib.Path]:
    """The config and its folder; a folder that holds a run and no --config mean: go on with that run."""
    if spec is None and workdir and (pathlib.Path(workdir) / "config.json").exists():
        config = config_lib.read(pathlib.Path(workdir) / "config.json")
        for field, value in overrides.items():
            config_lib.assign(config, field, value)
        return config, pathlib.Path(workdir)
    config = config_lib.load(spec or "configs/digits.py", overrides)
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
