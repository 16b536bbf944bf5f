"""Both pipelines: the order of an epoch, what a batch holds, where its randomness comes from, and that they agree."""

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import parallel, train
from kdmlc_jax.data import augment, pipeline
from kdmlc_jax.data.augment.views.contrastive import contrastive_view
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.methods.base import Stage, Streams

KEYS = {
    "noisy": {"image", "label", "index"},
    "trusted": {"trusted_image", "trusted_label", "trusted_given", "trusted_index"},
    "meta": {"meta_image", "meta_label", "meta_given", "meta_index"},
}
VIEWS = {"view_area": 0.2, "view_blur": False}
CE = "method=ce,teacher=mlp4,student=mlp4"
PLAIN = SimpleNamespace(pad=0, flip=False, cutout=0, meta="weak")


@pytest.fixture(scope="module")
def dataset():
    return prepare(tiny.config())


def batch_of(made, streams, position, how):
    """The batch of one step of the first epoch under jit, on the host, with its feed."""
    feed = next(made.feeds(streams, position, position + 1))
    make = jax.jit(lambda fixed, feed, key: pipeline.make_batch(made.rows(fixed, feed, position), fixed, key, how))
    return jax.device_get(make(made.fixed, feed, jax.random.key(0))), feed


def test_epoch_order_is_a_pure_function_of_seed_and_epoch():
    """Protects exact resume: the order needs nothing but seed and epoch, and both change it."""
    make = lambda seed, epoch: pipeline.epoch_order(seed, epoch, 5, Streams(40, 20, 20), 200, 100)  # noqa: E731
    one, again, *others = make(0, 3), make(0, 3), make(0, 4), make(1, 3)
    assert one.keys() == {"noisy", "trusted", "meta"}
    for name in one:
        assert one[name].dtype == np.int32 and one[name].shape == (5, 40 if name == "noisy" else 20)
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
        order = pipeline.epoch_order(0, epoch, 5, Streams(40, 20, 20), 200, trusted)
        for step in np.concatenate([order["trusted"], order["meta"]], axis=1):
            assert len(set(step.tolist())) == 40


@pytest.mark.parametrize("streams", [Streams(8), Streams(0, 6), Streams(8, 6), Streams(8, 6, 4), Streams(0, 0, 4)])
def test_batch_holds_exactly_what_its_streams_name(dataset, streams):
    """Protects methods from arrays they did not ask for, and each row's image, label and index from being mixed up."""
    made = pipeline.Resident(dataset, 0, tiny.STEPS)
    batch, order = batch_of(made, streams, 2, PLAIN)
    mean, std = made.fixed["mean"], made.fixed["std"]
    assert batch.keys() == set().union(*(KEYS[name] for name in KEYS if getattr(streams, name)))
    for name in KEYS:
        for key in KEYS[name] & batch.keys():
            assert len(batch[key]) == getattr(streams, name)
            assert batch[key].dtype == (np.float32 if key.endswith("image") else np.int32)
    if streams.noisy:
        rows = dataset.splits.noisy[order["noisy"][2]]
        np.testing.assert_array_equal(batch["index"], order["noisy"][2])
        np.testing.assert_array_equal(batch["label"], dataset.given_label[rows])
        expected = augment.normalise(dataset.images[rows], mean, std)
        np.testing.assert_allclose(batch["image"], expected, atol=1e-6)
    if streams.trusted + streams.meta:
        for name in ("trusted", "meta"):
            if name in order:
                part = dataset.splits.trusted[order[name][2]]
                np.testing.assert_array_equal(batch[f"{name}_label"], dataset.truth[part])
                expected = augment.normalise(dataset.images[part], mean, std)
                np.testing.assert_allclose(batch[f"{name}_image"], expected, atol=1e-6)


@pytest.mark.parametrize("meta", ["weak", "all", "none"])
def test_treatment_of_meta_images(dataset, monkeypatch, meta):
    """Protects the meta loss: its images get the weak augmentations alone, by the switch all of them, or none."""
    asked = []

    def augmented(key, images, how, weak=False):
        asked.append((jax.random.key_data(key).tolist(), weak))
        return images + 1.0

    monkeypatch.setattr(augment, "augmented", augmented)
    made, how = pipeline.Resident(dataset, 0, tiny.STEPS), SimpleNamespace(meta=meta)
    rows = made.rows(made.fixed, next(made.feeds(Streams(8, 6, 4), 0, 1)), 0)
    batch = pipeline.make_batch(rows, made.fixed, jax.random.key(0), how)
    for name in ("image", "trusted_image", "meta_image"):
        plain = augment.normalise(rows[name], made.fixed["mean"], made.fixed["std"])
        changed = name != "meta_image" or meta != "none"
        np.testing.assert_allclose(batch[name], plain + 1.0 if changed else plain, atol=1e-6)
    keys = [key for key, _ in asked]
    assert all(keys.count(key) == 1 for key in keys)
    assert [weak for _, weak in asked] == {"weak": [False, False, True], "all": [False] * 3, "none": [False] * 2}[meta]


