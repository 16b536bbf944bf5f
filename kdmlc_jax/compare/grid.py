"""The cells of a comparison: a config, a folder and the method's words for each run, all on the same images."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib
from kdmlc_jax.config.words import join, short, slug
from kdmlc_jax.errors import UserError

SEED = "{seed}"
# What else a method may know of the same images, and how their pixels are scaled.
MAY_DIFFER = ("data.labels", "data.features", "data.mean", "data.std")


class Cell(NamedTuple):
    """One run of a comparison."""

    config: ConfigDict
    folder: pathlib.Path  # below the comparison's
    arguments: str  # 'method=ce,train_on=noisy', as `words.expand` writes them

    @property
    def data(self) -> str:
        """The config's name and arguments, which the rows of one table may differ in."""
        return self.folder.parts[0]


def cell_folder(spec: str, arguments: str, seed: int) -> pathlib.Path:
    """Where a cell's run lies below the comparison's folder."""
    path, _, given = spec.partition(":")
    data = slug(f"{pathlib.Path(path).stem},{given}".strip(","))
    return pathlib.Path(data) / slug(short(arguments)) / f"seed{seed}"


def cells_of(
    specs: Sequence[str], arguments: Sequence[str], seeds: Sequence[int], overrides: Mapping[str, str]
) -> list[Cell]:
    """Every run of a comparison.

    Args:
      specs: configs, 'file.py:a=1'.
      arguments: of the methods, as `words.expand` writes them; SEED in them stands for the seed, so that each run may
        start from another one's folder.
      seeds: one run each.
      overrides: {"optim.lr": "0.1"}, of all runs.

    Raises:
      UserError: where two runs are the same one, or as `check_same_data`.
    """
    from kdmlc_jax import warm_start  # imports JAX

    for field in overrides:
        if field == "seed" or field.startswith("method."):
            raise UserError(f"--config.{field}: would make every cell alike, give it by --seeds or --methods")
    cells = [
        Cell(
            warm_start.seen(config_lib.load(join(spec, f"{words.replace(SEED, str(seed))},seed={seed}"), overrides)),
            cell_folder(spec, words, seed),
            words,
        )
        for spec in specs
        for words in arguments
        for seed in seeds
    ]
    check_same_data(cells)
    folders = [cell.folder for cell in cells]
    if doubles := {str(folder) for folder in folders if folders.count(folder) > 1}:
        raise UserError(f"--methods, --config: {', '.join(sorted(doubles))} is named twice; a cell counts once")
    return cells


def check_same_data(cells: Sequence[Cell]) -> None:
    """Raises UserError where two cells of the same config and seed would see other images."""
    first: dict[tuple, Cell] = {}
    for cell in cells:
        other = first.setdefault((cell.data, cell.config.seed), cell)
        was = config_lib.flatten(other.config)
        for field, value in config_lib.flatten(cell.config).items():
            if field.startswith(("data.", "noise.")) and field not in MAY_DIFFER and value != was[field]:
                raise UserError(
                    f"{cell.data}: {cell.arguments}: {field}={value!r}, but {was[field]!r} in {other.data}: "
                    f"{other.arguments}; give it in --config, so that all rows are of the same images"
                )
