"""The console command: every word of it reaches its module, by either way of calling."""

import importlib
import os
import subprocess
import sys

import pytest

import kdmlc_jax
from kdmlc_jax import cli, kdmlc


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_it_says_what_there_is(words, capsys):
    """Protects a newcomer: every command with what it does, and the first to type."""
    kdmlc.main(words)
    out = capsys.readouterr().out
    assert all(f"  {word} " in out for word in kdmlc.COMMANDS) and "kdmlc train --config configs/digits.py" in out


def test_a_wrong_word(capsys):
    """Protects who mistypes: status 2, and the nearest command."""
    with pytest.raises(SystemExit) as ended:
        kdmlc.main(["trian"])
    assert ended.value.code == 2 and 'no such command (did you mean "train"?)' in capsys.readouterr().err


@pytest.mark.parametrize("word", [word for word in kdmlc.COMMANDS])
def test_every_word_reaches_its_module(word, monkeypatch, capsys):
    """Protects each command: its module is there, and explains itself."""
    monkeypatch.setattr(cli, "called", "")
    module = kdmlc.COMMANDS[word][0]
    package = importlib.import_module(module.removesuffix(".__main__"))
    if module.endswith(".__main__") and not hasattr(package, "__path__"):
        pytest.skip(f"{module} is not there yet")
    with pytest.raises(SystemExit) as ended:
        kdmlc.main([word, "--help"])
    assert ended.value.code == 0 and "usage: " in capsys.readouterr().out


def test_usage_is_of_the_command_given(monkeypatch, capsys):
    """Protects who copies a usage line: it is what they typed."""
    monkeypatch.setattr(cli, "called", "")
    for call, usage in ((kdmlc.main, "usage: kdmlc explain"),):
        with pytest.raises(SystemExit):
            call(["explain", "--help"])
        assert capsys.readouterr().out.startswith(usage)


def test_as_a_module():
    """Protects `python -m kdmlc_jax`, and its start: no JAX, in a blink."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kdmlc_jax", "--version"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout.strip() == kdmlc_jax.__version__
    assert " jax" not in [line.rpartition("|")[2].rstrip() for line in done.stderr.splitlines()]


def test_names_of_the_package():
    """Protects `from kdmlc_jax import …`: both names are there, and a third is none."""
    assert {"NoisyLabelClassifier", "run"} <= set(dir(kdmlc_jax))
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        kdmlc_jax.runn  # noqa: B018


@pytest.mark.parametrize(
    "line, answers",
    [("kdmlc tr", ["train "]), ("kdmlc apply --take ", ["correct", "corrected", "suggested", "none"])],
)
def test_a_shell_is_answered(line, answers, tmp_path):
    """Protects completion: commands by their first letters, and what a flag of one may be."""
    pytest.importorskip("argcomplete")
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "|"}
    environment = os.environ | asked | {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answers")}
    command = [sys.executable, "-m", "kdmlc_jax"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)
    assert (tmp_path / "answers").read_text().split("|") == answers
