"""What every method promises (`methods/base.py`), checked on each module found in `methods/`, in several variants.

A new method is found by itself and runs with its defaults; list the variants worth a compilation in VARIANTS. Each
variant is trained once, on one device, for a few steps of each stage: all checks read what that run has left. Images
are vectors and networks `mlp` where the method can, because those compile in little time; one case a method is images.
"""

import contextlib
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import bilevel, config, methods, parallel, train_state
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.experiment import Experiment
from kdmlc_jax.methods.base import PANELS
from kdmlc_jax.storage.checkpoint import Checkpoints

# The first is the one that devices and hidden truth are tried on. What costs most to compile (MixUp's Beta, a stage
# for the warm-up) is in one variant of a kind.
VARIANTS = {
    "aml_kd": ["neighbours=5,every=2", "neighbours=5,variant=release,noise_rate=0.4,mixup=0"],
    "blind_kd": ["rewind=true", "variant=release"],
    "dmlp": ["purify_epochs=2", "purify_epochs=2,then=blind_kd"],
    "ce": ["train_on=both,ema=0.9", "train_on=trusted"],
    "linear": ["student=linear", "student=linear,train_on=noisy"],
    "knn": ["student=nearest7", "student=nearest7,train_on=trusted"],
    "wann": ["student=nearest21", "student=nearest21,train_on=trusted", "student=nearest21,train_on=noisy"],
    "mlc": ["preset=paper", "preset=paper,look_ahead_steps=2,form=skip,network=student,warm_up=1"],
    "kdmlc": [
        "preset=strong,kd_weight=0.5,teacher_mixup=0,warm_up=0,ramp=0",
        "preset=strong,bilevel=off,pairs=estimated,warm_up=0",
    ],
}
# On images: what has a look-ahead through convolutions, or more than one view of them.
IMAGES = {"ce": "train_on=both,ema=0.9", "mlc": "preset=paper", "simclr": "", "dmlp": "ssl_epochs=1,purify_epochs=2"}
NEED_IMAGES = ("simclr",)
NAMES = methods.names()
CASES = [
    (name, arguments, "vectors") for name in NAMES if name not in NEED_IMAGES for arguments in VARIANTS.get(name, [""])
]
CASES += [(name, arguments, "images") for name, arguments in IMAGES.items()]
# Methods whose networks teach each other.
MUTUAL = ("blind_kd",)
CLASSES, NOISY, TRUSTED, VALIDATION, HELD_OUT = 3, 40, 24, 8, 6
STEPS = 3  # of each stage, two an epoch
NETS = {"vectors": {"teacher": "mlp6", "student": "mlp4"}, "images": {"teacher": "cnn2", "student": "cnn1"}}
SHAPES = {"vectors": (1, 1, 5), "images": (8, 8, 1)}


@cache
def dataset(kind):
    """Classes that lie apart, two in five labels wrong; trusted images of every class."""
    rng, count = np.random.default_rng(0), NOISY + TRUSTED + VALIDATION + HELD_OUT
    truth = np.arange(count, dtype=np.int32) % CLASSES
    images = rng.normal(size=(count, *SHAPES[kind])) + 2.0 * rng.normal(size=(CLASSES, *SHAPES[kind]))[truth]
    if kind == "images":
        images = np.clip(60 * images + 128, 0, 255).astype(np.uint8)
    splits = Splits(*np.split(np.arange(count), np.cumsum([NOISY, TRUSTED, VALIDATION])))
    given = np.where(rng.random(count) < 0.4, rng.integers(0, CLASSES, count), truth).astype(np.int32)
    carried = np.full(count, -1, np.int32)
    carried[splits.trusted] = given[splits.trusted]
    for rows in (splits.trusted, splits.held_out):
        given[rows] = truth[rows]
    return Dataset(
        name="toy",
        class_names=("a", "b", "c"),
        images=images if kind == "images" else images.astype(np.float32),
        given_label=given,
        carried_label=carried,
        trusted_given=carried,
        truth=truth,
        splits=splits,
        test_images=None,
        test_label=np.zeros(0, np.int32),
        rate=None,
        matrix=None,
        ids=np.arange(count),
    )


