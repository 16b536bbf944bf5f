"""Blind-KD: its losses and targets by hand, the tipping point, which weights split the labels, and what it finds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from kdmlc_jax import config as config_lib
from kdmlc_jax import methods, train
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.labels import thresholds
from kdmlc_jax.methods.base import DatasetView, Info
from kdmlc_jax.methods.parts import agreement as pair
from kdmlc_jax.methods.parts import label_split
from kdmlc_jax.train_state import train_forward

CLASSES = 3


def logits(seed, count=5, classes=CLASSES):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, classes)), jnp.float32)


LABEL = jnp.array([0, 1, 2, 0, 1], jnp.int32)


@pytest.mark.parametrize(
    "curve, epoch",
    [
        ([], None),
        ([1, 2, 5, 3, 4], 2),
        ([1, 2, 5, 3], None),  # two epochs must have followed
        ([5, 4, 3, 2, 1, 0], None),  # two must have gone before
        ([1, 9, 2, 1, 1], None),  # … not one
        ([1, 2, 3, 4, 5, 6, 7], None),
        ([1, 2, 5, 5, 3, 4, 2], None),  # a tie is no peak
        ([0, 1, 4, 2, 3, 9, 5, 6], 2),  # the first of two
        ([0, 3, 4, 2, 5, 9, 5, 6], 5),  # 4 is below what follows two epochs later
    ],
)
def test_tipping_point(curve, epoch):
    """Protects the paper's rule: the first epoch above its two neighbours on each side."""
    assert pair.tipping_point(curve) == epoch
    rows = [{"student_confidence": value} for value in curve]
    assert pair.ends_blind(rows) == (epoch is not None)


def test_blind_loss():
    """Protects blindness: the sum over the other classes' logits, and no gradient through the given label's own."""
    teacher, student = logits(0), logits(1)
    want = sum(
        float(teacher[i, c] - student[i, c]) ** 2 for i in range(5) for c in range(CLASSES) if c != int(LABEL[i])
    )
    assert pair.blind_loss(teacher, student, LABEL, 7.0) == pytest.approx(want / 7.0, rel=1e-5)
    gradient = jax.grad(pair.blind_loss, argnums=1)(teacher, student, LABEL, 7.0)
    own = jax.nn.one_hot(LABEL, CLASSES, dtype=bool)
    assert (gradient[own] == 0).all() and (gradient[~own] != 0).all()


def test_agreement():
    """Protects p^A: the normalised product, and a distribution where two certain networks differ (0/0 as a product)."""
    teacher, student = logits(0), logits(1)
    product = np.prod([np.asarray(jax.nn.softmax(z), np.float64) for z in (teacher, student)], axis=0)
    got = np.exp(pair.log_agreement(teacher, student))
    np.testing.assert_allclose(got, product / product.sum(1, keepdims=True), rtol=1e-5)
    sure = jnp.array([[1e4, 0.0, -1e4], [1e4, 0.0, 0.0]]), jnp.array([[-1e4, 0.0, 1e4], [0.0, 1e4, 0.0]])
    np.testing.assert_allclose(np.exp(pair.log_agreement(*sure)).sum(1), 1.0, rtol=1e-5)


def test_groups_and_targets():
    """Protects phase 2: β at and beside each border, and t ∝ ((1-β) onehot + β p)^(1+β) by hand."""
    split = thresholds.Split(*map(jnp.float32, (0.5, 0.2, 0.8)))
    agreement = jnp.array([0.0, 0.19, 0.2, 0.49, 0.5, 0.79, 0.8, 1.0])
    got = pair.belief_weight(agreement, split)
    np.testing.assert_allclose(got, [0.70, 0.70, 0.55, 0.55, 0.45, 0.45, 0.30, 0.30])
    p = np.array([[0.5, 0.3, 0.2]])
    mixed = np.array([0.3 + 0.7 * 0.5, 0.7 * 0.3, 0.7 * 0.2]) ** 1.7
    target = pair.softened_label(jnp.array([0]), jnp.log(jnp.asarray(p, jnp.float32)), jnp.array([0.7]))
    np.testing.assert_allclose(target[0], mixed / mixed.sum(), rtol=1e-5)


