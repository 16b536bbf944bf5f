"""A small folder of photographs: 8 x 8 grey PNGs of three classes that a network can tell apart."""

import pathlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "owl")


def make(folder: pathlib.Path, seed: int = 0, **counts: int) -> pathlib.Path:
    """Writes so many images of each role, classes in turn: make(folder, train=45, trusted=15); returns `folder`."""
    rng = np.random.default_rng(seed)
    for role, count in counts.items():
        for number in range(count):
            label = number % len(CLASSES)
            path = folder / role / CLASSES[label] / f"{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(80 * label, 80 * label + 90, (8, 8)).astype(np.uint8)).save(path)
    return folder


def truncate(path: pathlib.Path) -> None:
    """Cuts an image file in half, as a broken download leaves it."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def listing(folder: pathlib.Path) -> Mapping[str, tuple[int, int]]:
    """Size and time of change of everything below `folder`."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}
