"""The two errors a run ends with on purpose: bad input and non-finite training."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """The user gave something unusable: one line naming thing, place, value and allowed range; exit status 2."""


class NonFiniteError(RuntimeError):
    """Training met NaN or infinity; exit status 3."""


def suggest(name: object, allowed: Iterable[str]) -> str:
    """The end of an error line: ' (did you mean "x"?)' for the allowed name nearest to `name`.

    Args:
      name: what the user wrote.
      allowed: the names that would have been accepted.

    Returns:
      The suggestion, or '' where nothing is near.
    """
    lowered = {candidate.lower(): candidate for candidate in allowed}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1)
    return f' (did you mean "{lowered[near[0]]}"?)' if near else ""
