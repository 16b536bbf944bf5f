"""Networks on features beside networks on the images themselves: who sees what, in a step, an evaluation and a file."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from kdmlc_jax import config as config_lib
from kdmlc_jax import export, nets, optim, train, train_state
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import UserError
from kdmlc_jax.shapes import Seen, joined

RNG = np.random.default_rng(0)
DIM = 6


def test_each_network_is_shown_its_part():
    """Protects both: the one on features gives what its inner network gives on them, under the same parameters' names,
    another what it gives on pixels; plain arrays are what they are."""
    pixels, features = RNG.normal(size=(5, 4, 4, 1)), RNG.normal(size=(5, 1, 1, DIM))
    seen = jax.tree.map(jnp.float32, Seen(pixels, features))
    tx = optim.build(config_lib.base().optim, 1)
    for name, inner, part in (("features_mlp3", "mlp3", seen.features), ("mlp3", "mlp3", seen.pixels)):
        net = train_state.create(jax.random.key(0), nets.build(name, 2), tx, seen)
        plain = train_state.create(jax.random.key(0), nets.build(inner, 2), tx, part)
        jax.tree.map(np.testing.assert_array_equal, net.params, plain.params)
        for images in (seen, part):
            got, want = train_state.evaluate(net, images), train_state.evaluate(plain, part)
            np.testing.assert_array_equal(got.logits, want.logits)
    both = joined([seen, seen[np.arange(2)]])
    assert len(both) == 7 and both.features.shape == (7, 1, 1, DIM) and both.shape == (7, 4, 4, 1)


def featured(folder, config):
    """Features that tell the digits apart, for the training and test images of `config`."""
    data = prepare(config)
    directions = RNG.normal(size=(10, DIM)) * 3
    truth = np.where(data.truth >= 0, data.truth, data.given_label)
    arrays = {"features": directions[truth], "test_features": directions[data.test_label]}
    for name, rows in arrays.items():
        np.save(folder / f"{name}.npy", np.float32(rows + RNG.normal(size=rows.shape)))
    return data


SPEC = "method=kdmlc,warm_up=0,teacher=features_mlp8,rate=0.4"


def test_a_teacher_on_features_and_a_student_on_images(tmp_path):
    """Protects the whole: the teacher learns from features, the student from images; each is saved with what it takes,
    and gives the same test accuracy when it is loaded again."""
    config = tiny.config(SPEC, {"data.features": str(tmp_path / "features.npy"), "augment.pad": 1, "train.epochs": 12})
    data = featured(tmp_path, tiny.config("rate=0.4"))
    summary = train.run(config, tmp_path / "run", quiet=True)
    teacher, student = (summary["networks"][name]["last"] for name in ("teacher", "student"))
    assert teacher > 0.5
    test = np.load(tmp_path / "test_features.npy")
    for name, inputs, accuracy in (("teacher", test, teacher), ("student", data.test_images, student)):
        got = export.load(tmp_path / "run" / name)(inputs)
        assert np.mean(got.argmax(axis=1) == data.test_label) == pytest.approx(accuracy)
    about = json.loads((tmp_path / "run" / "teacher" / "network.json").read_text())
    assert about["image_shape"] == [1, 1, DIM] and about["values"] == "features"
    assert summary["labels"]["accuracy_method"] > summary["labels"]["accuracy_before"] + 0.2
    with pytest.raises(UserError, match=r"expected \[B, 6\] features"):
        export.load(tmp_path / "run" / "teacher")(data.test_images)


def test_features_that_are_not_there(tmp_path):
    """Protects from a network shown pixels in place of features: what is missing is named, before anything is made."""
    with pytest.raises(UserError, match=r'teacher\.net: "features_mlp8" is shown features, expected .*data\.features'):
        train.run(tiny.config(SPEC), tmp_path / "run", quiet=True)
    config = tiny.config(SPEC, {"data.features": str(tmp_path / "features.npy")})
    featured(tmp_path, tiny.config("rate=0.4"))
    np.save(tmp_path / "test_features.npy", np.zeros((3, DIM), np.float32))
    with pytest.raises(UserError, match=r"test_features\.npy: 3 rows, expected"):
        prepare(config)
    (tmp_path / "test_features.npy").unlink()
    with pytest.raises(UserError, match=r"test_features\.npy: no such file"):
        prepare(config)
    with pytest.raises(UserError, match=r'network in "features_mlq8": "mlq8" is not one of'):
        nets.build("features_mlq8", 2)


def test_the_same_however_it_is_run(tmp_path):
    """Protects features on every way into a step: resident or streamed, split over devices by jit or by pmap."""
    featured(tmp_path, tiny.config("rate=0.4"))
    rows = []
    ways = {}, {"data.pipeline": "stream", "devices": 4}, {"parallel.mode": "pmap", "devices": 4}
    for number, fields in enumerate(ways):
        given = {"data.features": str(tmp_path / "features.npy"), "train.epochs": 1, **fields}
        made = tiny.config(f"{SPEC},bilevel=off", given)
        summary = train.run(made, tmp_path / str(number), quiet=True)
        rows.append([summary["networks"][name]["last"] for name in ("teacher", "student")])
    np.testing.assert_allclose(rows[1:], [rows[0]] * 2, atol=0.01)
