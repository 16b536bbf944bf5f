"""A saved network: what comes back, what starts another, and one line for what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kdmlc_jax import export, nets, train_state
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files, networks

CLASSES = ("cat", "dog", "eel")
ABOUT = {"net": "mlp4", "class_names": list(CLASSES), "image_shape": [2, 2, 1], "mean": [0.5], "std": [0.25]}


def network(seed, name="mlp4", classes=3, ema=0.0):
    """A small network in its first state."""
    module = nets.build(name, classes)
    return train_state.create(jax.random.key(seed), module, optax.sgd(0.1), jnp.zeros((2, 2, 2, 1)), ema)


def assert_weights(net, other):
    """Equal to the bit: nothing is computed on the way."""
    pair = [{"params": each.params, "batch_stats": each.batch_stats} for each in (net, other)]
    jax.tree.map(np.testing.assert_array_equal, *pair)


@pytest.fixture
def saved(tmp_path):
    """A network and its folder."""
    net = network(0)
    networks.save(tmp_path / "student", net, ABOUT)
    return net, tmp_path / "student"


def test_weights_come_back_and_the_head_where_classes_are_the_same(saved):
    """Protects warm starts: all weights are the saved ones; of other classes all but the last layer's."""
    net, folder = saved
    about, weights = networks.read(folder)
    assert about == ABOUT
    started, whole = networks.start(network(1), about, weights, CLASSES, "init_from")
    assert whole and int(started.step) == 0
    assert_weights(started, net)
    fresh = network(1, classes=4)
    started, whole = networks.start(fresh, about, weights, (*CLASSES, "fox"), "init_from")
    head = nets.head_of(fresh.params)
    assert not whole and len(fresh.params) > 1
    assert_weights(started, net.replace(params={**net.params, head: fresh.params[head]}))


def test_the_average_is_what_leaves(tmp_path):
    """Protects what was evaluated: where an average is kept it is saved, not the live weights."""
    net = network(0, ema=0.9)
    net = net.replace(ema=jax.tree.map(lambda leaf: leaf + 1.0, net.ema))
    networks.save(tmp_path, net, ABOUT)
    jax.tree.map(np.testing.assert_array_equal, networks.read(tmp_path)[1], jax.device_get(net.ema))


def test_a_loaded_network_predicts(saved):
    """Protects who has only the folder: images of grey levels in, the network's probabilities out."""
    net, folder = saved
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 2, 1), np.uint8)
    logits = train_state.evaluate(net, jnp.asarray((images / 255.0 - 0.5) / 0.25, jnp.float32)).logits
    np.testing.assert_allclose(export.load(str(folder))(images), jax.nn.softmax(logits), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused(saved, tmp_path):
    """Protects weights from being cut to fit: the first array that is absent or of another shape is named."""
    about, weights = networks.read(saved[1])
    with pytest.raises(UserError, match=r"init_from: .*BatchNorm_0.* is \(4,\) there and \(8,\) here"):
        networks.start(network(0, "mlp8"), about, weights, CLASSES, "init_from")
    weights["params"].pop("Dense_0")
    with pytest.raises(UserError, match=r"init_from: \['params'\]\['Dense_0'\].* is absent there"):
        networks.start(network(0), about, weights, CLASSES, "init_from")


def test_what_cannot_be_read_is_one_line(saved, tmp_path):
    """Protects a person with a wrong path or a damaged file: the place and the reason."""
    with pytest.raises(UserError, match=r"none/network\.json: no such file"):
        networks.read(tmp_path / "none")
    weights = saved[1] / "weights.msgpack"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(UserError, match=r"student: cannot be read as a network \("):
        networks.read(saved[1])


def test_one_flipped_bit_is_noticed(saved):
    """Protects who deploys: no bit of the two files can change unseen; what JSON does not mean may."""
    folder, rng = saved[1], np.random.default_rng(0)
    images = np.zeros((1, 2, 2, 1), np.uint8)
    for name in ("weights.msgpack", "network.json"):
        path = folder / name
        whole = path.read_bytes()
        for _ in range(60):
            changed = np.frombuffer(whole, np.uint8).copy()
            changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            path.write_bytes(changed.tobytes())
            with pytest.raises(UserError, match="student") as error:
                export.load(folder)(images)
            assert "\n" not in str(error.value)
        path.write_bytes(whole)


def resealed(folder, **fields):
    """The description changed, and its sum with it."""
    about = files.read_sealed(folder / "network.json", "")
    files.write_sealed(folder / "network.json", about | fields)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"net": "mlp8"}, r"is \(4,\), expected \(8,\) in mlp8"),
        ({"mean": [0.5, 0.5]}, "expected 1 finite numbers each"),
        ({"std": [0.0]}, "std above 0"),
        ({"image_shape": [2, 2]}, "expected three whole numbers"),
        ({"class_names": ["cat"]}, "expected"),
    ],
)
def test_a_description_that_does_not_fit(saved, fields, words):
    """Protects from nonsense without sums: net, shapes, classes and scale must belong together."""
    resealed(saved[1])
    assert networks.read(saved[1])[0]["net"] == "mlp4"
    resealed(saved[1], **fields)
    with pytest.raises(UserError, match=words):
        networks.read(saved[1])


def test_weights_that_are_not_finite(tmp_path):
    """Protects who deploys from a network that answers NaN."""
    net = network(0)
    net.params["Dense_0"]["kernel"] = net.params["Dense_0"]["kernel"].at[0].set(jnp.nan)
    networks.save(tmp_path, net, ABOUT)
    with pytest.raises(UserError, match=r"\['Dense_0'\]\['kernel'\] has NaN or infinity"):
        networks.read(tmp_path)