def settings(name, arguments, kind, **fields):
    """Tiny networks and batches; the method's arguments as a user writes them."""
    made = config.base()
    made.devices = 1
    made.train.update({"epochs": 4, "batch_size": 20, "trusted_batch_size": 16, "eval_batch_size": 32})
    if kind == "images":
        made.augment.update({"pad": 1, "flip": True, "cutout": 2})
    made = config.resolve(made, {**NETS[kind], "method": name, **config.parse_arguments(arguments)})
    made.update_from_flattened_dict(fields)
    return made


def named(tree):
    """Host copies of the leaves by their paths."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def host(tree):
    return jax.tree.map(np.array, parallel.fetch(tree))


class Walk(NamedTuple):
    """A few steps of every stage of a method; carries lie on the host."""

    experiment: Experiment
    steps: list  # compiled, one a stage
    feeds: list  # of the first step of each stage
    before: list  # the carry as each stage begins
    first: list  # (carry, metrics) after its first step
    after: list  # the carry after its last step
    metrics: dict  # of the last step
    beliefs: np.ndarray  # about all images
    changed: list  # stages whose step changed the state or the batch that it was given


def watched(stage, changed):
    """`stage`, which tells where its step has changed what it was given, keys included."""

    def contents(state, batch):
        return list(batch), jax.tree.structure(state), [*map(id, batch.values()), *map(id, jax.tree.leaves(state))]

    def step(state, batch, key):
        given = contents(state, batch)
        out = stage.step(state, batch, key)
        if contents(state, batch) != given:
            changed.append(stage.name)
        return out

    return stage._replace(step=step)


def walk_through(experiment):
    """STEPS of every stage, two an epoch, and the beliefs on all images."""
    carry, history = experiment.init(), []
    steps, feeds, before, first, after, changed = [], [], [], [], [], []
    for number, stage in enumerate(experiment.method.stages):
        if stage.begin is not None:
            for _ in range(2 if stage.every else 1):
                view = experiment.evaluator.view(history, lambda line: None)
                carry = experiment.place({**carry, "method": stage.begin(carry["method"], view)})
        before.append(host(carry))
        steps.append(experiment.compile(watched(stage, changed)))
        with contextlib.closing(experiment.feeds(stage, STEPS * number, STEPS * number + STEPS)) as given:
            for turn, feed in enumerate(given):
                carry, metrics = experiment.call(steps[-1], carry, feed)
                metrics.pop("stop", None)
                history.append({"stage": stage.name, **{name: float(value) for name, value in metrics.items()}})
                if not turn:
                    feeds.append(feed)
                    first.append((host(carry), host(metrics)))
        after.append(host(carry))
    beliefs = experiment.evaluator.beliefs(carry["method"], np.concatenate(experiment.dataset.splits[:3]))
    return Walk(experiment, steps, feeds, before, first, after, host(metrics), beliefs, changed)


@cache
def walk(name, arguments, kind):
    return walk_through(Experiment(settings(name, arguments, kind), dataset(kind)))


@pytest.fixture(params=CASES, ids=lambda case: "-".join(part for part in case if part))
def walked(request):
    return walk(*request.param)


def again(walked, number, carry):
    """What the first step of a stage makes of another carry."""
    return host(walked.experiment.call(walked.steps[number], walked.experiment.place(carry), walked.feeds[number]))


def final(walked):
    """The method's state after all steps."""
    return jax.tree.map(jnp.asarray, walked.after[-1]["method"])


def results(walked):
    return named((walked.after[-1], walked.metrics, walked.beliefs))


def signature(tree):
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def assert_same(got, want):
    """Equal to the bit, leaf by leaf; by name, because two builds of one method differ in their static functions."""
    got, want = named(got), named(want)
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_state(walked):
    """Protects planning without memory and checkpoints: init's shapes are known before any array exists, all leaves are
    arrays, and no two are saved under one name."""
    method, key = walked.experiment.method, jax.random.key(0)
    example = jnp.zeros((2, *walked.experiment.info.image_shape))
    abstract, state = jax.eval_shape(method.init, key, example), walked.before[0]["method"]
    assert [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(abstract)] == signature(state)[1]
    assert len(named(state)) == len(jax.tree.leaves(state)) > 0


def test_steps_keep_the_structure(walked):
    """Protects the carry: every stage returns a state of the same tree, shapes and dtypes; metrics are scalars."""
    for before, (carry, metrics), after in zip(walked.before, walked.first, walked.after, strict=True):
        assert signature(before) == signature(carry) == signature(after) == signature(walked.before[0])
        assert len(metrics) > 1 and all(value.shape == () for value in metrics.values())


