"""WANN: neighbours vote by how reliable their labels are (Di Salvo et al. 2025, TMLR, arXiv 2408.14358).

    k_i            the least k of 11, 13, …, 49 for which most of the k images nearest to i have the label of i, else 51
    reliability_i  1 / k_i
    p(c | x)       (k Σ_j w_j [y_j = c] / Σ_j w_j + 1/C) / (k + 1)    over the k images nearest to x, k that of the
                   nearest one, w their reliability

51 is that of the network, `student=nearest51`. The reliability of a noisy image's given label is the table's
`reliability`: of the other images' labels alone; but those were weighed with this image among their neighbours. Wrong
labels are ranked by p all the same, which was better (AUROC .907 against .846 on photos with features). See
`labels.neighbours` for what differs from the authors' release, `parts.neighbour_vote` for
memory and features, `parts.fitted` for corrected labels.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from kdmlc_jax.labels import neighbours
from kdmlc_jax.methods.base import Info
from kdmlc_jax.methods.parts import neighbour_vote

RECIPES = neighbour_vote.RECIPES
ON_FEATURES = ("wann",)


def default_config(preset: str = "") -> ConfigDict:
    """train_on: noisy | trusted | both."""
    return neighbour_vote.default_config("wann", preset)


def make(config: Any, info: Info) -> "WeightedAdaptive":
    """The method that `config` describes; raises UserError for another network, or an option outside its range."""
    return WeightedAdaptive(**neighbour_vote.fields(config, info))


@dataclass(frozen=True, eq=False)
class WeightedAdaptive(neighbour_vote.NeighbourVote):
    """Votes are worth their reliability."""

    COLUMNS = ("reliability",)

    def reach(self, near_label: Int[np.ndarray, "N K"], label: Int[np.ndarray, " N"]) -> Int[np.ndarray, " N"]:
        return neighbours.reach(near_label, label, self.info.num_classes, most=self.module.most)

    def weight(self, reach: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
        return 1.0 / reach

    def columns(self, vote: neighbour_vote.Vote) -> dict[str, np.ndarray]:
        return {"reliability": self.weight(vote.own_reach)}
