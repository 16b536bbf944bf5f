"""The corrected-label table: columns, scores and ranks by hand."""

import numpy as np
import pytest

from kdmlc_jax.errors import UserError
from kdmlc_jax.labels import table as labels

BELIEFS = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [0.1, 0.3, 0.6], [0.0, 0.0, 1.0]], np.float32)
GIVEN = np.array([0, 1, 1, 1, 0], np.int32)
IDS = np.array([10, 7, 30, 5, 2])
SPLITS = ["noisy", "noisy", "trusted", "noisy", "noisy"]


DECIDED = labels.Decided(np.array([0, 2, 1, 1, 2]), np.array(["keep", "review", "keep", "review", "correct"]))


def make(**changes):
    arguments = {"ids": IDS, "split_names": SPLITS, "given": GIVEN, "beliefs": BELIEFS, "decided": DECIDED} | changes
    return labels.table(**arguments)


def test_table_by_hand():
    """Protects the meaning of every column; the score is cleanlab's normalised margin."""
    got = make().to_pydict()
    assert tuple(got) == labels.COLUMNS
    assert got["id"] == [10, 7, 30, 5, 2] and got["split"] == SPLITS
    assert got["given_label"] == [0, 1, 1, 1, 0]
    assert got["suggested_label"] == [0, 2, 1, 2, 2]
    assert got["corrected_label"] == [0, 2, 1, 1, 2] and got["decision"] == DECIDED.decision.tolist()
    np.testing.assert_allclose(got["confidence"], [0.7, 0.6, 0.5, 0.3, 1.0], rtol=1e-6)
    np.testing.assert_allclose(got["p_given"], [0.7, 0.3, 0.5, 0.3, 0.0], rtol=1e-6)
    assert got["is_label_issue"] == [False, True, False, True, True]
    np.testing.assert_allclose(got["label_score"], [0.75, 0.35, 0.5, 0.35, 0.0], rtol=1e-6)
    assert got["rank"] == [5, 3, 4, 2, 1]


def test_score_on_random_beliefs():
    """Protects the invariants: scores in [0, 1], issues at 1/2 or below, ranks a permutation in order of score."""
    rng = np.random.default_rng(0)
    beliefs = rng.dirichlet(np.full(10, 0.2), 500).astype(np.float32)
    given = rng.integers(0, 10, 500)
    got = labels.table(np.arange(500), ["noisy"] * 500, given, beliefs).to_pydict()
    score, issue, rank = (np.array(got[name]) for name in ("label_score", "is_label_issue", "rank"))
    for row in range(500):
        best_other = max(belief for c, belief in enumerate(beliefs[row]) if c != given[row])
        assert score[row] == pytest.approx((beliefs[row][given[row]] - best_other + 1) / 2, abs=1e-6)
    assert score.min() >= 0 and score.max() <= 1
    assert (score[issue] <= 0.5).all() and (score[~issue] >= 0.5).all()
    assert sorted(rank) == list(range(1, 501))
    assert (np.diff(score[np.argsort(rank)]) >= 0).all()
    np.testing.assert_array_equal(np.array(got["suggested_label"]), beliefs.argmax(axis=1))


def test_what_nobody_decides_stands_as_given():
    """Protects labels that nothing vouches for: none is changed, those that beliefs speak against are for review."""
    got = make(decided=None).to_pydict()
    assert got["corrected_label"] == got["given_label"] and got["suggested_label"] == [0, 2, 1, 2, 2]
    assert got["decision"] == ["keep", "review", "keep", "review", "review"]
    np.testing.assert_allclose(got["confidence"], got["p_given"])


def test_the_table_says_what_its_score_is():
    """Protects the ranking: p_given where that was chosen, and the metadata names it, or the method's own."""
    assert make().schema.metadata == {b"label_score": b"margin"}
    plain = make(decided=DECIDED._replace(score="p_given"))
    assert plain.schema.metadata == {b"label_score": b"p_given"}
    assert plain["label_score"].to_pylist() == plain["p_given"].to_pylist()
    assert plain["rank"].to_pylist() == [5, 3, 4, 2, 1]
    own = make(examined={"label_score": np.zeros(4, np.float32)})
    assert own.schema.metadata == {b"label_score": b"the method's own"}


