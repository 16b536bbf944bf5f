"""Networks with random weights that keep activations alive, as a run would leave them; nothing is compiled."""

import jax
import jax.numpy as jnp
import numpy as np

from kdmlc_jax import nets
from kdmlc_jax.export.deployed import Deployed


def deployed(name, shape=(16, 16, 3), classes=("a", "b", "c", "d", "e"), rows=60):
    """The network called `name`, made for images of `shape`; [1, 1, D] are features."""
    is_features = shape[:2] == (1, 1)
    module, rng = nets.build(name, len(classes)), np.random.default_rng(0)
    if hasattr(module, "sized"):
        module = module.clone(count=rows)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    shapes = jax.eval_shape(lambda image: module.init(jax.random.key(0), image, train=False), image)

    gain = 1.4 if name == "efficientnet_lite0" else 1.0  # without shortcuts activations die, with them they explode

    def drawn(path, leaf):
        last = path[-1].key
        if last in ("var", "scale"):
            return (0.5 + rng.random(leaf.shape)).astype(np.float32)
        if last == "reach":
            return rng.integers(3, 51, leaf.shape).astype(np.float32)
        wide = 0.2 if leaf.ndim == 1 else gain * np.prod(leaf.shape[:-1]) ** -0.5
        array = (wide * rng.normal(size=leaf.shape)).astype(np.float32)
        return np.abs(array) if rows == len(array) and name.startswith("nearest") and last == "kernel" else array

    variables = jax.tree_util.tree_map_with_path(drawn, shapes)
    about = {
        "net": name,
        "class_names": list(classes),
        "image_shape": list(shape),
        "mean": [0.4] * shape[2],
        "std": [0.3] * shape[2],
        "values": "features" if is_features else "uint8",
        "resize": "none",
    }
    return Deployed(about, module, {"batch_stats": {}, **variables})


def answers(network, inputs):
    """f32[B, C] by the network as it is trained, without what export does to it."""
    mean, std = network.about["mean"][0], network.about["std"][0]
    x = inputs.reshape(len(inputs), *network.about["image_shape"])
    x = (x / np.float32(1 if network.takes_features else 255) - np.float32(mean)) / np.float32(std)
    run = jax.jit(lambda x: network.module.apply(network.variables, x, train=False).logits)
    scores = np.asarray(run(x.astype(np.float32)), np.float64)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
