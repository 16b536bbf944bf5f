"""Which row of an array file is which image's: by name where images have names, by number only where they have none."""

from pathlib import Path

import numpy as np
from jaxtyping import Int

from kdmlc_jax.data.formats.files import read_lines
from kdmlc_jax.errors import UserError, suggest
from kdmlc_jax.storage.files import exists


def read_names(path: Path) -> list[str]:
    """The lines of a file of names, two at least, none empty and none twice; raises UserError naming file and line."""
    lines = read_lines(path)
    first: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line:
            raise UserError(f"{path} line {number}: empty, expected a name")
        if line in first:
            raise UserError(f'{path} line {number}: "{line}" is in line {first[line]} already')
        first[line] = number
    if len(lines) < 2:
        raise UserError(f"{path}: {len(lines)} lines, expected at least 2")
    return lines


def name_rows(path: Path, rows: int, of: str) -> list[str]:
    """`read_names` of the `rows` rows of the file `of`."""
    names = read_names(path)
    if len(names) != rows:
        raise UserError(f"{path}: {len(names)} lines, expected {rows}, the rows of {of}")
    return names


def rows_of(
    path: Path, rows: int, images: int, ids: np.ndarray | None, named: str = "ids.txt"
) -> Int[np.ndarray, " N"]:
    """The row of each image in the array of `path`, a .npy file of `rows` rows.

    Args:
      path: of the array; the file `named` in its folder names its rows, a line each. It may have more than images.
      rows: of the array.
      images: N.
      ids: str[N], the images' own names; None = they are numbered, and so are the rows.

    Raises:
      UserError: naming the file, and the image that no row is of.
    """
    if ids is None:
        if rows != images:
            raise UserError(f"{path}: {rows} rows, expected {images}, one for each image in their order")
        return np.arange(images)
    names = path.with_name(named)
    if not exists(names):
        raise UserError(
            f'{names}: no such file; these images have names ("{ids[0]}"), and rows of {path.name} are told apart by '
            "theirs, expected a name a line"
        )
    at = {name: row for row, name in enumerate(name_rows(names, rows, path.name))}
    missing = [name for name in map(str, ids) if name not in at]
    if missing:
        raise UserError(f'{names}: no line for "{missing[0]}" ({len(missing)} such images){suggest(missing[0], at)}')
    return np.array([at[name] for name in map(str, ids)])