def test_steps_compile_once(walked):
    """Protects step time: later calls, on the first one's output, must not recompile."""
    assert len(walked.steps) == len(walked.experiment.method.stages) > 0
    for step in walked.steps:
        assert step._cache_size() == 1


def test_everything_is_finite_and_moves(walked):
    """Protects training itself: finite states and metrics, and a deployed network that each stage changes, or another
    network in a stage that prepares."""
    method = walked.experiment.method
    for stage, before, (_, metrics), after in zip(
        method.stages, walked.before, walked.first, walked.after, strict=True
    ):
        assert metrics["finite"] and all(np.isfinite(value) for value in metrics.values())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
        pair = [method.networks(carry["method"]) for carry in (before, after)]
        moved = {
            name: any(
                (a != b).any() for a, b in zip(*(jax.tree.leaves(nets[name].params) for nets in pair), strict=True)
            )
            for name in pair[0]
        }
        assert any(moved.values()) if stage.name in method.traits.preparing else moved[method.traits.deployed]


def test_networks_and_traits(walked):
    """Protects what is deployed and saved: it is among the networks, which are "student", "teacher" or both."""
    method = walked.experiment.method
    names = set(method.networks(final(walked)))
    assert names <= {"student", "teacher"} and method.traits.deployed in names
    assert {stage.name for stage in method.stages} - set(method.traits.preparing)


def test_correct(walked):
    """Protects corrected labels: beliefs about all images, on the simplex."""
    assert walked.beliefs.shape == (NOISY + TRUSTED + VALIDATION, CLASSES) and walked.beliefs.dtype == np.float32
    assert (walked.beliefs >= 0).all()
    np.testing.assert_allclose(walked.beliefs.sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_predict(name):
    """Protects the output: finite logits f32[B, C], which are the deployed network's unless an ensemble is named."""
    walked = walk(name, VARIANTS.get(name, [""])[0], "images" if name in NEED_IMAGES else "vectors")
    method, state = walked.experiment.method, final(walked)
    images = jnp.asarray(walked.experiment.dataset.images[:5], jnp.float32) / 255.0
    logits = jax.jit(method.predict)(state, images)
    assert logits.shape == (5, CLASSES) and logits.dtype == jnp.float32 and jnp.isfinite(logits).all()
    if not method.traits.ensemble:
        net = method.networks(state)[method.traits.deployed]
        np.testing.assert_allclose(logits, train_state.evaluate(net, images).logits, rtol=1e-4, atol=1e-5)


def test_report(walked):
    """Protects label table and summary: T̂ with rows on the simplex, a value for each noisy image, finite figures."""
    report = walked.experiment.method.report(final(walked))
    if report.transition is not None:
        assert report.transition.shape == (CLASSES, CLASSES) and (report.transition >= 0).all()
        np.testing.assert_allclose(report.transition.sum(-1), 1.0, rtol=1e-5)
    for name, column in report.columns.items():
        assert column.shape == (NOISY,) and np.isfinite(column).all()
        assert (np.asarray(column).dtype == bool) or name != "is_label_issue"
    assert all(np.isfinite(value).all() for value in report.figures.values())


def test_panels_name_what_a_run_leaves(walked):
    """Protects a run's page from pictures of nothing: each panel is of figures, columns or metrics that are there."""
    method = walked.experiment.method
    report = method.report(final(walked))
    places = {"curve": {*report.figures, *walked.metrics}, "histogram": {*report.columns}}
    for panel in method.traits.panels:
        assert panel.title and panel.kind in PANELS
        assert {*panel.of} <= places.get(panel.kind, {*report.figures}) and panel.of
        assert {panel.mark, panel.over} - {""} <= {*report.figures}


# Those that say something; what the others' reports hold is nothing.
REPORTS = {"wann": "columns", "mlc": "transition", "kdmlc": "transition", "linear": "transition"}
REPORTS |= {"blind_kd": "columns", "aml_kd": "columns", "dmlp": "columns"}


@pytest.mark.parametrize("name, part", REPORTS.items())
def test_what_is_reported(name, part):
    """Protects the report from silence: the methods that find something do say it."""
    walked = walk(name, VARIANTS[name][0], "vectors")
    found = getattr(walked.experiment.method.report(final(walked)), part)
    assert found is not None and len(found)


def test_same_seed_same_bits(walked):
    """Protects reproducibility and resume: each stage's first step, run again on the same carry, agrees to the bit."""
    for number, (before, first) in enumerate(zip(walked.before, walked.first, strict=True)):
        assert_same(again(walked, number, before), first)


def test_step_changes_no_container(walked):
    """Protects purity: a step leaves the batch and the state it was given as they were, keys included."""
    assert walked.changed == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in IMAGES])
