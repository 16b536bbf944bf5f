"""DMLP as a method: labels purified between two stages, by any method used, on features from anywhere."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from kdmlc_jax import export, methods, train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.experiment import Experiment, check_needs
from kdmlc_jax.labels.purify import purify
from kdmlc_jax.labels.purify.release import purify_release
from kdmlc_jax.methods.base import DatasetView, Info
from kdmlc_jax.train_state import Bank

CLASSES, SHAPE, ROWS = 3, (4, 4, 1), 60
NETS = "teacher=mlp6,student=mlp4"
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=ROWS, num_trusted=12)
RNG = np.random.default_rng(0)
TRUTH = np.arange(ROWS) % CLASSES
GIVEN = np.where(np.arange(ROWS) % 5 == 0, (TRUTH + 1) % CLASSES, TRUTH).astype(np.int32)
FEATURES = {
    "noisy": (np.eye(CLASSES)[TRUTH] + 0.1 * RNG.normal(size=(ROWS, CLASSES))).astype(np.float32),
    "trusted": (np.eye(CLASSES)[np.arange(12) % CLASSES] + 0.1 * RNG.normal(size=(12, CLASSES))).astype(np.float32),
}


def view(features=FEATURES, notes=None, decide=lambda fn: fn()):
    """The set as a stage's beginning sees it."""
    images = {name: jnp.asarray(RNG.normal(size=(len(rows), *SHAPE)), jnp.float32) for name, rows in FEATURES.items()}
    given = {"noisy": GIVEN, "trusted": (np.arange(12) % CLASSES).astype(np.int32)}

    def over(split, fn, current, label=None):
        return jax.device_get(fn(current, images[split], given[split] if label is None else label))

    said = [] if notes is None else notes
    return DatasetView(given["noisy"], given["trusted"], over, decide, jax.device_get, [], said.append, features)


def config(arguments=""):
    return tiny.config(f"method=dmlp,{NETS},{arguments}", {"train.batch_size": 20, "train.trusted_batch_size": 12})


def start(method):
    return jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, *SHAPE)))


@pytest.fixture(scope="module")
def begun():
    """The method on given features, after its labels were purified."""
    method, notes = methods.get("dmlp").make(config("train_on=noisy"), INFO._replace(num_features=CLASSES)), []
    state = method.stages[0].begin(start(method), view(notes=notes))
    return method, state, notes


def test_labels_are_those_of_purify(begun):
    """Protects the plug: the method holds what the function gives for the same arrays, and says how much changed."""
    method, state, notes = begun
    want = purify(FEATURES["noisy"], GIVEN, FEATURES["trusted"], np.arange(12) % CLASSES, num_classes=CLASSES)
    np.testing.assert_array_equal(state.soft_label.rows, want)
    assert (want.argmax(axis=1) == TRUTH).mean() > (GIVEN == TRUTH).mean()
    found = method.report(state).columns
    np.testing.assert_array_equal(found["purified_label"], want.argmax(axis=1))
    assert [stage.name for stage in method.stages] == ["train"]
    assert notes == [
        f"dmlp: {(want.argmax(1) != GIVEN).mean():.1%} of the labels replaced; the largest belief is "
        f"{want.max(axis=1).mean():.2f} on average"
    ]


def test_process_0_decides(begun):
    """Protects runs on several processes from labels that differ: what all of them take is what `decide` hands out."""
    method, state, _ = begun
    sent = RNG.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)
    got = method.stages[0].begin(state, view(decide=lambda fn: sent))
    np.testing.assert_array_equal(got.soft_label.rows, sent)


def test_the_release_form():
    """Protects `variant`: the labels are those that the release's form gives with a ridge just above its 0."""
    method = methods.get("dmlp").make(config("variant=release"), INFO._replace(num_features=CLASSES))
    state = method.purified(start(method), view())
    arrays = FEATURES["noisy"], GIVEN, FEATURES["trusted"], np.arange(12) % CLASSES
    np.testing.assert_array_equal(state.soft_label.rows, purify_release(*arrays, ridge=1e-6))


