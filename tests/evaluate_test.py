"""Whole splits through a method: every row once, and the accuracies by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import evaluate, parallel
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.errors import NonFiniteError
from kdmlc_jax.methods.base import Method, Traits
from kdmlc_jax.nets import Output
from kdmlc_jax.train_state import NetState

SEEN = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])  # what the network sees in each image
TRUTH = np.array([0, 1, 2, 1, 1, -1, 0, 2, 2, -1], np.int32)
GIVEN = np.array([0, 1, 1, 0, 2, 2, 0, 0, 2, 0], np.int32)


@pytest.mark.parametrize("rows", [1, 4, 7, 8, 9])
def test_map_rows_keeps_order_and_length(rows):
    """Protects evaluation: every row once, in order, whatever the batch leaves over."""
    images = np.arange(20, dtype=np.float32)
    at = np.random.default_rng(rows).permutation(20)[:rows]
    got = evaluate.map_rows(lambda x, y: {"sum": x + y, "batch": 0 * x + len(x)}, images, at, 4, 10 * images)
    np.testing.assert_array_equal(got["sum"], 11 * images[at])
    assert (got["batch"] == 4).all()


class Looking(Method):
    """A network whose logits are the pixels."""

    traits = Traits(deployed="student", ensemble="both")
    stages = ()

    def init(self, key, images):
        raise NotImplementedError

    def predict(self, state, images):
        return -images[:, 0, 0]

    def correct(self, state, images, given_label, index):
        return jnp.stack([images[:, 0, 0].argmax(1), given_label, index], axis=1).astype(jnp.float32)

    def networks(self, state):
        return {"student": state}


def apply(variables, images, train):
    return Output(images[:, 0, 0], images[:, 0, 0])


def evaluator(images=None):
    images = 255 * np.eye(3, dtype=np.uint8)[SEEN][:, None, None] if images is None else images
    splits = Splits(np.array([0, 1, 2, 3, 4]), np.array([5]), np.array([6, 7, 8, 9]))
    data = Dataset(
        "toy", ("a", "b", "c"), images, GIVEN, GIVEN, GIVEN, TRUTH, splits, images[:4], TRUTH[:4], None, None, SEEN
    )
    mesh = parallel.make_mesh(1)
    fixed = parallel.replicate({"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)}, mesh)
    return evaluate.Evaluator(Looking(), data, mesh, fixed, 4)


STATE = NetState(
    step=jnp.int32(0), apply_fn=apply, params={}, tx=None, opt_state={}, batch_stats={}, ema=None
)  # fmt: skip


def test_accuracies_by_hand():
    """Protects every figure: test and validation, by given labels and by known true ones; and how rightly and wrongly
    labelled images are fitted."""
    row = evaluator().accuracies(STATE)
    want = {
        "student_test": 3 / 4,
        "student_validation_given": 3 / 4,
        "student_validation_true": 2 / 3,
        "student_fit_right_true": 2 / 2,
        "student_fit_wrong_true": 1 / 3,
    }
    assert {name: row[name] for name in want} == pytest.approx(want)
    assert {name.removeprefix("both") for name in row if name.startswith("both")} == {
        name.removeprefix("student") for name in want
    }
    assert row["both_test"] < row["student_test"]


def test_logits_that_are_not_finite():
    """Protects from accuracies of a network that has blown up: it is named."""
    images = np.full((10, 1, 1, 3), np.nan, np.float32)
    with pytest.raises(NonFiniteError, match="evaluation: both's logits are not finite"):
        evaluator(images).accuracies(STATE)


def test_beliefs_are_asked_with_label_and_row():
    """Protects corrected labels: each image comes with its own given label, and its place in the noisy split or -1."""
    rows = np.array([4, 9, 0, 5, 2])
    got = evaluator().beliefs(STATE, rows)
    np.testing.assert_array_equal(got, np.stack([SEEN[rows], GIVEN[rows], [4, -1, 0, -1, 2]], axis=1))


def test_view_of_the_whole_set():
    """Protects `begin`: rows of a split in its order, with the given labels or those handed in, and nothing more."""
    view = evaluator().view([{"stage": "first"}], lambda line: None)
    np.testing.assert_array_equal(view.given_label, GIVEN[:5])
    np.testing.assert_array_equal(view.trusted_label, GIVEN[5:6])
    fn = lambda state, images, label: {"seen": images[:, 0, 0].argmax(1), "label": label}  # noqa: E731
    for label, want in ((None, GIVEN[:5]), (np.array([2, 2, 2, 1, 0], np.int32), [2, 2, 2, 1, 0])):
        got = view.map("noisy", fn, STATE, label)
        np.testing.assert_array_equal(got["seen"], SEEN[:5])
        np.testing.assert_array_equal(got["label"], want)
    assert view.history == [{"stage": "first"}]
