"""The scikit-learn classifier: what it takes, what it says of labels; it is the run that the command trains."""

import json
import pickle

import numpy as np
import pandas
import photos
import pyarrow
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import estimator_checks_generator

from kdmlc_jax import NoisyLabelClassifier
from kdmlc_jax import config as config_lib
from kdmlc_jax.data import sources
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.estimator import inputs

NAMES = np.array(["bee", "ant", "cat"])
SMALL = {
    "method": "ce:train_on=both",
    "student": "mlp8",
    "teacher": "mlp8",
    "epochs": 3,
    "batch_size": 10,
    "held_out": 0.0,
}
# Those that fit nothing, or little; all 55 were run once, and all but the one that is expected to fail hold.
CHECKS = (
    *("check_estimator_cloneable", "check_estimator_tags_renamed", "check_estimator_repr", "check_mixin_order"),
    *("check_no_attributes_set_in_init", "check_estimators_unfitted", "check_complex_data", "check_fit1d"),
    *("check_estimators_empty_data_messages", "check_parameters_default_constructible", "check_requires_y_none"),
    *("check_get_params_invariance", "check_set_params", "check_classifiers_regression_target"),
    *("check_estimators_nan_inf", "check_fit2d_predict1d"),
)
EXPECTED_TO_FAIL = {"check_fit_score_takes_y": "labels are called given_labels, as everywhere here, not y"}


@pytest.fixture(scope="module")
def blobs():
    """Features of three groups in 300 rows, their labels as words, the same with a fifth wrong, and 60 trusted rows."""
    rows, number = make_blobs(300, centers=[[-4, 0], [4, 0], [0, 6]], random_state=3)
    given, rng = number.copy(), np.random.default_rng(0)
    wrong = rng.choice(np.arange(60, 300), 60, replace=False)
    given[wrong] = (given[wrong] + 1) % 3
    return pandas.DataFrame(rows, columns=["x", "y"]), NAMES[number], NAMES[given], np.arange(60)


@pytest.fixture(scope="module")
def fitted(blobs):
    frame, _, given, trusted = blobs
    return NoisyLabelClassifier(random_state=1, held_out=0.0, verbose=False).fit(frame, given, trusted=trusted)


def test_what_a_fit_says(fitted, blobs, capsys):
    """Protects a notebook's user: classes as words, wrong labels found, corrections and figures row by row."""
    frame, true, given, _ = blobs
    wrong = given != true
    assert fitted.classes_.tolist() == ["ant", "bee", "cat"] and fitted.n_features_in_ == 2
    assert fitted.feature_names_in_.tolist() == ["x", "y"]
    assert fitted.score(frame, true) > 0.9
    assert np.allclose(fitted.predict_proba(frame).sum(axis=1), 1)
    found = fitted.is_label_issue_
    assert (found & wrong).sum() > 0.8 * wrong.sum() and (found & ~wrong).sum() < 0.1 * len(true)
    assert fitted.label_quality_[wrong].mean() < fitted.label_quality_[~wrong].mean() - 0.3
    assert (fitted.suggested_labels_ == true).mean() > 0.9
    assert (fitted.corrected_labels_ == given).all()  # nothing was held out that could vouch for a change
    assert abs(fitted.noise_rate_ - wrong[60:].mean()) < 0.1
    assert fitted.transition_matrix_ is None  # likewise
    assert capsys.readouterr().err == ""


def test_it_is_the_command_s_run(fitted):
    """Protects from a second way of training: the folder holds a run's config, summary and table."""
    config = config_lib.read(fitted.workdir_ / "config.json")
    assert (config.seed, config.data.source, config.noise.kind, config.baselines) == (1, "features", "none", ())
    assert fitted.summary_["method"] == config.method.name
    assert {"labels.csv", "report.html", "summary.json", "student"} <= {path.name for path in fitted.workdir_.iterdir()}


def test_kept_without_its_data(fitted, blobs, tmp_path):
    """Protects what is saved or pickled: the same answers, parameters and labels; no data, no checkpoints."""
    frame, _, _, _ = blobs
    fitted.save(tmp_path / "saved")
    pickled = pickle.loads(pickle.dumps(fitted))
    for other in (NoisyLabelClassifier.load(tmp_path / "saved"), pickled):
        assert (other.predict_proba(frame) == fitted.predict_proba(frame)).all()
        assert other.get_params() == fitted.get_params() and other.n_features_in_ == 2
        assert (other.corrected_labels_ == fitted.corrected_labels_).all()
        other.report(tmp_path / "page.html")
        assert (tmp_path / "page.html").read_bytes() == (fitted.workdir_ / "report.html").read_bytes()
    assert not (tmp_path / "saved" / "data").exists() and not (tmp_path / "saved" / "checkpoints").exists()
    with pytest.raises(UserError, match="is there already"):
        fitted.save(tmp_path / "saved")
    with pytest.raises(UserError, match="no such file, expected a saved NoisyLabelClassifier"):
        NoisyLabelClassifier.load(tmp_path)
    path = tmp_path / "saved" / "estimator.json"
    path.write_text(path.read_text().replace('"ant"', '"elk"'))
    with pytest.raises(StorageError, match="sha256 is another"):
        NoisyLabelClassifier.load(tmp_path / "saved")


