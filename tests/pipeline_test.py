"""The resident pipeline: the order of an epoch, what a batch holds, where its randomness comes from."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import parallel, train
from kdmlc_jax.data import augment, pipeline
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.methods.base import Stage, Streams

KEYS = {
    "noisy": {"image", "label", "index"},
    "trusted": {"trusted_image", "trusted_label", "trusted_given"},
    "meta": {"meta_image", "meta_label", "meta_given"},
}
PLAIN = SimpleNamespace(pad=0, flip=False, cutout=0)


@pytest.fixture(scope="module")
def dataset():
    return prepare(tiny.config())


def batch_of(dataset, streams, position, how):
    """The batch of one step under jit, on the host, with the arrays and the order it came from."""
    arrays, order = pipeline.resident(dataset), pipeline.epoch_order(0, 0, 5, streams, 200, 100)
    make = jax.jit(lambda arrays, order, key: pipeline.make_batch(arrays, order, position, key, streams, how))
    return jax.device_get(make(arrays, order, jax.random.key(0))), arrays, order


def test_epoch_order_is_a_pure_function_of_seed_and_epoch():
    """Protects exact resume: the order needs nothing but seed and epoch, and both change it."""
    make = lambda seed, epoch: pipeline.epoch_order(seed, epoch, 5, Streams(40, 20, 20), 200, 100)  # noqa: E731
    one, again, *others = make(0, 3), make(0, 3), make(0, 4), make(1, 3)
    assert one.keys() == {"noisy", "trusted"}
    for name in one:
        assert one[name].dtype == np.int32 and one[name].shape == (5, 40)
        np.testing.assert_array_equal(one[name], again[name])
        assert all((one[name] != other[name]).any() for other in others)


@pytest.mark.parametrize("noisy", [200, 239])
def test_noisy_images_are_drawn_without_replacement(noisy):
    """Protects an epoch's meaning: no noisy image twice, and over epochs every image has its turn."""
    seen = set()
    for epoch in range(20):
        rows = pipeline.epoch_order(0, epoch, 5, Streams(noisy=40), noisy, 100)["noisy"].ravel()
        assert len(set(rows)) == 200 and rows.min() >= 0 and rows.max() < noisy
        seen |= set(rows.tolist())
    assert seen == set(range(noisy))


