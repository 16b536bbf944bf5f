"""The meter, its guards, and the summary of a run's history."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, precision_recall_fscore_support

from kdmlc_jax import metrics
from kdmlc_jax.errors import NonFiniteError


def test_means_over_an_epoch():
    """Protects the means, the last pending step included, also where the epoch is cut and goes on."""
    meter = metrics.Meter()
    for step, value in enumerate([1.0, 2.0, 6.0]):
        meter.add(step, {"loss": jnp.array(value), "norm": jnp.array(2 * value)})
    assert meter.means() == pytest.approx({"loss": 3.0, "norm": 6.0})
    meter = metrics.Meter(kept=meter.kept())
    meter.add(3, {"loss": jnp.array(7.0), "norm": jnp.array(2.0)})
    assert meter.means() == {"loss": 4.0, "norm": 5.0}


class Untouchable:
    """A metric that must not be fetched yet."""

    def __array__(self, *args, **kwargs):
        raise AssertionError("fetched in the step it was added")


def test_metrics_are_fetched_one_step_late():
    """Protects the device from waiting: what a step adds is read when the next one is added, not before."""
    meter = metrics.Meter()
    meter.add(0, {"loss": Untouchable()})
    with pytest.raises(AssertionError, match="fetched"):
        meter.add(1, {"loss": jnp.array(1.0)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_names_its_own_step(value):
    """Protects the diagnosis: the error names the bad step and metric though it is found one step later."""
    meter = metrics.Meter()
    meter.add(6, {"loss": jnp.array(1.0), "norm": jnp.array(1.0)})
    meter.add(7, {"loss": jnp.array(1.0), "norm": jnp.array(value)})
    with pytest.raises(NonFiniteError, match=r"step 7: norm is"):
        meter.add(8, {"loss": jnp.array(1.0), "norm": jnp.array(1.0)})


def test_non_finite_in_the_last_step():
    """Protects the end of an epoch: the pending step is checked before the means are given."""
    meter = metrics.Meter()
    meter.add(3, {"loss": jnp.array(np.nan)})
    with pytest.raises(NonFiniteError, match="step 3: loss"):
        meter.means()


def test_warnings():
    """Protects the guard against collapse: one line below the limit, none at it, none for other metrics."""
    (line,) = metrics.warnings({"label_entropy_ratio": 0.25, "loss": -9.0})
    assert "label_entropy_ratio is 0.25" in line and "0.5" in line
    assert metrics.warnings({"label_entropy_ratio": 0.5, "loss": 0.0}) == []
    assert metrics.warnings({}) == []


def test_accuracy():
    """Protects the fraction, and None where there is nothing to count."""
    assert metrics.accuracy(np.array([1, 2, 3, 0]), np.array([1, 2, 0, 0])) == 0.75
    assert metrics.accuracy(np.array([]), np.array([])) is None


def rows(test, **validation):
    columns = {"student_test": test} | {f"student_validation_{name}": value for name, value in validation.items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_network_summary():
    """Protects the four figures; best_val never looks at the test set and takes the first of equals."""
    test = [0.1, 0.9, 0.3, 0.4, 0.5, 0.6, 0.7]
    history = rows(test, given=[0.1, 0.2, 0.8, 0.8, 0.3, 0.2, 0.1], true=[0, 0, 0, 0, 1, 0, 0])
    got = metrics.network_summary(history, "student", "given")
    assert got == pytest.approx({"last": 0.7, "last5": 0.5, "best_val": 0.3, "best_test": 0.9, "validation_given": 0.1})
    assert metrics.network_summary(history, "student", "true")["best_val"] == 0.5


def test_network_summary_without_validation():
    """Protects runs without a validation split and runs shorter than five epochs."""
    got = metrics.network_summary(rows([0.2, 0.4]), "student", "given")
    assert got == {
        "last": 0.4,
        "last5": pytest.approx(0.3),
        "best_val": None,
        "best_test": 0.4,
        "validation_given": None,
    }


def test_figures_of_each_class_are_scikit_learns():
    """Protects unbalanced data: balanced accuracy, precision, recall and F1 as another library has them; None, and no
    zero, where a class has no image or no prediction."""
    rng = np.random.default_rng(0)
    label, names = rng.choice(4, 200, p=[0.8, 0.1, 0.06, 0.04]), ("a", "b", "c", "d")
    guess = np.where(rng.random(200) < 0.6, label, rng.integers(0, 4, 200))
    found = metrics.by_class(guess, label, names)
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(label, guess))
    want = precision_recall_fscore_support(label, guess)
    for at, name in enumerate(names):
        row = [found["classes"][name][each] for each in ("precision", "recall", "f1", "count")]
        assert row == pytest.approx([column[at] for column in want])
    empty = metrics.by_class(np.array([0, 0, 1]), np.array([0, 2, 2]), names)
    assert empty["balanced_accuracy"] == 0.5
    assert [empty["classes"]["b"][each] for each in ("precision", "recall", "f1")] == [0.0, None, 0.0]
    assert [empty["classes"]["c"][each] for each in ("precision", "recall", "f1")] == [None, 0.0, 0.0]
    assert [empty["classes"]["d"][each] for each in ("precision", "recall", "f1")] == [None] * 3
