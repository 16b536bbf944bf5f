"""AML-KD: seeds, beliefs, weights and losses by hand, and who judges whose features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import losses, methods
from kdmlc_jax import train_state as state_lib
from kdmlc_jax.data import augment
from kdmlc_jax.errors import UserError
from kdmlc_jax.methods import aml_kd
from kdmlc_jax.methods.base import DatasetView, Info
from kdmlc_jax.methods.parts import ambiguity, seeds
from kdmlc_jax.methods.release.aml_kd import pair_loss
from kdmlc_jax.train_state import Bank

CLASSES, SHAPE, ROWS = 3, (4, 4, 1), 60
INFO = Info(CLASSES, SHAPE, steps_per_epoch=2, num_noisy=ROWS, num_trusted=0)
RNG = np.random.default_rng(0)
TRUTH = np.arange(ROWS) % CLASSES
WRONG = np.arange(ROWS) % 4 == 0
GIVEN = np.where(WRONG, (TRUTH + 1) % CLASSES, TRUTH).astype(np.int32)
FEATURES = (np.eye(CLASSES)[TRUTH] + 0.1 * RNG.normal(size=(ROWS, CLASSES))).astype(np.float32)
LOGITS = (4.0 * FEATURES).astype(np.float32)  # a network that has seen through the noise


def config(arguments="", method="aml_kd"):
    nets = "teacher=mlp3,student=mlp2"
    return tiny.config(f"method={method},{nets}" + (f",neighbours=5,{arguments}" if method == "aml_kd" else ""), {})


def made(arguments="", info=INFO):
    return aml_kd.make(config(arguments), info)


def view(history=(), asked=None, notes=None):
    """The whole set, alike to both networks; `asked` takes down which of them is looked through."""

    def over(split, fn, current, label=None):
        assert split == "noisy"
        if asked is not None:  # mlp3 and mlp2
            asked.append({3: "teacher", 2: "student"}[current.params["Dense_0"]["kernel"].shape[-1]])
        return FEATURES, LOGITS

    said = [] if notes is None else notes
    return DatasetView(GIVEN, np.zeros(0, np.int32), over, decide, jax.device_get, list(history), said.append)


def decide(fn):
    """As process 0: nothing of it may lie on a device."""
    made = fn()
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(made))
    return made


def start(method):
    return method.init(jax.random.key(0), jnp.zeros((2, *SHAPE)))


def stage(method, name):
    return next(stage for stage in method.stages if stage.name == name)


def test_small_losses_by_hand():
    """Protects the selection: of each label its own share, the smallest ones, and one where the share is none."""
    loss = np.array([0.1, 0.9, 0.5, 0.3, 2.0, 1.0])
    label = np.array([0, 0, 0, 0, 1, 1])
    got = seeds.small_losses(loss, label, np.array([0.5, 1.0, 0.3]))
    assert got.tolist() == [True, False, False, True, False, True]


def test_noise_is_estimated_by_class():
    """Protects r̂: losses of two kinds, and classes in which the upper kind has another share."""
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1], 1000)
    wrong = np.concatenate([np.arange(1000) < 200, np.arange(1000) < 600])
    loss = np.where(wrong, 4.0, 0.5) + 0.2 * rng.normal(size=2000)
    got = seeds.estimated_noise(loss.astype(np.float32), label, 3)
    np.testing.assert_allclose(got, [0.2, 0.6, 0.0], atol=0.01)


def test_belief_by_hand():
    """Protects b: z⁴, times how often the given label is carried by images of each class."""
    soft = np.array([[0.6, 0.4], [0.8, 0.2], [0.8, 0.2], [0.2, 0.8]], np.float32)
    given = np.array([1, 0, 0, 1])
    plain = soft**4 / np.sum(soft**4, axis=1, keepdims=True)
    np.testing.assert_allclose(seeds.propagated_belief(soft, given, False), plain, rtol=1e-5)
    # Counted with one of each pair to begin with: class 0 (rows 0 to 2) has labels 1, 0, 0, class 1 has 1.
    matrix = np.array([[3 / 5, 2 / 5], [1 / 3, 2 / 3]])
    joint = plain * matrix[:, given].T
    want = joint / joint.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(seeds.propagated_belief(soft, given, True), want, rtol=1e-5)


def test_weights_by_hand():
    """Protects the weights: 1 amid the own class, ½ between two, 0 amid another; a class without images is no rival."""
    features = jnp.array([[1.0, 0], [0, 2.0], [3.0, 0], [0, 1.0]])
    label = jnp.array([0, 1, 0, 1])
    cosine = ambiguity.cosines(features, label, 3)
    np.testing.assert_allclose(cosine, [[1, 0, -1], [0, 1, -1], [1, 0, -1], [0, 1, -1]], atol=1e-6)
    np.testing.assert_allclose(ambiguity.closed_weight(cosine, label), 1 / (1 + np.exp(-10)), rtol=1e-5)
    np.testing.assert_allclose(ambiguity.closed_weight(cosine, 1 - label), 1 / (1 + np.exp(10)), rtol=1e-4)
    between = ambiguity.closed_weight(jnp.array([[0.7, 0.7, -1.0]]), jnp.array([0]))
    np.testing.assert_allclose(between, 0.5)


def test_learned_weights_tell_easy_images_and_do_not_collapse():
    """Protects the small network: high where images are easy, as high everywhere as their share, never 0."""
    label = jnp.asarray(TRUTH)
    own = jax.nn.one_hot(label, CLASSES)
    easy = jnp.arange(ROWS) % 2 == 0
    cosine = jnp.where(easy[:, None], own, 0.5)
    got = np.asarray(ambiguity.learned_weight(jax.random.key(0), cosine, label, easy))
    assert got[::2].min() > 0.8 and got[1::2].max() < 0.2
    for share, low, high in ((True, 0.95, 1.0), (False, 0.05, 0.06)):
        got = np.asarray(ambiguity.learned_weight(jax.random.key(0), cosine, label, jnp.full(ROWS, share)))
        assert low <= got.min() and got.max() <= high


@pytest.mark.parametrize("arguments", ["", "variant=release,noise_rate=0.25", "weights=learned", "evidence=false"])
def test_labels_are_corrected(arguments):
    """Protects the purpose: with a teacher that sees through the noise, all labels are right, and it says so."""
    method, notes = made(arguments), []
    state = stage(method, "propagate").begin(start(method), view(notes=notes))
    label = np.asarray(state.labels.label.rows)
    assert (label == TRUTH).mean() >= (0.95 if "release" in arguments else 1.0)
    assert (GIVEN == TRUTH).mean() == 0.75
    beliefs = method.correct(state, jnp.zeros((ROWS, *SHAPE)), jnp.asarray(GIVEN), jnp.arange(ROWS))
    np.testing.assert_array_equal(jnp.argmax(beliefs, axis=1), label)
    np.testing.assert_allclose(jnp.sum(beliefs, axis=1), 1.0, rtol=1e-5)
    other = method.correct(state, jnp.ones((2, *SHAPE)), jnp.zeros(2, jnp.int32), jnp.array([-1, -1]))
    np.testing.assert_allclose(other, jax.nn.softmax(method.predict(state, jnp.ones((2, *SHAPE)))), rtol=1e-6)
    found = method.report(state)
    assert {"refined_label", "refined_confidence", "ambiguity", "seed"} == set(found.columns)
    assert len(notes) == 1 and notes[0].endswith(f"{np.mean(label != GIVEN):.1%} replaced at first")
    assert float(jnp.mean(found.figures["noise_rate"])) == pytest.approx(0.25, abs=0.05)


def test_seeds_are_images_held_right():
    """Protects the seeds: with a network that sees through the noise none of them is wrong, and most right ones are."""
    method = made()
    state = stage(method, "propagate").begin(start(method), view())
    seeds = np.asarray(state.labels.seed.rows)
    assert not (seeds & WRONG).any() and seeds[~WRONG].mean() > 0.9


def test_turns_of_the_mutual_stage():
    """Protects the exchange: first the student's features from the teacher's seeds, then the other way round, in turns
    of `every` epochs."""
    method = made("every=2,epochs=8,mutual=0.5")
    mutual = stage(method, "mutual")
    assert (stage(method, "propagate").epochs, mutual.epochs, mutual.every) == (4, 4, 2)
    for done, want in ((0, ["student", "teacher"]), (2, ["teacher", "student"]), (4, ["student", "teacher"])):
        asked = []
        mutual.begin(start(method), view([{"stage": "mutual"}] * done, asked))
        assert asked == want, done


def test_the_noise_rate_of_the_teacher_s_losses_stays():
    """Protects the seeds of later turns: a student of corrected labels fits all given ones alike, and finds few
    wrong."""
    method = made()
    begun = stage(method, "propagate").begin(start(method), view())
    known = begun.replace(labels=begun.labels.replace(noise_rate=begun.labels.noise_rate + 0.25))
    turned = stage(method, "mutual").begin(known, view([{"stage": "mutual"}]))
    np.testing.assert_array_equal(turned.labels.noise_rate, known.labels.noise_rate)
    share = np.bincount(GIVEN, np.asarray(turned.labels.seed.rows), minlength=CLASSES) / np.bincount(
        GIVEN, minlength=CLASSES
    )
    np.testing.assert_allclose(share, 1.0 - known.labels.noise_rate, atol=0.01)


def test_without_its_parts_it_is_kd():
    """Protects the comparison: labels as given, no weights and no MixUp, and a step is one of plain KD."""
    plain = methods.get("kd").make(config(method="kd"), INFO)
    bare = made("refine=off,weights=off,mixup=0")
    batch = {
        "image": jnp.asarray(RNG.normal(size=(8, *SHAPE)), jnp.float32),
        "label": jnp.asarray(GIVEN[:8]),
        "index": jnp.arange(8),
        "epoch": jnp.int32(0),
    }
    state = stage(bare, "propagate").begin(start(bare), view())
    np.testing.assert_array_equal(state.labels.label.rows, GIVEN)
    new, metrics = jax.jit(stage(bare, "propagate").step)(state, batch, jax.random.key(1))
    want, wanted = jax.jit(stage(plain, "student").step)(start(plain), batch, jax.random.key(1))
    assert float(metrics["loss"]) == pytest.approx(float(wanted["loss"]), rel=1e-6)
    for a, b in zip(jax.tree.leaves(new.student.params), jax.tree.leaves(want.student.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_ambiguous_images_count_less():
    """Protects w: an image of weight 0 has no part in the first term, and one no more than three times the mean."""
    method = made("mixup=0,kd_weight=0")
    state = stage(method, "propagate").begin(start(method), view())
    images = jnp.asarray(RNG.normal(size=(8, *SHAPE)), jnp.float32)
    batch = {"image": images, "label": jnp.asarray(GIVEN[:8]), "index": jnp.arange(8), "epoch": jnp.int32(0)}
    step = jax.jit(stage(method, "propagate").step)

    def loss(weight, label=None):
        rows = state.labels.weight.rows.at[:8].set(jnp.asarray(weight, jnp.float32))
        labels = state.labels.label.rows if label is None else state.labels.label.rows.at[0].set(label)
        changed = state.replace(labels=state.labels.replace(weight=Bank(rows), label=Bank(labels)))
        return float(step(changed, batch, jax.random.key(1))[1]["loss"])

    ones = [1.0] * 8
    assert loss([0.0, *ones[1:]], 0) == loss([0.0, *ones[1:]], 1)
    assert loss(ones, 0) != loss(ones, 1)
    assert loss(ones) == pytest.approx(loss([0.1] * 8), rel=1e-6)
    logits = state_lib.train_forward(state.student, state.student.params, images)[0].logits
    each = np.asarray(losses.cross_entropy(jax.nn.one_hot(state.labels.label.rows[:8], CLASSES), logits))
    # Of mean 1 the first weight would be 8 * 1 / 1.07 > 3.
    weight = np.minimum(np.array([1.0, *[0.01] * 7]) * 8 / 1.07, 3.0)
    assert loss([1.0, *[0.01] * 7]) == pytest.approx(np.mean(weight * each), rel=1e-5)


@pytest.mark.parametrize("variant", ["fixed", "release"])
def test_loss_by_hand(variant):
    """Protects every term of L: weighted CE, MixUp's CE, guidance on mixed images, the release's pairs."""
    method = made(f"variant={variant},noise_rate=0.25")
    state, key = stage(method, "propagate").begin(start(method), view()), jax.random.key(1)
    images = jnp.asarray(RNG.normal(size=(8, *SHAPE)), jnp.float32)
    batch = {"image": images, "label": jnp.asarray(GIVEN[:8]), "index": jnp.arange(8), "epoch": jnp.int32(0)}
    got = float(stage(method, "propagate").step(state, batch, key)[1]["loss"])
    mixed, mix = augment.mixup(key, images, 4.0)
    target = jax.nn.one_hot(state.labels.label.rows[:8], CLASSES)
    output, _ = state_lib.train_forward(state.student, state.student.params, jnp.concatenate([images, mixed]))
    plain, last = (jax.nn.log_softmax(z) for z in (output.logits[:8], output.logits[8:]))
    warm, followed = (
        jax.nn.log_softmax(z / 4.0) for z in (output.logits[8:], state_lib.evaluate(state.teacher, mixed).logits)
    )
    share = np.asarray(state.labels.weight.rows[:8])
    weight = np.clip(share / share.mean(), 0, 3) if variant == "fixed" else share.mean()
    want = -np.mean(weight * np.sum(target * plain, axis=1))
    want -= np.mean(np.sum(mix(target) * (last if variant == "fixed" else warm), axis=1))
    want += 0.9 * 16 * np.mean(np.sum(np.exp(followed) * (followed - warm), axis=1))
    if variant == "release":
        one, two = output.features[:8], state_lib.evaluate(state.teacher, images).features
        one, two = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9) for rows in (one, two))
        want += 0.5 * np.mean((one @ one.T - two @ two.T) ** 2)
    assert got == pytest.approx(float(want), rel=1e-4)


def test_images_out_of_reach_keep_their_label():
    """Protects images that no seed reaches: they are not class 0, and are not counted as evidence."""
    soft = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [1 / 3, 1 / 3, 1 / 3]], np.float32)
    given = np.array([0, 1, 2])
    for evidence in (True, False):
        got = seeds.propagated_belief(soft, given, evidence)
        np.testing.assert_array_equal(got[2], [0, 0, 1])
        np.testing.assert_array_equal(got[:2], seeds.propagated_belief(soft[:2], given[:2], evidence))


def test_turns_of_the_release():
    """Protects its order: the teacher's predictions first; then the student's, but for its small losses, which keep the
    given label; in stage 3 the labels of the turn before."""
    method = made("variant=release,noise_rate=0.5")
    propagating, mutual = stage(method, "propagate"), stage(method, "mutual")
    first = propagating.begin(start(method), view())
    assert (np.asarray(first.labels.label.rows) == TRUTH).mean() >= 0.95  # the least confident keep the given label
    right = np.argsort(-LOGITS[np.arange(ROWS), GIVEN])[:10]  # small losses: those with high logits at the given label
    assert propagating.every == 1
    later = propagating.begin(first, view([{"stage": "propagate"}]))
    kept = np.asarray(later.labels.seed.rows)
    assert kept.sum() == 30 and kept[right].all() and not (kept & WRONG).any()
    np.testing.assert_array_equal(np.asarray(later.labels.label.rows)[kept], GIVEN[kept])
    other = later.replace(labels=later.labels.replace(label=Bank(jnp.asarray((TRUTH + 1) % CLASSES))))
    turned = mutual.begin(other, view([{"stage": "mutual"}]))
    np.testing.assert_array_equal(np.asarray(turned.labels.label.rows)[~kept], ((TRUTH + 1) % CLASSES)[~kept])
    np.testing.assert_array_equal(np.asarray(turned.labels.label.rows)[kept], GIVEN[kept])


def test_without_propagation_the_student_corrects():
    """Protects the label table of the ablation: it is the student's, not the given labels again."""
    method = made("refine=off")
    state = stage(method, "propagate").begin(start(method), view())
    images = jnp.ones((2, *SHAPE))
    got = method.correct(state, images, jnp.zeros(2, jnp.int32), jnp.array([0, 1]))
    np.testing.assert_array_equal(got, jax.nn.softmax(method.predict(state, images)))


