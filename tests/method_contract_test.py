"""What every method promises (`methods/base.py`), checked on each module found in `methods/`, in several variants.

A new method is found by itself and runs with its defaults; list the variants worth a compilation in VARIANTS.
"""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import bilevel, config, methods, parallel, train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.methods.base import DatasetView, Info
from kdmlc_jax.storage.checkpoint import Checkpoints

VARIANTS = {
    "aml_kd": ["neighbours=5,variant=release,noise_rate=0.4", "neighbours=5"],
    "blind_kd": ["", "variant=release", "rewind=true"],
    "dmlp": ["ssl_epochs=2,purify_epochs=2", "ssl_epochs=2,then=blind_kd"],
    "ce": ["train_on=noisy", "train_on=trusted", "train_on=both,ema=0.9"],
    "mlc": ["preset=paper,network=student", "preset=strong", "preset=paper,look_ahead_steps=2,form=skip"],
    "kdmlc": [
        "preset=paper",
        "preset=strong",
        "preset=strong,form=transition,bilevel=off,pairs=real",
        "preset=strong,bilevel=normalised,form=residual",
    ],
}
CASES = [(name, arguments) for name in methods.names() for arguments in VARIANTS.get(name, [""])]
CLASSES, SHAPE, ROWS, TRUSTED = 3, (8, 8, 1), 24, 12
INFO = Info(num_classes=CLASSES, image_shape=SHAPE, steps_per_epoch=2, num_noisy=ROWS, num_trusted=TRUSTED)
# Methods whose networks teach each other.
MUTUAL = ("blind_kd",)


def settings(name, arguments):
    """Tiny networks and batches; the method's arguments as a user writes them."""
    base = config.base()
    base.data.trusted_given = True
    base.train.update({"epochs": 4, "batch_size": 8, "trusted_batch_size": 8})
    return config.resolve(
        base, {"teacher": "cnn3", "student": "cnn2", "method": name, **config.parse_arguments(arguments)}
    )


def make_batch(streams, seed):
    """A random batch with the keys that `Streams` documents."""
    rng, batch = np.random.default_rng(seed), {"epoch": jnp.int32(seed)}

    def images(count):
        return jnp.asarray(rng.normal(size=(count, *SHAPE)), jnp.float32)

    def labels(count, high=CLASSES):
        return jnp.asarray(rng.integers(0, high, count), jnp.int32)

    if streams.noisy:
        rows = jnp.asarray(rng.permutation(ROWS)[: streams.noisy], jnp.int32)
        batch |= {"image": images(streams.noisy), "label": labels(streams.noisy), "index": rows}
        batch |= {name: images(streams.noisy) for name in ("view1", "view2") if streams.views}
    for kind in ("trusted", "meta"):
        if count := getattr(streams, kind):
            batch |= {
                f"{kind}_image": images(count),
                f"{kind}_label": labels(count),
                f"{kind}_given": labels(count),
            }
    return batch


def view(results):
    """The whole set, after epochs with these results: (stage, (state, metrics)) each."""
    rng = np.random.default_rng(9)
    rows = {"noisy": ROWS, "trusted": TRUSTED}
    images = {split: jnp.asarray(rng.normal(size=(count, *SHAPE)), jnp.float32) for split, count in rows.items()}
    labels = {split: rng.permutation(np.arange(count) % CLASSES).astype(np.int32) for split, count in rows.items()}
    history = [
        {"stage": stage.name, **{name: float(value) for name, value in metrics.items()}}
        for stage, (_, metrics) in results
    ]
    return DatasetView(
        given_label=labels["noisy"],
        trusted_label=labels["trusted"],
        map=lambda split, fn, current, label=None: jax.device_get(
            fn(current, images[split], labels[split] if label is None else label)
        ),
        fetch=jax.device_get,
        history=history,
        note=lambda line: None,
    )


class Walk(NamedTuple):
    """One pass through all stages of a method, two steps each."""

    title: str
    method: object
    init: object
    steps: list  # compiled, one per stage
    before: list  # state as each stage begins
    after: list  # [(state, metrics) after the first step, after the second] per stage


EXAMPLE = jnp.zeros((2, *SHAPE))


def place(state):
    """On the device where a restored state lies, too: a step is compiled for one placement."""
    return jax.device_put(state, jax.devices()[0])


