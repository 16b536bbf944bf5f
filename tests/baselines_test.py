"""The plain baselines of a run: what they train on, where they lie, and which are left out."""

import pathlib

import pytest
import tiny

from kdmlc_jax import baselines
from kdmlc_jax.errors import NoTrustedError

NETS = {"student": {"name": "mlp2", "parameters": 9, "last": 0.5}}
SUMMARY = {
    "networks": NETS,
    "noise": {"realised": None, "estimated": None},
    "labels": {"accuracy_before": None, "flagged": 7},
}


class Ran(dict):
    """{folder: config}; `waiting` says which runs were still to come."""


@pytest.fixture
def ran(monkeypatch):
    """{folder: config} of what is trained, which takes no time; learning from trusted images fails without any."""
    made, waiting = Ran(), {}
    made.waiting = waiting

    def run(config, workdir, quiet, title, after):
        if config.method.get("train_on", "noisy") != "noisy" and not config.data.trusted:
            raise NoTrustedError("data.trusted: no trusted images")
        made[workdir] = config
        waiting[workdir] = after
        return SUMMARY

    monkeypatch.setattr(baselines.train, "run", run)
    return made


def test_baselines_start_afresh(ran, capsys):
    """Protects the comparison below a run: plain training sees the run's own images, from random weights and the labels
    first given, without a recipe of its own."""
    fields = {name: "runs/other" for name in ("init_from", "teacher.run", "data.labels", "data.features")}
    slowed = {"teacher.lr_below": 0.1, "student.lr_below": 0.2}
    config = tiny.config("epochs=7,cross_fit=3", {**fields, **slowed, "optim.lr": 0.3})
    config.name, config.baselines = "cifar100", (("plain", "kd"), ("both", "ce:train_on=both"))
    top = pathlib.Path("runs/x")
    baselines.run(config, top)
    names = ["kd", "ce,train_on=both,network=student", "ce,train_on=both,network=teacher"]
    assert list(ran) == [top, *(top / "baselines" / name for name in names)]
    assert ran[top] is config
    assert [len(after) for after in ran.waiting.values()] == [3, 2, 1, 0]
    for made in list(ran.values())[1:]:
        assert (made.data.cross_fit, made.data.held_out) == (0, 0.0)
        assert made.init_from == made.teacher.run == made.data.labels == made.data.features == ""
        assert made.teacher.lr_below == made.student.lr_below == 1.0  # random weights have nothing to keep
        assert (made.train.epochs, made.optim.lr, made.data.trusted, made.baselines) == (7, 0.3, 100, ())
    assert config.init_from == "runs/other" and len(config.baselines) == 2
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.endswith("0.500")]
    assert rows == [["kdmlc", "0.500"], ["plain", "0.500"], ["both", "0.500"]]


def test_baselines_that_need_trusted_images_are_left_out(ran, capsys):
    """Protects a run without trusted images from failing after its training: what cannot be compared is named once."""
    config = tiny.config("method=blind_kd,trusted=0")
    config.baselines = (("plain, noisy", "ce:train_on=noisy,network=student"), ("plain, both", "ce:train_on=both"))
    baselines.run(config, pathlib.Path("runs/x"))
    said = capsys.readouterr()
    assert said.err == "baseline left out: plain, both (data.trusted: no trusted images)\n"
    assert len(ran) == 2 and "plain, noisy" in said.out and "plain, both" not in said.out


def test_a_run_without_trusted_images_is_refused_itself(ran):
    """Protects from a table of baselines without the run that they are of."""
    with pytest.raises(NoTrustedError):
        baselines.run(tiny.config("method=ce,train_on=both,trusted=0"), pathlib.Path("runs/x"))
    assert not ran