def test_pair_loss_by_hand():
    """Protects the release's pairs: cosines within each network, whatever its width, over all pairs of the batch."""
    one, two = (RNG.normal(size=(4, width)) for width in (2, 3))
    cosine = lambda rows, i, j: rows[i] @ rows[j] / np.sqrt(rows[i] @ rows[i] * (rows[j] @ rows[j]))  # noqa: E731
    want = np.mean([(cosine(one, i, j) - cosine(two, i, j)) ** 2 for i in range(4) for j in range(4)]) / 2
    assert float(pair_loss(jnp.float32(one), jnp.float32(two))) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ("neighbours=60", r"method\.neighbours: 60 is outside \[1, 59\]"),
        ("noise_rate=1.0", r"method\.noise_rate: 1\.0 is outside"),
        ("variant=release", r'method\.noise_rate: 0 is outside \(0, 0\.99\]; variant "release" must be told'),
        ("variant=other", r"method\.variant"),
        ("refine=all", r"method\.refine"),
        ("weights=none", r"method\.weights"),
        ("every=0", r"method\.every: 0 is outside \[1, inf\]"),
        ("mixup=-1.0", r"method\.mixup: -1.0 is outside"),
        ("temperature=0.0", r"method\.temperature: 0.0 is outside"),
        ("kd_weight=-1.0", r"method\.kd_weight: -1.0 is outside"),
        ("teacher_epochs=-1", r"method\.teacher_epochs: -1 is outside"),
        ("epochs=1", r"train\.epochs: 1 is outside \[2, inf\]; method\.refine=propagate has one stage"),
    ],
)
def test_bad_options(arguments, message):
    """Protects a user from options that would train something else."""
    with pytest.raises(UserError, match=message):
        made(arguments)


def test_one_class_or_no_likeness_is_an_error():
    """Protects a run whose labels or features leave nothing to propagate: a line, not numbers."""
    method = made()
    one = view()._replace(given_label=np.zeros(ROWS, np.int32))
    with pytest.raises(UserError, match="seeds: class 0 only, expected seeds of two classes or more"):
        stage(method, "propagate").begin(start(method), one)
    dead = view()._replace(map=lambda split, fn, current, label=None: (np.zeros_like(FEATURES), LOGITS))
    with pytest.raises(UserError, match="features: no row has a neighbour of similarity above 0"):
        stage(method, "propagate").begin(start(method), dead)