@pytest.mark.parametrize("width", [1, 7, 15, 30])
def test_trusted_order_goes_on_where_the_epoch_before_ended(width):
    """Protects the balance of trusted images: epochs cut one endless row, whose turns hold every image once."""
    size, steps = 30, 12
    whole = pipeline.trusted_order(7, 0, 10 * steps, width, size)
    parts = [pipeline.trusted_order(7, epoch * steps, steps, width, size) for epoch in range(10)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    turn = size // width
    for start in range(0, len(whole) - turn + 1, turn):
        assert len(set(whole[start : start + turn].ravel().tolist())) == turn * width
    assert (pipeline.trusted_order(8, 0, 10 * steps, width, size) != whole).any()


@pytest.mark.parametrize("trusted", [100, 80, 41, 40])
def test_trusted_and_meta_are_disjoint_within_a_step(trusted):
    """Protects the bi-level objective: no image of a step's meta half is in its inner half, at any remainder."""
    for epoch in range(10):
        rows = pipeline.epoch_order(0, epoch, 5, Streams(40, 20, 20), 200, trusted)["trusted"]
        for step in rows:
            assert len(set(step.tolist())) == 40


@pytest.mark.parametrize("streams", [Streams(8), Streams(0, 6), Streams(8, 6), Streams(8, 6, 4), Streams(0, 0, 4)])
def test_batch_holds_exactly_what_its_streams_name(dataset, streams):
    """Protects methods from arrays they did not ask for, and each row's image, label and index from being mixed up."""
    batch, arrays, order = batch_of(dataset, streams, 2, PLAIN)
    assert batch.keys() == set().union(*(KEYS[name] for name in KEYS if getattr(streams, name)))
    for name in KEYS:
        for key in KEYS[name] & batch.keys():
            assert len(batch[key]) == getattr(streams, name)
            assert batch[key].dtype == (np.float32 if key.endswith("image") else np.int32)
    if streams.noisy:
        rows = dataset.splits.noisy[order["noisy"][2]]
        np.testing.assert_array_equal(batch["index"], order["noisy"][2])
        np.testing.assert_array_equal(batch["label"], dataset.given_label[rows])
        expected = augment.normalise(dataset.images[rows], arrays["mean"], arrays["std"])
        np.testing.assert_allclose(batch["image"], expected, atol=1e-6)
    if streams.trusted + streams.meta:
        rows = dataset.splits.trusted[order["trusted"][2]]
        parts = (("trusted", rows[: streams.trusted]), ("meta", rows[streams.trusted :]))
        for name, part in parts:
            if len(part):
                np.testing.assert_array_equal(batch[f"{name}_label"], dataset.truth[part])
                expected = augment.normalise(dataset.images[part], arrays["mean"], arrays["std"])
                np.testing.assert_allclose(batch[f"{name}_image"], expected, atol=1e-6)


def test_meta_images_have_no_cutout(dataset):
    """Protects the meta loss: Cutout that hides everything blanks noisy and trusted images, never the meta ones."""
    batch, _, _ = batch_of(dataset, Streams(8, 6, 4), 0, SimpleNamespace(pad=1, flip=False, cutout=16))
    assert not batch["image"].any() and not batch["trusted_image"].any()
    assert all(image.any() for image in batch["meta_image"])


def test_trusted_given_labels_stay_unknown_unless_asked_for(dataset):
    """Protects the setting: the label a trusted image carried is -1 unless data.trusted_given, then the noisy one."""
    assert (pipeline.resident(dataset)["trusted_given"] == -1).all()
    told = pipeline.resident(prepare(tiny.config(fields={"data.trusted_given": True})))
    assert (told["trusted_given"] >= 0).all() and (told["trusted_given"] != told["trusted_label"]).any()
    np.testing.assert_array_equal(told["trusted_label"], pipeline.resident(dataset)["trusted_label"])


def test_resident_arrays_do_not_hold_the_truth(dataset):
    """Protects every result: with the hidden truth, test set and validation set destroyed, training reads the same."""
    blind = dataset._replace(
        truth=np.full_like(dataset.truth, -1),
        test_images=np.zeros_like(dataset.test_images),
        test_label=np.full_like(dataset.test_label, -1),
    )
    arrays, again = pipeline.resident(dataset), pipeline.resident(blind)
    assert arrays.keys() == again.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name])
    assert len(arrays["image"]) == 200 and len(arrays["trusted_image"]) == 100


def test_every_step_has_a_key_of_its_own(dataset):
    """Protects augmentation and MixUp: the same rows at another step are cropped otherwise; a rerun repeats both."""

    def step(state, batch, key):
        return state, {"image": batch["image"], "key": jax.random.key_data(key)}

    job, stage = train.Run(tiny.config(), dataset), Stage("probe", 1, Streams(8), step)
    compiled = job.compile(stage)
    order = {"noisy": jnp.tile(jnp.arange(8, dtype=jnp.int32), (tiny.STEPS, 1))}

    def run():
        carry = parallel.replicate({"method": np.zeros(()), "step": np.zeros((), np.int32)}, job.mesh)
        outs = []
        for _ in range(tiny.STEPS + 1):
            carry, out = compiled(carry, job.arrays, order, job.key)
            outs.append(jax.device_get(out))
        assert int(carry["step"]) == tiny.STEPS + 1
        return outs

    one, again = run(), run()
    assert len({out["key"].tobytes() for out in one}) == len({out["image"].tobytes() for out in one}) == tiny.STEPS + 1
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["key"], second["key"])
