"""What decoding may cost: scans, tiles, and bytes over all threads."""

import io
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image

from kdmlc_jax.data.images import decode as images
from kdmlc_jax.data.images.decode import BadImage
from kdmlc_jax.data.images.limits import Budget


def jpeg(scans):
    """A progressive JPEG, its last scan repeated."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(
        file, "JPEG", progressive=True
    )
    raw = file.getvalue()
    last = raw.rindex(b"\xff\xda")
    return raw[:-2] + raw[last:-2] * (scans - raw.count(b"\xff\xda")) + raw[-2:]


def test_scans(tmp_path):
    """Protects time from a JPEG of thousands of scans, each of which goes over the whole image."""
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(10))
    assert images.decode(path, 8, 3, 64.0).shape == (8, 8, 3)
    path.write_bytes(jpeg(3000))
    began = time.monotonic()
    for look in (lambda: images.decode(path, 8, 3, 64.0), lambda: images.inspect(path, 64.0)):
        with pytest.raises(BadImage, match="a JPEG of 3000 scans, expected 20 or fewer"):
            look()
    assert time.monotonic() - began < 1


def tiff(tile, compression=1):
    """A grey TIFF of 16 x 16 pixels in one tile of `tile` x `tile`."""
    tags = {256: 16, 257: 16, 258: 8, 259: compression, 262: 1, 277: 1, 322: tile, 323: tile, 324: 160, 325: 10}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(160, b"\0") + bytes(10)


@pytest.mark.parametrize("compression", [1, 5, 8])
def test_tiles(tmp_path, compression):
    """Protects memory from a tile of gigabytes for an image of nothing, whatever it is packed with."""
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(46_000, compression))
    with pytest.raises(BadImage, match="tiles of 46000 x 46000 pixels for an image of 16 x 16"):
        images.inspect(path, 64.0)


def test_budget():
    """Protects the sum over all threads: who finds too little left waits, and one that is too large goes alone."""
    budget, most, now, lock = Budget(10), [0], [0], threading.Lock()

    def work(size):
        with budget.taken(size):
            with lock:
                now[0] += min(size, 10)
                most[0] = max(most[0], now[0])
            time.sleep(0.005)
            with lock:
                now[0] -= min(size, 10)

    threads = [threading.Thread(target=work, args=(size,)) for size in [3, 4, 5, 100] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert 5 <= most[0] <= 10 and now == [0]


def test_a_large_honest_photo(tmp_path):
    """Protects honest data from the limits: 100 megapixels where data.max_megapixels allows them."""
    path = tmp_path / "x.png"
    Image.new("L", (10_000, 10_000), 7).save(path, compress_level=1)
    assert (images.decode(path, 8, 1, 100.0) == 7).all()
