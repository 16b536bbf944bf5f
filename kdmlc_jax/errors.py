"""What a run ends with on purpose: bad input, a disk that fails, non-finite training, a request to stop."""

import contextlib
import difflib
import errno
import math
import os
import re
from collections.abc import Iterable, Iterator
from numbers import Integral, Real
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """The user gave something unusable: one line naming thing, place, value and allowed range; exit status 2."""


class NoTrustedError(UserError):
    """A method that learns from trusted images was given none, or none of some class."""


class StorageError(UserError):
    """A file or folder cannot be written, or what was written cannot be trusted; one line; exit status 4."""


class NonFiniteError(RuntimeError):
    """Training met NaN or infinity at `step`; exit status 3."""

    def __init__(self, message: str, step: int | None = None):
        super().__init__(message)
        self.step = step


class LimitError(RuntimeError):
    """A figure of a run is above what `--fail-on` allows; exit status 5."""


class StoppedError(BaseException):
    """A signal asked the run to stop, and it has saved its state; exit status 75 ("try again later").

    No `Exception`: a reader that takes whatever a damaged file raises for damage must not take this.
    """


# What a terminal obeys or hides instead of showing it: control characters but tab and line feed, those that turn the
# direction of writing, invisible ones, halves of surrogate pairs. Joiners that scripts and emoji need stay.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """`text` as it may be printed: what a terminal would obey or hide is written out, as \\x1b or \\u202e."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(error: object) -> str:
    """The message of an error, `visible`, its line breaks written out, too."""
    return visible(str(error)).replace("\n", "\\n")


def suggest(name: object, allowed: Iterable[str]) -> str:
    """The end of an error line: ' (did you mean "x"?)' for the allowed name nearest to `name`, '' where none is."""
    lowered = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1)
    return f' (did you mean "{lowered[near[0]]}"?)' if near else ""


def choose(place: str, value: str, allowed: tuple[str, ...]) -> str:
    """Returns `value` if it is allowed; else UserError naming the config field, the value and what is allowed."""
    if value not in allowed:
        names = ", ".join(name or "''" for name in allowed)
        raise UserError(f'{place}: "{value}" is not one of {names}{suggest(str(value), allowed)}')
    return value


def whole(place: str, value: object, low: int) -> None:
    """Raises UserError naming argument, value and what is allowed, for what is no whole number of `low` or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise UserError(f"{place}: {value!r} is out of range, expected a whole number, {low} or more")


def in_range(place: str, value: Any, low: float | int, high: float | int = math.inf) -> Any:
    """Returns `value` if low <= value <= high; else UserError naming field, value and range; infinity is in none."""
    if not isinstance(value, Real) or not low <= value <= high or value in (math.inf, -math.inf):  # type: ignore[operator]
        raise UserError(f"{place}: {value} is outside [{low:g}, {high:g}]")
    return value


@contextlib.contextmanager
def reading(path: str | Path, what: str, damaged: type[UserError] = UserError) -> Iterator[None]:
    """Turns whatever a reader of `path` raises inside the block into one line.

    Args:
      path: read there.
      what: it should be, "the config of a run".
      damaged: raised for wrong bytes.

    Raises:
      UserError: where there is no file, or `damaged`; one raised inside stays as it is.
      StorageError: where the system did not let it be read, which says nothing about its bytes.
    """
    try:
        yield
    except UserError:
        raise
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise UserError(f"{error.filename or path}: no such file, expected {what}") from None
    except Exception as error:  # wrong bytes raise nearly anything
        if isinstance(error, OSError) and error.errno:
            raise unreadable(error, path) from error
        if (refused := refusal(error)) is not None:
            raise unreadable(refused, path) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise damaged(f"{path}: cannot be read as {what} ({reason})") from error


# What says that there is no such file, or none of this kind; anything else says nothing about it.
ABSENT = (
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO),
    errno.ENODEV,
)


def is_failure(error: BaseException) -> bool:
    """Whether a disk, a server or missing rights kept the system from reading, rather than what it would have read."""
    return isinstance(error, OSError) and bool(error.errno) and error.errno not in ABSENT


def refusal(error: BaseException | None) -> OSError | None:
    """The failure behind `error`, of which a library has made one of its own: `zipfile` takes it for a bad file."""
    while error is not None and not is_failure(error):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def unreadable(error: OSError, path: str | os.PathLike[str]) -> StorageError:
    """What to raise where the system refused to read: nobody knows what is there, so nothing may be done about it."""
    reason = error.strerror or error
    return StorageError(f"{error.filename or path}: cannot be read ({reason}); nothing was changed, try again")
