"""The data of one run."""

import hashlib
from typing import NamedTuple

import numpy as np

from kdmlc_jax.data.images.copies import Duplicates
from kdmlc_jax.data.provenance import Provenance, fingerprint, sha256
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.shapes import Seen


class Dataset(NamedTuple):
    """The data of one run, on the host. `truth` is for metrics only and never reaches a method."""

    name: str
    class_names: tuple[str, ...]
    images: Images  # u8[N, H, W, K], or features f32[N, 1, 1, D]
    given_label: np.ndarray  # i32[N], what the methods learn from; the true label on trusted images
    carried_label: np.ndarray  # i32[N], before the trusted ones were checked, -1 where there was none
    trusted_given: np.ndarray  # i32[N], what methods may see of it on trusted images, -1 elsewhere
    truth: np.ndarray  # i32[N], -1 where unknown
    splits: Splits
    test_images: Images | None  # u8[M, H, W, K]
    test_label: np.ndarray  # i32[M]
    rate: float | None  # realised share of wrong labels in the noisy split, where the truth is known
    matrix: np.ndarray | None  # f64[C, C], realised transition matrix there
    ids: np.ndarray  # str[N] or i64[N], the name of each image
    skipped: tuple[tuple[str, str], ...] = ()  # (name, reason) of unreadable images
    notes: tuple[str, ...] = ()  # what a person should know, a line each
    duplicates: Duplicates | None = None  # None where they were not looked for
    soft_label: np.ndarray | None = None  # f32[noisy, C] where `data.labels` has replaced the noisy images' labels
    first_label: np.ndarray | None = None  # i32[N], given_label before that
    features: np.ndarray | None = None  # f32[N, D] of `data.features`
    shows_features: bool = False  # whether some network sees them, beside others that see the images
    test_features: np.ndarray | None = None  # f32[M, D], where that is so
    scale: tuple[np.ndarray, np.ndarray] | None = None  # mean and std f32[K] of `data`; None = the images' own
    side: int = 0  # what images were scaled to, see `images.decode.decode`; 0 = they came in their size
    # i64[N] and i64[M], equal numbers for images of equal content, see `images.copies.groups`
    copies: tuple[np.ndarray, np.ndarray] | None = None
    pixels: str | None = None  # digest of all images' contents, see `images.copies.digest`
    contents: np.ndarray | None = None  # V16[N + M], the digest of each image of both parts, of those in files

    @property
    def reported_label(self) -> np.ndarray:
        """i32[N], the labels that a person knows as given: those before `data.labels` replaced any."""
        return self.given_label if self.first_label is None else self.first_label

    def classes_without(self, rows: np.ndarray) -> list[str]:
        """The classes that no image of `rows` i64[n] is given as."""
        there = set(self.given_label[rows].tolist())
        return [name for number, name in enumerate(self.class_names) if number not in there]

    @property
    def inputs(self) -> Images | Seen:
        """What networks are shown: images, with their features where some network sees those."""
        if self.features is None or not self.shows_features:
            return self.images
        return Seen(self.images, self.features[:, None, None, :])

    @property
    def test_inputs(self) -> Images | Seen | None:
        """As `inputs`, of the test images."""
        if self.test_images is None or self.test_features is None:
            return self.test_images
        return Seen(self.test_images, self.test_features[:, None, None, :])

    @property
    def said(self) -> list[str]:
        """The notes that a run prints before it trains; `data.check` prints all."""
        return [note for note in self.notes if note.startswith(("warning", "noise.", "data."))]

    def provenance(self) -> Provenance:
        """What a run keeps of its data."""
        images = fingerprint(self.ids, self.class_names)
        digest, told = hashlib.sha256(), (self.soft_label, self.features, self.test_features)
        learned = [rows for rows in told if rows is not None]
        for rows in learned:
            digest.update(np.ascontiguousarray(rows).data)
        known = digest.hexdigest() if learned else ""
        given = self.reported_label
        measured = sha256(self.truth, self.test_label)
        kept = self.splits, given, self.rate, self.matrix, self.carried_label, images, known
        return Provenance(*kept, self.pixels, measured, self.contents)