def test_corrected_labels(begun):
    """Protects the table: purified labels for noisy images, whatever the image shows; the network's for others."""
    method, state, _ = begun
    images = jnp.asarray(RNG.normal(size=(3, *SHAPE)), jnp.float32)
    got = method.correct(state, images, jnp.zeros(3, jnp.int32), jnp.array([7, -1, 0]))
    np.testing.assert_array_equal(got[jnp.array([0, 2])], state.soft_label.rows[jnp.array([7, 0])])
    np.testing.assert_allclose(got[1], jax.nn.softmax(method.predict(state, images))[1], rtol=1e-5)


def test_ce_learns_from_the_soft_labels(begun):
    """Protects stage 3: teacher and student take the step that plain CE takes on the purified labels; the batch's own
    labels are not looked at."""
    method, state, _ = begun
    index = jnp.arange(20, dtype=jnp.int32)
    batch = {"image": jax.random.normal(jax.random.key(1), (20, *SHAPE)), "index": index, "epoch": jnp.int32(0)}
    after, _ = jax.jit(method.stages[0].step)(state, batch | {"label": jnp.zeros(20, jnp.int32)}, jax.random.key(2))
    for place, name in enumerate(("student", "teacher")):
        plain = methods.get("ce").make(tiny.config(f"method=ce,{NETS},network={name}"), INFO)
        learned = batch | {"label": index, "soft_label": state.soft_label.rows[index]}
        want, _ = jax.jit(plain.stages[0].step)(state.parts[place], learned, jax.random.key(2))
        got = method.networks(after)[name]
        for a, b in zip(*map(jax.tree.leaves, (got.params, want.params)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_another_method_sees_the_purified_labels():
    """Protects `then`: Blind-KD's own look at the whole set is at purified labels and its own epochs, and KDMLC's
    corrector is asked about the purified label."""
    method = methods.get("dmlp").make(config("then=kdmlc"), INFO._replace(num_features=CLASSES))
    state = start(method)
    state = method.stages[0].begin(state, view())
    label = state.soft_label.rows.argmax(axis=1)
    row = int(np.flatnonzero(np.asarray(label) != GIVEN)[0])
    images = jnp.ones((1, *SHAPE))
    inner = methods.get("kdmlc").make(tiny.config(f"method=kdmlc,{NETS}"), INFO)
    got = method.correct(state, images, jnp.asarray(GIVEN[row : row + 1]), jnp.array([row]))
    want = inner.correct(state.parts[0], images, label[row : row + 1], jnp.array([row]))
    np.testing.assert_allclose(got, want, rtol=1e-5)
    assert [stage.name for stage in method.stages] == ["warm_up", "correct"]
    assert {name: method.networks(state)[name] is net for name, net in inner.networks(state.parts[0]).items()} == {
        "student": True,
        "teacher": True,
    }


def test_epochs_of_the_method_that_follows():
    """Protects what a method notes of epochs: SimCLR's are not among them, in its step, its look or its end."""
    method = methods.get("dmlp").make(config("then=blind_kd,ssl_epochs=2,epochs=4"), INFO)
    state = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((2, *SHAPE)))
    assert [stage.name for stage in method.stages] == ["simclr", "blind", "refined"]
    assert set(method.networks(state)) == set(state.contrastive) == {"student", "teacher"}
    history = [{"stage": "simclr"}, {"stage": "simclr"}, {"stage": "blind", "student_confidence": 0.5}]
    assert method.stages[1].done(history) == method.parts[0].stages[0].done(history[2:])
    looked = []
    own = (
        method.parts[0]
        .stages[1]
        ._replace(
            begin=lambda part, seen: looked.append(seen),
            step=lambda part, batch, key: looked.append(batch) or (part, {}),
        )
    )
    purified = state.replace(soft_label=Bank(jax.nn.one_hot(TRUTH, CLASSES)), parts=(None,))
    stage = method.on_purified((own,), purifies=False)
    stage.begin(purified, view()._replace(history=history))
    np.testing.assert_array_equal(looked[0].given_label, TRUTH)
    assert looked[0].history == history[2:]
    np.testing.assert_array_equal(looked[0].map("noisy", lambda _, images, label: label, None), TRUTH)
    index = jnp.array([0, 5, 10])
    stage.step(purified, {"index": index, "label": GIVEN[index], "epoch": jnp.int32(2)}, jax.random.key(0))
    assert looked[1]["epoch"] == 0
    np.testing.assert_array_equal(looked[1]["label"], TRUTH[index])


RUN = f"method=dmlp,{NETS}"
FIELDS = {"data.noisy": 0.0, "noise.rate": 0.6, "train.epochs": 2, "method.ssl_epochs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of all three stages: its config, folder and summary."""
    folder, chosen = tmp_path_factory.mktemp("dmlp") / "one", tiny.config(RUN, FIELDS)
    return chosen, folder, train.run(chosen, folder, quiet=True)


def test_simclr_comes_first(run):
    """Protects the whole: SimCLR's epochs before `train.epochs`, labels purified once, better than they were, and kept
    in the table beside those first given."""
    chosen, folder, summary = run
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["simclr"] + ["train"] * 2
    best = summary["networks"]["student"]["best_test"]
    assert best == max(row["student_test"] for row in rows[1:])  # a probe on SimCLR's features is not the method
    labels = summary["labels"]
    assert labels["accuracy_after"] > labels["accuracy_before"] + 0.15
    assert len(summary["notes"]) == 1 and summary["notes"][0].startswith("dmlp: ")
    table = pq.read_table(folder / "labels.parquet").to_pydict()
    noisy = np.array(table["split"]) == "noisy"
    soft = np.load(folder / "soft_labels.npy")
    np.testing.assert_array_equal(soft[noisy].argmax(axis=1), np.array(table["purified_label"])[noisy].astype(int))
    dataset = prepare(chosen)
    np.testing.assert_array_equal(table["given_label"], dataset.given_label[np.concatenate(dataset.splits)])


def test_networks_of_another_run(run):
    """Protects `init_from`: a run that starts from this one's networks needs no SimCLR, and all of them must be there
    to purify on."""
    _, folder, _ = run
    second = Experiment(tiny.config(RUN, FIELDS | {"init_from": str(folder)}), prepare(run[0]))
    assert [stage.name for stage in second.method.stages] == ["train"] and second.method.traits.pretrained
    assert set(second.method.networks(second.init()["method"])) == {"student", "teacher"}


def test_labels_of_another_run(run, tmp_path):
    """Protects the plug-in: CE on `labels=<workdir>` learns from that run's labels, reports the ones first given, and
    says of its own flags what is wrong with those."""
    _, folder, one = run
    arguments = f"{NETS},epochs=1,noisy=0,rate=0.6,labels={folder}"
    plain = tiny.config(f"method=ce,{arguments}")
    dataset = prepare(plain)
    right = (dataset.given_label == dataset.truth)[dataset.splits.noisy].mean()
    assert right == pytest.approx(one["labels"]["accuracy_after"])
    two = train.run(plain, tmp_path / "two", quiet=True)
    assert two["labels"]["accuracy_before"] == pytest.approx(one["labels"]["accuracy_before"])
    assert two["noise"]["realised"] == one["noise"]["realised"]
    with pytest.raises(UserError, match=r"noisy images are not among the noisy ones there.*splits"):
        train.run(tiny.config(f"method=ce,{arguments},seed=1"), tmp_path / "no", quiet=True)
    assert not (tmp_path / "no").exists()


def test_features_of_ones_own(tmp_path):
    """Protects `data.features`: rows by training image, each split given its own, and no SimCLR stage."""
    dataset = prepare(tiny.config("method=dmlp"))
    path = tmp_path / "features.npy"
    np.save(path, dataset.images.reshape(len(dataset.images), -1).astype(np.float32))
    chosen = tiny.config(f"{RUN},features={path}", {"data.noisy": 0.0, "train.epochs": 1})
    dataset = prepare(chosen)
    experiment = Experiment(chosen, dataset)
    assert [stage.name for stage in experiment.method.stages] == ["train"] and experiment.info.num_features == 64
    got = experiment.evaluator.view([], lambda line: None).features
    for split in ("noisy", "trusted"):
        rows = getattr(dataset.splits, split)
        np.testing.assert_array_equal(got[split], dataset.images[rows].reshape(len(rows), -1))
    summary = train.run(chosen, tmp_path / "run", quiet=True)
    assert summary["labels"]["accuracy_after"] > 0.85
    assert callable(export.load(tmp_path / "run" / "student"))


def test_a_class_nobody_trusts_is_named_before_training():
    """Protects hours of SimCLR: what `purify` would refuse at the end is refused at the start."""
    chosen = tiny.config("method=dmlp")
    method, dataset = methods.get("dmlp").make(chosen, INFO), prepare(chosen)
    trusted = dataset.splits.trusted
    some = dataset._replace(splits=dataset.splits._replace(trusted=trusted[dataset.given_label[trusted] > 1]))
    with pytest.raises(UserError, match=r"data.trusted: no trusted image of 0, 1; dmlp needs one or more"):
        check_needs(method, chosen, some)
    none = dataset._replace(splits=dataset.splits._replace(trusted=trusted[:0]))
    with pytest.raises(NoTrustedError, match=r"data.trusted: no trusted images, and dmlp learns from them"):
        check_needs(method, chosen, none)


@pytest.mark.parametrize(
    "options, message",
    [
        ("then=kdmcl", r'method.then: "kdmcl" is not one of .* \(did you mean "kdmlc"\?\)'),
        ("variant=old", r'method.variant: "old" is not one of fixed, release'),
        ("purify_epochs=0", r"method.purify_epochs: 0 is outside"),
        ("ssl_epochs=0", r"method.ssl_epochs: 0 is outside \[1, inf\]"),
        ("train_on=trusted", r'method.train_on: "trusted" is not one of noisy, both'),
    ],
)
def test_bad_options(options, message):
    """Protects a person from a run that starts with an option out of its range."""
    with pytest.raises(UserError, match=message):
        methods.get("dmlp").make(config(options), INFO)


def test_flags_of_labels_another_run_corrected(run, tmp_path):
    """Protects the table: beside the labels first given, what is flagged is where the correction differs from them,
    whatever test the method has for the labels it learned from; and what a run began with stays as it was."""
    one, two = shutil.copytree(run[1], tmp_path / "one"), tmp_path / "two"
    chosen = tiny.config(f"method=blind_kd,{NETS},noisy=0,rate=0.6,epochs=4,labels={one}")
    train.run(chosen, two, quiet=True)
    table = pq.read_table(two / "labels.parquet").to_pydict()
    given, corrected, flags = (np.array(table[name]) for name in ("given_label", "corrected_label", "is_label_issue"))
    np.testing.assert_array_equal(flags, given != corrected)
    known = np.load(one / "soft_labels.npy")
    np.save(one / "soft_labels.npy", 0.5 * known + 0.5 * np.eye(10)[known.argmax(1)].astype(np.float32))
    chosen.train.epochs = 5
    with pytest.raises(UserError, match=r"holds a run that began with other data.labels or data.features"):
        train.run(chosen, two, quiet=True)


def test_features_are_for_methods_that_read_them(tmp_path):
    """Protects a person who gives features to a method that would not look at them."""
    path = tmp_path / "features.npy"
    np.save(path, np.random.default_rng(0).normal(size=(len(prepare(config()).images), 4)))
    with pytest.raises(UserError, match=r"data.features: ce has no use for features"):
        train.run(tiny.config(f"method=ce,features={path}"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
