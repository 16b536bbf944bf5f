"""Image networks by name, one family a file: `FORM`, `EXAMPLES` and `build(name, num_classes)`; see `base`, `registry`.

A family whose networks others have published weights of has `published(name) -> (Published, …)`, too, for its EXAMPLES:
one for each way their arrays are named. One whose networks timm has, has `timm(name) -> Timm`.
Every one maps f32[B, H, W, K] to logits f32[B, C] and the pooled features f32[B, D] under its last layer. One with
`sees = "features"` is shown those of images that have them (`shapes.Seen`); all others are shown pixels.
"""

import sys
from types import ModuleType

from flax import linen as nn

from kdmlc_jax import registry
from kdmlc_jax.errors import UserError, suggest
from kdmlc_jax.nets.base import Output, Published, Timm, head_of


def build(name: str, num_classes: int, place: str = "network") -> nn.Module:
    """The image network called `name`, of a form that one of the families knows: cnn16, resnet32, preact_resnet18 …

    Raises:
      UserError: naming `place`, for a name of no family, with the nearest one that there is.
    """
    package = sys.modules[__name__]
    families = [registry.get(package, place, family) for family in registry.names(package)]
    for family in families:
        if (module := family.build(name, num_classes)) is not None:
            return module
    forms = ", ".join(f"{family.FORM} (such as {', '.join(family.EXAMPLES)})" for family in families)
    near = suggest(name, [example for family in families for example in family.EXAMPLES])
    raise UserError(f'{place}: "{name}" is not one of {forms}{near}')


def published() -> dict[str, tuple[Published, ...]]:
    """How others name the weights of our networks, by network."""
    return {name: family.published(name) for family in _with("published") for name in family.EXAMPLES}


def timm(name: str) -> Timm | None:
    """The network called `name` as timm has it, or None where it has not."""
    return next((family.timm(name) for family in _with("timm") if name in family.EXAMPLES), None)


def _with(function: str) -> list[ModuleType]:
    package = sys.modules[__name__]
    families = [registry.get(package, "network", family) for family in registry.names(package)]
    return [family for family in families if hasattr(family, function)]
