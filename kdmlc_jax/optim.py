"""Optimisers and learning-rate schedules from config."""

import collections
from typing import Any

import optax

from kdmlc_jax.errors import choose

SCHEDULES = ("constant", "cosine", "step")
OPTIMISERS = ("sgd", "adam")


def schedule(config: Any, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    constant: lr. cosine: lr·(1 + cos(π t/T))/2. step: lr·.1^k after the k-th milestone. All three rise linearly
    from lr/steps-of-warm-up over the first `warm_up` share of the steps.

    `config.optim` gives lr, schedule, milestones and warm_up (fractions of the run), T is `total_steps`.

    Raises:
      UserError: for an unknown schedule.
    """
    choose("optim.schedule", config.schedule, SCHEDULES)
    if config.schedule == "constant":
        shape = optax.constant_schedule(config.lr)
    elif config.schedule == "cosine":
        shape = optax.cosine_decay_schedule(config.lr, max(total_steps, 1))
    else:
        at = collections.Counter(round(share * total_steps) for share in config.milestones)
        shape = optax.piecewise_constant_schedule(config.lr, {step: 0.1**count for step, count in at.items()})
    rise = round(config.warm_up * total_steps)
    return (lambda step: shape(step) * optax.linear_schedule(1.0 / rise, 1.0, rise)(step)) if rise else shape


def build(config: Any, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of one network; weight decay enters the gradient, before momentum (as in PyTorch's SGD).

    Clipping, where `config.clip` is above 0, is by the global norm; `total_steps` are those of the whole run.

    Raises:
      UserError: for an unknown optimiser or schedule.
    """
    choose("optim.name", config.name, OPTIMISERS)
    rate = schedule(config, total_steps)
    if config.name == "sgd":
        core = optax.sgd(rate, momentum=config.momentum or None)
    else:
        # eps_root: the look-ahead differentiates through the square root, whose slope at 0 is infinite.
        core = optax.adam(rate, eps_root=1e-12)
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    parts += [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
    return optax.chain(*parts, core)
