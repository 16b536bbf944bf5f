"""Image files from anywhere to uint8 arrays: nothing in a file is believed before it is checked.

PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM and AVIF, HEIC where pillow-heif is installed; of several frames the first.
Pillow's own limit on pixels, a warning, plays no part: files are opened by the format's own reader, and
`max_megapixels` is compared with the header.
"""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from kdmlc_jax.data.images import limits
from kdmlc_jax.data.images.recognise import BadImage, recognise
from kdmlc_jax.errors import StorageError, is_failure, unreadable
from kdmlc_jax.storage import door

GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
FULL = 65535  # the largest value of 16 bits
ORIENTATION = 0x0112  # the EXIF tag, and what undoes its values
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """What a file says before its pixels are decoded, the right way up."""

    width: int  # pixels
    height: int
    grey: bool  # by its mode; a colour image of equal channels is not
    deep: bool = False  # of 16 bits


class Encoded(NamedTuple):
    """An image file that lies in another, already in memory."""

    name: str  # for messages
    content: bytes

    def __str__(self) -> str:
        return self.name


Source = str | os.PathLike[str] | Encoded


class Pixels(NamedTuple):
    """What all pixels of an image say."""

    digest: bytes  # BLAKE2b-128 of size and pixels, whatever format and metadata they are stored with
    peak: int  # the largest value of one of 16 bits, else 0


def inspect(source: Source, max_megapixels: float | int) -> Header:
    """The header of an image file, which may claim so many pixels at most.

    Raises:
      BadImage: for what is no readable file, no image of `recognise.FORMATS`, of an unusable pixel mode, or too large.
    """
    with _opened(source, max_megapixels, decoded=False) as image:
        width, height = image.size
        # Transposed: 5 to 8.
        sides = (height, width) if _orientation(image) >= 5 else (width, height)
        return Header(*sides, image.mode in GREY_MODES, _is_deep(image))


def read_pixels(source: Source, max_megapixels: float | int) -> Pixels:
    """Decodes an image to its end, as RGB of its own size, upright; 16-bit grey keeps its values.

    Raises:
      BadImage: as `decode`.
    """
    with _opened(source, max_megapixels) as image:
        orientation, deep = _orientation(image), _is_deep(image)
        if deep and image.mode.startswith("I"):
            pixels = _sixteen_bit(image)
            peak = int(pixels.max())
            if orientation in UPRIGHT:
                pixels = np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))
        else:
            upright = _eight_bit(image, FULL)
            if orientation in UPRIGHT:
                upright = upright.transpose(UPRIGHT[orientation])
            pixels = np.asarray(upright.convert("RGB"))
            peak = max(257 * int(pixels.max()), 1) if deep else 0
        digest = hashlib.blake2b(repr((pixels.shape[:2], pixels.dtype.str)).encode(), digest_size=16)
        digest.update(pixels.tobytes())
        return Pixels(digest.digest(), peak)


def decode(
    source: Source | io.BytesIO, size: int, channels: int, max_megapixels: float | int, peak: int | None = None
) -> UInt8[np.ndarray, "H W K"]:
    """The pixels of an image file, or of one already in memory, upright.

    Modes: grey stays grey; transparency (alpha, palette or key colour) is composited over white; palette, CMYK and
    YCbCr become RGB; 16-bit grey v becomes round(255 v / (2^b - 1)), where b bits are what `peak`, the largest value of
    a data set, needs (None = of this image), 16-bit colour the same of its upper byte, 1-bit 0 and 255; floats and
    32-bit values are refused. Grey of a colour is ITU-R 601 luma, .299 R + .587 G + .114 B.

    Size S > 0: the largest centred square is scaled to S x S, bicubic and antialiased; the same as scaling the
    shorter side to S and cropping the centre. Of large files a reduced version of at least 2S is decoded first.

    S = 0 keeps the size. K = 1 is luma, 3 RGB (grey repeated).

    Raises:
      BadImage: as `inspect`, and for files that are damaged or cut off.
    """
    with _opened(source, max_megapixels) as image:
        orientation = _orientation(image)
        if size:
            image.draft(None, (2 * size, 2 * size))
        upright = _eight_bit(image, peak)
        if orientation in UPRIGHT:
            upright = upright.transpose(UPRIGHT[orientation])
        return _fitted(upright, size, channels)


def fitted(pixels: UInt8[np.ndarray, "h w k"], size: int, channels: int) -> UInt8[np.ndarray, "H W K"]:
    """`decode` of pixels that somebody else has decoded, of one or three channels."""
    return _fitted(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels), size, channels)


