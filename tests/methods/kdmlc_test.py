"""KDMLC's student beyond the contract: its loss by hand, and when the noisy images begin to count."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from kdmlc_jax import config as config_lib
from kdmlc_jax import methods, train_state
from kdmlc_jax.data import augment
from kdmlc_jax.methods.base import Info

CLASSES, ROWS, TRUSTED = 3, 6, 4
RNG = np.random.default_rng(0)
IMAGES = {
    name: jnp.asarray(RNG.normal(size=(count, 1, 1, 4)), jnp.float32)
    for name, count in (("image", ROWS), ("trusted_image", TRUSTED))
}
BATCH = {**IMAGES, "trusted_label": jnp.asarray(RNG.integers(0, CLASSES, TRUSTED), jnp.int32)}
SOFT = jnp.asarray(RNG.dirichlet(np.ones(CLASSES), ROWS), jnp.float32)
LOGITS = jnp.asarray(RNG.normal(size=(ROWS, CLASSES)), jnp.float32)


@cache
def make(arguments="", epochs=4):
    config = config_lib.base()
    config.train.epochs = epochs
    given = {"method": "kdmlc", "teacher": "mlp4", "student": "mlp4", **config_lib.parse_arguments(arguments)}
    method = methods.get("kdmlc").make(config_lib.resolve(config, given), Info(CLASSES, (1, 1, 4), 5, 100, 20))
    student = train_state.create(jax.random.key(0), method.module, method.tx, IMAGES["image"])
    return method, student.replace(step=jnp.int32(2))


def cross_entropy(target, logits):
    return -(np.asarray(target) * special.log_softmax(np.asarray(logits, np.float64), axis=-1)).sum(-1)


@pytest.mark.parametrize("mixup", [0.0, 0.8])
@pytest.mark.parametrize("kd_weight", [0.0, 0.25])
def test_student_loss(kd_weight, mixup):
    """Protects L_S: n_s [(1-λ) CE + λ τ² KL] of the noisy images, n_c CE of the trusted ones, over their number; under
    MixUp soft labels and the teacher's logits are mixed as the images are."""
    method, student = make(f"preset=paper,kd_weight={kd_weight},temperature=2.0,mixup={mixup}")
    key = jax.random.key(7)
    got, _ = method.student_loss(student.params, student, BATCH, SOFT, LOGITS, key)
    images, target, teacher = IMAGES["image"], SOFT, LOGITS
    if mixup:
        images, mix = augment.mixup(key, images, mixup)
        target, teacher = mix(target), mix(teacher)
    output, _ = train_state.train_forward(student, student.params, jnp.concatenate([images, BATCH["trusted_image"]]))
    noisy, trusted = np.split(np.asarray(output.logits, np.float64), [ROWS])
    p, q = special.softmax(np.asarray(teacher, np.float64) / 2, -1), special.softmax(noisy / 2, -1)
    loss = (1 - kd_weight) * cross_entropy(target, noisy) + kd_weight * 4 * special.rel_entr(p, q).sum(-1)
    want = loss.sum() + cross_entropy(np.eye(CLASSES)[BATCH["trusted_label"]], trusted).sum()
    np.testing.assert_allclose(got, want / (ROWS + TRUSTED), rtol=1e-5)


def test_without_the_trusted_term():
    """Protects `trusted_term=false`: the trusted images take no part, neither in the loss nor in BatchNorm."""
    method, student = make("preset=paper,trusted_term=false")
    got, _ = method.student_loss(student.params, student, BATCH, SOFT, LOGITS, jax.random.key(7))
    output, _ = train_state.train_forward(student, student.params, IMAGES["image"])
    np.testing.assert_allclose(got, cross_entropy(SOFT, output.logits).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "arguments, want",
    [
        ("preset=strong,warm_up=1,ramp=1", [0, 0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1]),
        ("preset=strong,warm_up=1,ramp=2", [0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ("preset=paper", [1] * 11),
        ("preset=strong,warm_up=1,ramp=0", [0] * 5 + [1] * 6),
    ],
)
def test_noisy_images_count_after_the_warm_up(arguments, want):
    """Protects the ramp: 0 while labels are not corrected yet, then up to 1 over `ramp` epochs of five steps."""
    method, _ = make(arguments)
    np.testing.assert_allclose([float(method.noisy_weight(step)) for step in range(11)], want, atol=1e-6)


def test_weight_reaches_the_loss():
    """Protects the ramp's use: in the warm-up only the trusted images move the student."""
    method, student = make("preset=strong,warm_up=1,ramp=1,mixup=0")
    gradient = jax.grad(
        lambda soft: method.student_loss(student.params, student, BATCH, soft, LOGITS, jax.random.key(0))[0]
    )(SOFT)
    np.testing.assert_array_equal(gradient, 0.0)


def test_step_teaches_what_the_moved_corrector_says():
    """Protects the third move: the student follows the labels of the corrector that has just moved, and is averaged."""
    method, _ = make("preset=paper,corrector_lr=0.3,student_ema=0.9")
    rng, key = np.random.default_rng(1), jax.random.key(3)
    batch = {
        **BATCH,
        "label": jnp.asarray(rng.integers(0, CLASSES, ROWS), jnp.int32),
        "meta_image": IMAGES["trusted_image"] + 1.0,
        "meta_label": BATCH["trusted_label"],
    }

    def by_hand(state):
        meta, teacher = method.meta, state.teacher
        ahead, gradients, _ = meta.look_ahead(teacher, batch, False, jax.random.fold_in(key, 0))
        losses = []
        for corrector in (meta.move_corrector(teacher, gradients), teacher):
            soft_label, _ = meta.corrected(corrector, ahead, batch["label"])
            arguments = batch, soft_label, ahead.aux[1].logits, jax.random.fold_in(key, 1)
            losses.append(method.student_loss(state.student.params, state.student, *arguments)[0])
        return losses

    state = jax.jit(method.init)(jax.random.key(0), IMAGES["image"])
    after, figures = jax.jit(method.step, static_argnums=0)(False, state, batch, key)
    moved, stale = jax.jit(by_hand)(state)
    assert abs(moved - stale) > 1e-3
    np.testing.assert_allclose(figures["student_loss"], moved, rtol=1e-5)
    live = jax.tree.leaves(after.student.params)
    average = jax.tree.leaves(after.student.ema["params"])
    assert any((a != b).any() for a, b in zip(live, average, strict=True))
