"""What image files are called."""

import os

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif")
)
# Images, too, that are read as one of these, by a package more, or named as what they are.
OTHERS = frozenset((".jfif", ".jpe", ".dib", ".heic", ".heif", ".hif", ".jxl", ".jp2"))


def is_image(name: str) -> bool:
    """Whether a file of this name is one of images."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS | OTHERS
