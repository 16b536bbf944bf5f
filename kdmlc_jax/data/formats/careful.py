"""An unpickler for hostile bytes: nothing in it takes time or memory out of proportion to them."""

import pickle
from collections.abc import Sequence
from typing import Any, ClassVar

MAX_KEY = 1 << 31  # torch numbers the parameters of an optimiser
PYTHONS: Any = pickle._Unpickler.dispatch


class _RefusedError(ValueError):
    """The pickle asks for more than arrays of numbers; says what."""


class _Careful(pickle._Unpickler):
    """Python's own unpickler, slower than C's, whose dictionaries take keys only that cost nothing to compare.

    Tuples within tuples are hashed anew at every level, and whole numbers may be chosen to collide: either takes for
    ever, deaf to signals.
    """

    dispatch: ClassVar[Any] = dict(PYTHONS)
    stack: list[Any]

    def _checked(self, items: Sequence[Any]) -> None:
        for key in items[::2]:
            if not (isinstance(key, str | bytes) or (type(key) is int and 0 <= key < MAX_KEY)):
                raise _RefusedError(f"a {type(key).__name__} as a key, expected text")

    def _setitem(self) -> None:
        self._checked(self.stack[-2:-1])
        PYTHONS[pickle.SETITEM[0]](self)

    def _setitems(self) -> None:
        self._checked(self.stack)
        PYTHONS[pickle.SETITEMS[0]](self)

    def _dict(self) -> None:
        self._checked(self.stack)
        PYTHONS[pickle.DICT[0]](self)

    dispatch[pickle.SETITEM[0]] = _setitem
    dispatch[pickle.SETITEMS[0]] = _setitems
    dispatch[pickle.DICT[0]] = _dict