def test_trusted_given_labels_stay_unknown_unless_asked_for(dataset):
    """Protects the setting: the label a trusted image carried is -1 unless data.trusted_given, then the noisy one."""
    resident = lambda data: pipeline.Resident(data, 0, tiny.STEPS).fixed  # noqa: E731
    assert (resident(dataset)["trusted_given"] == -1).all()
    told = resident(prepare(tiny.config(fields={"data.trusted_given": True})))
    assert (told["trusted_given"] >= 0).all() and (told["trusted_given"] != told["trusted_label"]).any()
    np.testing.assert_array_equal(told["trusted_label"], resident(dataset)["trusted_label"])


def test_resident_arrays_do_not_hold_the_truth(dataset):
    """Protects every result: with the hidden truth, test set and validation set destroyed, training reads the same."""
    blind = dataset._replace(
        truth=np.full_like(dataset.truth, -1),
        test_images=np.zeros_like(dataset.test_images),
        test_label=np.full_like(dataset.test_label, -1),
    )
    arrays, again = (pipeline.Resident(data, 0, tiny.STEPS).fixed for data in (dataset, blind))
    assert arrays.keys() == again.keys()
    for name in arrays:
        np.testing.assert_array_equal(arrays[name], again[name])
    assert len(arrays["image"]) == 200 and len(arrays["trusted_image"]) == 100


def test_every_step_has_a_key_of_its_own(dataset):
    """Protects augmentation and MixUp: the same rows at another step are cropped otherwise; a rerun repeats both."""

    def step(state, batch, key):
        return state, {"image": batch["image"], "key": jax.random.key_data(key)}

    job, stage = train.Experiment(tiny.config(CE), dataset), Stage("probe", 1, Streams(8), step)
    compiled = job.compile(stage)
    order = {"noisy": jnp.tile(jnp.arange(8, dtype=jnp.int32), (tiny.STEPS, 1))}
    assert isinstance(job.pipeline, pipeline.Resident)

    def run():
        carry = parallel.replicate({"method": np.zeros(()), "step": np.zeros((), np.int32)}, job.mesh)
        outs = []
        for _ in range(tiny.STEPS + 1):
            carry, out = compiled(carry, job.fixed, order, job.key)
            outs.append(jax.device_get(out))
        assert int(carry["step"]) == tiny.STEPS + 1
        return outs

    one, again = run(), run()
    assert len({out["key"].tobytes() for out in one}) == len({out["image"].tobytes() for out in one}) == tiny.STEPS + 1
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
        np.testing.assert_array_equal(first["key"], second["key"])


@pytest.mark.parametrize("streams", [Streams(8), Streams(0, 6), Streams(8, 6, 4), Streams(0, 0, 4)])
def test_stream_gives_the_resident_batches(dataset, streams):
    """Protects the choice of pipeline: same seed, same rows to the bit, and with them all that a step is made of."""
    resident, stream = (made(dataset, 3, tiny.STEPS) for made in (pipeline.Resident, pipeline.Stream))
    for name in ("mean", "std"):
        np.testing.assert_array_equal(resident.fixed[name], stream.fixed[name])
    start, stop = tiny.STEPS - 2, 2 * tiny.STEPS + 1
    feeds = zip(resident.feeds(streams, start, stop), stream.feeds(streams, start, stop), strict=True)
    for step, pair in enumerate(feeds, start):
        one, other = (
            made.rows(made.fixed, feed, step % tiny.STEPS) for made, feed in zip((resident, stream), pair, strict=True)
        )
        assert one.keys() == other.keys() and one
        for name in one:
            assert one[name].dtype == other[name].dtype
            np.testing.assert_array_equal(one[name], other[name])
    assert step == stop - 1


def test_stream_goes_on_from_a_saved_state(dataset):
    """Protects checkpoints of the zipped iterator: at every step, a fresh one that takes the state gives the rest."""
    made, streams = pipeline.Stream(dataset, 0, tiny.STEPS), Streams(8, 6, 4)
    with contextlib.closing(made.iterator(streams, 0, 12)) as whole:
        rows, states = [], []
        for row in whole:
            rows.append(row)
            states.append(whole.get_state())
    assert len(rows) == 12
    for step in range(11):
        with contextlib.closing(made.iterator(streams, 0, 12)) as fresh:
            fresh.set_state(states[step])
            again = next(fresh)
        for name in again:
            np.testing.assert_array_equal(again[name], rows[step + 1][name])


