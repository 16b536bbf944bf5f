"""Many image files at once: looked over, or read row by row as if they were an array."""

import functools
import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int, Shaped

from kdmlc_jax.data.images.decode import FULL, BadImage, Encoded, Header, Pixels, Source, decode, inspect, read_pixels
from kdmlc_jax.errors import UserError, is_failure, unreadable

# Files per task of the pool: a task costs about as much as a small image.
CHUNK = 32
LISTED = "`python -m kdmlc_jax.data.check` lists all such files, data.on_bad_image=skip leaves them out"

T = TypeVar("T")
LOGGER = logging.getLogger(__name__)


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

    Size 0 keeps the first file's, which all then have. `peak` is the largest value of the 16-bit images of the set, see
    `decode`. `known` are the `digests` of all rows, where they are known already; where these are `held` from another
    time, each row that is asked for is held to its own.

    Raises:
      UserError: where S = 0 and the first file is no image.
    """

    def __init__(
        self,
        paths: Sequence[Source],
        size: int,
        channels: int,
        max_megapixels: float | int,
        peak: int = FULL,
        known: np.ndarray | None = None,
        held: bool = False,
    ):
        """Reads no pixels."""
        self.paths = [path if isinstance(path, Encoded) else os.fspath(path) for path in paths]
        self.size, self.channels, self.max_megapixels, self.peak = size, channels, max_megapixels, peak
        self.known, self.held = known, held
        height = width = size
        if not size and self.paths:
            width, height = self._named(0, inspect, max_megapixels)[:2]
        self.shape = (len(self.paths), height, width, channels)
        self.dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of an index array or a slice, u8[n, H, W, K].

        Raises:
          UserError: naming the first file that is no image, or for S = 0 one of another size, or is not what it is
            `held` to.
        """
        index = np.arange(len(self))[rows]
        images = np.empty((len(index), *self.shape[1:]), np.uint8)
        if self.known is not None and self.held:
            other = np.flatnonzero(self._read(index) != self.known[index])
            if other.size:
                raise UserError(f"{self.paths[index[other[0]]]}: the image is another one than the run began with")

        def fill(position: int) -> None:
            images[position] = self._named(int(index[position]), self._decode)

        _map(fill, range(len(index)))
        return images

    def digests(self, rows: Any = slice(None)) -> Shaped[np.ndarray, " n"]:
        """A digest of each image's pixels (`decode.Pixels`), all decoded; UserError names the first that cannot be."""
        if self.known is not None:
            found: np.ndarray = self.known[rows]
            return found
        return self._read(np.arange(len(self))[rows])

    def held_to(self, known: Shaped[np.ndarray, " N"]) -> "ImageFiles":
        """The same files, their `digests` taken for `known`, to which each image is held when it is asked for."""
        return ImageFiles(self.paths, self.size, self.channels, self.max_megapixels, self.peak, known, held=True)

    def _read(self, index: np.ndarray) -> Shaped[np.ndarray, " n"]:
        read = _map(lambda row: self._named(row, read_pixels, self.max_megapixels).digest, index.tolist())
        return np.array([np.void(digest) for digest in read], "V16")

    def stamps(self) -> Int[np.ndarray, " n 2"]:
        """Size and time of change (ns) of each file; nothing is read. UserError names the first that is not there."""
        return np.array(_map(lambda row: self._named(row, _stamp), range(len(self))), np.int64).reshape(-1, 2)

    def _decode(self, path: Source) -> np.ndarray:
        pixels = decode(path, self.size, self.channels, self.max_megapixels, self.peak)
        if pixels.shape != self.shape[1:]:
            found, expected = pixels.shape[1::-1], self.shape[2:0:-1]
            raise BadImage(f"{found[0]} x {found[1]} pixels, expected {expected[0]} x {expected[1]} as the first image")
        return pixels

    def _named(self, row: int, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return function(self.paths[row], *arguments)
        except BadImage as error:
            raise UserError(f"{self.paths[row]}: {error}; {LISTED}") from error


class Survey(NamedTuple):
    """What `survey` has found."""

    headers: list[Header | None]  # None where the file is bad
    bad: list[tuple[int, str]]  # (index, reason)
    peaks: np.ndarray  # i64[N], the largest value of each 16-bit image, else 0
    digests: np.ndarray | None  # V16[N], of all pixels, where they were decoded


def _stamp(path: Source) -> tuple[int, int]:
    if isinstance(path, Encoded):  # hashed whole: it is in memory already
        return len(path.content), int.from_bytes(hashlib.blake2b(path.content, digest_size=7).digest(), "big")
    try:
        status = os.stat(path)
    except OSError as error:
        if is_failure(error):
            raise unreadable(error, path) from error
        raise BadImage(f"cannot be read ({error.strerror})") from error
    return status.st_size, status.st_mtime_ns


def survey(paths: Sequence[Source], max_megapixels: float | int, verify: bool) -> Survey:
    """Looks at every file, by all cores. With `verify`, or of 16 bits, each is decoded to the end."""

    def look(row: int) -> tuple[Header | None, str, Pixels]:
        try:
            header, pixels = inspect(paths[row], max_megapixels), Pixels(bytes(16), 0)
            return header, "", read_pixels(paths[row], max_megapixels) if verify or header.deep else pixels
        except BadImage as error:
            return None, str(error), Pixels(bytes(16), 0)

    LOGGER.info("%s %d images", "reading" if verify else "looking at", len(paths))
    found = _map(look, range(len(paths)))
    return Survey(
        [header for header, _, _ in found],
        [(row, reason) for row, (_, reason, _) in enumerate(found) if reason],
        np.array([pixels.peak for _, _, pixels in found], np.int64),
        np.array([np.void(pixels.digest) for _, _, pixels in found], "V16") if verify else None,
    )