def _fitted(image: Image.Image, size: int, channels: int) -> UInt8[np.ndarray, "H W K"]:
    scaled = _centre(image, size) if size else image
    pixels = np.asarray(scaled.convert("L" if channels == 1 else "RGB"))
    return pixels.reshape(*pixels.shape[:2], channels)


@contextmanager
def _opened(source: Source | io.BytesIO, max_megapixels: float, decoded: bool = True) -> Iterator[Image.Image]:
    """The image with its header read and checked, to be `decoded` or not; what Pillow raises becomes BadImage."""
    _quiet()
    if isinstance(source, Encoded):
        if not source.content:
            raise BadImage("empty file")
        source = io.BytesIO(source.content)
    try:
        with nullcontext(source) if isinstance(source, io.BytesIO) else regular(source) as file:
            image = recognise(file)
            _check(image, max_megapixels)
            limits.check(image, file, max_megapixels)
            if not decoded:
                yield image
                return
            with limits.MEMORY.taken(limits.PIXEL * image.width * image.height):
                yield image
    except (BadImage, StorageError):
        raise
    except Image.DecompressionBombError as error:
        raise BadImage(f"too many pixels ({error})") from error
    except Exception as error:  # A damaged file makes Pillow raise nearly anything.
        raise BadImage(f"damaged file ({' '.join(str(error).split()) or type(error).__name__})") from error


@contextmanager
def regular(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """The open file; raises BadImage. A pipe or device, which may block for ever, is not opened."""
    try:
        status = os.stat(path)
        if odd := door.kind(status.st_mode):
            raise BadImage(f"is {odd}")
        if not status.st_size:
            raise BadImage("empty file")
        with door.opened(path, door.MAX_ARRAY) as file:
            yield file
    except FileNotFoundError as error:
        raise BadImage("no such file") from error
    except OSError as error:
        if error.strerror is None:  # Pillow's, not the system's
            raise
        if is_failure(error):
            raise unreadable(error, path) from error
        raise BadImage(f"cannot be read ({error.strerror})") from error


def _check(image: Image.Image, max_megapixels: float) -> None:
    size, megapixels = f"{image.width} x {image.height} pixels", image.width * image.height / 1e6
    if not 0 < megapixels <= max_megapixels:
        raise BadImage(
            f"{size} are {megapixels:.4g} megapixels, expected at most data.max_megapixels={max_megapixels:g}"
        )
    if image.mode not in GREY_MODES + COLOUR_MODES:
        raise BadImage(f'pixel mode "{image.mode}" is not supported, expected integers of at most 16 bits')


def _quiet() -> None:
    """Pillow warns of broken metadata, which is no reason to refuse an image; from threads only a filter is safe."""
    rule = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
    if rule not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\.")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation still to be undone, 1 to 8: Pillow turns TIFF itself."""
    # getexif() would decode a PNG to look behind its pixels.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        value = image.getexif().get(ORIENTATION)
    except Exception:  # Broken metadata: the image itself may be sound.
        return 1
    return value if value in UPRIGHT else 1


def _is_deep(image: Image.Image) -> bool:
    """Whether the file has 16 bits a channel; asked before decoding."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _eight_bit(image: Image.Image, peak: int | None) -> Image.Image:
    """The decoded image in mode L or RGB; one of 16 bits by the largest value of a data set (`decode`)."""
    deep = _is_deep(image)
    image.load()
    if image.mode.startswith("I"):
        values = _sixteen_bit(image)
        top = full_scale(int(values.max()) if peak is None else peak)
        table = np.minimum((np.arange(FULL + 1) * 255 + top // 2) // top, 255).astype(np.uint8)
        return Image.fromarray(table[values])  # no larger number for each pixel
    grey = image.mode in GREY_MODES
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    flat = image.convert("L" if grey else "RGB")
    top = full_scale(FULL if peak is None or not deep else peak) >> 8  # Pillow gives the upper byte
    if not top:
        raise BadImage("16 bits a channel, of which the set uses the lower 8 alone, and colour of these cannot be read")
    if top == 255:
        return flat
    return flat.point([min(255, (255 * value + top // 2) // top) for value in range(256)] * len(flat.getbands()))


def full_scale(peak: int) -> int:
    """2^b - 1 for the fewest bits b that hold `peak`, one at least."""
    return (1 << max(peak.bit_length(), 1)) - 1


def _sixteen_bit(image: Image.Image) -> np.ndarray:
    """u16[H, W] of a grey image."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > FULL:
        raise BadImage(f"values {values.min()} to {values.max()} are outside 0 to 65535, expected at most 16 bits")
    return values.astype(np.uint16)


def _centre(image: Image.Image, size: int) -> Image.Image:
    # Cropping by `box` first: scaling the shorter side of a 1 x 60000 strip would fill the memory.
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=2.0)
