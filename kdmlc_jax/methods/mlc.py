"""MLC, meta label correction (Zheng et al., AAAI 2021, arXiv 1911.03809).

    min_α E_D CE(y, f_{w*(α)}(x))    s.t.    w*(α) = argmin_w E_D̃ CE(g_α(sg[h(x)], ỹ), f_w(x))

The step is `teacher.Teacher.step`, shared with KDMLC. `preset = "paper"` is MLC and no more; `preset = "strong"`
[ours] adds the switches listed at `teacher.default_options`.

Departures from the release: the gradient through the look-ahead is exact (no finite difference); splits are disjoint;
γ of the k-step recursion is clipped to [0, 1]; α moves by Adam without amsgrad.
"""

from functools import partial
from typing import Any

import jax
from ml_collections import ConfigDict

from kdmlc_jax import train_state
from kdmlc_jax.errors import choose, in_range
from kdmlc_jax.labels.transition import transition_matrix
from kdmlc_jax.methods.base import Batch, Info, Legacy, Method, Metrics, Stage, Streams
from kdmlc_jax.methods.parts.meta_corrector import CLOTHING1M, Teacher, TeacherState, default_options

RECIPES = {"clothing1m": CLOTHING1M}


def default_config(preset: str = "paper") -> ConfigDict:
    """The options of `teacher.default_options` and network: whose architecture MLC trains, teacher | student."""
    return ConfigDict({"name": "mlc", "preset": preset, "network": "teacher", **default_options(preset)})


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`."""
    network = choose("method.network", config.method.network, ("teacher", "student"))
    teacher = Teacher(config, info, network)

    def step(warm_up: bool, current: TeacherState, batch: Batch, key: jax.Array) -> tuple[TeacherState, Metrics]:
        moved, _, _, metrics = teacher.step(current, batch, warm_up, key)
        return moved, metrics

    def predict(current: TeacherState, images: jax.Array) -> jax.Array:
        return train_state.evaluate(current.net, images).logits

    return Legacy(
        init=teacher.init,
        stages=stages(config, step),
        predict=predict,
        correct=lambda current, images, given_label, index: teacher.correct(current, images, given_label),
        networks={network: lambda current: current.net},
        deployed=network,
        transition=lambda current: transition_matrix(current.joint),
    )


def stages(config: Any, step: Any) -> tuple[Stage, ...]:
    """A warm-up stage, if asked for, then correction; `step` takes `warm_up` as its first argument.

    Each trusted batch is halved: one half in the inner loss, the other in the meta loss (as MLC does).
    """
    in_range("train.trusted_batch_size", config.train.trusted_batch_size, 2)
    half = config.train.trusted_batch_size // 2
    streams = Streams(config.train.batch_size, config.train.trusted_batch_size - half, half)
    warm_up = config.method.warm_up
    first = (Stage("warm_up", warm_up, streams, partial(step, True)),) if warm_up else ()
    return *first, Stage("correct", config.train.epochs - warm_up, streams, partial(step, False))
