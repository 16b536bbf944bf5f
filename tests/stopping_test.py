"""Being asked to stop: noted once, obeyed at once the second time, and nothing is left behind."""

import signal
import threading

import pytest

from kdmlc_jax import stopping


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_handlers_are_as_before_and_a_second_signal_ends_at_once(number):
    """Protects the program around a run: its own handlers come back, and an impatient person is obeyed."""
    before = [signal.getsignal(each) for each in stopping.SIGNALS]
    with pytest.raises(KeyboardInterrupt), stopping.requests() as request:
        assert not request.name
        signal.raise_signal(number)
        assert request.name == number.name
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(each) for each in stopping.SIGNALS] == before


def test_in_another_thread_nothing_is_changed():
    """Protects a run inside a notebook's or server's thread, where Python allows no handler: it just trains."""
    before, found = signal.getsignal(signal.SIGTERM), []

    def inside():
        with stopping.requests() as request:
            found.append((request.name, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [("", before)]