def test_steps_on_images(name):
    """Protects methods from the shape of vectors: every stage's step maps a state to its like where images are images.
    Only traced; the others are compiled."""
    method = Experiment(settings(name, VARIANTS.get(name, [""])[0], "images"), dataset("images")).method
    state = jax.eval_shape(method.init, jax.random.key(0), jnp.zeros((2, *SHAPES["images"])))
    for stage in method.stages:
        counts = {"": stage.streams.noisy, "trusted_": stage.streams.trusted, "meta_": stage.streams.meta}
        batch = {"epoch": jax.ShapeDtypeStruct((), jnp.int32)}
        for prefix, count in counts.items():
            if count:
                batch[f"{prefix}image"] = jax.ShapeDtypeStruct((count, *SHAPES["images"]), jnp.float32)
                batch |= {
                    f"{prefix}{kind}": jax.ShapeDtypeStruct((count,), jnp.int32) for kind in ("label", "index", "given")
                }
        after, _ = jax.eval_shape(stage.step, state, batch, jax.random.key(1))
        assert signature(after) == signature(state)


@pytest.mark.parametrize("name", NAMES)
def test_other_seed_other_init(name):
    """Protects the use of the key: another seed starts elsewhere, in every network."""
    kind = "images" if name in NEED_IMAGES else "vectors"
    method = walk(name, VARIANTS.get(name, [""])[0], kind).experiment.method
    images = jnp.zeros((2, *SHAPES[kind]))
    weights = jax.jit(lambda key: [net.params for net in method.networks(method.init(key, images)).values()])
    for one, other in zip(*(weights(jax.random.key(seed)) for seed in (0, 1)), strict=True):
        assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))


def test_restored_state_steps_alike(tmp_path):
    """Protects resuming: save, restore, step gives the bits of a step without the interruption."""
    walked = walk("kdmlc", VARIANTS["kdmlc"][0], "vectors")
    checkpoints, carry = Checkpoints(tmp_path, keep=1), walked.experiment.place(walked.before[-1])
    with contextlib.closing(checkpoints):
        checkpoints.save(1, carry, {"stage": 1})
        restored, progress = checkpoints.restore(carry)
    assert progress == {"stage": 1}
    assert_same(restored, walked.before[-1])
    number = len(walked.steps) - 1
    assert_same(again(walked, number, restored), walked.first[-1])


def outside(state, part):
    """The leaves of `state` that are not in its sub-tree `part`, by name."""
    inside = {id(leaf) for leaf in jax.tree.leaves(part)}
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if id(leaf) not in inside
    }


SINGLE = ("ce", "mlc", "linear", "knn", "wann")
ONE_WAY = [case for case in CASES if case[0] not in (*MUTUAL, *SINGLE) and "then=blind_kd" not in case[1]]


