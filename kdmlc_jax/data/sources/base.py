"""What every source yields: images with the labels they came with, under stable names."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Images(Protocol):
    """Images by row: an array, or something that reads rows only when asked (`images.files.ImageFiles`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, K)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """uint8 for images, float32 for features."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> np.ndarray:
        """The images of an index array or a slice, [n, H, W, K]."""
        ...


class Part(NamedTuple):
    """Images of one part of a data set; row i keeps the stable index i in every run."""

    images: Images  # u8[N, H, W, K], or features f32[N, 1, 1, D]
    labels: np.ndarray  # i32[N], as the source gives them; -1 = none, where `truth` has one
    truth: np.ndarray | None = None  # i32[N], hidden true labels, -1 where unknown; None = `labels` are all there is
    ids: np.ndarray | None = None  # str[N], the images' own names; None = 0 … N-1


class Source(NamedTuple):
    """One data set."""

    name: str
    class_names: tuple[str, ...]
    train: Part
    test: Part | None = None
    trusted: np.ndarray | None = None  # i64[], training rows that the source itself names as trusted
    validation: np.ndarray | None = None  # i64[], … as validation images
    skipped: tuple[tuple[str, str], ...] = ()  # (name, reason) of each unreadable image left out
    notes: tuple[str, ...] = ()  # what a person should know, a line each
