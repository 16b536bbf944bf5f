"""Near-copies: found when re-encoded or resized, in bounded memory, and told by `data.check`."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from kdmlc_jax.data import check
from kdmlc_jax.data.images import near

pytest.importorskip("imagehash")


def scene(rng):
    """A smooth random picture of 64 x 64 pixels."""
    small = rng.integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((64, 64), Image.Resampling.BICUBIC)


def test_copies_are_found_and_others_are_not():
    """Protects the test part from re-encoded and resized training images, others from being taken for such."""
    rng = np.random.default_rng(0)
    originals = [scene(rng) for _ in range(200)]
    file = io.BytesIO()
    originals[3].save(file, "JPEG", quality=40)
    shrunk = originals[7].resize((40, 40)).resize((64, 64))
    images = np.stack([np.asarray(image) for image in [*originals, Image.open(file), shrunk]])
    assert near.pairs(*near.describe(images)).tolist() == [[3, 200], [7, 201]]
    blank = np.zeros((50, 64, 64, 1), np.uint8)
    assert len(near.pairs(*near.describe(blank))) == 0


def test_memory_is_bounded():
    """Protects large sets, and those whose images are all alike: no table of all pairs."""
    hashes = np.random.default_rng(0).integers(0, 2**63, 50_000).astype(np.uint64)
    small = np.zeros((50_000, 4), np.uint8)
    tracemalloc.start()
    assert len(near.pairs(hashes, small)) == 0
    hashes[:20_000] = 5
    small[:, 0] = 200
    assert len(near.pairs(hashes, small)) == near.MOST
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_the_check_tells(tmp_path, capsys):
    """Protects who looks first: near-copies across parts, and within training where labels differ, are named."""
    rng = np.random.default_rng(1)
    for name in ("train", "test"):
        for label in ("cat", "dog"):
            (tmp_path / name / label).mkdir(parents=True)
    (tmp_path / "trusted" / "cat").mkdir(parents=True)
    for row in range(20):
        scene(rng).save(tmp_path / "train" / ("cat", "dog")[row % 2] / f"{row}.png")
    for row in range(4):
        scene(rng).save(tmp_path / "test" / ("cat", "dog")[row % 2] / f"{row}.png")
    first = Image.open(tmp_path / "train/cat/0.png")
    first.save(tmp_path / "test/cat/copy.jpg")
    first.save(tmp_path / "train/dog/other.jpg", quality=50)
    Image.open(tmp_path / "train/dog/1.png").resize((50, 50)).save(tmp_path / "trusted/cat/x.png")
    flags = [
        "--config.train.batch_size=4",
        "--config.train.trusted_batch_size=1",
        "--config.data.held_out=0",
        "--config.data.validation=0",
    ]
    check.main(["--config", f"configs/folder.py:dir={tmp_path},method=ce,teacher=mlp4,student=mlp4", *flags])
    out = capsys.readouterr().out
    assert "pairs of a test and a training image, e.g. train/cat/0.png and test/cat/copy.jpg" in out
    assert "1 pairs of a trusted or validation image and one of another part, e.g. train/dog/1.png and trusted" in out
    assert "1 pairs of two training images with different labels, e.g. train/cat/0.png and train/dog/other.jpg" in out
