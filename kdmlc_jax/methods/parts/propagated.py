"""What a method keeps of labels that it has propagated over the whole noisy split (AML-KD)."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kdmlc_jax.methods.base import Info, Report
from kdmlc_jax.train_state import Bank


class PropagatedLabels(struct.PyTreeNode):
    """Of each noisy image, and the share of wrong labels."""

    belief: Bank  # f32[N, C], b
    label: Bank  # i32[N], ŷ
    weight: Bank  # f32[N], s in [0, 1]
    seed: Bank  # bool[N], whether the given label was taken for right
    noise_rate: jax.Array  # f32[C], r̂ by given class

    def report(self) -> Report:
        """All of it."""
        columns = {
            "refined_label": self.label.rows,
            "refined_confidence": jnp.max(self.belief.rows, axis=1),
            "ambiguity": 1.0 - self.weight.rows,
            "seed": self.seed.rows,
        }
        return Report(columns=columns, figures={"noise_rate": self.noise_rate})

    def summary(self, given_label: np.ndarray) -> str:
        """In one line."""
        wrong = np.mean(np.asarray(self.noise_rate)[given_label])
        replaced = np.mean(np.asarray(self.label.rows) != given_label)
        return f"an estimated {wrong:.1%} of the labels are wrong, {replaced:.1%} replaced at first"


def unpropagated(info: Info) -> PropagatedLabels:
    """Before the first propagation."""
    count, classes = info.num_noisy, info.num_classes
    return PropagatedLabels(
        belief=Bank(jnp.full((count, classes), 1.0 / classes)),
        label=Bank(jnp.zeros(count, jnp.int32)),
        weight=Bank(jnp.ones(count)),
        seed=Bank(jnp.zeros(count, bool)),
        noise_rate=jnp.zeros(classes),
    )
