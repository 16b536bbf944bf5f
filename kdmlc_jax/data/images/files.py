"""Many image files at once: looked over, or read row by row as if they were an array."""

import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from kdmlc_jax.data.images.decode import BadImage, Header, decode, inspect, regular
from kdmlc_jax.errors import UserError

# Files per task of the pool: a task costs about as much as a small image.
CHUNK = 32
LISTED = "`python -m kdmlc_jax.data.check` lists all such files, data.on_bad_image=skip leaves them out"

T = TypeVar("T")


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """The threads that every caller shares; Pillow decodes without the interpreter's lock."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="kdmlc-images")


# Threads do not survive a fork; a pool that lost them would wait for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


def _map(function: Callable[[int], T], rows: Sequence[int]) -> list[T]:
    """[function(row)] by the pool; of several errors the first row's is raised."""
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    parts = _pool().map(lambda chunk: [function(row) for row in chunk], chunks)
    return [value for part in parts for value in part]


class ImageFiles:
    """Image files as a lazy u8[N, H, W, K]; rows are decoded when asked for, by all cores, as `decode` does.

    Size 0 keeps the first file's, which all then have.

    Raises:
      UserError: where S = 0 and the first file is no image.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], size: int, channels: int, max_megapixels: float | int):
        """Reads no pixels."""
        self.paths = [os.fspath(path) for path in paths]
        self.size, self.channels, self.max_megapixels = size, channels, max_megapixels
        height = width = size
        if not size and self.paths:
            width, height, _ = self._named(0, inspect, max_megapixels)
        self.shape = (len(self.paths), height, width, channels)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of an index array or a slice, u8[n, H, W, K].

        Raises:
          UserError: naming the first file that is no image, or for S = 0 one of another size.
        """
        index = np.arange(len(self))[rows]
        images = np.empty((len(index), *self.shape[1:]), np.uint8)

        def fill(position: int) -> None:
            images[position] = self._named(int(index[position]), self._decode)

        _map(fill, range(len(index)))
        return images

    def digests(self, rows: Any = slice(None)) -> Shaped[np.ndarray, " n"]:
        """A BLAKE2b digest of each file's bytes; nothing is decoded. UserError names the first that cannot be read."""
        index = np.arange(len(self))[rows]
        found = _map(lambda row: self._named(row, _digest), index.tolist())
        return np.array([np.void(digest) for digest in found], "V16")

    def stamps(self) -> Int[np.ndarray, " n 2"]:
        """Size and time of change (ns) of each file; nothing is read. UserError names the first that is not there."""
        return np.array(_map(lambda row: self._named(row, _stamp), range(len(self))), np.int64).reshape(-1, 2)

    def _decode(self, path: str) -> np.ndarray:
        pixels = decode(path, self.size, self.channels, self.max_megapixels)
        if pixels.shape != self.shape[1:]:
            found, expected = pixels.shape[1::-1], self.shape[2:0:-1]
            raise BadImage(f"{found[0]} x {found[1]} pixels, expected {expected[0]} x {expected[1]} as the first image")
        return pixels

    def _named(self, row: int, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(self.paths[row], *arguments)
        except BadImage as error:
            raise UserError(f"{self.paths[row]}: {error}; {LISTED}") from error


def _digest(path: str) -> bytes:
    with regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadImage(f"cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def survey(
    paths: Sequence[str | os.PathLike[str]], max_megapixels: float | int, verify: bool
) -> tuple[list[Header | None], list[tuple[int, str]]]:
    """Looks at every file, by all cores: its header, None where it is bad; and (index, reason) of each bad one.

    With `verify` each is decoded to the end.
    """

    def look(row: int) -> tuple[Header | None, str]:
        try:
            if verify:
                decode(paths[row], 0, 3, max_megapixels)
            return inspect(paths[row], max_megapixels), ""
        except BadImage as error:
            return None, str(error)

    found = _map(look, range(len(paths)))
    return [header for header, _ in found], [(row, reason) for row, (_, reason) in enumerate(found) if reason]
