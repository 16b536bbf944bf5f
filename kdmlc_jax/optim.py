"""Optimisers and learning-rate schedules from config."""

from typing import Any

import optax

from kdmlc_jax.errors import UserError, suggest

SCHEDULES = ("constant", "cosine", "step")
OPTIMISERS = ("sgd", "adam")


def schedule(config: Any, total_steps: int) -> optax.Schedule:
    """Learning rate as a function of the step.

    constant: lr. cosine: lr·(1 + cos(π t/T))/2. step: lr·.1^k after the k-th milestone. All three rise linearly
    from 0 over the first `warm_up` share of the steps.

    Args:
      config: fields lr, schedule, milestones (fractions of the run), warm_up (fraction of the run).
      total_steps: T.

    Raises:
      UserError: for an unknown schedule.
    """
    if config.schedule == "constant":
        shape = optax.constant_schedule(config.lr)
    elif config.schedule == "cosine":
        shape = optax.cosine_decay_schedule(config.lr, max(total_steps, 1))
    elif config.schedule == "step":
        shape = optax.piecewise_constant_schedule(config.lr, {int(m * total_steps): 0.1 for m in config.milestones})
    else:
        raise UserError(
            f'schedule: "{config.schedule}" is not one of {", ".join(SCHEDULES)}{suggest(config.schedule, SCHEDULES)}'
        )
    rise = round(config.warm_up * total_steps)
    return (lambda step: shape(step) * optax.linear_schedule(1.0 / rise, 1.0, rise)(step)) if rise else shape


def build(config: Any, total_steps: int) -> optax.GradientTransformation:
    """The optimiser of one network; weight decay enters the gradient, before momentum (as in PyTorch's SGD).

    Args:
      config: fields name (sgd | adam), lr, momentum, weight_decay, clip (global norm, 0 = off) and `schedule`'s.
      total_steps: optimiser steps of the whole run.

    Raises:
      UserError: for an unknown optimiser or schedule.
    """
    rate = schedule(config, total_steps)
    if config.name == "sgd":
        core = optax.sgd(rate, momentum=config.momentum or None)
    elif config.name == "adam":
        # eps_root: the look-ahead differentiates through the square root, whose slope at 0 is infinite.
        core = optax.adam(rate, eps_root=1e-12)
    else:
        raise UserError(
            f'optimiser: "{config.name}" is not one of {", ".join(OPTIMISERS)}{suggest(config.name, OPTIMISERS)}'
        )
    parts = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    parts += [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
    return optax.chain(*parts, core)