@cache
def walk(name, arguments):
    method = methods.get(name).make(settings(name, arguments), INFO)
    init = jax.jit(method.init)
    state = place(init(jax.random.key(0), EXAMPLE))
    steps, before, after = [], [], []
    for number, stage in enumerate(method.stages):
        if stage.begin is not None:
            pairs = zip(method.stages, after, strict=False)
            state = place(stage.begin(state, view([(past, result) for past, results in pairs for result in results])))
        step, results = parallel.compile_step(stage.step), []
        before.append(state)
        for turn in range(2):
            state, metrics = step(state, make_batch(stage.streams, turn), jax.random.key(10 * number + turn))
            results.append((state, metrics))
        steps.append(step)
        after.append(results)
    return Walk(f"{name},{arguments}", method, init, steps, before, after)


@pytest.fixture(params=CASES, ids=lambda case: "-".join(part for part in case if part))
def walked(request):
    return walk(*request.param)


def signature(tree):
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]


def named(tree):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(got, want):
    """Equal to the bit, leaf by leaf; by name, because two builds of one method differ in their static functions."""
    got, want = named(got), named(want)
    assert list(got) == list(want)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_init_under_eval_shape(walked):
    """Protects planning without memory: init's shapes are known before any array exists, and all leaves are arrays."""
    abstract = jax.eval_shape(walked.method.init, jax.random.key(0), EXAMPLE)
    real = walked.init(jax.random.key(0), EXAMPLE)
    assert signature(abstract) == signature(real)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(real))


def test_steps_keep_the_structure(walked):
    """Protects the carry: every stage returns a state of the same tree, shapes and dtypes; metrics are scalars."""
    for before, results in zip(walked.before, walked.after, strict=True):
        assert signature(before) == signature(walked.before[0])
        for state, metrics in results:
            assert signature(state) == signature(before)
            assert metrics and all(value.shape == () for value in metrics.values())


def test_steps_compile_once(walked):
    """Protects step time: the second call, on the first one's output, must not recompile."""
    assert len(walked.steps) == len(walked.method.stages) > 0
    for step in walked.steps:
        assert step._cache_size() == 1


def test_everything_is_finite_and_moves(walked):
    """Protects training itself: finite states and metrics, and a deployed network that each stage changes, or another
    network where the stage does not count."""
    deployed = walked.method.networks[walked.method.deployed]

    def weights(state, counts):
        nets = [deployed] if counts or not walked.method.taught else walked.method.networks.values()
        return jax.tree.leaves([net(state).params for net in nets])

    for stage, before, results in zip(walked.method.stages, walked.before, walked.after, strict=True):
        for leaf in jax.tree.leaves(results):
            assert jnp.isfinite(leaf).all()
        old, new = weights(before, stage.counts), weights(results[-1][0], stage.counts)
        assert any((a != b).any() for a, b in zip(old, new, strict=True))


def test_predict_and_correct(walked):
    """Protects the outputs: logits [B, C] of the deployed network, and label beliefs whose rows sum to 1."""
    state = walked.after[-1][-1][0]
    images = make_batch(walked.method.stages[0].streams._replace(noisy=5), 3)["image"]
    given = jnp.array([0, 1, 2, 0, 1], jnp.int32)
    logits = jax.jit(walked.method.predict)(state, images)
    beliefs = jax.jit(walked.method.correct)(state, images, given, jnp.array([3, 0, -1, -1, 23]))
    assert logits.shape == beliefs.shape == (5, CLASSES)
    assert logits.dtype == beliefs.dtype == jnp.float32
    assert jnp.isfinite(logits).all() and (beliefs >= 0).all()
    np.testing.assert_allclose(beliefs.sum(-1), 1.0, rtol=1e-5)
    assert walked.method.deployed in walked.method.networks
    assert set(walked.method.networks) <= {"student", "teacher"}


def test_what_is_found(walked):
    """Protects label table and report: a value for each noisy image, finite figures, and flags that are bool."""
    state = walked.after[-1][-1][0]
    examined = walked.method.examine(state) if walked.method.examine else {}
    assert all(column.shape == (ROWS,) for column in examined.values())
    assert examined.get("is_label_issue", jnp.zeros(0, bool)).dtype == bool
    found = walked.method.diagnostics(state) if walked.method.diagnostics else {}
    assert all(jnp.isfinite(value).all() for value in [*examined.values(), *found.values()])


def test_transition_is_stochastic(walked):
    """Protects T̂, where a method estimates it: rows are distributions over given labels."""
    if walked.method.transition is None:
        pytest.skip("no transition matrix")
    matrix = walked.method.transition(walked.after[-1][-1][0])
    assert matrix.shape == (CLASSES, CLASSES) and (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(-1), 1.0, rtol=1e-5)


