"""CIFAR-10 in the binary version."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax.data.sources.base import Part, Source, checked_labels
from kdmlc_jax.data.sources.files import directory, read_bytes
from kdmlc_jax.errors import UserError

RECORD = 1 + 3 * 32 * 32


def read(data: ConfigDict) -> Source:
    """u8[N, 32, 32, 3] and labels 0 to 9."""
    path = directory(data, "cifar-10-batches-bin")
    parts = [_batch(path / f"data_batch_{number}.bin") for number in range(1, 6)]
    train = Part(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))
    return Source(data.source, _names(path / "batches.meta.txt"), train, _batch(path / "test_batch.bin"))


def _batch(path: Path) -> Part:
    raw = np.frombuffer(read_bytes(path), np.uint8)
    if raw.size == 0 or raw.size % RECORD:
        raise UserError(f"{path}: {raw.size} bytes, expected a multiple of {RECORD} (1 label + 3072 pixels)")
    records = raw.reshape(-1, RECORD)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Part(np.ascontiguousarray(images), checked_labels(records[:, 0], 10, path))


def _names(path: Path) -> tuple[str, ...]:
    names = tuple(read_bytes(path).decode("utf-8", "replace").split())
    if len(names) != 10:
        raise UserError(f"{path}: {len(names)} class names, expected 10")
    return names
