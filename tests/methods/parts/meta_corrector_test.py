"""The teacher's step beyond the contract: the estimate of T, when the corrector moves, and what it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax.errors import UserError
from kdmlc_jax.labels.transition import transition_matrix
from kdmlc_jax.methods.base import Info
from kdmlc_jax.methods.parts import meta_corrector as teacher_lib

CLASSES = 3


def build(arguments):
    """A tiny teacher, a state and a batch."""
    config = config_lib.resolve(
        config_lib.base(), {"method": "mlc", "student": "cnn2", **config_lib.parse_arguments(arguments)}
    )
    teacher = teacher_lib.Teacher(config, Info(CLASSES, (8, 8, 1), 5, 100, 20), "student")
    rng = np.random.default_rng(0)
    batch = {}
    for kind, label in (("", "label"), ("trusted_", "trusted_label"), ("meta_", "meta_label")):
        batch[f"{kind}image"] = jnp.asarray(rng.normal(size=(6, 8, 8, 1)), jnp.float32)
        batch[label] = jnp.asarray(rng.integers(0, CLASSES, 6), jnp.int32)
        batch[f"{kind}given"] = batch[label]
    state = teacher.init(jax.random.key(0), batch["image"])
    return teacher, state, batch, jax.jit(teacher.step, static_argnums=2)


def moved(before, after):
    """Whether any parameter of the corrector differs."""
    leaves = zip(jax.tree.leaves(before.corrector.params), jax.tree.leaves(after.corrector.params), strict=True)
    return any((a != b).any() for a, b in leaves)


def test_corrector_moves_every_kth_step():
    """Protects the k-step recursion: α stands still until the k-th look-ahead, then moves, then stands still again."""
    _, state, batch, step = build("preset=paper,look_ahead_steps=3")
    pattern = []
    for turn in range(6):
        after, *_ = step(state, batch, False, jax.random.key(turn))
        pattern.append(moved(state, after))
        state = after
    assert pattern == [False, False, True] * 2


@pytest.mark.parametrize(
    ("arguments", "warm_up", "moves"),
    [
        ("preset=paper", False, True),
        ("preset=paper", True, False),
        ("preset=paper,bilevel=off", False, False),
        ("preset=paper,bilevel=separate", False, True),
        ("preset=paper,bilevel=normalised", False, True),
        ("preset=strong,bilevel=off", False, True),
        ("preset=strong,bilevel=off,supervised=0", False, False),
    ],
)
def test_what_moves_the_corrector(arguments, warm_up, moves):
    """Protects the ablations: each term moves α on its own, and with both switched off nothing does."""
    _, state, batch, step = build(arguments)
    after, *_ = step(state, batch, warm_up, jax.random.key(1))
    assert moved(state, after) == moves
    assert any(
        (a != b).any()
        for a, b in zip(jax.tree.leaves(state.net.params), jax.tree.leaves(after.net.params), strict=True)
    )


def test_transition_prior_corrects_before_any_training():
    """Protects the transition form: at first it is the network's belief times the likelihood of the given label."""
    teacher, state, batch, _ = build("preset=strong")
    from kdmlc_jax.train_state import evaluate

    matrix = transition_matrix(state.joint)
    want = jax.nn.softmax(evaluate(state.net, batch["image"]).logits) * matrix.T[batch["label"]]
    got = teacher.correct(state, batch["image"], batch["label"])
    np.testing.assert_allclose(got, want / want.sum(1, keepdims=True), rtol=1e-5)


def test_real_pairs_need_the_labels_before_they_were_checked():
    """Protects from a silent -1: without data.trusted_given there is no real pair to learn from."""
    with pytest.raises(UserError, match=r"method\.pairs.*data\.trusted_given"):
        build("preset=strong,pairs=real")