def test_label_score_by_hand():
    """Protects the score: ½ at the border, 0 and 1 at the ends, straight between, and numbers for borders 0 and 1."""
    got = pair.label_score(jnp.array([0.0, 0.1, 0.2, 0.6, 1.0]), jnp.float32(0.2))
    np.testing.assert_allclose(got, [0.0, 0.25, 0.5, 0.75, 1.0], rtol=1e-6)
    for border in (0.0, 1.0):
        assert jnp.isfinite(pair.label_score(jnp.array([0.0, 0.5, 1.0]), jnp.float32(border))).all()


@pytest.mark.parametrize(
    "curve, want",
    [([1, 2, 5, 3, 4], (2, True)), ([1, 2, 5, 3, 4, 4], (3, False)), ([1, 2, 3, 4], (1, False)), ([1], (0, False))],
)
def test_splitting_epoch(curve, want):
    """Protects the epoch that splits: the third-last, and only a tipping point if it is that very one."""
    assert label_split.splitting_epoch([{"student_confidence": value} for value in curve]) == want


ROWS, STEPS = 12, 3
INFO = Info(CLASSES, (1, 1, 4), STEPS, ROWS, 0)


def settings(arguments="", epochs=6):
    base = config_lib.base()
    base.train.update({"epochs": epochs, "batch_size": 4})
    given = {"method": "blind_kd", "teacher": "mlp3", "student": "mlp2", **config_lib.parse_arguments(arguments)}
    return config_lib.resolve(base, given)


def made(arguments="", epochs=6, info=INFO):
    return methods.get("blind_kd").make(settings(arguments, epochs), info)


def make_batch(rows, seed=3, classes=CLASSES, epoch=0):
    """Rows of a fixed random set."""
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.normal(size=(ROWS, 1, 1, 4)), jnp.float32)[jnp.asarray(rows)]
    label = jnp.asarray(rng.integers(0, classes, ROWS), jnp.int32)[jnp.asarray(rows)]
    return {"image": images, "label": label, "index": jnp.asarray(rows, jnp.int32), "epoch": jnp.int32(epoch)}


def outputs(state, images):
    return [train_forward(net, net.params, images)[0].logits for net in (state.teacher, state.student)]


def view(label, images=None, confidence=(), trusted=(), notes=None):
    return DatasetView(
        given_label=np.asarray(label),
        trusted_label=np.asarray(trusted, np.int32),
        map=lambda split, fn, current: jax.device_get(jax.jit(fn)(current, images, label)),
        decide=lambda fn: fn(),
        fetch=jax.device_get,
        history=[{"student_confidence": value} for value in confidence],
        note=[].append if notes is None else notes.append,
    )


def after_epochs(arguments, confidence):
    """The method, its state after so many epochs, a view with this m_e, both networks' weights after each, and p^A_ỹ
    as each epoch met it."""
    method, everything = made(arguments), make_batch(range(ROWS))
    state, weights, met = method.init(jax.random.key(0), everything["image"][:2]), [], []
    step, forward = jax.jit(method.stages[0].step), jax.jit(outputs)
    rng = np.random.default_rng(3)
    for epoch in range(len(confidence)):
        share = np.zeros(ROWS)
        for rows in rng.permutation(ROWS).reshape(STEPS, 4):
            batch = make_batch(rows, epoch=epoch)
            p = np.exp(pair.log_agreement(*forward(state, batch["image"])))
            share[rows] = p[np.arange(4), batch["label"]]
            state, _ = step(state, batch, jax.random.key(0))
        weights.append([net.params for net in (state.teacher, state.student)])
        met.append(share)
    notes = []
    return method, state, view(everything["label"], everything["image"], confidence, notes=notes), weights, met, notes


