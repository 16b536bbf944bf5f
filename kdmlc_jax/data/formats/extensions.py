"""What image files are called, and what lies among them that is none of a person's."""

import os

EXTENSIONS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif")
)
# Images, too, that are read as one of these, by a package more, or named as what they are.
OTHERS = frozenset((".jfif", ".jpe", ".dib", ".heic", ".heif", ".hif", ".jxl", ".jp2"))
# What macOS, Windows, Synology, QNAP, Linux and Python leave among files, in small letters; passed over as hidden ones.
JUNK = frozenset((
    "__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information",
    "@eadir", "#recycle", "@recycle", "#snapshot", "lost+found", "__pycache__",
))  # fmt: skip


def is_image(name: str) -> bool:
    """Whether a file of this name is one of images."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS | OTHERS


def is_hidden(name: str) -> bool:
    """Whether the reader passes over a file or folder of this name."""
    return name.startswith((".", "~$")) or name.lower() in JUNK
