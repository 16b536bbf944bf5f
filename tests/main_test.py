"""The command line: flags, errors in one line, a tiny run from end to end, resume by its folder alone."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
import tiny

import kdmlc_jax
from kdmlc_jax import cli, main, train
from kdmlc_jax import config as config_lib
from kdmlc_jax.errors import NonFiniteError, UserError

REPOSITORY = pathlib.Path(__file__).parents[1]
SPEC = "configs/digits.py:method=kd,teacher_epochs=1,teacher=mlp3,student=mlp2,noisy=200,validation=20,epochs=2"
BASELINE = '--config.baselines=(("trusted_only", "ce:train_on=trusted,network=student"),)'


def command(*words):
    """The program as a person starts it: exit status, standard output, standard error, imports, CPU seconds."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kdmlc_jax.main", *words],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    return done.returncode, done.stdout, said, imported, spent


def test_help_answers_at_once():
    """Protects --help: exit 0, everything a newcomer needs, no JAX imported, in less than a second."""
    status, out, said, imported, spent = command("--help")
    assert status == 0 and not said and spent < 1, spent
    assert all(
        word in out
        for word in ("--fail-on", "--quiet", "--config", "--workdir", "--config.optim.lr=0.05", "exit codes")
    )
    assert "argparse" in imported and not {"jax", "flax", "sklearn"} & set(imported)


def test_wrong_flag_is_one_line():
    """Protects a mistyped flag: exit 2, one error line with the nearest flag, no traceback and no JAX."""
    status, out, said, imported, _ = command("--confg=x")
    assert status == 2 and not out
    errors = [line for line in said if "error:" in line]
    assert len(errors) == 1 and errors[0].endswith('unknown flag --confg (did you mean "--config"?)')
    assert not any("Traceback" in line for line in said) and "jax" not in imported


@pytest.mark.parametrize(
    "words, message",
    [
        (["--config.optim.lrr=1"], r'config has no field "optim\.lrr" \(did you mean "optim\.lr"\?\)'),
        (["--config.optim.lrr", "1"], r'config has no field "optim\.lrr"'),
        (["--config", "configs/digts.py"], r"configs/digts\.py does not exist; shipped .*digits\.py"),
        (["--config", "configs/digits.py:sed=1"], r'argument "sed" is unknown \(did you mean "seed"\?\)'),
        (["--config.train.epochs=many"], r'"train\.epochs": "many" is not a int'),
    ],
)
def test_bad_words_end_in_one_line_and_status_2(tmp_path, monkeypatch, capsys, words, message):
    """Protects a person from tracebacks: bad input is one line on standard error and exit status 2."""
    words = words if "--config" in words else ["--config", "configs/digits.py", *words]
    monkeypatch.setattr(sys, "argv", ["main", *words, "--workdir", str(tmp_path / "work")])
    with pytest.raises(SystemExit) as ended:
        cli.guarded(main.main)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and not out
    assert re.fullmatch(rf"error: .*{message}.*\n", err)
    assert not (tmp_path / "work").exists()


def test_diverged_training_ends_with_status_3(monkeypatch, capsys):
    """Protects scripts: a NaN has its own exit status."""
    monkeypatch.setattr(sys, "argv", ["main"])

    def program(argv):
        raise NonFiniteError("step 7: loss is nan")

    with pytest.raises(SystemExit) as ended:
        cli.guarded(program)
    assert ended.value.code == 3 and capsys.readouterr().err == "error: step 7: loss is nan\n"


def test_flags_and_overrides_are_told_apart():
    """Protects both spellings of an override, and flags among them."""
    import argparse

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--workdir")
    words = ["--config.a.b=1", "--workdir", "w", "--config.c", "x=y", "--config.d=u=v"]
    flags, overrides = cli.parse(parser, words)
    assert flags.workdir == "w" and overrides == {"a.b": "1", "c": "x=y", "d": "u=v"}


@pytest.mark.parametrize("words", [["--workdir", ""], ["--workdir="], ["--workdir", " ", "--config.a.b="]])
def test_an_empty_workdir_is_no_default(words):
    """Protects from another folder than the one that a script's empty variable meant."""
    import argparse

    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--workdir")
    with pytest.raises(UserError, match="--workdir is empty, expected a value"):
        cli.parse(parser, words)
    assert cli.parse(parser, ["--config.a.b="])[1] == {"a.b": ""}


def test_default_workdir(tmp_path, monkeypatch):
    """Protects the first command a newcomer types: a config alone has its folder in runs/."""
    monkeypatch.chdir(tmp_path)
    config, workdir = main.resolve("configs/digits.py", None, {"optim.lr": "0.2"})
    assert (config.name, config.optim.lr, workdir) == ("digits", 0.2, pathlib.Path("runs/digits"))


