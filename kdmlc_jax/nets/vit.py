"""Small vision transformers: DeiT-S (Touvron et al. 2021, arXiv 2012.12877) and DINOv2's ViT-S/14 (Oquab et al. 2023,
arXiv 2304.07193), as encoders or to be fine-tuned.

    z_0 = [c; E x_1; …; E x_N] + p,    z ← z + γ₁ ⊙ A(LN(z)),    z ← z + γ₂ ⊙ M(LN(z)),    features LN(z_L) of c

with patches x_i, attention A (softmax(q kᵀ / √64) v for each head) and M = W₂ gelu(W₁ ·) of four times the width. γ is
DINOv2's LayerScale; DeiT has none. p is made for one grid of patches and scaled to that of the images.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from kdmlc_jax.errors import UserError
from kdmlc_jax.nets.base import IMAGENET_MEAN, IMAGENET_STD, Output, Published, Timm
from kdmlc_jax.shapes import Images

WIDTH, HEADS, DEPTH = 384, 6, 12
Norm = nn.LayerNorm
normal = nn.initializers.truncated_normal(0.02)


class Form(NamedTuple):
    """What the two differ in."""

    patch: int  # its side, in pixels
    grid: int  # patches along a side of the images that the published positions are for
    scale: float  # LayerScale's at the start, 0 = no LayerScale


FORMS = {"deit_small": Form(16, 14, 0.0), "dinov2_small": Form(14, 37, 1e-5)}
FORM = " | ".join(FORMS)
EXAMPLES = tuple(FORMS)


class Token(nn.Module):
    """An array to be learnt by itself."""

    count: int

    @nn.compact
    def __call__(self) -> Float[Array, "1 n D"]:
        """[1, count, WIDTH]."""
        return jnp.asarray(self.param("value", normal, (1, self.count, WIDTH)))


class Scale(nn.Module):
    """LayerScale: each column times a number to be learnt (Touvron et al. 2021, arXiv 2103.17239)."""

    start: float

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """γ ⊙ x."""
        return x * self.param("gamma", nn.initializers.constant(self.start), x.shape[-1:])[None, None]


class Block(nn.Module):
    """Attention, then two layers, each beside a shortcut."""

    scale: float

    @nn.compact
    def __call__(self, z: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """[B, T, D] -> the same shape."""
        dense = lambda width: nn.Dense(width, kernel_init=normal)  # noqa: E731
        scaled = lambda x: Scale(self.scale)(x) if self.scale else x  # noqa: E731
        batch, tokens, width = z.shape
        qkv = dense(3 * width)(Norm(epsilon=1e-6)(z)).reshape(batch, tokens, 3, HEADS, width // HEADS)
        q, k, v = (jax.lax.index_in_dim(qkv, at, 2, keepdims=False) for at in range(3))
        weight = nn.softmax(jnp.einsum("bthd,bshd->bhts", q, k) * (width // HEADS) ** -0.5)
        seen = jnp.einsum("bhts,bshd->bthd", weight, v).reshape(batch, tokens, width)
        z = z + scaled(dense(width)(seen))
        wide = nn.gelu(dense(4 * width)(Norm(epsilon=1e-6)(z)), approximate=False)
        return z + scaled(dense(width)(wide))


class ViT(nn.Module):
    """Patches, a class token, DEPTH blocks."""

    num_classes: int
    form: Form

    @nn.compact
    def __call__(self, images: Images, train: bool) -> Output:
        """Logits [B, C] and features [B, WIDTH]; pixels beyond the last whole patch are not seen.

        Raises:
          UserError: for images smaller than a patch.
        """
        patch, grid, scale = self.form
        sides = images.shape[1] // patch, images.shape[2] // patch
        if not all(sides):
            least = f"images of {images.shape[1]}x{images.shape[2]} pixels, expected {patch}x{patch} or more"
            raise UserError(f"data.image_size: {least}, a patch of the network")
        z = nn.Conv(WIDTH, (patch, patch), patch, "VALID", kernel_init=normal, name="Patch_0")(images)
        batch = images.shape[0]  # may be a symbol
        first = jnp.broadcast_to(Token(1)(), (batch, 1, WIDTH))
        z = jnp.concatenate([first, z.reshape(batch, sides[0] * sides[1], WIDTH)], axis=1)
        position = Token(1 + grid * grid)()
        if sides != (grid, grid):
            spread = position[:, 1:].reshape(1, grid, grid, WIDTH)
            spread = jax.image.resize(spread, (1, *sides, WIDTH), "bicubic").reshape(1, -1, WIDTH)
            position = jnp.concatenate([position[:, :1], spread], axis=1)
        z = z + position
        for _ in range(DEPTH):
            z = Block(scale)(z)
        features = jax.lax.index_in_dim(Norm(epsilon=1e-6)(z), 0, 1, keepdims=False)
        return Output(nn.Dense(self.num_classes, kernel_init=normal)(features), features)


def build(name: str, num_classes: int) -> ViT | None:
    """The network, or None where the name is not of this form."""
    return ViT(num_classes, FORMS[name]) if name in FORMS else None


def published(name: str) -> tuple[Published, ...]:
    """timm's names, which are those of Meta's own files; these have a token for masks, too, which nothing sees."""
    layers = {"Patch_0": "patch_embed.proj", "Token_0": "cls_token", "Token_1": "pos_embed"}
    layers |= {"LayerNorm_0": "norm", "Dense_0": "head"}
    inner = {"LayerNorm_0": "norm1", "Dense_0": "attn.qkv", "Dense_1": "attn.proj", "LayerNorm_1": "norm2"}
    inner |= {"Dense_2": "mlp.fc1", "Dense_3": "mlp.fc2"}
    if FORMS[name].scale:
        inner |= {"Scale_0": "ls1", "Scale_1": "ls2"}
    layers |= {f"Block_{at}/{ours}": f"blocks.{at}.{theirs}" for at in range(DEPTH) for ours, theirs in inner.items()}
    unseen = ("mask_token",) if FORMS[name].scale else ()
    return (Published(layers, IMAGENET_MEAN, IMAGENET_STD, side=224, unseen=unseen),)


def timm(name: str) -> Timm:
    """The same names there."""
    there = {"deit_small": "deit_small_patch16_224", "dinov2_small": "vit_small_patch14_dinov2"}
    return Timm(there[name], published(name)[0].layers, {"dynamic_img_size": True})
