"""Encoders: what an ONNX file or a run's network makes of images."""

import numpy as np
import onnx_bytes
import pytest
import tiny

from kdmlc_jax import encoders, export, nets, train
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage.networks import read

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3), np.uint8)
PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def written(path, content):
    path.write_bytes(content)
    return path


def test_an_onnx_file_gets_normalised_images_in_its_layout(tmp_path):
    """Protects what goes in: pixels in [0, 1], mean and deviation by channel, channels first, the file's own side."""
    path = written(tmp_path / "e.onnx", onnx_bytes.mean_of_channels(6))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    encoder = encoders.load(path, 0, mean, std)
    want = (IMAGES.astype(float).mean(axis=(1, 2)) / 255 - mean) / np.array(std)
    np.testing.assert_allclose(encoder.encode(IMAGES), want, atol=1e-5)
    assert encoder.side == 6
    nodes, shape = [("ReduceMean", ["x"], ["y"])], ["b", 6, 6, 3]
    last = written(tmp_path / "last.onnx", onnx_bytes.model(nodes, {"x": shape}, {"y": [1, 1, 1, 1]}))
    with pytest.raises(UserError, match=r"outputs \[1, 1, 1, 1\] for 4 images, expected"):
        encoders.load(last, 0, *PLAIN).encode(IMAGES)


def test_images_are_scaled_where_the_file_takes_any_size(tmp_path):
    """Protects the side: what is asked for, 224 by default, never another than the file's; grey images count thrice."""
    path = written(tmp_path / "e.onnx", onnx_bytes.mean_of_channels())
    assert encoders.load(path, 0, *PLAIN).side == 224
    flat = np.full((2, 5, 5, 1), 51, np.uint8)
    np.testing.assert_allclose(encoders.load(path, 12, *PLAIN).encode(flat), 0.2, atol=1e-5)
    fixed = written(tmp_path / "f.onnx", onnx_bytes.mean_of_channels(6))
    with pytest.raises(UserError, match=r"--size: 12, expected 6"):
        encoders.load(fixed, 12, *PLAIN)


@pytest.mark.parametrize(
    ("shape", "want"),
    [((2, 5), (2, 5)), ((2, 7, 5), (2, 5)), ((2, 5, 3, 3), (2, 5))],
)
def test_features_of_any_form_are_vectors(shape, want, tmp_path):
    """Protects the forms in which encoders answer: vectors, tokens (the class token), maps (their mean)."""
    output = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    got = encoders._pooled(tmp_path, [np.zeros((1,)), output], 2)
    assert got.shape == want
    by_hand = {2: lambda: output, 3: lambda: output[:, 0], 4: lambda: output.mean((2, 3))}
    np.testing.assert_allclose(got, by_hand[len(shape)](), rtol=1e-6)


def test_a_file_that_takes_one_image_at_once(tmp_path):
    """Protects the usual export with a fixed batch: one line that says what to ask for."""
    nodes = [("GlobalAveragePool", ["x"], ["y"]), ("Flatten", ["y"], ["z"])]
    graph = onnx_bytes.model(nodes, {"x": [1, 3, 6, 6]}, {"z": [1, 3]})
    encoder = encoders.load(written(tmp_path / "one.onnx", graph), 0, *PLAIN)
    assert encoder.encode(IMAGES[:1]).shape == (1, 3)
    with pytest.raises(UserError, match=r"fails on 4 images of 6x6, it takes 1 at once: --batch 1") as caught:
        encoder.encode(IMAGES)
    assert "\n" not in str(caught.value)


def test_what_is_no_encoder(tmp_path):
    """Protects from a file of another kind: one line that names it."""
    damaged = written(tmp_path / "d.onnx", b"no graph")
    with pytest.raises(UserError, match=r"d\.onnx: cannot be read as an ONNX graph"):
        encoders.load(damaged, 0, *PLAIN)
    words = written(
        tmp_path / "w.onnx", onnx_bytes.model([("Flatten", ["x"], ["y"])], {"x": ["b", 7]}, {"y": ["b", 7]})
    )
    with pytest.raises(UserError, match=r"expected one of float images"):
        encoders.load(words, 0, *PLAIN)
    with pytest.raises(UserError, match=r"expected an \.onnx file, weights, or the folder of a network"):
        encoders.load(tmp_path / "none.npy", 0, *PLAIN)


def test_a_runs_network_gives_what_lies_under_its_last_layer(tmp_path):
    """Protects our own networks as encoders: the last layer on these features gives the network's probabilities."""
    train.run(tiny.config("method=ce,train_on=noisy,student=mlp8,epochs=1"), tmp_path, quiet=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    features = encoders.load(tmp_path / "student", 0, *PLAIN).encode(images)
    _, saved = read(tmp_path / "student")
    head = saved["params"][nets.head_of(saved["params"])]
    scores = features @ head["kernel"] + head["bias"]
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, export.load(tmp_path / "student")(images), rtol=1e-4)
    with pytest.raises(UserError, match=r"images of shape \[6, 6, 3\], expected \[8, 8, 1\]"):
        encoders.load(tmp_path / "student", 0, *PLAIN).encode(IMAGES)
