"""Labels propagated over the whole noisy split, decided on the host, and what a method keeps of them (AML-KD)."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from kdmlc_jax import losses
from kdmlc_jax.labels.propagation import propagate
from kdmlc_jax.methods.base import DatasetView, Info, Metrics, Panel, Report
from kdmlc_jax.methods.parts import ambiguity, seeds
from kdmlc_jax.shapes import Labels, Logits, PerImage
from kdmlc_jax.train_state import Bank

PANELS = (
    Panel(
        *("Propagation", "curve", ("replaced", "seeds", "ambiguity")),
        note="Shares of the noisy images whose label is replaced, and that are seeds, and mean ambiguity, by epoch.",
    ),
    Panel("Estimated share of wrong labels by class", "table", ("noise_rate",)),
    Panel(
        *("Ambiguity", "histogram", ("ambiguity",)), note="Of every noisy image; those at the right count for little."
    ),
)


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

    def shares(self, index: Labels, given_label: Labels) -> Metrics:
        """Of a batch: how many labels are replaced, how many rows are seeds, how ambiguous they are."""
        return {
            "replaced": jnp.mean(self.label.rows[index] != given_label),
            "seeds": jnp.mean(self.seed.rows[index]),
            "ambiguity": jnp.mean(1.0 - self.weight.rows[index]),
        }

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


def given_losses(logits: np.ndarray, given: np.ndarray) -> np.ndarray:
    """CE(ỹ, z) f32[N]."""
    target = jax.nn.one_hot(jnp.asarray(given), logits.shape[1])
    return np.asarray(losses.cross_entropy(target, jnp.asarray(logits)))


@dataclass(frozen=True, eq=False)
class Propagation:
    """How labels and weights are made; the options are those of `aml_kd.default_config`."""

    num_classes: int
    refine: bool  # or labels stay as given
    neighbours: int
    evidence: bool
    weights: str
    closed_weight: Callable[[Logits, Labels], PerImage]
    seed: int

    def by_seeds(
        self, features: np.ndarray, logits: np.ndarray, given: np.ndarray, noise_rate: np.ndarray | None
    ) -> PropagatedLabels:
        """From the seeds that the judge's logits give; r̂ where it is known."""
        loss = given_losses(logits, given)
        if noise_rate is None:
            noise_rate = seeds.estimated_noise(loss, given, self.num_classes)
        seed = seeds.small_losses(loss, given, noise_rate)
        belief = np.eye(self.num_classes, dtype=np.float32)[given]
        if self.refine:
            belief = seeds.propagated_belief(self.soft_label(features, np.where(seed, given, -1)), given, self.evidence)
        return self.labels(features, belief, seed, np.argmax(logits, axis=1), noise_rate)

    def soft_label(self, features: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
        """f32[N, C], from the rows that have a label."""
        found = propagate(features, label, weight, num_classes=self.num_classes, neighbours=self.neighbours)
        return found.soft_label

    def labels(
        self, features: np.ndarray, belief: np.ndarray, seed: np.ndarray, predicted: np.ndarray, noise_rate: np.ndarray
    ) -> PropagatedLabels:
        """Labels and weights by the beliefs f32[N, C]; `predicted` i32[N] by the network that chose the seeds."""
        label = np.argmax(belief, axis=1).astype(np.int32)
        weight = self.weight(features, jnp.asarray(label), seed & (predicted == label))
        rows = {"belief": belief, "label": label, "weight": weight, "seed": seed}
        banks = {name: Bank(jnp.asarray(values)) for name, values in rows.items()}
        return PropagatedLabels(**banks, noise_rate=jnp.asarray(noise_rate))

    def weight(self, features: np.ndarray, label: Labels, easy: np.ndarray) -> PerImage:
        """s; `easy` bool[N]: seeds on which the network that judged them agrees."""
        if self.weights == "off":
            return jnp.ones(len(label))
        cosine = ambiguity.cosines(jnp.asarray(features), label, self.num_classes)
        if self.weights == "learned":
            return ambiguity.learned_weight(jax.random.key(self.seed), cosine, label, jnp.asarray(easy))
        return self.closed_weight(cosine, label)


def decided(view: DatasetView, decide: Callable[[], PropagatedLabels]) -> PropagatedLabels:
    """What process 0 decides."""
    labels: PropagatedLabels = jax.tree.map(jnp.asarray, view.decide(lambda: jax.device_get(decide())))
    return labels