def test_same_seed_same_bits(walked):
    """Protects reproducibility: init and each stage's step, run again on the same inputs, agree to the bit."""
    assert_same(walked.init(jax.random.key(0), EXAMPLE), walked.init(jax.random.key(0), EXAMPLE))
    for number, (stage, step) in enumerate(zip(walked.method.stages, walked.steps, strict=True)):
        again = step(walked.before[number], make_batch(stage.streams, 0), jax.random.key(10 * number))
        assert_same(again, walked.after[number][0])


def test_other_seed_other_init(walked):
    """Protects the use of the key: another seed starts elsewhere."""
    pair = [jax.tree.leaves(walked.init(jax.random.key(seed), EXAMPLE)) for seed in (0, 1)]
    assert any((a != b).any() for a, b in zip(*pair, strict=True))


def test_inputs_are_not_changed(walked):
    """Protects purity: a step leaves the state and the batch it was given as they were, keys included."""
    for number, (stage, step) in enumerate(zip(walked.method.stages, walked.steps, strict=True)):
        state, batch = walked.before[number], make_batch(stage.streams, 0)
        copies = jax.tree.map(np.array, (state, batch))
        step(state, batch, jax.random.key(1))
        assert_same((state, batch), copies)
        jax.eval_shape(stage.step, state, batch, jax.random.key(1))
        assert_same((state, batch), copies)


def test_restored_state_steps_alike(walked, tmp_path):
    """Protects resuming: save, restore, step gives the bits of a step without the interruption."""
    last = walked.after[-1]
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, last[0][0], {"stage": 1})
    restored, progress = checkpoints.restore(last[0][0])
    checkpoints.close()
    assert progress == {"stage": 1}
    assert_same(restored, last[0][0])
    number = len(walked.steps) - 1
    batch = make_batch(walked.method.stages[-1].streams, 1)
    assert_same(walked.steps[-1](restored, batch, jax.random.key(10 * number + 1)), last[1])


def perturb(state, part):
    """`state` with the leaves of its sub-tree `part` changed; leaves are told by identity."""
    chosen = {id(leaf) for leaf in jax.tree.leaves(part)}
    return jax.tree.map(lambda leaf: leaf + 0.5 if id(leaf) in chosen else leaf, state)


def outside(state, part):
    """The leaves of `state` that are not in its sub-tree `part`, by name."""
    inside = {id(leaf) for leaf in jax.tree.leaves(part)}
    return {name: leaf for name, leaf in named(state).items() if id(leaf) not in inside}


def test_student_does_not_touch_its_teacher(walked):
    """Protects one-way guidance: with another student, teacher and corrector after a step are equal to the bit."""
    if set(walked.method.networks) != {"student", "teacher"} or any(name in walked.title for name in MUTUAL):
        pytest.skip("no teacher beside a student, or one that learns from it")
    student = walked.method.networks["student"]
    for number, (stage, step) in enumerate(zip(walked.method.stages, walked.steps, strict=True)):
        before, (after, _) = walked.before[number], walked.after[number][0]
        changed, _ = step(
            perturb(before, student(before).params), make_batch(stage.streams, 0), jax.random.key(10 * number)
        )
        pair = [jax.tree.leaves(student(state).params) for state in (changed, after)]
        assert all((a != b).any() for a, b in zip(*pair, strict=True))
        mine = ("queue", "contrasts['student']")  # what SimCLR keeps beside the network
        untouched, got = (
            {
                name: leaf
                for name, leaf in outside(state, student(state)).items()
                if not any(own in name for own in mine)
            }
            for state in (after, changed)
        )
        assert len(untouched) >= len(jax.tree.leaves(walked.method.networks["teacher"](after)))
        assert_same(got, untouched)


def digits(name, arguments, **fields):
    """A method on real images, every stage of it, with augmentation."""
    chosen = settings(name, arguments)
    chosen.data.update({"source": "digits", "trusted": 30, "validation": 60, "noisy": 40})
    chosen.train.update({"batch_size": 20, "trusted_batch_size": 16, "eval_batch_size": 100})
    chosen.augment.update({"pad": 1, "flip": True, "cutout": 2})
    chosen.devices = 1
    chosen.update_from_flattened_dict(fields)
    return chosen


STEPS = 5