def test_clone_and_unfitted(fitted):
    """Protects grid search: a clone has the parameters and no fit; what is not fitted says so."""
    made = clone(fitted)
    assert made.get_params() == fitted.get_params()
    calls = ((made.predict, [[0.0, 1.0]]), (made.predict_proba, [[0.0, 1.0]]))
    for call, given in (*calls, (made.save, "x"), (made.report, "x"), (made.export, "x")):
        with pytest.raises(NotFittedError):
            call(given)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"given_labels": ["a"] * 6}, "1 class, expected 2 or more"),
        ({"given_labels": ["a", "b", None] * 2}, "row 2 has none .None., expected a label for each image"),
        ({"trusted": (0, 3), "validation": [3]}, "row 3 is in trusted.npy, too"),
        ({"trusted": [9]}, "trusted: row 9 is out of range, expected 0 to 5"),
        ({"trusted": []}, "trusted: names no image"),
        ({"trusted": [0.5]}, "trusted: float64 of shape .1,., expected bool of shape .6,."),
        ({"validation": ([[0.0, 1.0]], ["a", "b"])}, "validation: 2 labels, expected 1, one for each image"),
        ({"trusted": (["x.png"], ["a"])}, "images: folder beside features, expected one kind"),
        ({"trusted": [0, 3], "validation": [3]}, "row 3 is in trusted.npy, too"),
    ],
)
def test_bad_input(words, message):
    """Protects from training on what was not meant: one line, before any work."""
    words = {"given_labels": list("ababab"), **words}
    with pytest.raises(ValueError, match=message):
        NoisyLabelClassifier().fit(np.arange(12.0).reshape(6, 2), **words)


def test_unknown_names_are_refused():
    """Protects from a misspelt method, option or field: the config's own line."""
    rows, labels = np.arange(12.0).reshape(6, 2), list("ababab")
    with pytest.raises(UserError, match="did you mean"):
        NoisyLabelClassifier("linaer").fit(rows, labels)
    with pytest.raises(UserError, match=r'no field "optim\.lrr"'):
        NoisyLabelClassifier(fields={"optim.lrr": 1}).fit(rows, labels)


def checks():
    wanted = (*CHECKS, *EXPECTED_TO_FAIL)
    for made, check in estimator_checks_generator(NoisyLabelClassifier(random_state=0), legacy=True):
        if check.func.__name__ in wanted:
            mark = pytest.mark.xfail(reason=EXPECTED_TO_FAIL.get(check.func.__name__, ""), strict=True)
            yield pytest.param(
                made, check, id=check.func.__name__, marks=[mark] if check.func.__name__ in EXPECTED_TO_FAIL else []
            )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("made", "check"), list(checks()))
def test_scikit_learn_s_checks(made, check):
    """Protects pipelines and searches, which count on scikit-learn's conventions."""
    check(made)


@pytest.fixture(scope="module")
def from_paths(tmp_path_factory):
    """A fit to files: paths in a pandas column, labels in a PyArrow one, trusted ones apart; and the test files."""
    folder = photos.make(tmp_path_factory.mktemp("photos"), train=45, trusted=12, test=12)
    parts = {name: sorted((folder / name).rglob("*.png")) for name in ("train", "trusted", "test")}
    labels = {name: [path.parent.name for path in paths] for name, paths in parts.items()}
    column = pandas.Series([str(path) for path in parts["train"]])
    given = pyarrow.chunked_array([labels["train"]])
    made = NoisyLabelClassifier(**SMALL, workdir=str(folder / "run"), verbose=False)
    return made.fit(column, given, trusted=(parts["trusted"], labels["trusted"])), parts, labels


def test_files_and_arrays_are_the_same_images(from_paths):
    """Protects from another preparation: files, their pixels and fractions of these have the same answer."""
    made, parts, labels = from_paths
    pixels = np.stack([np.asarray(Image.open(path)) for path in parts["test"]])
    answers = made.predict_proba(parts["test"])
    assert made.score(parts["test"], labels["test"]) > 0.9
    assert (made.predict_proba(pixels) == answers).all() and (made.predict_proba(pixels / 255) == answers).all()
    assert len(made.corrected_labels_) == 45 and made.summary_["data"]["trusted"] == 12
    about = json.loads((made.workdir_ / "estimator.json").read_text())
    assert [about["given"], about["count"]] == [labels["train"], 45]
    with pytest.raises(UserError, match=r"absent\.png: "):
        made.predict([parts["test"][0].with_name("absent.png")])


def test_an_image_array_s_folder(from_paths, tmp_path):
    """Protects images of several sizes: the largest centred square; the source reads what was given."""
    _, parts, _ = from_paths
    images = [np.asarray(Image.open(path).resize((8 + row % 3, 9))) for row, path in enumerate(parts["train"][:6])]
    found = inputs.recognise(images, 8)
    assert found.kind == "arrays" and found.rows.shape == (6, 8, 8, 1)
    rows = {"trusted": np.array([0, 5]), "validation": np.array([1])}
    told = inputs.write(tmp_path / "data", found, np.arange(6) % 2, ["a", "b"], rows)
    data = config_lib.base().data
    data.update(told)
    source = sources.load(data)
    assert (source.train.images == found.rows).all() and source.class_names == ("a", "b")
    assert source.trusted.tolist() == [0, 5] and source.validation.tolist() == [1]
    (tmp_path / "data" / "images.npy").unlink()
    np.save(tmp_path / "data" / "images.npy", found.rows.astype(float))
    with pytest.raises(UserError, match=r"images\.npy: float64 of shape .*, expected uint8 \[N, H, W, 1 or 3\]"):
        sources.load(data)