@pytest.mark.parametrize("case", ONE_WAY, ids=lambda case: "-".join(part for part in case if part))
def test_student_does_not_touch_its_teacher(case):
    """Protects one-way guidance: with another student, teacher and corrector after a step are equal to the bit."""
    walked = walk(*case)
    networks = walked.experiment.method.networks
    for number, (before, (after, _)) in enumerate(zip(walked.before, walked.first, strict=True)):
        student = {id(leaf) for leaf in jax.tree.leaves(networks(before["method"])["student"].params)}
        other = jax.tree.map(lambda leaf, its=student: leaf + 0.5 if id(leaf) in its else leaf, before)
        changed, _ = again(walked, number, other)
        pair = [jax.tree.leaves(networks(carry["method"])["student"].params) for carry in (changed, after)]
        assert all((a != b).any() for a, b in zip(*pair, strict=True))
        # What SimCLR keeps beside a network, and the features of both in one queue.
        got, want = (
            {
                name: leaf
                for name, leaf in outside(carry["method"], networks(carry["method"])["student"]).items()
                if "queue" not in name and "['student']" not in name
            }
            for carry in (changed, after)
        )
        assert len(want) >= len(jax.tree.leaves(networks(after["method"])["teacher"]))
        assert_same(got, want)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_truth_changes_nothing(name):
    """Protects the wall around the true label: shuffled on noisy and validation rows, it changes no bit of a run. Nor
    do images and labels that are held out, given ones and those they carried."""
    kind = "images" if name in NEED_IMAGES else "vectors"
    arguments, data, rng = VARIANTS.get(name, [""])[0], dataset(kind), np.random.default_rng(0)
    truth = data.truth.copy()
    for rows in (data.splits.noisy, data.splits.validation):
        truth[rows] = rng.permutation(truth[rows])
        assert (truth[rows] != data.truth[rows]).mean() > 0.4
    held, other = data.splits.held_out, data.images.copy()
    other[held] = other[held[::-1]] // 2
    given, carried = ((labels + np.isin(np.arange(len(truth)), held)) % CLASSES for labels in data[3:5])
    changed = data._replace(truth=truth, images=other, given_label=given, carried_label=carried, trusted_given=carried)
    assert all((changed[field][held] != data[field][held]).any() for field in (2, 3, 4, 5))
    got = walk_through(Experiment(settings(name, arguments, kind), changed))
    assert int(got.after[-1]["step"]) == STEPS * len(got.steps)
    assert_same(results(got), results(walk(name, arguments, kind)))


def assert_close(got, want):
    """Equal to float32 rounding: |a - b| ≤ 1e-4 of the leaf's largest entry, and 1e-6 for leaves near 0."""
    assert list(got) == list(want)
    for name, value in want.items():
        limit = 1e-4 * np.max(np.abs(value), initial=0) + 1e-6
        np.testing.assert_allclose(1.0 * got[name], 1.0 * value, rtol=0, atol=limit, err_msg=name)


PLACEMENTS = {
    "fsdp": {"parallel.sharding": "fsdp", "parallel.shard_above": 16},
    "pmap": {"parallel.mode": "pmap"},
    "model": {"parallel.sharding": "fsdp", "parallel.shard_above": 16, "parallel.model": 2},
}
# SimCLR needs images, and its loss over several devices is its own test's; KD's steps are AML-KD's with less, MLC's
# KDMLC's. What no method knows of is tried on the house's toy (`parallel.networks_test`).
CASES_PLACED = [
    (name, placement, "vectors")
    for name in NAMES
    if name not in ("simclr", "kd", "mlc", "ce")
    for placement in ("fsdp", "pmap")
]
CASES_PLACED += [("mlc", "pmap", "vectors"), ("ce", "model", "images"), ("ce", "pmap", "images")]


def placed(name, placement, kind):
    """The results of a walk on four devices."""
    fields = {"devices": 4, **PLACEMENTS[placement]}
    experiment = Experiment(settings(name, VARIANTS.get(name, [""])[0], kind, **fields), dataset(kind))
    assert experiment.mesh.size == 4
    return results(walk_through(experiment))


@pytest.mark.parametrize("name, placement, kind", CASES_PLACED)
def test_result_does_not_depend_on_the_devices(name, placement, kind):
    """Protects scaling out: networks, correctors, statistics, T̂, optimiser states, metrics and beliefs after several
    steps of every stage are those of one device, however four devices share the work."""
    assert_close(placed(name, placement, kind), results(walk(name, VARIANTS.get(name, [""])[0], kind)))


def test_averaging_the_meta_gradient_alone_is_noticed(monkeypatch):
    """Protects the test above: a step whose look-ahead moves along a device's own gradient fails it."""
    exact = bilevel.meta_gradient

    def averaged(*arguments):
        gradient, outer, ahead = exact(*arguments)
        return jax.lax.pmean(gradient, "data"), outer, ahead

    monkeypatch.setattr(parallel.networks, "average_gradient", lambda params, axis: params)
    monkeypatch.setattr(bilevel, "meta_gradient", averaged)
    with pytest.raises(AssertionError, match="params"):
        assert_close(placed("mlc", "pmap", "vectors"), results(walk("mlc", "preset=paper", "vectors")))
