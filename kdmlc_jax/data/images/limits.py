"""What decoding an image may cost: scans, tiles, memory over all threads; asked before any pixel is made."""

import contextlib
import io
import math
import threading
from collections.abc import Iterator

from PIL import Image

from kdmlc_jax.data.images.recognise import BadImage

MAX_BYTES = 1 << 30  # of a file: 100 megapixels of 16 bits and 3 channels, not packed, have 600 MB
TILE = (256, 322, 323)  # TIFF's tags: width of the image, width and length of a tile
ROOM = 4.0  # megapixels that tiles may have beyond data.max_megapixels, which may be small
# A scan of a JPEG goes over the whole image. Progressive ones have 10 as libjpeg writes them, 20 at most as others do.
FEW_SCANS, MAX_SCANS, SCANNED = 20, 100, 400.0  # the last: megapixels over all scans, where there are more than few
START_OF_SCAN = b"\xff\xda"
# Bytes a pixel while one is decoded and converted: Pillow's four a pixel, twice to composite, an array, its copy.
PIXEL = 16
BUDGET = 2 << 30  # bytes that images in decoding may take together: 14 photos of 9 megapixels at once


def check(image: Image.Image, file: io.BufferedReader | io.BytesIO, max_megapixels: float) -> None:
    """Raises BadImage for a file whose decoding would cost out of proportion to its pixels."""
    size = file.seek(0, 2)
    if size > MAX_BYTES:
        raise BadImage(f"{size} bytes, expected at most {MAX_BYTES}")
    if image.format == "JPEG":
        _check_scans(image, file)
    if image.format == "TIFF":
        _check_tiles(image, max_megapixels)


def _check_scans(image: Image.Image, file: io.BufferedReader | io.BytesIO) -> None:
    megapixels = image.width * image.height / 1e6
    file.seek(0)
    scans, last = 0, b""
    while piece := file.read(1 << 20):
        scans += (last + piece).count(START_OF_SCAN)  # within a scan 0xff is always followed by 0
        last = piece[-1:]
    if scans > MAX_SCANS or (scans > FEW_SCANS and scans * megapixels > SCANNED):
        raise BadImage(f"a JPEG of {scans} scans, expected {FEW_SCANS} or fewer for {megapixels:.3g} megapixels")


def _check_tiles(image: Image.Image, max_megapixels: float) -> None:
    """A tile is decoded whole, however little of it the image needs."""
    tags = getattr(image, "tag_v2", {})
    _, width, height = (tags.get(tag, 0) for tag in TILE)
    if not (width or height):
        return
    if not all(isinstance(side, int) and side > 0 for side in (width, height)):
        raise BadImage(f"tiles of {width} x {height}, expected whole numbers of pixels")
    count = math.ceil(image.width / width) * math.ceil(image.height / height)
    megapixels = count * width * height / 1e6
    if megapixels > max(4 * max_megapixels, ROOM) or width * height / 1e6 > max(max_megapixels, ROOM):
        raise BadImage(f"tiles of {width} x {height} pixels for an image of {image.width} x {image.height}")


class Budget:
    """Bytes that several threads share: who asks for more than is left waits, who asks for more than all is alone."""

    def __init__(self, total: int):
        self._total, self._used, self._changed = total, 0, threading.Condition()

    @contextlib.contextmanager
    def taken(self, size: int) -> Iterator[None]:
        """Within, `size` bytes are this thread's."""
        size = min(size, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= self._total)
            self._used += size
        try:
            yield
        finally:
            with self._changed:
                self._used -= size
                self._changed.notify_all()


MEMORY = Budget(BUDGET)
