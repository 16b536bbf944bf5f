"""DMLP as a method: labels purified between two stages, by any method used, on features from anywhere."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pyarrow.parquet as pq
import pytest
import tiny

from kdmlc_jax import methods, train, train_state
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.experiment import Experiment, check_needs
from kdmlc_jax.labels.purify import purify
from kdmlc_jax.labels.purify.release import purify_release
from kdmlc_jax.methods.base import DatasetView, Info, Method, Report, Stage, Streams, Traits
from kdmlc_jax.methods.ce import CrossEntropy
from kdmlc_jax.methods.dmlp import DMLP, DMLPState
from kdmlc_jax.methods.parts import contrastive
from kdmlc_jax.train_state import Bank

CLASSES, SHAPE, ROWS = 3, (4, 4, 1), 60
NETS = "teacher=mlp6,student=mlp4"
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=ROWS, num_trusted=12)
RNG = np.random.default_rng(0)
TRUTH = np.arange(ROWS) % CLASSES
GIVEN = np.where(np.arange(ROWS) % 5 == 0, (TRUTH + 1) % CLASSES, TRUTH).astype(np.int32)
KNOWN = (np.arange(12) % CLASSES).astype(np.int32)
RIDGE = {"ridge": 1e-6}
FEATURES = {
    "noisy": (np.eye(CLASSES)[TRUTH] + 0.1 * RNG.normal(size=(ROWS, CLASSES))).astype(np.float32),
    "trusted": (np.eye(CLASSES)[KNOWN] + 0.1 * RNG.normal(size=(12, CLASSES))).astype(np.float32),
}


def view(features=FEATURES, notes=None, decide=lambda fn: fn()):
    """The set as a stage's beginning sees it."""
    images = {name: jnp.asarray(RNG.normal(size=(len(rows), *SHAPE)), jnp.float32) for name, rows in FEATURES.items()}
    given = {"noisy": GIVEN, "trusted": KNOWN}

    def over(split, fn, current, label=None):
        return jax.device_get(fn(current, images[split], given[split] if label is None else label))

    said = [] if notes is None else notes
    return DatasetView(given["noisy"], given["trusted"], over, decide, jax.device_get, [], said.append, features)


def config(arguments=""):
    return tiny.config(f"method=dmlp,{NETS},{arguments}", {"train.batch_size": 20, "train.trusted_batch_size": 12})


def start(method):
    return jax.jit(method.init)(jax.random.key(0), jnp.zeros((2, *SHAPE)))


SOFT = RNG.dirichlet(np.ones(CLASSES), ROWS).astype(np.float32)


@pytest.fixture(scope="module")
def begun():
    """The method on given features after its labels were purified (they are SOFT), what it noted, and from what."""
    made, notes, handed = (
        methods.get("dmlp").make(config("train_on=noisy"), INFO._replace(num_features=CLASSES)),
        [],
        [],
    )
    method = dataclasses.replace(made, purifier=lambda *arrays, watch: handed.append(arrays) or SOFT)
    return method, method.stages[0].begin(start(method), view(notes=notes)), notes, handed