@pytest.mark.parametrize("confidence, epoch", [([1, 2, 5, 3, 4], 3), ([1, 2, 3, 4], -2)])
def test_weights_that_split_the_labels(confidence, epoch):
    """Protects the estimate's epoch: P comes from a clean pass with the weights of the tipping epoch, or of the
    third-last one where there is none, which the note says."""
    method, state, whole, weights, _, notes = after_epochs("rewind=true,measure=share", confidence)
    begun = method.stages[1].begin(state, whole)
    chosen = weights[abs(epoch) - 1]
    for net, want in zip((begun.teacher, begun.student), chosen, strict=True):
        jax.tree.map(np.testing.assert_array_equal, net.params, want)
    p = np.exp(method.predict(begun, make_batch(range(ROWS))["image"]))
    agreement = begun.labels.agreement.rows
    np.testing.assert_allclose(agreement, p[np.arange(ROWS), whole.given_label], rtol=1e-5)
    assert int(begun.labels.epoch) == epoch and int(begun.teacher.step) == STEPS * len(confidence)
    assert f"epoch {abs(epoch)};" in notes[0] and ("no tipping point" in notes[0]) == (epoch < 0)
    flags = method.report(begun).columns["is_label_issue"]
    np.testing.assert_array_equal(flags, agreement < begun.labels.split.threshold)
    assert notes[0].endswith(f"{np.mean(flags):.1%} of the labels held wrong")


def test_release_uses_what_training_met():
    """Protects the release's form: P as the training steps of that epoch met it, flags below the lower mean."""
    method, state, whole, _, met, _ = after_epochs("variant=release", [1, 2, 5, 3, 4])
    begun = method.stages[1].begin(state, whole)
    agreement = begun.labels.agreement.rows
    np.testing.assert_allclose(agreement, met[2], rtol=1e-4)
    flags = method.report(begun).columns["is_label_issue"]
    np.testing.assert_array_equal(flags, agreement < begun.labels.split.lower_mean)
    assert int(begun.teacher.step) == 5 * STEPS


@pytest.mark.parametrize("variant", ["fixed", "release"])
def test_loss_by_hand(variant):
    """Protects L in both phases, by what the sum of squares is divided, and whether t has a gradient."""
    method, batch = made(f"variant={variant}"), make_batch([0, 3, 5, 7])
    state = method.init(jax.random.key(0), batch["image"])
    z_t, z_s = outputs(state, batch["image"])
    label, beta = batch["label"], jnp.array([0.3, 0.45, 0.55, 0.7])
    count = 4 * (CLASSES - 1) if variant == "fixed" else 4 * CLASSES - 1
    blind = float(pair.blind_loss(z_t, z_s, label, count))
    params = state.teacher.params, state.student.params
    for given, target in ((None, jax.nn.one_hot(label, CLASSES)), (beta, pair.softened_label(label, z_s, beta))):
        want = blind - float(jnp.mean(jnp.sum(target * jax.nn.log_softmax(z_t), axis=1)))
        assert float(method.loss(params, state, batch, given)[0]) == pytest.approx(want, rel=1e-5)

    def softened_alone(student):
        both = method.loss((params[0], student), state, batch, beta)[0]
        return both - method.loss((params[0], student), state, batch, None)[0]

    gradient = jax.tree.leaves(jax.jit(jax.grad(softened_alone))(params[1]))
    largest = max(float(jnp.max(jnp.abs(leaf))) for leaf in gradient)
    assert largest < 1e-6 if variant == "fixed" else largest > 1e-3


def test_softened_step_takes_each_image_s_own_belief():
    """Protects the second phase's step: β by the image's own row of P."""
    method, batch = made(), make_batch([10, 1, 4, 7])
    state = method.init(jax.random.key(0), batch["image"])
    split = thresholds.Split(*map(jnp.float32, (0.5, 0.2, 0.8)))
    rows = jnp.linspace(0, 1, ROWS)
    state = state.replace(labels=state.labels.replace(split=split, agreement=label_split.Bank(rows)))
    beta = pair.belief_weight(rows[batch["index"]], split)
    assert len(set(beta.tolist())) == 4
    want = float(method.loss((state.teacher.params, state.student.params), state, batch, beta)[0])
    moved, metrics = jax.jit(method.stages[1].step)(state, batch, jax.random.key(0))
    assert float(metrics["loss"]) == pytest.approx(want, rel=1e-5)
    assert int(moved.teacher.step) == int(moved.student.step) == 1


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_all_right_and_all_wrong(wrong):
    """Protects extreme data: nothing wrong, or nothing but noise, still ends with a split and finite figures."""
    info, rng = Info(CLASSES, (1, 1, 4), STEPS, 300, 6), np.random.default_rng(0)
    method, truth = made(info=info), np.arange(300) % CLASSES
    given = np.where(rng.random(300) < wrong, rng.integers(0, CLASSES, 300), truth).astype(np.int32)
    beliefs = np.asarray(jax.nn.softmax(3.0 * jax.nn.one_hot(truth, CLASSES) + rng.normal(size=(300, CLASSES))))
    trusted = np.arange(6, dtype=np.int32) % CLASSES
    found = method.decide(beliefs, None, beliefs[:6], view(given, confidence=[1, 2, 3], trusted=trusted))
    agreement = np.asarray(found.agreement.rows)
    assert ((agreement >= 0) & (agreement <= 1)).all()
    assert all(0 <= float(figure) <= 1 for figure in found.split)
    for matrix in (found.counted, found.trusted):
        assert matrix.shape == (CLASSES, CLASSES) and np.allclose(matrix.sum(axis=1), 1.0, rtol=1e-4)


