"""Holds the peers' meta-gradients, in float64, to ours and to each other: the three forms are of one step.

python -m benchmarks.peers.agree
"""

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402

from benchmarks.peers import steps  # noqa: E402
from kdmlc_jax import bilevel, losses, nets  # noqa: E402
from kdmlc_jax.nets.heads.corrector import Corrector  # noqa: E402

SHAPE, CLASSES, COUNT = (12, 12, 3), 4, 6


def array(tensor: torch.Tensor) -> jax.Array:
    """Of a convolution OIHW -> HWIO, of a dense layer its transpose."""
    return jnp.asarray(tensor.detach().numpy().transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(tensor.ndim, (0,))))


def parts(convs: nn.ModuleList, norms: nn.ModuleList) -> dict:
    """Our names of convolutions and normalisations."""
    found = {f"Conv_{at}": {"kernel": array(each.weight)} for at, each in enumerate(convs)}
    for at, each in enumerate(norms):
        found[f"BatchNorm_{at}"] = {"scale": array(each.weight), "bias": array(each.bias)}
    return found


def dense(layer: nn.Linear) -> dict:
    """Our names of a dense layer."""
    return {"kernel": array(layer.weight), "bias": array(layer.bias)}


def ours(peer: steps.Peer, net: str, noisy: tuple, inner: tuple, meta: tuple) -> tuple[float, np.ndarray]:
    """L and ∇_α, flat in the corrector's order there, by `kdmlc_jax.bilevel`."""
    blocks = {f"BasicBlock_{at}": parts(block.convs, block.norms) for at, block in enumerate(peer.net.blocks)}
    params = parts(peer.net.convs, peer.net.norms) | blocks | {"Dense_0": dense(peer.net.last)}
    module, corrector = nets.build(net, CLASSES), Corrector(CLASSES)
    batch_stats = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)["batch_stats"]
    alpha = {f"Dense_{at}": dense(layer) for at, layer in enumerate(peer.corrector.layers)}
    alpha |= {"Embed_0": {"embedding": jnp.asarray(peer.corrector.embed.weight.detach().numpy())}}
    tx = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(peer.rate, 0.9))

    def forward(w, images):
        variables = {"params": w, "batch_stats": batch_stats}
        return module.apply(
            variables, jnp.asarray(images.numpy().transpose(0, 2, 3, 1)), train=True, mutable="batch_stats"
        )[0]

    def inner_loss(w, a):
        output = forward(w, noisy[0])
        features = jax.lax.stop_gradient(output.features)
        soft = jnp.exp(corrector.apply({"params": a}, features, jnp.asarray(noisy[1].numpy())))
        total = losses.cross_entropy(soft, output.logits).sum()
        trusted = jax.nn.one_hot(inner[1].numpy(), CLASSES)
        return (total + losses.cross_entropy(trusted, forward(w, inner[0]).logits).sum()) / (2 * COUNT), None

    def outer_loss(w):
        return losses.cross_entropy(jax.nn.one_hot(meta[1].numpy(), CLASSES), forward(w, meta[0]).logits).mean()

    gradient, _, ahead = bilevel.meta_gradient(inner_loss, outer_loss, tx, alpha, params, tx.init(params))
    layers = [gradient[f"Dense_{at}"] for at in range(3)]
    flat = [gradient["Embed_0"]["embedding"].ravel()]
    flat += [part.ravel() for layer in layers for part in (layer["kernel"].T, layer["bias"])]
    return float(ahead.loss), np.concatenate(flat)


def main() -> None:
    """Prints the largest difference of each form from ours, over the gradient's largest entry."""
    for net in ("cnn4", "resnet8"):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        torch.set_default_dtype(torch.float64)
        peer = steps.Peer("exact", net, SHAPE, CLASSES)
        batches = [
            tuple(t.double() if t.is_floating_point() else t for t in steps.batch(rng, COUNT, SHAPE, CLASSES))
            for _ in range(3)
        ]
        loss, want = ours(peer, net, *batches)
        for form in ("exact", "jvp", "finite"):
            peer.form = form
            theirs, _, found = peer.meta_gradient(*batches)
            got = torch.cat([each.ravel() for each in found]).numpy()
            away = np.abs(got - want).max() / np.abs(want).max()
            print(f"{net} {form}: loss {abs(float(theirs) - loss):.1e}, meta-gradient {away:.1e} of its largest entry")


if __name__ == "__main__":
    main()
