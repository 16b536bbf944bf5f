"""Being asked to stop: noted once, obeyed at once the second time, and nothing is left behind."""

import gc
import signal
import sys
import threading

import numpy as np
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax import stopping
from kdmlc_jax.arrays import load_array
from kdmlc_jax.data import provenance
from kdmlc_jax.data.formats import pickles, tables
from kdmlc_jax.data.images import decode
from kdmlc_jax.errors import StoppedError, UserError
from kdmlc_jax.storage import labels, networks


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


READERS = {
    "a config": lambda path: config_lib.read(path),
    "noise.npz": lambda path: provenance.load(path),
    "a network": lambda path: networks.read(path),
    "a label table": lambda path: labels.read(path, np.arange(2), np.zeros(2, int), 2),
    "an array": lambda path: load_array(path),
    "an image": lambda path: decode.inspect(path, 1.0),
    "a table": lambda path: tables.read_columns(path.with_suffix(".csv"), {"image": ("image",)}, ()),
    "a pickle": lambda path: pickles.load_pickle(path.read_bytes(), "a pickle"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file opened on the line before
@pytest.mark.parametrize("name", READERS)
def test_a_signal_is_no_damage(tmp_path, monkeypatch, name):
    """Protects a person whose job is ended while it reads: no reader takes the request for a corrupt file.

    The request is made by every line that is run of a reader in turn, as a handler makes it between two of them.
    """
    path = tmp_path / "x"
    for each in (path, path.with_suffix(".csv")):
        each.write_text("no file of any kind")
    lines = [0, 0]  # run, and the one that is interrupted

    def trace(frame, event, argument):
        if "kdmlc_jax" not in frame.f_code.co_filename:
            return None
        lines[0] += event == "line"
        if event == "line" and lines[0] == lines[1]:
            raise StoppedError("asked to stop")
        return trace

    def read():
        lines[0] = 0
        old = sys.gettrace()
        sys.settrace(trace)
        try:
            READERS[name](path)
        finally:
            sys.settrace(old)

    with pytest.raises(UserError if name != "an image" else decode.BadImage):
        read()
    for at in range(1, lines[0] + 1):
        lines[1] = at
        with pytest.raises((StoppedError, UserError, decode.BadImage)) as error:
            read()
        # The first time a reader is used it may have more lines than later.
        assert error.type is StoppedError or lines[0] < at
    assert at > 3
    gc.collect()  # files left open are told of here, where that is passed over, and not in the next test
