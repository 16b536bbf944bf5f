"""Blind-KD: its losses and targets by hand, the tipping point, which weights split the labels, and what it finds."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
import tiny

from kdmlc_jax import compare, methods, train
from kdmlc_jax import config as config_lib
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.labels import transition as estimate
from kdmlc_jax.methods import blind_kd
from kdmlc_jax.methods.base import DatasetView, Info
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
        ([1, 2, 3, 4, 5, 6, 7], None),
        ([1, 2, 5, 5, 3, 4, 2], None),  # a tie is no peak
        ([0, 1, 4, 2, 3, 9, 5, 6], 2),  # the first of two
        ([0, 3, 4, 2, 5, 9, 5, 6], 5),  # 4 is below what follows two epochs later
    ],
)
def test_tipping_point(curve, epoch):
    """Protects the paper's rule: the first epoch above its two neighbours on each side."""
    assert blind_kd.tipping_point(curve) == epoch
    rows = [{"student_confidence": value} for value in curve]
    assert blind_kd.ends_blind(rows) == (epoch is not None)


def test_blind_loss():
    """Protects blindness: the sum over the other classes' logits, and no gradient through the given label's own."""
    teacher, student = logits(0), logits(1)
    want = sum(
        float(teacher[i, c] - student[i, c]) ** 2 for i in range(5) for c in range(CLASSES) if c != int(LABEL[i])
    )
    assert blind_kd.blind_loss(teacher, student, LABEL, 7.0) == pytest.approx(want / 7.0, rel=1e-5)
    gradient = jax.grad(blind_kd.blind_loss, argnums=1)(teacher, student, LABEL, 7.0)
    own = jax.nn.one_hot(LABEL, CLASSES, dtype=bool)
    assert (gradient[own] == 0).all() and (gradient[~own] != 0).all()


def test_agreement():
    """Protects p^A: the normalised product, and a distribution where two certain networks differ (0/0 as a product)."""
    teacher, student = logits(0), logits(1)
    product = np.prod([np.asarray(jax.nn.softmax(z), np.float64) for z in (teacher, student)], axis=0)
    got = np.exp(blind_kd.log_agreement(teacher, student))
    np.testing.assert_allclose(got, product / product.sum(1, keepdims=True), rtol=1e-5)
    sure = jnp.array([[1e4, 0.0, -1e4], [1e4, 0.0, 0.0]]), jnp.array([[-1e4, 0.0, 1e4], [0.0, 1e4, 0.0]])
    np.testing.assert_allclose(np.exp(blind_kd.log_agreement(*sure)).sum(1), 1.0, rtol=1e-5)


def test_groups_and_targets():
    """Protects phase 2: β at and beside each border, and t ∝ ((1-β) onehot + β p)^(1+β) by hand."""
    split = estimate.Split(*map(jnp.float32, (0.5, 0.2, 0.8)))
    agreement = jnp.array([0.0, 0.19, 0.2, 0.49, 0.5, 0.79, 0.8, 1.0])
    got = blind_kd.share_of_belief(agreement, split)
    np.testing.assert_allclose(got, [0.70, 0.70, 0.55, 0.55, 0.45, 0.45, 0.30, 0.30])
    p = np.array([[0.5, 0.3, 0.2]])
    mixed = np.array([0.3 + 0.7 * 0.5, 0.7 * 0.3, 0.7 * 0.2]) ** 1.7
    target = blind_kd.refined_target(jnp.array([0]), jnp.log(jnp.asarray(p, jnp.float32)), jnp.array([0.7]))
    np.testing.assert_allclose(target[0], mixed / mixed.sum(), rtol=1e-5)


ROWS, STEPS = 12, 3


def settings(arguments="", epochs=6):
    base = config_lib.base()
    base.train.update({"epochs": epochs, "batch_size": 4})
    given = {"method": "blind_kd", "teacher": "mlp3", "student": "mlp2", **config_lib.parse_arguments(arguments)}
    return config_lib.resolve(base, given)


def after_epochs(arguments, confidence):
    """The method, its state after so many epochs and a view with this m_e, and both networks' weights after each."""
    config = settings(arguments)
    method = methods.get("blind_kd").make(config, Info(CLASSES, (1, 1, 4), STEPS, ROWS, 0))
    rng = np.random.default_rng(3)
    images = jnp.asarray(rng.normal(size=(ROWS, 1, 1, 4)), jnp.float32)
    label = jnp.asarray(rng.integers(0, CLASSES, ROWS), jnp.int32)
    state, weights, seen = method.init(jax.random.key(0), images[:2]), [], []
    step = jax.jit(method.stages[0].step)
    for epoch in range(len(confidence)):
        order = rng.permutation(ROWS).reshape(STEPS, 4)
        share = np.zeros(ROWS)
        for rows in order:
            batch = {"image": images[rows], "label": label[rows], "index": jnp.asarray(rows, jnp.int32)}
            batch["epoch"] = jnp.int32(epoch)
            before = state
            state, _ = step(state, batch, jax.random.key(0))
            pair = [
                train_forward(net, net.params, batch["image"])[0].logits for net in (before.teacher, before.student)
            ]
            share[rows] = np.exp(blind_kd.log_agreement(*pair))[np.arange(4), label[rows]]
        weights.append([net.params for net in (state.teacher, state.student)])
        seen.append(share)
    notes = []
    view = DatasetView(
        given_label=np.asarray(label),
        trusted_label=np.zeros(0, np.int32),
        map=lambda split, fn, current: jax.device_get(fn(current, images, label)),
        fetch=jax.device_get,
        history=[{"student_confidence": value} for value in confidence],
        note=notes.append,
    )
    return method, state, view, weights, seen, notes


