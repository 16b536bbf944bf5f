"""Which format an image file has, by how it begins; what it cannot be is named as what it is."""

import functools
import io

from PIL import (  # noqa: F401 (an import registers the format)
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
NAMED = {  # how files begin that people take for images, after so many bytes
    (0, b"\xff\x0a"): "JPEG XL",
    (4, b"JXL "): "JPEG XL",
    (4, b"jP  "): "JPEG 2000",
    (0, b"\xff\x4f\xff\x51"): "JPEG 2000",
    (0, b"%PDF"): "PDF",
    (0, b"8BPS"): "Photoshop",
    (0, b"<svg"): "SVG",
    (0, b"<?xml"): "XML or SVG",
    (0, b"\x89HDF"): "HDF5",
    (0, b"\x93NUMPY"): "NumPy",
    (128, b"DICM"): "DICOM",
    (0, b"<!DOC"): "HTML",
    (0, b"<html"): "HTML",
    (4, b"ftyp"): "video",
}
HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


class BadImage(ValueError):
    """A file that is no usable image; the message is the reason alone, one line without the name."""


def recognise(file: io.BufferedReader | io.BytesIO) -> Image.Image:
    """Image.open without its check of the pixels, which warns, and without other formats."""
    start = file.read(132)
    prefix = start[:16]
    is_heic = prefix[4:8] == b"ftyp" and prefix[8:12] in HEIC and b"avif" not in start[8:64]
    for name in (("HEIF",) if _reads_heic() else ()) if is_heic else FORMATS:
        read, accepts = Image.OPEN.get(name, (None, None))
        if read is None or accepts is None or accepts(prefix) is not True:
            continue
        file.seek(0)
        return read(file, "")
    if is_heic or prefix[8:12] in (b"avif", b"avis"):
        kind, package = ("HEIC", "pillow-heif") if is_heic else ("AVIF", "a pillow that reads AVIF")
        raise BadImage(f"a {kind} image: install {package}, or convert it to JPEG or PNG")
    if named := next((kind for (place, mark), kind in NAMED.items() if start[place:].startswith(mark)), ""):
        raise BadImage(f"a {named} file, expected an image of {', '.join(FORMATS)}")
    raise BadImage(f"not an image of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")


@functools.cache
def _reads_heic() -> bool:
    """Whether pillow-heif is installed; what its import registers is then known to Pillow."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True
