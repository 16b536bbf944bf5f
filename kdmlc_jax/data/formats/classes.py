"""Classes from labels: the distinct labels as they are written, unless a list says otherwise.

Numbers are in numeric order and keep their zeros: 1 to 3 are three classes, 2019 and 2020 two, 001 is not 1. All other
labels are in the order of their characters. What looks alike is reported before anything is trained.
"""

import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from kdmlc_jax.data.formats.files import read_lines
from kdmlc_jax.errors import UserError

FEW, ENOUGH = 5, 10  # a class with fewer images is reported where another has enough
SHOWN = 5
MANY = 50  # of so many images and more, most should share their label with another
LONGEST = 255
NOTHING = frozenset(("nan", "none", "null", "na", "n/a", "nil", "?", "-", "unknown", "unlabeled", "unlabelled"))


def is_whole(text: str) -> bool:
    """Whether `text` is a whole number of 0 or more."""
    return text.isascii() and text.isdigit()


def whole(text: str) -> str:
    """`text`, or the whole number in it that was written as 1.0, as pandas does in a column with gaps."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels: whole numbers by value, others by their characters."""
    distinct = sorted(set(labels))
    if not all(map(is_whole, distinct)):
        return tuple(distinct)
    return tuple(sorted(distinct, key=lambda text: (len(text.lstrip("0")), text.lstrip("0"), text)))


def class_file(path: Path) -> tuple[str, ...]:
    """The class names of a file, one a line; raises UserError for one twice, or fewer than two."""
    names = [line for line in read_lines(path) if line]
    double = [name for name, count in Counter(names).items() if count > 1]
    if double:
        raise UserError(f'{path}: class "{double[0]}" is listed twice, expected each class once')
    if len(names) < 2:
        raise UserError(f"{path}: {len(names)} classes, expected 2 or more, one a line")
    return tuple(names)


def listing(names: Sequence[str], file: Path) -> str:
    """How to say in classes.txt that these are the classes, to copy."""
    if len(names) > 20:
        return f"list all classes in {file}, one a line"
    return f"printf '%s\\n' {' '.join(map(shlex.quote, names))} > {shlex.quote(str(file))}"


def reading(texts: Iterable[str], names: Sequence[str]) -> dict[str, int]:
    """{text: class} for the labels of a file beside a set whose classes are known: they are names where all of them, or
    any that is no number, are names (001 may be written 1), else numbers from 0."""
    numbers = Counter(str(int(name)) for name in names if is_whole(name) and len(name) <= LONGEST)
    known = {
        str(int(name)): label for label, name in enumerate(names) if is_whole(name) and numbers[str(int(name))] == 1
    }
    known |= {name: label for label, name in enumerate(names)}
    found = set(texts)
    if found <= known.keys() or any(text in known and not is_whole(text) for text in found):
        return known
    return {str(label): label for label in range(len(names))}


def check_number(place: object, classes: int, images: int) -> None:
    """Raises UserError where nearly every image would be a class of its own."""
    if images >= MANY and 2 * classes > images:
        raise UserError(
            f"{place}: {classes} different labels for {images} images, expected several images a class; is this the "
            "column of the label (data.label_column)? classes.txt lists the classes"
        )


