"""What `knn` and `wann` share: an image's neighbours vote (`labels.neighbours`), by a network that holds them all.

x is standardised as for every network, and flattened. The memory is the noisy images with their given labels, the
trusted ones, or both; none of its images votes about itself, but in a query that is an image of the memory. All are in
memory at once, f32[M, H·W·K], and are the network's weights; labels are judged BLOCK rows at a time.

With `data.features` p of the noisy images, and so their corrected labels, are of neighbours by those features; the
network, which other images have none for, has those by pixels. `data.source=features` has features throughout.
"""

import abc
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from kdmlc_jax import nets, train_state
from kdmlc_jax.errors import UserError, choose
from kdmlc_jax.labels import neighbours
from kdmlc_jax.labels.linear import standardised
from kdmlc_jax.methods.base import DatasetView, Info, Traits
from kdmlc_jax.methods.parts.fitted import FittedAtOnce, FittedState, flattened
from kdmlc_jax.nets.nearest import Nearest
from kdmlc_jax.shapes import Inputs, Labels, SoftLabels
from kdmlc_jax.train_state import NetState

RECIPES = {"": {"student.net": "nearest51"}}
SPLITS = {"noisy": ("noisy",), "trusted": ("trusted",), "both": ("noisy", "trusted")}
BLOCK = 512


def default_config(name: str, preset: str) -> ConfigDict:
    """train_on: noisy | trusted | both."""
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": name, "preset": preset, "train_on": "both"})


def fields(config: Any, info: Info) -> dict[str, Any]:
    """Of a `NeighbourVote`; raises UserError for another network, or an option outside its range."""
    train_on = choose("method.train_on", config.method.train_on, tuple(SPLITS))
    module = nets.build(config.student.net, info.num_classes, "student.net")
    if not isinstance(module, Nearest):
        raise UserError(f'student.net: "{config.student.net}" is no vote of neighbours, expected nearest51 or the like')
    sizes = {"noisy": info.num_noisy, "trusted": info.num_trusted}
    return {
        "traits": Traits(deployed="student", needs_trusted=train_on == "trusted", takes_trusted=train_on == "both"),
        "module": module.clone(count=sum(sizes[split] for split in SPLITS[train_on])),
        "info": info,
        "train_on": train_on,
    }


class Vote(NamedTuple):
    """What the rows of a memory say."""

    reach: Float[np.ndarray, " M"]  # k of each
    votes: Float[np.ndarray, "M C"]
    beliefs: Float[np.ndarray, "N C"]  # p of the noisy images, by the others
    own_reach: Float[np.ndarray, " N"]  # that their given labels have
    held_out_loss: float  # cross-entropy of p of each row of the memory, by the others, and its label


@dataclass(frozen=True, eq=False)
class NeighbourVote(FittedAtOnce):
    """One network, which remembers; what a method adds is `reach` and `weight`."""

    FIGURES = ("held_out_loss",)

    @abc.abstractmethod
    def reach(self, near_label: Int[np.ndarray, "N K"], label: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        """k of rows with these labels, whose neighbours have those, the nearest first."""

    @abc.abstractmethod
    def weight(self, reach: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
        """w of rows with this k."""

    def late(self, params: Any) -> Any:
        """The votes: a memory without them is no network yet."""
        head = nets.head_of(params)
        return {head: params[head]}

    def begin(self, state: FittedState, view: DatasetView) -> FittedState:
        """Remembers the images, and finds what their neighbours say of the noisy ones."""
        label = {"noisy": view.given_label, "trusted": view.trusted_label}
        there = [split for split in label if len(label[split])]
        rows = {split: view.map(split, flattened, state.net) for split in there}
        voted = judged = view.decide(lambda: self.vote(rows, label))
        if view.features is not None:
            view.note("neighbours: labels are corrected by data.features; the network's neighbours are by pixels")
            judged = view.decide(lambda: self.vote(self.scaled(view.features), label))
        memory = np.concatenate([rows[split] for split in self.splits(label)])
        params = {**state.net.params, "rows": jnp.float32(memory), "reach": jnp.float32(voted.reach)}
        fitted = jax.tree.map(lambda _: jnp.float32(voted.votes), self.late(params))
        state = state.replace(net=state.net.with_weights(params, {}), fitted=fitted)
        return self.found(state, view, judged.beliefs, voted, **self.columns(judged))

    def splits(self, label: dict[str, np.ndarray]) -> list[str]:
        """Those that the memory is of."""
        return [split for split in SPLITS[self.train_on] if len(label[split])]

    @staticmethod
    def scaled(features: Any) -> dict[str, np.ndarray]:
        """`DatasetView.features`, standardised."""
        return dict(zip(("noisy", "trusted"), standardised(features["noisy"], features["trusted"]), strict=True))

    def columns(self, vote: Vote) -> dict[str, np.ndarray]:
        """COLUMNS."""
        return {}

    def vote(self, rows: dict[str, np.ndarray], label: dict[str, np.ndarray]) -> Vote:
        """What the memory's rows say; `rows` f[n, D] and `label` i[n] of both splits."""
        splits = self.splits(label)
        memory, known = (np.concatenate([each[split] for split in splits]) for each in (rows, label))
        memory, count = jnp.float32(memory), len(known)
        near = np.asarray(neighbours.nearest(memory, min(self.module.most, count - 1), min(BLOCK, count))[1])
        reach = self.reach(known[near], known).astype(np.float32)
        votes = np.eye(self.info.num_classes, dtype=np.float32)[known] * self.weight(reach)[:, None]
        p = neighbours.believed(*neighbours.share(near, reach, votes))
        loss = -np.log(p[np.arange(count), known]).mean()
        if splits[0] == "noisy":
            noisy = len(label["noisy"])
            return Vote(reach, votes, np.asarray(p[:noisy]), reach[:noisy], float(loss))
        asked = jnp.float32(rows["noisy"])
        near = np.asarray(neighbours.nearest(memory, min(self.module.most, count), min(BLOCK, len(asked)), asked)[1])
        p = neighbours.believed(*neighbours.share(near, reach, votes))
        own_reach = self.reach(known[near], label["noisy"]).astype(np.float32)
        return Vote(reach, votes, np.asarray(p), own_reach, float(loss))

    def believed(self, net: NetState, images: Inputs, label: Labels) -> SoftLabels:
        """p of images, whatever the label."""
        return jax.nn.softmax(train_state.evaluate(net, images).logits)
