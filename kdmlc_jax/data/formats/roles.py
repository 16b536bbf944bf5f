"""What an image is for, and which names of folders, columns and cells say so, in any common spelling.

A name is read word by word: `Train_images`, `trainset`, `imgs-val` and `val2017` are train, train, validation and
validation. What it says is clear where all its words but those of AFFIXES are names of one role; it is vague where only
some are, or where one is of VAGUE, which people use for several things.
"""

import enum
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple


class Role(enum.IntEnum):
    """What an image is for."""

    NOISY = 0
    TRUSTED = 1
    VALIDATION = 2
    TEST = 3


ROLES = {  # the names that messages offer
    "train": Role.NOISY,
    "noisy": Role.NOISY,
    "trusted": Role.TRUSTED,
    "val": Role.VALIDATION,
    "valid": Role.VALIDATION,
    "validation": Role.VALIDATION,
    "test": Role.TEST,
}
WORDS = ROLES | {
    **dict.fromkeys(("training", "trn", "trainval"), Role.NOISY),
    **dict.fromkeys(("dev", "vali", "validating"), Role.VALIDATION),
    **dict.fromkeys(("testing", "tst"), Role.TEST),
}
VAGUE = frozenset((
    "clean", "cleaned", "verified", "gold", "eval", "evaluation", "devel", "development", "holdout", "heldout",
    "held", "unlabeled", "unlabelled", "labeled", "labelled", "unsupervised", "supervised", "extra", "query",
    "gallery", "probe", "support", "pred", "predict", "prediction", "inference", "fold", "kfold", "split", "subset",
    "partition",
))  # fmt: skip
AFFIXES = frozenset((
    "image", "img", "picture", "pic", "photo", "data", "dataset", "set", "split", "part", "folder", "dir", "file",
    "sample", "jpg", "jpeg", "png",
))  # fmt: skip
COLUMNS = frozenset((
    "split", "set", "subset", "fold", "kfold", "partition", "holdout", "heldout",
))  # fmt: skip
SHORT = frozenset(("tr", "te", "ts", "va"))  # as cells of one column; a folder of that name may be a language
JOINING = frozenset((
    "is", "in", "for", "of", "or", "and", "id", "name", "no", "num", "number", "index", "type", "use", "flag", "held",
    "out",
))  # fmt: skip


def _any(words: frozenset[str] | dict[str, Role]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


_GLUED = re.compile(rf"(?:is)?(?:(?:{_any(AFFIXES)})s?)*({_any(WORDS)}|{_any(VAGUE)})s?(?:(?:{_any(AFFIXES)})s?)*")


class Said(NamedTuple):
    """What a name says."""

    role: Role | None  # where it is clear
    split: bool  # whether it speaks of splits at all


def words(name: str) -> list[str]:
    """The words of `name`, small, without digits; of one that is glued together the word that matters."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    found = re.findall(r"[^\W\d_]+", text.lower())
    return [glued[1] if (glued := _GLUED.fullmatch(word)) else word for word in found]


def read(name: str, beside: frozenset[str] = frozenset()) -> Said:
    """What `name` says; words that all names `beside` it share say nothing."""
    told = words(name)
    rest = [word for word in told if word not in beside and word.removesuffix("s") not in AFFIXES]
    roles = {WORDS.get(word) for word in rest}
    role = roles.pop() if len(roles) == 1 else None
    return Said(role, role is not None or any(word in WORDS or word in VAGUE for word in rest))


def read_all(names: Sequence[str]) -> list[Said]:
    """What each of the names of one folder says: what is common to all (`seg_train`, `seg_test`) is no part of it."""
    told = [frozenset(words(name)) for name in names]
    shared = frozenset.intersection(*told) if len(told) > 1 else frozenset[str]()
    if any(not words_ - shared for words_ in told):
        shared = frozenset()
    return [read(name, shared) for name in names]


def of(name: str) -> Role | None:
    """The role that `name` clearly says, None where it says none."""
    return read(name).role


def is_column(name: str, texts: Sequence[str]) -> bool:
    """Whether a column of a table tells splits apart: by its name, or because all its cells are names of splits."""
    values = set(texts) - {""}
    told = words(name)
    named = any(word in WORDS or word in COLUMNS or word in ("eval", "evaluation") for word in told)
    rest = [word for word in told if word not in WORDS and word not in VAGUE | COLUMNS | JOINING]
    always = any(word in COLUMNS - {"set"} for word in told)
    if named and (always or all(word.removesuffix("s") in AFFIXES for word in rest)):
        return len(set(texts)) > 1 or any(of(text) not in (None, Role.NOISY) for text in values)
    if not 0 < len(values) <= 20:
        return False
    if "tr" in (short := {text.lower() for text in values}) and len(short) > 1 and short <= SHORT:
        return True
    said = [read(value) for value in values]
    others = any(each.role not in (None, Role.NOISY) or (each.split and each.role is None) for each in said)
    return others and all(each.split for each in said) and any(each.role is not None for each in said)
