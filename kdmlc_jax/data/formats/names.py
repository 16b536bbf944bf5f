"""Images that a manifest names by less than their path: `0017` of train/0017.jpg."""

import posixpath
from collections.abc import Sequence
from pathlib import Path

from kdmlc_jax.data.formats.extensions import is_hidden, is_image
from kdmlc_jax.data.formats.listing import check_name
from kdmlc_jax.data.formats.tables import Places
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files

TRIED = 20  # names that all have to be no files as they stand


def paths(place: Places, root: Path, names: Sequence[str], column: str, unsure: bool) -> tuple[list[str], list[str]]:
    """`names` as paths below `root`, and notes on how they were found.

    They stand as they are where one of the first TRIED is a file. Else each is the one image below `root` of that path
    but for its ending, or with that name in its folder, with its ending or without.

    Args:
      place: where the names stand, for messages.
      root: the folder of the images.
      names: of images, '' where nothing is said.
      column: that they stand in; where it is `unsure` that it holds paths, it has to hold names of images.

    Raises:
      UserError: for a name that two images have, and an `unsure` column without the name of an image.
    """
    tried = [row for row, name in enumerate(names) if name][:TRIED]
    for row in tried:
        check_name(names[row], place.at(row))
    some = [names[row] for row in tried]
    if not some or any(files.exists(root / name) for name in some):
        return [*names], []
    known: dict[str, list[str]] = {}
    for path in _images(root):
        ways = {path, posixpath.basename(path)}
        for way in ways | {posixpath.splitext(way)[0] for way in ways}:
            known.setdefault(way, []).append(path)
    found, notes = [*names], list[str]()
    for row, name in enumerate(names):
        there = known.get(name, [])
        if len(there) > 1:
            raise UserError(f'{place.at(row)}: "{name}" may be {there[0]} or {there[1]}, expected a path')
        if there:
            found[row] = there[0]
            notes = notes or [f'column "{column}" has names of images: "{name}" is {there[0]}']
    if unsure and not notes:
        raise UserError(
            f'{place}: no column "path": "{column}" names no image below {root} ("{some[0]}"), expected paths or names '
            "of images; data.path_column=<name> reads another"
        )
    return found, notes


def _images(root: Path) -> list[str]:
    """Paths of the image files below `root`, but hidden ones."""
    inside = [path.relative_to(root) for path in files.below(root) if is_image(path.name)]
    return [path.as_posix() for path in inside if not any(map(is_hidden, path.parts))]