def spelling(place: object, counts: Mapping[str, int], file: Path) -> list[str]:
    """Warnings of labels that may be one class, none, or several.

    Args:
      place: where they come from, for messages.
      counts: {label: images}.
      file: the classes.txt that would settle it.

    Raises:
      UserError: for two labels that nobody could tell apart by eye, and one that is too long or has control characters.
    """
    for name in counts:
        if len(name) > LONGEST:
            raise UserError(f'{place}: the label "{name[:40]}…" has {len(name)} characters, expected {LONGEST} at most')
        if any(unicodedata.category(each) == "Cc" for each in name):
            raise UserError(f"{place}: the label {name!a} holds a control character, expected text")
    for first, second in _alike(names := ordered(counts), _seen):
        raise UserError(
            f"{place}: the classes {first!a} ({counts[first]} images) and {second!a} ({counts[second]}) look the same; "
            "write one of them everywhere (invisible characters, blanks, accents in two forms)"
        )
    notes, settle = [], f"or, if they are different classes, {listing(names, file)}"
    if pairs := _alike(names, _loose):
        shown = ", ".join(f'"{a}" ({counts[a]} images) and "{b}" ({counts[b]})' for a, b in pairs[:SHOWN])
        notes.append(f"warning: classes of nearly the same name: {shown}{_more(pairs)}; write one of the two, {settle}")
    if several := _several(counts):
        shown = ", ".join(f'"{name}" ({counts[name]} images)' for name in several[:SHOWN])
        notes.append(
            f"warning: labels that name several classes: {shown}{_more(several)}; give each image one label, or leave "
            "it out; each of these is a class of its own now"
        )
    if nothing := [name for name in counts if name.lower() in NOTHING]:
        shown = ", ".join(f'"{name}" ({counts[name]} images)' for name in nothing)
        notes.append(
            f"warning: {shown} is taken for a class; if it says that there is no label, leave these images out"
        )
    return notes


def count_notes(names: Sequence[str], labels: Int[np.ndarray, " N"]) -> list[str]:
    """A warning of classes with very few images or none, where others have enough.

    Args:
      names: C classes.
      labels: in [0, C); negative = none.
    """
    counts = np.bincount(labels[labels >= 0], minlength=len(names))
    few = np.flatnonzero(counts < FEW)
    if not few.size or counts.max() < ENOUGH:
        return []
    shown = ", ".join(f'"{names[label]}" {counts[label]}' for label in few[:SHOWN])
    return [
        f"warning: {few.size} of {len(names)} classes have fewer than {FEW} training images: {shown}{_more(few)}; add "
        "some, give these another label, or leave the classes out"
    ]


def _more(found: Sequence[object] | np.ndarray) -> str:
    return f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""


def _alike(names: Iterable[str], key: Callable[[str], str]) -> list[tuple[str, str]]:
    """Pairs of names of equal key."""
    first: dict[str, str] = {}
    pairs = []
    for name in names:
        other = first.setdefault(key(name), name)
        if other != name:
            pairs.append((other, name))
    return pairs


def _seen(name: str) -> str:
    """What the eye has of a name: no invisible characters, one form of accents, single blanks."""
    visible = "".join(each for each in name if unicodedata.category(each) != "Cf")
    return " ".join(unicodedata.normalize("NFC", visible).split())


def _loose(name: str) -> str:
    """Without case, accents, blanks and joining signs, a number's leading zeros, a plural's s, and what marks a file's
    copy; a sign at the end (A+, A-) and the vowel signs of other scripts stay."""
    original = re.sub(r"(?i)(.)\s*(\([^()]*(conflict|copy)[^()]*\)|\s-\scopy|\(\d+\))$", r"\1", _seen(name))
    plain = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", original)).casefold()
    kept = re.sub(r"[\s_\-.,'’]+(?=\w)", "", plain).rstrip(" _.,;:!")
    return (kept.lstrip("0") or "0" if kept.isdigit() else kept.rstrip("s")) or name


def _several(counts: Mapping[str, int]) -> list[str]:
    """Labels made of others: parts between ; | , of which one stands elsewhere, or between blanks, / + & and all do."""
    split = {name: [part.strip(" '\"[](){}") for part in re.split(r"[;|,]", name)] for name in counts}
    split = {name: parts for name, parts in split.items() if len(parts) > 1 and all(parts)}
    alone = set(counts) - set(split)
    uses = Counter(part for parts in split.values() for part in set(parts))
    found = [name for name, parts in split.items() if any(part in alone or uses[part] > 1 for part in parts)]
    for name in alone:
        parts = re.split(r"\s*[/+&]\s*|\s+", name)
        if len(parts) > 1 and all(part in alone for part in parts):
            found.append(name)
    return sorted(found)