def test_what_labels_are_purified_on(begun):
    """Protects the plug: the purifier is handed the features and labels of either split, in its order, and what it
    gives is held, reported and said."""
    method, state, notes, handed = begun
    for got, want in zip(handed[0], (FEATURES["noisy"], GIVEN, FEATURES["trusted"], KNOWN), strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(state.soft_label.rows, SOFT)
    found = method.report(state).columns
    np.testing.assert_array_equal(found["purified_label"], SOFT.argmax(axis=1))
    np.testing.assert_array_equal(found["purified_confidence"], SOFT.max(axis=1))
    assert [stage.name for stage in method.stages] == ["train"]
    assert notes == [
        f"dmlp: {(SOFT.argmax(1) != GIVEN).mean():.1%} of the labels replaced; the largest belief is "
        f"{SOFT.max(axis=1).mean():.2f} on average"
    ]


def test_process_0_decides(begun):
    """Protects runs on several processes from labels that differ: what all of them take is what `decide` hands out."""
    method, state, _, _ = begun
    sent = SOFT[::-1].copy()
    got = method.stages[0].begin(state, view(decide=lambda fn: (sent, fn()[1])))
    np.testing.assert_array_equal(got.soft_label.rows, sent)


@pytest.mark.parametrize(("variant", "function", "more"), [("fixed", purify, {}), ("release", purify_release, RIDGE)])
def test_purifier_of_each_form(variant, function, more):
    """Protects `variant`: the form that is asked for, with the run's options; the release's with a ridge just above
    its 0, by which one dead feature would be the end."""
    purifier = methods.get("dmlp").make(config(f"variant={variant},purify_epochs=7,seed=5"), INFO).purifier
    assert purifier.func is function
    assert purifier.keywords == {"num_classes": CLASSES, "epochs": 7, "seed": 5, **more}


def test_own_labels_of_trusted_images_teach_nothing_of_purified_ones():
    """Protects stage 3's corrector: real pairs are of the first labels, which it does not see."""
    method = methods.get("dmlp").make(config("then=kdmlc"), INFO._replace(num_own_given=12))
    assert method.parts[0].meta.options.supervised > 0 and method.parts[0].meta.real_pairs == 0


def test_corrected_labels(begun):
    """Protects the table: purified labels for noisy images, whatever the image shows; the network's for others."""
    method, state, _, _ = begun
    images = jnp.asarray(RNG.normal(size=(3, *SHAPE)), jnp.float32)
    got = jax.jit(method.correct)(state, images, jnp.zeros(3, jnp.int32), jnp.array([7, -1, 0]))
    np.testing.assert_array_equal(got[jnp.array([0, 2])], SOFT[[7, 0]])
    np.testing.assert_allclose(got[1], jax.nn.softmax(jax.jit(method.predict)(state, images))[1], rtol=1e-5)


def test_ce_learns_from_the_soft_labels(begun):
    """Protects stage 3: teacher and student each learn from the purified labels by cross-entropy; the batch's own
    labels are not looked at."""
    method, state, _, _ = begun
    index = jnp.arange(20, 40, dtype=jnp.int32)
    batch = {"image": jax.random.normal(jax.random.key(1), (20, *SHAPE)), "index": index, "epoch": jnp.int32(0)}
    batch["label"] = jnp.zeros(20, jnp.int32)
    after, metrics = jax.jit(method.stages[0].step)(state, batch, jax.random.key(2))
    for name, figure in (("student", "loss"), ("teacher", "teacher_loss")):
        net = method.networks(state)[name]
        logits = jax.jit(lambda net, images: train_state.train_forward(net, net.params, images)[0].logits)(
            net, batch["image"]
        )
        want = -np.mean(np.sum(SOFT[20:40] * np.asarray(jax.nn.log_softmax(logits)), axis=1))
        assert float(metrics[figure]) == pytest.approx(want, rel=1e-4)
        assert int(method.networks(after)[name].step) == 1


class Toy(Method):
    """A method of two stages that writes down what it is given."""

    traits = Traits(deployed="student")

    def __init__(self):
        self.looks, self.batches, self.ends = [], [], []

    def init(self, key, images):
        return {"student": None}

    @property
    def stages(self):
        begin = lambda state, view: self.looks.append(view) or {**state, "begun": True}  # noqa: E731
        done = lambda history: self.ends.append(history) or True  # noqa: E731
        one = Stage("one", 2, Streams(noisy=4), self.step, begin, done)
        return one, Stage("two", 3, Streams(noisy=4), self.step, begin)

    def step(self, state, batch, key):
        self.batches.append(batch)
        return {**state, "moved": True}, {"loss": jnp.zeros(())}

    def predict(self, state, images):
        return jnp.zeros((len(images), CLASSES))

    def correct(self, state, images, given_label, index):
        return jax.nn.one_hot(given_label, CLASSES)

    def networks(self, state):
        return state

    def report(self, state):
        columns = {"is_label_issue": np.ones(ROWS, bool), "own": np.arange(ROWS)}
        return Report(columns=columns, figures={"figure": jnp.ones(2)})


def test_another_method_sees_the_purified_labels():
    """Protects `then`: its look at the whole set, its steps and its beliefs are of the purified labels, purified once;
    its epochs are counted from its own first one; its flags of purified labels are none of those given."""
    toy, handed = Toy(), []
    learner = contrastive.build(optax.identity(), CLASSES, 0.5, 0.01)
    purifier = lambda *arrays, watch: handed.append(arrays) or SOFT  # noqa: E731
    method = DMLP(toy.traits, INFO, (toy,), learner, 2, Streams(), purifier, believes_labels=False)
    label = SOFT.argmax(axis=1)
    first, one, two = method.stages
    assert [(stage.name, stage.epochs) for stage in (first, one, two)] == [("simclr", 2), ("one", 2), ("two", 3)]

    history = [{"stage": "simclr"}, {"stage": "simclr"}, {"stage": "one"}]
    state = DMLPState((toy.init(None, None),), {}, Bank(jnp.full((ROWS, CLASSES), 1 / CLASSES)), jnp.zeros((2, 3)))
    seen = view()._replace(history=history)
    state = two.begin(one.begin(state, seen), seen)
    assert len(handed) == 1 and state.parts[0]["begun"] and len(toy.looks) == 2
    for look in toy.looks:
        np.testing.assert_array_equal(look.given_label, label)
        np.testing.assert_array_equal(look.map("noisy", lambda _, images, given: given, None), label)
        np.testing.assert_array_equal(look.map("noisy", lambda _, images, given: given, None, GIVEN), GIVEN)
        np.testing.assert_array_equal(look.map("trusted", lambda _, images, given: given, None), KNOWN)
        assert look.history == history[2:]
    assert one.done(history) and toy.ends == [history[2:]] and two.done is None

    index = jnp.array([50, 5, 10])
    batch = {"index": index, "label": jnp.asarray(GIVEN)[index], "epoch": jnp.int32(2), "image": jnp.ones((3, *SHAPE))}
    state, _ = one.step(state, batch, jax.random.key(0))
    assert state.parts[0]["moved"] and toy.batches[0]["epoch"] == 0
    np.testing.assert_array_equal(toy.batches[0]["label"], label[index])
    np.testing.assert_array_equal(toy.batches[0]["soft_label"], SOFT[index])

    images, given = jnp.ones((2, *SHAPE)), jnp.array([0, 1])
    beliefs = method.correct(state, images, given, jnp.array([50, -1]))
    np.testing.assert_array_equal(beliefs.argmax(axis=1), [label[50], 1])
    report = method.report(state)
    assert set(report.columns) == {"purified_label", "purified_confidence", "own"}
    assert report.figures.keys() == {"figure", "purification_epoch", "labels_replaced", "largest_belief"}
    assert report.figures["purification_epoch"].tolist() == [0, 0] and report.figures["labels_replaced"][0] == 0
    assert report.figures["labels_replaced"][1] == pytest.approx(np.mean(label != GIVEN))


def test_networks_and_their_order():
    """Protects composition: the networks are those of the methods composed, the very objects, the teacher's features
    come before the student's, and a warm start must hold all of them unless features are given."""
    info = INFO._replace(num_features=CLASSES)
    for then, names in (("ce", {"student", "teacher"}), ("mlc", {"teacher"}), ("kdmlc", {"student", "teacher"})):
        method = methods.get("dmlp").make(config(f"then={then}"), INFO)
        state = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((2, *SHAPE)))
        found = method.networks(state)
        assert set(found) == set(state.contrastive) == names and method.traits.pretrained
        own = {
            name: net
            for part, at in zip(method.parts, state.parts, strict=True)
            for name, net in part.networks(at).items()
        }
        assert all(found[name] is net for name, net in own.items())
        assert list(method.encoders(state)) == sorted(names, reverse=True)
    assert not methods.get("dmlp").make(config(), info).traits.pretrained


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
    assert labels["accuracy_suggested"] > labels["accuracy_before"] + 0.05
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