def few_steps(job):
    """On the host: carry and metrics after STEPS of every stage, two an epoch, and the beliefs on all images."""
    carry, history = job.init(), []
    for number, stage in enumerate(job.method.stages):
        if stage.begin is not None:
            view = job.evaluator.view(history, lambda line: None)
            for _ in range(2 if stage.every else 1):
                carry = job.place({**carry, "method": stage.begin(carry["method"], view)})
        compiled = job.compile(stage)
        for feed in job.feeds(stage, STEPS * number, STEPS * number + STEPS):
            carry, metrics = job.call(compiled, carry, feed)
            metrics.pop("stop", None)
            history.append({"stage": stage.name, **{name: float(value) for name, value in metrics.items()}})
    beliefs = job.evaluator.beliefs(carry["method"], np.concatenate(job.dataset.splits))
    return named(parallel.fetch((carry, metrics, beliefs)))


# One demanding variant of each method: random draws, MixUp, averages.
SPREAD = {
    "aml_kd": "neighbours=5,every=2",
    "blind_kd": "rewind=true",
    "dmlp": "ssl_epochs=1,purify_epochs=2",
    "ce": "train_on=both,ema=0.9",
    "mlc": "preset=paper",
    "kdmlc": "preset=strong,kd_weight=0.5,mixup=1,warm_up=0,ramp=0",
}
PLACEMENTS = {
    "jit": {},
    "fsdp": {"parallel.sharding": "fsdp", "parallel.shard_above": 64},
    "pmap": {"parallel.mode": "pmap"},
    "stream": {"data.pipeline": "stream"},
    "model": {"parallel.sharding": "fsdp", "parallel.shard_above": 64, "parallel.model": 2},
}
# SimCLR's step is the first stage of DMLP, KD's are AML-KD's with less.
SPREAD_NAMES = [name for name in methods.names() if name not in ("simclr", "kd")]
# `processes_test.py` has "jit"; "stream" and "model" differ from it in what no method knows of.
CASES_SPREAD = [(name, placement) for name in SPREAD_NAMES for placement in ("fsdp", "pmap")]
CASES_SPREAD += [("ce", "jit"), ("ce", "stream"), ("ce", "model")]


@cache
def spread_over(name, placement):
    """`few_steps` of a method on four devices, or on one ("")."""
    fields = {"devices": 4, **PLACEMENTS[placement]} if placement else {}
    chosen = digits(name, SPREAD.get(name, ""), **fields)
    job = train.Experiment(chosen, prepare(chosen))
    assert job.mesh.size == (4 if placement else 1)
    return few_steps(job)


@pytest.mark.parametrize("name", methods.names())
def test_hidden_truth_changes_nothing(name):
    """Protects the wall around the true label: shuffled on noisy and validation rows, it changes no bit of a run."""
    chosen = digits(name, SPREAD.get(name, ""))
    dataset = prepare(chosen)
    truth, rng = dataset.truth.copy(), np.random.default_rng(0)
    for rows in (dataset.splits.noisy, dataset.splits.validation):
        truth[rows] = rng.permutation(truth[rows])
        assert (truth[rows] != dataset.truth[rows]).mean() > 0.5
    job = train.Experiment(chosen, dataset._replace(truth=truth))
    got = few_steps(job)
    assert int(got["[0]['step']"]) == STEPS * len(job.method.stages)
    assert_same(got, spread_over(name, ""))


def assert_close(got, want):
    """Equal to float32 rounding: |a - b| ≤ 1e-4 of the leaf's largest entry, and 1e-6 for leaves near 0."""
    assert list(got) == list(want)
    for name, value in want.items():
        limit = 1e-4 * np.max(np.abs(value), initial=0) + 1e-6
        np.testing.assert_allclose(1.0 * got[name], 1.0 * value, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("name, placement", CASES_SPREAD)
def test_result_does_not_depend_on_the_devices(name, placement):
    """Protects scaling out: networks, correctors, statistics, T̂, optimiser states, metrics and beliefs after several
    steps of every stage are those of one device, however four devices share the work."""
    assert_close(spread_over(name, placement), spread_over(name, ""))


def test_averaging_the_meta_gradient_alone_is_noticed(monkeypatch):
    """Protects the test above: a step whose look-ahead moves along a device's own gradient fails it."""
    exact = bilevel.meta_gradient

    def averaged(*arguments):
        gradient, outer, ahead = exact(*arguments)
        return jax.lax.pmean(gradient, "data"), outer, ahead

    monkeypatch.setattr(parallel.networks, "average_gradient", lambda params, axis: params)
    monkeypatch.setattr(bilevel, "meta_gradient", averaged)
    with pytest.raises(AssertionError, match=r"BatchNorm"):
        assert_close(spread_over.__wrapped__("mlc", "pmap"), spread_over("mlc", ""))
