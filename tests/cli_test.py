"""What the command lines print: nothing out of the data commands a terminal, and an error is one line."""

import io
import sys
import unicodedata

import pytest

from kdmlc_jax import cli
from kdmlc_jax.errors import UserError, one_line, visible

HOSTILE = "\x1b[2Jcat\u202etxt.exe\x07\x9b31m\u2066\r\u200bdog\u2028\ud800"


def test_what_is_shown():
    """Protects a terminal from names that command it, turn the writing or hide; other scripts and emoji stay."""
    assert visible(HOSTILE) == r"\x1b[2Jcat\u202etxt.exe\x07\x9b31m\u2066\r\u200bdog\u2028\ud800"
    for text in ("Ärger\t1\n", "نص عربي", "हिन्\u200dदी", "👩\u200d🔬", "日本語"):
        assert visible(text) == text
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = visible(every)
    left = {each for each in shown if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")}
    turning = {
        each for each in visible(every) if unicodedata.bidirectional(each) in ("LRE", "RLE", "LRO", "RLO", "PDF")
    }
    assert left == {"\t", "\n"} and not turning
    assert one_line("a\nerror: b") == r"a\nerror: b"


def test_all_that_is_printed_is_escaped(monkeypatch):
    """Protects from a name on any way to the terminal, a line of an error as well as a warning; a bar has its own."""
    out, err = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "argv", ["x"])
    for name, stream in (("stdout", out), ("stderr", err)):
        monkeypatch.setattr(sys, name, stream)

    def program(words):
        print("\x1b[31mred")
        print("\x1b[31mbar", file=sys.stderr.unescaped)
        raise UserError("x.csv: label \x1b[2J\nerror: forged")

    with pytest.raises(SystemExit) as ended:
        cli.guarded(program)
    assert ended.value.code == 2 and out.getvalue() == "\\x1b[31mred\n"
    assert err.getvalue() == "\x1b[31mbar\nerror: x.csv: label \\x1b[2J\\nerror: forged\n"
