"""What the host counts: epochs, what methods may see of them, and which one is deployed."""

import pytest
import tiny

from kdmlc_jax import progress
from kdmlc_jax.methods.base import Stage, Streams, Traits

TRAITS = Traits(deployed="student", preparing=("first",))
STAGES = tuple(Stage(name, epochs, Streams(), lambda *_: None) for name, epochs in (("first", 3), ("second", 4)))


def rows(*stages, **columns):
    made = [{"stage": stage} for stage in stages]
    for name, values in columns.items():
        for row, value in zip(made, values, strict=True):
            row[name] = value
    return made


def test_methods_see_no_oracle_in_the_history():
    """Protects early ends of a stage: what they look at holds nothing of the test set or of true labels."""
    row = {
        "epoch": 1,
        "loss": 0.5,
        "student_test": 0.9,
        "student_validation_true": 0.8,
        "student_validation_given": 0.3,
    }
    assert progress.visible([row]) == [{"epoch": 1, "loss": 0.5, "student_validation_given": 0.3}]


@pytest.mark.parametrize(
    "stage, trained, total", [(0, [], 7), (0, ["first"], 7), (1, ["first"], 5), (1, ["first"] * 3 + ["second"], 7)]
)
def test_total_epochs(stage, trained, total):
    """Protects the length of a run: what a preparing stage did not use is not given to the others, once it is over."""
    assert progress.total_epochs(STAGES, TRAITS, {"stage": stage, "history": rows(*trained)}) == total
    plain = Traits(deployed="student")
    assert progress.total_epochs(STAGES, plain, {"stage": stage, "history": rows(*trained)}) == 7


def test_the_figure_of_an_epoch():
    """Protects the choice of the best: the deployed network's validation figure, by the labels that `data.select_on`
    names; none of a stage that prepares."""
    row = {"stage": "second", "student_validation_given": 0.3, "student_validation_true": 0.4, "teacher_test": 0.9}
    assert progress.chosen_by(tiny.config(), TRAITS, row) == 0.3
    assert progress.chosen_by(tiny.config(fields={"data.select_on": "true"}), TRAITS, row) == 0.4
    assert progress.chosen_by(tiny.config(), TRAITS, row | {"stage": "first"}) is None
    assert progress.chosen_by(tiny.config(), TRAITS, {"stage": "second"}) is None


@pytest.mark.parametrize(
    "figures, best",
    [([0.1, 0.2], True), ([0.2, 0.2], False), ([0.3, 0.2], False), ([None, 0.0], True), ([0.1, None], False)],
)
def test_which_epoch_is_deployed(figures, best):
    """Protects the best epoch from never being saved: the newest is it where it beats all before."""
    history = rows("second", "second", student_validation_given=figures)
    config = tiny.config(fields={"deploy": "best_val"})
    assert progress.is_deployed(config, TRAITS, history) == best
    assert not progress.is_deployed(tiny.config(), TRAITS, history)
    prepared = rows("first", "second", student_validation_given=[0.9, 0.1])
    assert progress.is_deployed(config, TRAITS, prepared)
