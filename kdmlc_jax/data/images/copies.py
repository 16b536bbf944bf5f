"""Images that occur more than once: which they are, and what that does to a split."""

import hashlib
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


def groups(images: Images, test_images: Images | None) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"]]:
    """i64[N] and i64[M]: equal numbers for equal content, over both parts together."""
    both = [digests(part) for part in (images, test_images) if part is not None]
    _, group = np.unique(np.concatenate(both), return_inverse=True)
    return group[: len(images)], group[len(images) :]


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
