"""Images that occur more than once: which they are, and what that does to a split."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.data.splits import Splits


class Duplicates(NamedTuple):
    """Exact copies in a data set, counted."""

    extra: int  # training images beyond the first of each content
    conflicting: int  # contents that carry more than one given label
    left_out: int  # copies kept out of the noisy and validation parts, because the original is trusted or validation
    leaked: int  # training images whose content is in the test part as well
    leaked_used: int = 0  # those of them that are in a split all the same

    def notes(self) -> list[str]:
        """One warning where a result would mislead, none for a clean set."""
        if not any(self):
            return []
        return [
            f"warning: exact copies: {self.extra} training images repeat another, {self.conflicting} contents have "
            f"two labels, {self.left_out} left out because the original is trusted or validation, "
            f"{self.leaked} training images are also in the test part{self._done()}"
        ]

    def _done(self) -> str:
        """What was done with the last of these."""
        if not self.leaked:
            return ""
        if not self.leaked_used:
            return " and left out (data.test_copies=keep would use them)"
        return f", {self.leaked_used} of them used (data.test_copies=leave_out leaves them out)"


def digests(images: Images) -> Shaped[np.ndarray, " N"]:
    """V16[N], a hash of each image's pixels."""
    if not isinstance(images, np.ndarray):
        made: np.ndarray = images.digests()  # type: ignore[attr-defined]
        return made
    rows = (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
    return np.array([np.void(row) for row in rows], "V16")


def groups(parts: Sequence[np.ndarray]) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """i64[N] and i64[M]: equal numbers for equal `digests`, over the training and the test part (if any) together."""
    _, group = np.unique(np.concatenate(parts), return_inverse=True)
    return group[: len(parts[0])], group[len(parts[0]) :]


def stamps(images: Images) -> Shaped[np.ndarray, "..."]:
    """What changes with the images, where `digests` would cost too much: of images that stay in their files, size and
    time of each; of an array, the sum Σ_i w_i·x_i mod 2^64 of each row's 64-bit words x, with odd random weights w, so
    that no one word can change unnoticed."""
    if not isinstance(images, np.ndarray):
        made: np.ndarray = images.stamps()  # type: ignore[attr-defined]
        return made
    rows = np.ascontiguousarray(images).reshape(len(images), -1).view(np.uint8)
    if rows.shape[1] % 8:
        rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 8)))
    words = rows.view(np.uint64)
    weights = np.random.default_rng(0).integers(0, 2**63, words.shape[1], np.uint64) * 2 + 1
    summed: np.ndarray = words @ weights
    return summed


def digest(parts: Sequence[np.ndarray]) -> str:
    """One SHA-256 of what `digests` or `stamps` gave of each part."""
    return hashlib.sha256(b"".join(b"%d:" % len(part) + part.tobytes() for part in parts)).hexdigest()


def count(
    train: Int[np.ndarray, " N"], test: Int[np.ndarray, " M"], given_label: Int[np.ndarray, " N"], parts: Splits
) -> Duplicates:
    """Figures about the copies in a training set, split with the `groups` that `train` and `test` are."""
    distinct, first, group = np.unique(train, return_index=True, return_inverse=True)
    conflict = np.unique(group[given_label != given_label[first][group]])
    unused = np.ones(len(train), bool)
    unused[np.concatenate(parts)] = False
    left_out = unused & np.isin(train, train[np.concatenate([parts.trusted, parts.held_out, parts.validation])])
    leaked = np.isin(train, test)
    figures = (left_out & ~leaked, leaked, leaked & ~unused)
    return Duplicates(len(train) - len(distinct), len(conflict), *(int(rows.sum()) for rows in figures))