@pytest.mark.parametrize("confidence, epoch", [([1, 2, 5, 3, 4], 3), ([1, 2, 3, 4], -2)])
def test_weights_that_split_the_labels(confidence, epoch):
    """Protects the estimate's epoch: P comes from a clean pass with the weights of the tipping epoch, or of the
    third-last one where there is none, which the note says."""
    method, state, view, weights, _, notes = after_epochs("rewind=true,measure=share", confidence)
    begun = method.stages[1].begin(state, view)
    chosen = weights[abs(epoch) - 1]
    for net, want in zip((begun.teacher, begun.student), chosen, strict=True):
        jax.tree.map(np.testing.assert_array_equal, net.params, want)
    images = view.map("noisy", lambda _, images, label: images, None)
    p = np.exp(method.predict(begun, jnp.asarray(images)))
    np.testing.assert_allclose(begun.agreement.rows, p[np.arange(ROWS), view.given_label], rtol=1e-5)
    assert int(begun.epoch) == epoch and int(begun.teacher.step) == STEPS * len(confidence)
    assert f"epoch {abs(epoch)};" in notes[0] and ("no tipping point" in notes[0]) == (epoch < 0)
    flags = method.examine(begun)["is_label_issue"]
    np.testing.assert_array_equal(flags, begun.agreement.rows < begun.split.threshold)


def test_release_uses_what_training_saw():
    """Protects the release's form: P as the training steps of that epoch met it, flags below the lower mean."""
    method, state, view, _, seen, _ = after_epochs("variant=release", [1, 2, 5, 3, 4])
    begun = method.stages[1].begin(state, view)
    np.testing.assert_allclose(begun.agreement.rows, seen[2], rtol=1e-4)
    flags = method.examine(begun)["is_label_issue"]
    np.testing.assert_array_equal(flags, begun.agreement.rows < begun.split.lower_mean)
    assert int(begun.teacher.step) == 5 * STEPS


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
        methods.get("blind_kd").make(settings(arguments, epochs), Info(CLASSES, (1, 1, 4), STEPS, ROWS, 0))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_finds_noise_without_trusted_images(tmp_path):
    """Protects the point of it: on digits with 36 % wrong labels and no trusted image, most of them are found."""
    config = tiny.config(
        "method=blind_kd,trusted=0,noisy=0,validation=200,teacher=cnn8,student=cnn8,epochs=14,noise=uniform,rate=0.4,"
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


@pytest.mark.parametrize("noise", ["noise=none", "noise=uniform,rate=1.0"])
def test_all_clean_and_all_noise(noise, tmp_path):
    """Protects extreme data: nothing wrong, or nothing but noise, still ends with a split and finite figures."""
    config = tiny.config(f"method=blind_kd,epochs=4,{noise}")
    if noise == "noise=none":
        config.data.noisy = 200
    summary = train.run(config, tmp_path, quiet=True)
    assert 0.0 <= summary["noise"]["estimated"] <= 1.0
    assert np.isfinite(summary["diagnostics"]["threshold"])
    matrix = np.array(summary["diagnostics"]["transition_trusted"])
    assert matrix.shape == (10, 10) and np.allclose(matrix.sum(axis=1), 1.0, rtol=1e-4)


def test_two_classes():
    """Protects C = 2, where a blind student sees a single logit of each image."""
    config = settings(epochs=4)
    method = methods.get("blind_kd").make(config, Info(2, (1, 1, 4), STEPS, ROWS, 0))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 1, 1, 4)), jnp.float32)
    state = method.init(jax.random.key(0), images)
    batch = {"image": images, "label": jnp.array([0, 1, 1, 0], jnp.int32), "index": jnp.arange(4, dtype=jnp.int32)}
    batch["epoch"] = jnp.int32(0)
    for stage in method.stages:
        state, metrics = stage.step(state, batch, jax.random.key(0))
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves((state, metrics)))


def test_baselines_that_need_trusted_images_are_left_out(tmp_path, capsys):
    """Protects a run without trusted images from failing after its training: what cannot be compared is named once."""
    config = tiny.config("method=blind_kd,trusted=0,epochs=4")
    config.baselines = (("plain, noisy", "ce:train_on=noisy,network=student"), ("plain, both", "ce:train_on=both"))
    compare.run_with_baselines(config, tmp_path)
    said = capsys.readouterr()
    assert said.err.count("baseline left out: plain, both (data.trusted: no trusted images") == 1
    (head,) = [line for line in said.out.splitlines() if "agreement" in line]
    assert head.split() == ["student", "teacher", "agreement"]
    assert (tmp_path / "baselines" / "ce,train_on=noisy,network=student" / "summary.json").exists()
    assert (tmp_path / "student" / "network.json").exists()


def test_methods_that_need_trusted_images_say_so(tmp_path):
    """Protects a run without trusted images: a method that learns from them is refused, and nothing is written."""
    with pytest.raises(NoTrustedError, match=r"data\.trusted: no trusted images, and kdmlc learns from them"):
        train.run(tiny.config("trusted=0"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
