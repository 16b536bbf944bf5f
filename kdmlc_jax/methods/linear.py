"""Logistic regression: what pixels, or features, are worth before a network learns anything of its own.

    p(y | x) = (M softmax(t (W x + b)) + 1/C) / (M + 1)    M images fitted to, x a flattened image

W and b are fitted to the trusted images, or to the noisy ones' given labels, with an L2 penalty, which is chosen with
the temperature t (Guo et al. 2017, arXiv 1706.04599) on images left out in turn (`labels.linear`). Labels are
corrected as `parts.fitted` says; after a fit to given labels p of a noisy image is by the fits that left it out.

x is standardised as for every network: by channel, which of vectors is by column. On digits, Fashion-MNIST and CIFAR-10
scaling each pixel by itself was no better. The network's weights are W and b times t. All images fitted to are in
memory at once, as f64[M, H·W·K].

With `data.features` p of the noisy images, and so T̂ and their corrected labels, are of a regression on those features;
the network, which other images have none for, is that on pixels. `data.source=features` has it on features throughout.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from kdmlc_jax import nets, train_state
from kdmlc_jax.errors import choose
from kdmlc_jax.labels.linear import (
    calibrated,
    choose_penalty,
    coordinates,
    fold_count,
    linear_beliefs,
    log_loss,
    log_softmax,
    regression,
    stratified,
)
from kdmlc_jax.methods.base import DatasetView, Info, Traits
from kdmlc_jax.methods.parts.fitted import FittedAtOnce, FittedState, flattened
from kdmlc_jax.shapes import Inputs, Labels, SoftLabels
from kdmlc_jax.train_state import NetState

NET = "linear"
RECIPES = {"": {"student.net": NET}}
ON_FEATURES = ("linear", "linear:train_on=noisy")


def default_config(preset: str = "") -> ConfigDict:
    """train_on: trusted | noisy."""
    choose("method.preset", preset, ("",))
    return ConfigDict({"name": "linear", "preset": preset, "train_on": "trusted"})


def make(config: Any, info: Info) -> "LogisticRegression":
    """The method that `config` describes; raises UserError for another network, or an option outside its range."""
    train_on = choose("method.train_on", config.method.train_on, ("trusted", "noisy"))
    return LogisticRegression(
        traits=Traits(deployed="student", needs_trusted=train_on == "trusted"),
        module=nets.build(choose("student.net", config.student.net, (NET,)), info.num_classes, "student.net"),
        info=info,
        train_on=train_on,
        seed=config.seed,
    )


class Fit(NamedTuple):
    """A logistic regression, its temperature in the weights, and how they came about."""

    kernel: Float[np.ndarray, "D C"]
    bias: Float[np.ndarray, " C"]
    penalty: float  # C of scikit-learn
    temperature: float
    held_out: Float[np.ndarray, "M C"]  # p of each row by the fit that left it out
    held_out_loss: float  # cross-entropy of that, before the one row more


def fit(rows: Float[np.ndarray, "M D"], label: Int[np.ndarray, " M"], classes: int, seed: int) -> Fit:
    """An L2-penalised logistic regression, penalty and temperature chosen by stratified cross-validation.

    Its weights lie in the span of the rows: where M < D it is fitted in an orthonormal basis of that.

    Args:
      rows: x.
      label: of each, in [0, classes); a class of no row gets a bias of -12.
      classes: C.
      seed: draws the folds.
    """
    count, columns = rows.shape
    basis = np.linalg.qr(rows.T)[0] if count < columns else np.eye(columns)
    inner, fold = (rows @ basis).astype(np.float64), stratified(label, fold_count(count), seed)
    scores, penalty, t = choose_penalty(inner, label, fold, classes)
    loss = float(log_loss(log_softmax(t * scores), label).mean())
    kernel, bias, there = np.zeros((columns, classes)), np.full(classes, -12.0), np.unique(label)
    found, bias[there] = regression(inner, label, penalty, tol=1e-5)
    kernel[:, there] = basis @ found
    return Fit(t * kernel, t * bias, penalty, t, calibrated(scores, t, count), loss)


@dataclass(frozen=True, eq=False)
class LogisticRegression(FittedAtOnce):
    """One linear network, fitted at once."""

    FIGURES = ("penalty", "temperature", "held_out_loss")  # of `Fit`

    seed: int

    def begin(self, state: FittedState, view: DatasetView) -> FittedState:
        """Fits, and finds T̂ by what follows for the noisy images."""
        classes, trusts = self.info.num_classes, self.train_on == "trusted"
        label = view.trusted_label if trusts else view.given_label
        rows = view.map(self.train_on, flattened, state.net)
        found = view.decide(lambda: fit(rows, label, classes, self.seed))
        layer = {"kernel": found.kernel, "bias": found.bias}
        fitted = jax.tree.map(jnp.float32, {nets.head_of(state.net.params): layer})
        if view.features is not None:
            beliefs = view.decide(lambda: self.by_features(view.features, label))
            view.note("linear: labels are corrected by data.features; the network is fitted to pixels, and is apart")
        elif trusts:
            beliefs = view.map("noisy", self.believed, state.net.with_weights(fitted, {}))
        else:
            beliefs = found.held_out
        return self.found(state.replace(fitted=fitted), view, beliefs, found)

    def by_features(self, features: Any, label: Int[np.ndarray, " M"]) -> Float[np.ndarray, "N C"]:
        """p of the noisy rows of `DatasetView.features`, none of which is by a fit that had its label."""
        asked = "noisy" if self.train_on == "trusted" else "trusted"
        rows = coordinates(features[asked], features[self.train_on])
        found = linear_beliefs(*rows, label, self.info.num_classes, self.seed)
        return found.noisy if asked == "noisy" else found.trusted

    def believed(self, net: NetState, images: Inputs, label: Labels) -> SoftLabels:
        """p of images, whatever the label."""
        rows = self.info.num_trusted if self.train_on == "trusted" else self.info.num_noisy
        p = jax.nn.softmax(train_state.evaluate(net, images).logits)
        return (rows * p + 1.0 / self.info.num_classes) / (rows + 1.0)
