"""The vote of the nearest images: what pixels, or features, are worth without any training (Cover & Hart 1967).

    p(c | x) = (Σ_j [y_j = c] + 1/C) / (k + 1)    over the k images nearest to x, by the cosine

k is that of the network, `student=nearest51`, and at most half of the images that a class has on average: with more, a
vote among few (trusted) images is mostly of other classes. See `parts.neighbour_vote` for memory and features,
`parts.fitted` for corrected labels. k = 51 was chosen on features of CIFAR-10 (EfficientNet-Lite0, 5 000 rows; uniform
.2, .5, .8): .751, .748, .625 of 1 000 other rows are right; with k = 11 .757, .698, .413, by Euclidean distances .704,
.652, .545.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from kdmlc_jax.methods.base import Info
from kdmlc_jax.methods.parts import neighbour_vote

RECIPES = neighbour_vote.RECIPES
ON_FEATURES = ("knn",)


def default_config(preset: str = "") -> ConfigDict:
    """train_on: noisy | trusted | both."""
    return neighbour_vote.default_config("knn", preset)


def make(config: Any, info: Info) -> "NearestNeighbours":
    """The method that `config` describes; raises UserError for another network, or an option outside its range."""
    return NearestNeighbours(**neighbour_vote.fields(config, info))


@dataclass(frozen=True, eq=False)
class NearestNeighbours(neighbour_vote.NeighbourVote):
    """Every image has one vote, and every query k of them."""

    def reach(self, near_label: Int[np.ndarray, "N K"], label: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        of_a_class = max(1, self.module.count // (2 * self.info.num_classes))
        return np.full(len(label), min(near_label.shape[1], of_a_class))

    def weight(self, reach: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
        return np.ones_like(reach)
