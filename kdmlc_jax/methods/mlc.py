"""MLC, meta label correction (Zheng et al., AAAI 2021, arXiv 1911.03809).

    min_α E_D CE(y, f_{w*(α)}(x))    s.t.    w*(α) = argmin_w E_D̃ CE(g_α(sg[h(x)], ỹ), f_w(x))

Its formulas are in `parts.meta_corrector`, shared with KDMLC. `preset = "paper"` is MLC and no more; `preset =
"strong"` [ours] adds the switches listed at `corrector_options.default_options`.

Departures from the release: the gradient through the look-ahead is exact (no finite difference); splits are disjoint;
γ of the k-step recursion is clipped to [0, 1]; α moves by Adam without amsgrad.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from kdmlc_jax import train_state
from kdmlc_jax.errors import choose, in_range
from kdmlc_jax.methods.base import Batch, Info, Method, Metrics, Report, Stage, Streams, Traits
from kdmlc_jax.methods.parts import corrector_options, meta_corrector
from kdmlc_jax.methods.parts.meta_corrector import MetaCorrector, MetaCorrectorState
from kdmlc_jax.shapes import Inputs, Key, Labels, Logits, SoftLabels
from kdmlc_jax.train_state import NetState

RECIPES = {"clothing1m": corrector_options.CLOTHING1M}


def default_config(preset: str = "paper") -> ConfigDict:
    """`corrector_options.default_options`, and network: whose architecture MLC trains, teacher | student."""
    options = corrector_options.default_options(preset)
    return ConfigDict({"name": "mlc", "preset": preset, "network": "teacher", **options})


def make(config: Any, info: Info) -> "MLC":
    """The method that `config` describes; raises UserError for an option outside its range."""
    network = choose("method.network", config.method.network, ("teacher", "student"))
    return MLC(
        traits=Traits(deployed=network),
        meta=meta_corrector.build(config, info, network),
        spans=spans(config),
        streams=streams(config),
    )


def spans(config: Any) -> tuple[int, int]:
    """Epochs of the warm-up and of correction."""
    return config.method.warm_up, config.train.epochs - config.method.warm_up


def streams(config: Any) -> Streams:
    """Each trusted batch is halved: one half in the inner loss, the other in the meta-loss (as MLC does)."""
    in_range("train.trusted_batch_size", config.train.trusted_batch_size, 2)
    half = config.train.trusted_batch_size // 2
    return Streams(config.train.batch_size, config.train.trusted_batch_size - half, half)


def stages(step: Any, spans: tuple[int, int], streams: Streams, begin: Any) -> tuple[Stage, ...]:
    """A warm-up stage, if it has epochs, then correction; `step` takes `warm_up` as its first argument, the first stage
    begins with `begin`."""
    warm_up, correct = spans
    if not warm_up:
        return (Stage("correct", correct, streams, partial(step, False), begin),)
    first = Stage("warm_up", warm_up, streams, partial(step, True), begin)
    return first, Stage("correct", correct, streams, partial(step, False))


@dataclass(frozen=True, eq=False)
class MLC(Method):
    """One network and its corrector."""

    traits: Traits
    meta: MetaCorrector
    spans: tuple[int, int]
    streams: Streams

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Warm-up and correction."""
        return stages(self.step, self.spans, self.streams, self.meta.begin)

    def init(self, key: Key, images: Inputs) -> MetaCorrectorState:
        return self.meta.init(key, images)

    def step(
        self, warm_up: bool, state: MetaCorrectorState, batch: Batch, key: Key
    ) -> tuple[MetaCorrectorState, Metrics]:
        """The look-ahead's loss on trusted images moves the corrector; the look-ahead is committed."""
        ahead, gradients, metrics = self.meta.look_ahead(state, batch, warm_up, key)
        state = self.meta.move_corrector(state, gradients)
        _, evenness = self.meta.corrected(state, ahead, batch["label"])
        return self.meta.commit(state, ahead, batch["label"]), metrics | evenness

    def predict(self, state: MetaCorrectorState, images: Inputs) -> Logits:
        return train_state.evaluate(state.net, images).logits

    def correct(self, state: MetaCorrectorState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """The corrector's."""
        return self.meta.correct(state, images, given_label, index)

    def networks(self, state: MetaCorrectorState) -> dict[str, NetState]:
        return {self.traits.deployed: state.net}

    def report(self, state: MetaCorrectorState) -> Report:
        """T̂, and real pairs."""
        return self.meta.report(state)
