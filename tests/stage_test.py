"""What the host loop promises a method of several stages: `begin` once, `done` ends one, resume knows which is on."""

import jax
import numpy as np
import pytest
import tiny
from flax import struct

from kdmlc_jax import methods, train
from kdmlc_jax.methods import ce
from kdmlc_jax.methods.base import Stage


class State(struct.PyTreeNode):
    """CE's network, and what `begin` saw."""

    net: object
    begun: jax.Array
    mean_label: jax.Array


def make(config, info):
    """CE in two stages; the first may take 3 epochs and ends after 1, the second looks at the whole set and has the
    other 4 of 5."""
    plain = ce.make(config, info)
    train_stage = plain.stages[0]

    def step(state, batch, key):
        net, metrics = train_stage.step(state.net, batch, key)
        return state.replace(net=net), metrics

    def begin(state, view):
        logits, given = view.map("noisy", lambda net, images, label: (plain.predict(net, images), label), state.net)
        assert logits.shape == (info.num_noisy, info.num_classes)
        assert np.array_equal(given, view.given_label)
        assert [row["stage"] for row in view.history] == ["short"]
        assert not any(name.endswith(("_test", "_true")) for name in view.history[0])
        view.note("the second stage begins")
        return state.replace(begun=state.begun + 1, mean_label=np.float32(view.given_label.mean()))

    def init(key, images):
        return State(plain.init(key, images), jax.numpy.zeros(()), jax.numpy.zeros(()))

    return plain._replace(
        init=init,
        stages=(
            Stage("short", 3, train_stage.streams, step, done=lambda history: len(history) == 1),
            Stage("long", 2, train_stage.streams, step, begin=begin),
        ),
        predict=lambda state, images: plain.predict(state.net, images),
        correct=lambda state, images, given, index: plain.correct(state.net, images, given, index),
        networks={"student": lambda state: state.net},
    )


@pytest.fixture
def staged(monkeypatch):
    """A config whose method is the one above."""
    config = tiny.config("method=ce")
    monkeypatch.setattr(methods, "get", lambda name: type("toy", (), {"make": staticmethod(make)}))
    return config


def test_stages_begin_end_and_resume(staged, tmp_path, monkeypatch):
    """Protects stage boundaries: a run cut after the first stage goes on in the second, to the same weights."""
    rows = []
    whole = train.run(staged, tmp_path / "whole", quiet=True)
    evaluate = train.Experiment.evaluate

    def cut(job, state):
        if len(rows) == 2:
            raise KeyboardInterrupt
        rows.append(float(state.begun))
        return evaluate(job, state)

    monkeypatch.setattr(train.Experiment, "evaluate", cut)
    with pytest.raises(KeyboardInterrupt):
        train.run(staged, tmp_path / "cut", quiet=True)
    assert rows == [0.0, 1.0]
    monkeypatch.setattr(train.Experiment, "evaluate", evaluate)
    resumed = train.run(staged, tmp_path / "cut", quiet=True)
    assert resumed["networks"] == whole["networks"]
    weights = [(tmp_path / name / "student" / "weights.msgpack").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert (lines.count('"stage": "short"'), lines.count('"stage": "long"')) == (1, 4)
    assert resumed["notes"] == whole["notes"] == ["the second stage begins"]


def test_begin_again_every_so_many_epochs(staged, tmp_path, monkeypatch):
    """Protects `Stage.every`: `begin` runs before epochs 1 and 3 of four, once each, and so where the run was cut."""

    def often(config, info):
        method = make(config, info)
        first, second = method.stages

        def begin(state, view):
            return state.replace(begun=state.begun + 1)

        return method._replace(stages=(first, second._replace(begin=begin, every=2)))

    monkeypatch.setattr(methods, "get", lambda name: type("toy", (), {"make": staticmethod(often)}))
    seen, evaluate = [], train.Experiment.evaluate

    def look(job, state):
        if len(seen) == 3:
            seen.append(None)
            raise KeyboardInterrupt
        seen.append(float(state.begun))
        return evaluate(job, state)

    monkeypatch.setattr(train.Experiment, "evaluate", look)
    with pytest.raises(KeyboardInterrupt):
        train.run(staged, tmp_path, quiet=True)
    train.run(staged, tmp_path, quiet=True)
    assert seen == [0.0, 1.0, 1.0, None, 2.0, 2.0]
