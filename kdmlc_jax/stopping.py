"""Being asked to stop: SIGTERM and SIGINT are noted, and the loop ends at the next step that it has saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Request:
    """Whether the run was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.name = ""

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: the first signal is noted, a second one ends the program where it stands."""
        if self.name:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def requests() -> Iterator[Request]:
    """Inside the block the two signals are noted in what it yields; outside the main thread nothing is changed."""
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
