"""What the host loop promises a method of several stages: `begin` once or every so often, `done` ends one.

`resume_test.py` has the cuts between and inside them.
"""

import json

import numpy as np
import pytest
import toy

from kdmlc_jax import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of the toy: its folder, its summary, and how often `begin` had been called at each evaluation."""
    begun, evaluate = [], train.Experiment.evaluate

    def look(experiment, state):
        begun.append(int(state.begun))
        return evaluate(experiment, state)

    with pytest.MonkeyPatch.context() as patch:
        toy.install(patch)
        patch.setattr(train.Experiment, "evaluate", look)
        workdir = tmp_path_factory.mktemp("stages")
        return workdir, train.run(toy.config(), workdir, quiet=True), begun


def test_a_stage_ends_itself_and_the_next_has_what_is_left(finished):
    """Protects `Stage.done` and the length of a run: epochs that an early end leaves over go to the last stage."""
    rows = [json.loads(line) for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["first"] + ["second"] * 4


def test_begin_again_every_so_many_epochs(finished):
    """Protects `Stage.every`: `begin` runs before the second stage's epochs 1 and 3 of four, once each."""
    assert finished[2] == [0, 1, 1, 2, 2]
    assert finished[1]["notes"] == [f"turn {turn} of the second stage begins" for turn in (1, 2)]


def test_begin_once(tmp_path, monkeypatch):
    """Protects stages without `every`: `begin` runs before the first epoch and never again; its view, which the toy
    looks at, has the given labels, every image and no figure of the test set."""

    class Once(toy.Toy):
        @property
        def stages(self):
            first, second = super().stages
            return first, second._replace(every=0)

        def begin(self, state, view):
            assert len(view.history) == 1 and len(view.given_label) == len(state.labels.rows)
            return super().begin(state, view)

    toy.install(monkeypatch, Once)
    summary = train.run(toy.config("epochs=4"), tmp_path, quiet=True)
    assert summary["notes"] == ["turn 1 of the second stage begins"]
    assert np.isfinite(summary["networks"]["student"]["last"])
