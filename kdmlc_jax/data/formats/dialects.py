"""Text files as people's programs write them: encodings, and lists without a header."""

import re
from pathlib import Path

from kdmlc_jax.errors import UserError

LIST = (".txt", ".lst", ".list")  # a path and a label a line
_IMAGE = r"png|jpe?g|jpe|jfif|bmp|dib|gif|webp|tiff?|p[pgbn]m|avif|hei[cf]|hif|jxl|jp2"
_PAIR = re.compile(rf"(?i)(?P<path>\S.*?\.(?:{_IMAGE}))[\s,;]+(?P<label>\S.*)")
# Letters and signs of Western European text; ÿ, the byte 255, is far more often no letter.
_WESTERN = frozenset("ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜßàáâãäåæçèéêëìíîïñòóôõöøùúûüŠšŽžŒœŸ–—‘’“”„«»°´·€")


def as_text(raw: bytes, western: bool = True) -> tuple[str, tuple[str, ...]]:
    """The text of a file in UTF-8, in UTF-16 that says so in its first bytes, or, where `western`, plainly in
    Windows-1252, and a note of the last.

    Plainly: all that is not ASCII are letters and signs of Western European languages, at most two beside each other
    and next to a letter of ASCII; a word of Cyrillic, Greek or Chinese in an encoding of its own is none of that.

    Raises:
      UnicodeDecodeError: its `reason` says line and likely cause.
    """
    marked = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    if raw.count(b"\0") > len(raw) * (0.6 if marked else 0.25):  # decodes, to text full of NUL
        cause = "UTF-32, or UTF-16 without its mark"
        raise UnicodeDecodeError("utf-8", raw, at := raw.index(b"\0"), at + 1, f"it may be {cause}; save it as UTF-8")
    if marked:
        try:
            return raw.decode("utf-16"), ()
        except UnicodeDecodeError as error:
            error.reason = "as its first two bytes say"
            raise
    try:
        return raw.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        line, byte = raw.count(b"\n", 0, error.start) + 1, raw[error.start]
        cause = _guess(raw)
        if western and not cause:
            return raw.decode("cp1252"), (
                "read as Windows-1252, for it is not UTF-8; save it as UTF-8 if names differ",
            )
        error.reason = f"line {line}, {byte:#x}: it may be {cause or 'Windows-1252'}; save it as UTF-8"
        raise


def _guess(raw: bytes) -> str:
    """'' for what is plainly Windows-1252, else what it may be."""
    text = raw.decode("cp1252", "replace")
    for run in re.finditer(r"[^\x00-\x7f]+", text):
        beside = text[max(run.start() - 1, 0) : run.start()] + text[run.end() : run.end() + 1]
        quotes = not run[0].isalpha()
        if not {*run[0]} <= _WESTERN:
            return "another encoding than Windows-1252"
        if len(run[0]) > 2 or not (quotes or re.search("[A-Za-z]", beside)):
            return "Windows-1252, or that of another alphabet"
    return ""


def split_list(path: Path, text: str) -> list[list[str] | None]:
    """The columns path and label of a list of `images/a.jpg 3`, a tab, comma or blanks between them.

    Raises:
      UserError: naming file and line of what is no such pair, or of several labels.
    """
    paths, labels = list[str](), list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.strip()) or line.startswith("#"):
            continue
        name, _, label = line.partition("\t") if "\t" in line else line.rpartition(" ")
        if found := _PAIR.fullmatch(line):
            name, label = found["path"], found["label"]
        if not name.strip() or not label.strip():
            raise UserError(f'{path} line {number}: "{line[:80]}" is not a path, a blank and a label')
        if re.fullmatch(r"-?\d+([\s,;]+-?\d+)+", label.strip()):
            raise UserError(
                f'{path} line {number}: {len(re.findall("[0-9]+", label))} labels "{label[:40]}", expected one'
            )
        paths.append(name.strip())
        labels.append(label.strip().strip('"'))
    return [paths, labels] if paths else []
