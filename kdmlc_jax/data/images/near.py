"""Images that are nearly others, re-encoded or resized: perceptual hashes, compared again as small pictures."""

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8
from PIL import Image

from kdmlc_jax.data.images import copies
from kdmlc_jax.data.sources.base import Images

if TYPE_CHECKING:
    from kdmlc_jax.data.dataset import Dataset

SIDE = 16  # pixels of the small pictures, 256 bytes an image
BANDS = 8  # hashes that differ in fewer bits than this have one of so many bytes in common
CHUNK = 1024  # images at once
MOST = 100_000  # pairs that are looked for


def is_known() -> bool:
    """Whether the library for hashes (`imagehash`, the extra `copies`) is installed."""
    return importlib.util.find_spec("imagehash") is not None


def describe(images: Images) -> tuple[Shaped[np.ndarray, " N"], UInt8[np.ndarray, "N P"]]:
    """The pHash u64[N] of images u8[N, H, W, K], and their grey pictures of SIDE x SIDE pixels."""
    import imagehash

    hashes, small = np.empty(len(images), np.uint64), np.empty((len(images), SIDE * SIDE), np.uint8)
    for start in range(0, len(images), CHUNK):
        for row, pixels in enumerate(images[start : start + CHUNK], start):
            image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("L")
            hashes[row] = int(str(imagehash.phash(image)), 16)
            small[row] = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()
    return hashes, small


def pairs(hashes: Shaped[np.ndarray, " N"], small: UInt8[np.ndarray, "N P"]) -> Int[np.ndarray, "M 2"]:
    """The pairs (i, j), i < j, that look alike: fewer than BANDS bits of their hashes differ, and

    mean |a - b| <= 2 + std(a) / 10 of their pictures a, b. The first MOST of them; memory is O(N).
    """
    found: list[np.ndarray] = []
    count = 0
    for some in _candidates(hashes):
        first, second = small[some[:, 0]].astype(np.float32), small[some[:, 1]].astype(np.float32)
        alike = np.abs(first - second).mean(axis=1) <= 2 + first.std(axis=1) / 10
        found.append(some[alike & (first.std(axis=1) > 2)])  # of blank images nobody can tell
        count += len(found[-1])
        if count >= MOST:
            break
    every = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return np.unique(every, axis=0)[:MOST]


def misleading(dataset: "Dataset") -> dict[str, Int[np.ndarray, "M 2"]]:
    """The pairs of near-copies, exact ones left out, that mislead whoever trains on `dataset`, by what they are.

    Rows from the number of training images on are of the test part. All images are read.
    """
    parts = [part for part in (dataset.images, dataset.test_images) if part is not None]
    hashes, small = (np.concatenate(each) for each in zip(*(describe(part) for part in parts), strict=True))
    found = pairs(hashes, small)
    exact = np.concatenate(dataset.copies or [copies.digests(part) for part in parts])
    found = found[exact[found[:, 0]] != exact[found[:, 1]]]
    role = np.full(len(hashes), "unused", object)
    role[len(dataset.images) :] = "test"
    for name, rows in dataset.splits._asdict().items():
        role[rows] = "trusted" if name == "held_out" else name
    labels = np.concatenate([dataset.given_label, dataset.test_label])
    one, other = role[found[:, 0]], role[found[:, 1]]
    learnt = ("noisy", "trusted", "validation")
    seen = np.isin(one, learnt)
    kinds = {
        "a test and a training image": (other == "test") & seen,
        "a trusted or validation image and one of another part": seen & np.isin(other, learnt) & (one != other),
        "two training images with different labels": (one == "noisy")
        & (other == "noisy")
        & (labels[found[:, 0]] != labels[found[:, 1]]),
    }
    return {kind: found[rows] for kind, rows in kinds.items()}


def _candidates(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of hashes with an equal byte that differ in fewer than BANDS bits, CHUNK x CHUNK at most at once."""
    for band in range(BANDS):
        key = (hashes >> np.uint64(8 * band)) & np.uint64(0xFF)
        order = np.argsort(key, kind="stable")
        edges = np.flatnonzero(np.diff(key[order])) + 1
        for rows in np.split(order, edges):
            for left in range(0, len(rows), CHUNK) if len(rows) > 1 else ():
                for right in range(left, len(rows), CHUNK):
                    one, other = rows[left : left + CHUNK], rows[right : right + CHUNK]
                    i, j = np.nonzero(_near(hashes[one], hashes[other]))
                    together = np.stack([one[i], other[j]], axis=1)
                    together.sort(axis=1)
                    yield together[together[:, 0] < together[:, 1]]


def _near(one: np.ndarray, other: np.ndarray) -> Bool[np.ndarray, "n m"]:
    near: np.ndarray = np.bitwise_count(one[:, None] ^ other[None]) < BANDS
    return near