@pytest.mark.parametrize(
    "arguments, epochs, words",
    [
        ("variant=fix", 6, ["method.variant", '"fix"', "fixed, release"]),
        ("measure=odds", 6, ["method.measure", '"odds"', "right, share"]),
        ("longest_blind=1.5", 6, ["method.longest_blind", "1.5", "[0, 1]"]),
        ("rewind=true,variant=release", 6, ["method.rewind", "fixed"]),
        ("", 3, ["train.epochs", "3", "[4, inf]"]),
    ],
)
def test_bad_options(arguments, epochs, words):
    """Protects the user: each wrong option is one line with its field, value and range."""
    with pytest.raises(UserError) as error:
        made(arguments, epochs)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_finds_noise_without_trusted_images(tmp_path):
    """Protects the point of it: on digits with 36 % wrong labels and no trusted image, most of them are found."""
    config = tiny.config(
        "method=blind_kd,trusted=0,noisy=0,validation=200,teacher=mlp64,student=mlp64,epochs=14,noise=uniform,rate=0.4,"
        "longest_blind=0.7"
    )
    summary = train.run(config, tmp_path, quiet=True)
    found, noise = summary["labels"], summary["noise"]
    assert summary["data"]["trusted"] == 0
    assert found["f1"] > 0.85 and found["auroc"] > 0.95
    assert noise["estimated"] == pytest.approx(noise["realised"], abs=0.08)
    table = pq.read_table(tmp_path / "labels.parquet").to_pandas()
    noisy = table[table.split == "noisy"]
    assert (noisy.is_label_issue == (noisy.agreement < summary["diagnostics"]["threshold"])).all()
    assert (noisy.is_label_issue == (noisy.label_score < 0.5)).all()
    assert table[table.split == "validation"].agreement.isna().all()
    assert set(summary["networks"]) == {"student", "teacher", "agreement"}
    sizes = [summary["networks"][name]["parameters"] for name in ("student", "teacher", "agreement")]
    assert sizes[2] == sizes[0] + sizes[1]
    np.testing.assert_allclose(np.sum(summary["diagnostics"]["transition"], axis=1), 1.0, rtol=1e-5)
    assert "transition_trusted" not in summary["diagnostics"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    blind = [row["stage"] for row in rows].count("blind")
    assert 5 <= blind <= 10 and [row["stage"] for row in rows] == ["blind"] * blind + ["refined"] * (14 - blind)
    assert abs(summary["diagnostics"]["epoch"]) == blind - 2 and len(summary["notes"]) == 1
    assert all(0 <= row["agreement_fit_wrong_true"] <= 1 for row in rows)


def test_two_classes():
    """Protects C = 2, where a blind student sees a single logit of each image."""
    method, batch = made(epochs=4, info=INFO._replace(num_classes=2)), make_batch(range(4), classes=2)
    state = method.init(jax.random.key(0), batch["image"])
    for stage in method.stages:
        state, metrics = jax.jit(stage.step)(state, batch, jax.random.key(0))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))


def test_methods_that_need_trusted_images_say_so(tmp_path):
    """Protects a run without trusted images: a method that learns from them is refused, and nothing is written."""
    with pytest.raises(NoTrustedError, match=r"data\.trusted: no trusted images, and kdmlc learns from them"):
        train.run(tiny.config("trusted=0"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
