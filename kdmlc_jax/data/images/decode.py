"""Image files from anywhere to uint8 arrays: nothing in a file is believed before it is checked.

PNG, JPEG, BMP, GIF, WEBP, TIFF and PPM; of several frames the first. Pillow's own limit on pixels, a warning, plays no
part: files are opened by the format's own reader, and `max_megapixels` is compared with the header.
"""

import errno
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import (  # noqa: F401 (an import registers the format)
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from kdmlc_jax.errors import StorageError, unreadable

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
GREY_MODES = ("1", "L", "LA", "I", "I;16", "I;16L", "I;16B", "I;16N")
COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
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


# What a disk or a server answers that fails: whatever it is, it says nothing about the file.
FAILING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EINTR)


class BadImage(ValueError):
    """A file that is no usable image; the message is the reason alone, one line without the name."""


class Header(NamedTuple):
    """What a file says before its pixels are decoded, the right way up."""

    width: int  # pixels
    height: int
    grey: bool  # by its mode; a colour image of equal channels is not


def inspect(path: str | os.PathLike[str], max_megapixels: float | int) -> Header:
    """The header of an image file, which may claim so many pixels at most.

    Raises:
      BadImage: for what is no readable file, no image of `FORMATS`, of an unusable pixel mode, or too large.
    """
    with _opened(path, max_megapixels) as image:
        width, height = image.size
        # Transposed: 5 to 8.
        return Header(*((height, width) if _orientation(image) >= 5 else (width, height)), image.mode in GREY_MODES)


def decode(
    source: str | os.PathLike[str] | io.BytesIO, size: int, channels: int, max_megapixels: float | int
) -> UInt8[np.ndarray, "H W K"]:
    """The pixels of an image file, or of one already in memory, upright.

    Modes: grey stays grey; transparency (alpha, palette or key colour) is composited over white; palette, CMYK and
    YCbCr become RGB; 16-bit grey v becomes round(v/257), 16-bit colour its upper byte, 1-bit 0 and 255; floats and
    32-bit values are refused. Grey of a colour is ITU-R 601 luma, .299 R + .587 G + .114 B.

    Size S > 0: the largest centred square is scaled to S x S, bilinear and antialiased; the same as scaling the
    shorter side to S and cropping the centre. Of large files a reduced version of at least 2S is decoded first.

    S = 0 keeps the size. K = 1 is luma, 3 RGB (grey repeated).

    Raises:
      BadImage: as `inspect`, and for files that are damaged or cut off.
    """
    with _opened(source, max_megapixels) as image:
        orientation = _orientation(image)
        if size:
            image.draft(None, (2 * size, 2 * size))
        upright = _eight_bit(image)
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
def _opened(source: str | os.PathLike[str] | io.BytesIO, max_megapixels: float) -> Iterator[Image.Image]:
    """The image with its header read and checked; what Pillow raises inside becomes BadImage."""
    _quiet()
    try:
        with nullcontext(source) if isinstance(source, io.BytesIO) else regular(source) as file:
            image = _recognise(file)
            _check(image, max_megapixels)
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
        if stat.S_ISDIR(status.st_mode):
            raise BadImage("is a directory")
        if not stat.S_ISREG(status.st_mode):
            raise BadImage("is not a regular file")
        if not status.st_size:
            raise BadImage("empty file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError as error:
        raise BadImage("no such file") from error
    except OSError as error:
        if error.strerror is None:  # Pillow's, not the system's
            raise
        if error.errno in FAILING:
            raise unreadable(error, path) from error
        raise BadImage(f"cannot be read ({error.strerror})") from error


def _recognise(file: io.BufferedReader | io.BytesIO) -> Image.Image:
    """Image.open without its check of the pixels, which warns, and without other formats."""
    prefix = file.read(16)
    for name in FORMATS:
        read, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is not True:
            continue
        file.seek(0)
        return read(file, "")
    raise BadImage(f"not an image of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


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


def _eight_bit(image: Image.Image) -> Image.Image:
    """The decoded image in mode L or RGB."""
    image.load()
    if image.mode.startswith("I"):
        return _from_sixteen_bit(image)
    grey = image.mode in GREY_MODES
    if not image.has_transparency_data:
        return image.convert("L" if grey else "RGB")
    clear = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, clear).convert("L" if grey else "RGB")


def _from_sixteen_bit(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage(f"values {values.min()} to {values.max()} are outside 0 to 65535, expected at most 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _centre(image: Image.Image, size: int) -> Image.Image:
    # Cropping by `box` first: scaling the shorter side of a 1 x 60000 strip would fill the memory.
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
