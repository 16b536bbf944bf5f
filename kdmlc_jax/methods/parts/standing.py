"""Labels that stand: given as a class that too few trusted images are of. A corrector that has learned from none of
them would call every image that is given so another."""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np

from kdmlc_jax.methods.base import Info
from kdmlc_jax.shapes import Labels, SoftLabels


@dataclass(frozen=True)
class Standing:
    """Which labels may not be corrected."""

    info: Info
    fewest: int  # trusted images of a class, for labels given so to be corrected

    @cached_property
    def classes(self) -> np.ndarray:
        """bool[C], whether labels given as each class stand."""
        return np.array([count < self.fewest for count in self.info.trusted_of.values()], bool)

    def keep(self, soft_label: SoftLabels, given_label: Labels) -> SoftLabels:
        """`soft_label`, or the given label itself where it stands."""
        if not self.classes.any():
            return soft_label
        given = jax.nn.one_hot(given_label, self.info.num_classes)
        return jnp.where(jnp.asarray(self.classes)[given_label][:, None], given, soft_label)

    @property
    def note(self) -> str:
        """What a person should know; nothing where all labels may be corrected."""
        names = [name for name, stands in zip(self.info.trusted_of, self.classes, strict=True) if stands]
        few = "no trusted image" if self.fewest == 1 else f"fewer than {self.fewest} trusted images"
        return f"labels given as {', '.join(names)} stand: {few} to learn from" if names else ""