def test_what_a_method_examined_itself():
    """Protects a method's own test: its flags and scores replace those of the noisy images, in their order, and rank
    them alone, not beside the margins of the others; what it adds is null elsewhere."""
    examined = {
        "is_label_issue": np.array([True, False, False, True]),
        "label_score": np.array([0.1, 0.9, 0.6, 0.4], np.float32),
        "agreement": np.array([0.05, 0.8, 0.6, 0.3], np.float32),
    }
    got = make(examined=examined).to_pydict()
    assert got["is_label_issue"] == [True, False, False, False, True]
    np.testing.assert_allclose(got["label_score"], [0.1, 0.9, 0.5, 0.6, 0.4], rtol=1e-6)
    assert got["rank"] == [1, 4, None, 3, 2] and got["suggested_label"] == [0, 2, 1, 2, 2]
    assert got["agreement"][2] is None and got["agreement"][3] == pytest.approx(0.6)


def test_ties_are_ranked_by_id_for_names_too():
    """Protects the order of equals: by id, whatever the order of the rows, for file names as for numbers."""
    got = make(ids=["e.png", "c.png", "d.png", "b.png", "a.png"]).to_pydict()
    assert got["id"][1] == "c.png" and got["rank"] == [5, 3, 4, 2, 1]


def test_cleanlab_agrees():
    """Protects the score by cleanlab itself, where it is installed."""
    rank = pytest.importorskip("cleanlab.rank", reason="cleanlab is not installed")
    expected = rank.get_label_quality_scores(GIVEN, BELIEFS, method="normalized_margin")
    np.testing.assert_allclose(make()["label_score"].to_numpy(), expected, atol=1e-6)


def replaced(row, values):
    beliefs = BELIEFS.copy()
    beliefs[row] = values
    return beliefs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given": np.array([0, 1, 3, 1, 0])}, "labels row 2: 3 is out of range, expected 0 to 2"),
        ({"given": np.array([0, 1, 2, 1, -1])}, "labels row 4: -1 is out of range, expected 0 to 2"),
        ({"given": GIVEN.astype(np.float32)}, "labels: float32 of shape (5,), expected integers"),
        ({"given": GIVEN[:4]}, "given: 4 entries, expected 5, the rows of beliefs"),
        ({"ids": IDS[:3]}, "ids: 3 entries, expected 5, the rows of beliefs"),
        ({"decided": DECIDED._replace(corrected=GIVEN + 2)}, "labels row 1: 3 is out of range, expected 0 to 2"),
        ({"split_names": SPLITS * 2}, "split_names: 10 entries, expected 5, the rows of beliefs"),
        ({"beliefs": BELIEFS[0]}, "beliefs: shape (3,), expected [N, C] with 2 classes or more"),
        ({"beliefs": BELIEFS[:, :1]}, "beliefs: shape (5, 1), expected [N, C] with 2 classes or more"),
        ({"beliefs": replaced(3, [np.nan, 0.5, 0.5])}, "beliefs row 3: sum nan"),
        ({"beliefs": replaced(1, [np.inf, 0, 0])}, "beliefs row 1: sum inf"),
        ({"beliefs": replaced(2, [0.5, 0.5, 0.01])}, "beliefs row 2: sum 1.01, least 0.01, expected finite"),
        ({"beliefs": replaced(0, [1.5, -0.5, 0.0])}, "beliefs row 0: sum 1, least -0.5, expected finite"),
    ],
)
def test_bad_input(changes, message):
    """Protects the table from labels and beliefs that would give a plausible but wrong row."""
    with pytest.raises(UserError) as caught:
        make(**changes)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_classes_by_name():
    """Protects the person who reads the table: beside each number stands the class it means."""
    beliefs = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    rows = labels.table(["a.png", "b.png"], ["noisy", "noisy"], np.array([0, 0]), beliefs, ("cat", "dog"))
    assert rows["given_class"].to_pylist() == rows["corrected_class"].to_pylist() == ["cat", "cat"]
    assert rows["suggested_class"].to_pylist() == ["dog", "cat"]
    assert rows["id"].to_pylist() == ["a.png", "b.png"]