@pytest.mark.parametrize("count", [2, 4])
def test_shards_are_slices_of_the_batch(dataset, count):
    """Protects several processes: their slices, in order, are the batch that one process reads."""
    streams = Streams(8, 4, 4)
    whole = next(pipeline.Stream(dataset, 0, tiny.STEPS).feeds(streams, 7, 8))
    parts = [
        next(pipeline.Stream(dataset, 0, tiny.STEPS, (number, count)).feeds(streams, 7, 8)) for number in range(count)
    ]
    for name in whole:
        assert all(len(part[name]) == len(whole[name]) // count for part in parts)
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole[name])


def test_auto_follows_where_the_images_are(dataset):
    """Protects the automatic choice: images in memory are resident, those in files stream; either can be forced."""

    class Files:
        shape, dtype = dataset.images.shape, dataset.images.dtype

        def __len__(self):
            return len(dataset.images)

        def __getitem__(self, rows):
            return dataset.images[rows]

    in_files = dataset._replace(images=Files())
    kinds = {"auto": pipeline.Stream, "resident": pipeline.Resident, "stream": pipeline.Stream}
    for how, kind in kinds.items():
        assert type(pipeline.choose(in_files, how, 0, tiny.STEPS)) is kind
    assert type(pipeline.choose(dataset, "auto", 0, tiny.STEPS)) is pipeline.Resident
    assert type(pipeline.choose(dataset, "stream", 0, tiny.STEPS)) is pipeline.Stream


def test_resident_steps_send_nothing_to_the_device(dataset):
    """Protects the resident pipeline's point: an epoch after the first runs with host-to-device transfers forbidden."""
    job = train.Experiment(tiny.config(CE, {"augment.pad": 0}), dataset)
    stage, carry = job.method.stages[-1], job.init()
    compiled, feeds = job.compile(stage), job.feeds(stage, 0, tiny.STEPS)
    carry, _ = compiled(carry, job.fixed, next(feeds), job.key)
    with jax.transfer_guard_host_to_device("disallow_explicit"):
        for feed in feeds:
            carry, out = compiled(carry, job.fixed, feed, job.key)
        with pytest.raises(Exception, match=r"[Dd]isallowed"):
            compiled(carry, job.fixed, {name: np.asarray(rows) for name, rows in feed.items()}, job.key)
    assert np.isfinite(out["loss"])


def test_views_are_two_augmentations_of_the_noisy_images(dataset):
    """Protects SimCLR's input: normalised after the colour change, two different draws, and the images beside them."""
    made, how = pipeline.Resident(dataset, 0, tiny.STEPS), SimpleNamespace(pad=0, flip=False, cutout=0, **VIEWS)
    feed = next(made.feeds(Streams(8, 6), 0, 1))
    key, rows = jax.random.key(3, impl="unsafe_rbg"), made.rows(made.fixed, feed, 0)

    @jax.jit
    def both(rows, fixed):
        drawn = [
            contrastive_view(jax.random.fold_in(key, 100 + number), rows["image"] / 255.0, flip=False)
            for number in (1, 2)
        ]
        views = pipeline.make_batch(rows, fixed, key, how, views=True)
        return views, pipeline.make_batch(rows, fixed, key, how), drawn

    batch, without, drawn = both(rows, made.fixed)
    for number, view in enumerate(drawn, 1):
        want = (view - made.fixed["mean"][0]) / made.fixed["std"][0]
        np.testing.assert_allclose(batch[f"view{number}"], want, rtol=1e-4, atol=1e-5)
    assert (batch["view1"] != batch["view2"]).any()
    assert set(batch) - set(without) == {"view1", "view2"}
    for name in without:
        np.testing.assert_allclose(batch[name], without[name], atol=1e-6)


@pytest.mark.parametrize("kind", [pipeline.Resident, pipeline.Stream])
def test_soft_labels_follow_their_images(dataset, kind):
    """Protects labels of another run: each image comes with its own row, and only noisy images have one."""
    soft = np.random.default_rng(0).dirichlet(np.ones(10), 200).astype(np.float32)
    batch, _ = batch_of(kind(dataset._replace(soft_label=soft), 0, tiny.STEPS), Streams(8, 6), 3, PLAIN)
    assert set(batch) == KEYS["noisy"] | KEYS["trusted"] | {"soft_label"}
    np.testing.assert_array_equal(batch["soft_label"], soft[batch["index"]])