def test_without_words_it_explains_itself(tmp_path, monkeypatch, capsys):
    """Protects who looks what it is from a run that they did not ask for: the help; and who forgot the config."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, "resolve", None)
    main.main([])
    assert "python -m kdmlc_jax.main --config configs/digits.py --workdir runs/digits" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workdir", [None, "empty"])
def test_a_config_is_asked_for(tmp_path, monkeypatch, workdir):
    """Protects from the digits being trained for who wanted something else."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--config is missing: .*give a config file, such as configs/folder\.py"):
        main.resolve(None, workdir, {})


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "configs/digits.py", "--config.optim.lrr=1"],
        ["--config", "configs/digits.py:sed=1"],
        ["--config", "configs/digits.py:method=kdmcl"],
        ["--config", "configs/digits.py:epochs=0"],
        ["--config", "configs/digits.py", "--fail-on", "nois=.1"],
        ["--config", "configs/digts.py"],
    ],
)
def test_config_errors_come_before_jax(words):
    """Protects who mistypes from waiting for what they do not need: one line in under half a second, and no JAX."""
    status, out, said, imported, spent = command(*words)
    assert status == 2 and not out and spent < 1, spent
    assert len(said) == 1 and said[0].startswith("error: ")
    assert not {"jax", "flax", "sklearn", "pyarrow"} & set(imported)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    """A run cut in its second epoch and resumed with its folder alone: (folder, standard output, standard error)."""
    workdir = tmp_path_factory.mktemp("main") / "work"
    evaluate, calls = train.Experiment.evaluate, []

    def evaluate_or_end(job, current):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(job, current)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.Experiment, "evaluate", evaluate_or_end)
        with pytest.raises(KeyboardInterrupt):
            main.main(["--config", SPEC, *tiny.FLAGS, BASELINE, "--workdir", str(workdir)])
    return workdir


def test_workdir_alone_goes_on_and_prints_the_table(resumed, capsys):
    """Protects resume and the closing lines: what was cut goes on, then table, labels and files are printed."""
    main.main(["--workdir", str(resumed)])
    out, err = capsys.readouterr()
    assert "going on after epoch 1" in err and "epoch   3" in err
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith("  ")}
    assert table["student"] == ["teacher"]
    assert all(0 <= float(value) <= 1 for value in table["kd"]) and len(table["kd"]) == 2
    assert table["trusted_only"][1] == "–"
    assert re.search(r"mlp2: \d+ weights +mlp3: [\d,]+ weights", out)
    assert re.search(r"Labels right: \d+\.\d% before, \d+\.\d% after correction", out)
    assert re.search(r"Noise rate: 0\.\d{3} realised, 0\.\d{3} estimated", out)
    for name in ("labels.csv", "labels.parquet", "student/", "summary.json", "metrics.jsonl", str(resumed)):
        assert name in out
    assert all((resumed / name).exists() for name in ("labels.csv", "labels.parquet", "student", "summary.json"))
    assert len(list((resumed / "baselines").glob("*/summary.json"))) == 1


def test_finished_workdir_prints_the_same_table(resumed, capsys, monkeypatch):
    """Protects a second look at a finished run: the table again, without training; nothing else where that is asked."""
    monkeypatch.setattr(train, "Experiment", None)
    main.main(["--workdir", str(resumed), "--quiet"])
    said = capsys.readouterr()
    assert "Test accuracy after the last epoch" in said.out and not said.err


def test_fail_on(resumed, capsys, monkeypatch):
    """Protects a pipeline that lets a figure decide: status 5 and one line where it is above, and the table."""
    monkeypatch.setattr(train, "Experiment", None)
    noise = json.loads((resumed / "summary.json").read_text())["noise"]["estimated"]
    main.main(["--workdir", str(resumed), "--fail-on", f"noise={noise + 0.001},flagged=1000"])
    monkeypatch.setattr(sys, "argv", ["main", "--workdir", str(resumed), "--fail-on", "noise=0.001,flagged=1000"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.guarded(main.main)
    said = capsys.readouterr()
    assert ended.value.code == 5 and "Test accuracy" in said.out
    assert said.err.splitlines()[-1] == f"error: noise: {noise:.4g}, at most 0.001 is allowed"


def test_run_is_the_same_without_words(resumed):
    """Protects `kdmlc_jax.run`: the command's run, by its config."""
    config = config_lib.read(resumed / "config.json")
    summary = kdmlc_jax.run(config, resumed, quiet=True)
    assert summary["method"] == config.method.name and summary["networks"]


@pytest.mark.parametrize("given", [["--config", f"{SPEC},seed=1", *tiny.FLAGS, BASELINE], ["--config.seed=1"]])
def test_other_config_in_the_same_workdir_is_refused(resumed, given):
    """Protects a run from another config in its folder: the error names the field and both values."""
    with pytest.raises(UserError, match=r"holds a run with seed=0, not 1: choose another --workdir"):
        main.main([*given, "--workdir", str(resumed)])


def test_consoles_that_lack_characters_or_go_away(tmp_path):
    """Protects a run from its audience: on an ASCII console what is said is escaped, and where both streams are closed
    it trains to its end."""
    words = [
        sys.executable,
        "-m",
        "kdmlc_jax.main",
        "--config",
        SPEC.replace("method=kd,teacher_epochs=1", "method=ce"),
    ]
    words += [*tiny.FLAGS, "--config.baselines=()", "--config.data.held_out=0"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*words, "--workdir", str(tmp_path / "Größe")],
        cwd=REPOSITORY, env=ascii_only, capture_output=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Gr\\xf6\\xdfe/: labels.csv" in done.stdout and b"Balanced accuracy" in done.stdout
    read, write = os.pipe()
    with subprocess.Popen(
        [*words, "--workdir", str(tmp_path / "b")], cwd=REPOSITORY, stdout=write, stderr=write
    ) as run:
        os.close(write)
        os.close(read)
        assert run.wait(120) == 0
    assert (tmp_path / "b" / "summary.json").exists()


@pytest.mark.parametrize(
    "words", [["--config.seed=9223372036854775808"], ["--config.train.eval_batch_size=10000000000"]]
)
def test_numbers_too_large_are_one_line(words, tmp_path):
    """Protects an epoch of training: what no machine can hold is refused before it."""
    with pytest.raises(UserError, match=words[0].partition("=")[0].removeprefix("--config.") + ".*is outside"):
        main.main(["--config", "configs/digits.py", *words, "--workdir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