def test_labels_of_another_run(run, tmp_path, monkeypatch):
    """Protects the plug-in: CE on `labels=<workdir>` learns from that run's labels and reports the ones first given;
    what is flagged is where the correction differs from those, whatever test a method has for the labels it learned
    from; what a run began with stays as it was."""
    one, two = shutil.copytree(run[1], tmp_path / "one"), tmp_path / "two"
    arguments = f"{NETS},epochs=1,noisy=0,rate=0.6,labels={one},labels_column=suggested"
    chosen = tiny.config(f"method=ce,{arguments}")
    dataset = prepare(chosen)
    right = (dataset.given_label == dataset.truth)[dataset.splits.noisy].mean()
    assert right == pytest.approx(run[2]["labels"]["accuracy_suggested"])
    flagged = {"is_label_issue": np.ones(len(dataset.splits.noisy), bool)}
    monkeypatch.setattr(CrossEntropy, "report", lambda self, state: Report(columns=flagged))
    summary = train.run(chosen, two, quiet=True)
    assert summary["labels"]["accuracy_before"] == pytest.approx(run[2]["labels"]["accuracy_before"])
    assert summary["noise"]["realised"] == run[2]["noise"]["realised"]
    table = pq.read_table(two / "labels.parquet").to_pydict()
    given, suggested, flags = (np.array(table[name]) for name in ("given_label", "suggested_label", "is_label_issue"))
    np.testing.assert_array_equal(flags, given != suggested)
    with pytest.raises(UserError, match=r"noisy images are not among the noisy ones there.*splits"):
        train.run(tiny.config(f"method=ce,{arguments},seed=1"), tmp_path / "no", quiet=True)
    assert not (tmp_path / "no").exists()
    known = np.load(one / "soft_labels.npy")
    np.save(one / "soft_labels.npy", 0.5 * known + 0.5 * np.eye(10)[known.argmax(1)].astype(np.float32))
    chosen.train.epochs = 2
    with pytest.raises(UserError, match=r"soft_labels\.npy: not what this run has left"):
        train.run(chosen, two, quiet=True)
    (one / "summary.json").unlink()  # a table of one's own has no sums
    with pytest.raises(UserError, match=r"holds a run that began with other data.labels or data.features"):
        train.run(chosen, two, quiet=True)


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
