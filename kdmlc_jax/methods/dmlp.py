"""DMLP: labels purified once on features that saw no label, then used by any method (Tu et al., CVPR 2023, arXiv
2302.06810).

    1. simclr   the run's networks learn features from the images alone (`methods/simclr.py`)
    2. purify   `kdmlc_jax.purify` corrects the labels by the trusted ones, between two stages, on the features of both
                networks side by side (one purifier for each network did worse: benchmarks)
    3. then     another method learns from the purified labels, its networks starting from stage 1: ce (the paper's
                DMLP-Naive; teacher and student beside each other, on the soft labels), kdmlc, mlc or blind_kd with
                their default options (on each image's most likely label)

Stage 1 is left out where features are given (`data.features`, a row for each training image), where the data are
features themselves, or where `init_from` names a run that has left all networks this one needs. What the method of
stage 3 notes of epochs counts from its own first one, and labels it holds wrong are purified ones.

Departures: SimCLR on this run's own batches and networks, where the paper uses SimCLR or MoCo with a ResNet-50 apart;
what `purify` itself has of its own stands there.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import methods, optim, train_state
from kdmlc_jax.errors import NoTrustedError, UserError, choose, in_range
from kdmlc_jax.labels.purify import VARIANTS, purify
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Legacy, Method, Metrics, Stage, Streams
from kdmlc_jax.methods.simclr import SimCLR, check_images, side_by_side
from kdmlc_jax.train_state import Bank

SSL = "simclr"  # the stage
THEN = ("ce", "kdmlc", "mlc", "blind_kd")
NETWORKS = {"kdmlc": ("student", "teacher"), "mlc": ("teacher",), "blind_kd": ("student", "teacher")}
RECIPES = {"cifar10": {"method.ssl_epochs": 200}}  # at batch 100


def default_config(preset: str = "") -> ConfigDict:
    """then: the method of stage 3; variant, purify_epochs: those of `purify`, fixed | release.

    train_on: what ce learns from, noisy (the purified labels) | both (the trusted ones, too, in each step [ours]).
    ssl_epochs, ssl_lr: of SimCLR, before the `train.epochs` of stage 3; lr 0 = `optim.lr`; cosine, else as in `optim`.
    temperature, probe_lr: as in `simclr.default_config`.
    """
    choose("method.preset", preset, ("",))
    options = {"then": "ce", "train_on": "both", "variant": "fixed", "purify_epochs": 100}
    ssl = {"ssl_epochs": 40, "ssl_lr": 0.0, "temperature": 0.5, "probe_lr": 0.01}
    return ConfigDict({"name": "dmlp", "preset": preset, **options, **ssl})


class State(struct.PyTreeNode):
    """The methods of stage 3, what stage 1 has beside their networks, and the labels between them."""

    parts: tuple[Any, ...]
    contrasts: dict[str, Any]  # by network; empty without stage 1
    soft_label: Bank  # f32[N, C]; even before the labels are purified


def parts_of(config: Any, info: Info) -> tuple[Method, ...]:
    """Stage 3: one method, or for ce one a network."""
    then = choose("method.then", config.method.then, THEN)
    module, made = methods.get(then), []
    for options in ({"network": "student"}, {"network": "teacher"}) if then == "ce" else ({},):
        own = config.copy_and_resolve_references()
        with own.unlocked():
            own.method = module.default_config()
            own.method.update(options | ({"train_on": config.method.train_on} if then == "ce" else {}))
        made.append(module.make(own, info))
    return tuple(made)


def make(config: Any, info: Info) -> Method:
    """The method's functions; see `base.Method`.

    Raises:
      UserError: for an option outside its range, or a class without a trusted image.
    """
    options, batch_size, count = config.method, config.train.batch_size, info.num_noisy
    choose("method.variant", options.variant, VARIANTS)
    choose("method.train_on", options.train_on, ("noisy", "both"))
    in_range("method.purify_epochs", options.purify_epochs, 1)
    in_range("method.ssl_epochs", options.ssl_epochs, 1)
    in_range("method.ssl_lr", options.ssl_lr, 0.0)
    if not info.num_trusted:
        raise NoTrustedError("data.trusted: no trusted images, by which dmlp purifies the labels, expected some")
    if info.untrusted:
        few = ", ".join(info.untrusted[:5]) + (" …" if len(info.untrusted) > 5 else "")
        raise UserError(f"data.trusted: no trusted image of {few}; dmlp needs one or more of each class")
    parts = parts_of(config, info)
    where = {
        name: (number, lambda state, part=part, name=name: part.networks(state)[name])
        for number, part in enumerate(parts)
        for name in ((part.traits.deployed,) if options.then == "ce" else NETWORKS[options.then])
    }
    names = sorted(where, reverse=True)  # the teacher's features come first
    ready = info.is_features or info.num_features > 0
    ssl_epochs = 0 if ready or config.init_from else int(options.ssl_epochs)
    rates = config.optim.copy_and_resolve_references()
    rates.lr, rates.schedule = options.ssl_lr or config.optim.lr, "cosine"
    tx = optim.build(rates, ssl_epochs * info.steps_per_epoch) if ssl_epochs else optax.identity()
    learner = SimCLR(tx, info.num_classes, options.temperature, options.probe_lr)

    def net_of(current: State, name: str) -> Any:
        number, net = where[name]
        return net(current.parts[number])

    def init(key: jax.Array, images: jax.Array) -> State:
        made = tuple(part.init(jax.random.fold_in(key, number), images) for number, part in enumerate(parts))
        even = jnp.full((count, info.num_classes), 1.0 / info.num_classes)
        first = State(made, {}, Bank(even))
        if not ssl_epochs:
            return first
        keys = {name: jax.random.fold_in(key, 10 + number) for number, name in enumerate(names)}
        return first.replace(contrasts={name: learner.init(keys[name], net_of(first, name), images) for name in names})

    def ssl_step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
        metrics: Metrics = {}
        for name in names:
            net = net_of(current, name)
            moved, contrast, figures, _ = learner.step(net, current.contrasts[name], batch)
            contrasts = {**current.contrasts, name: contrast}
            current = current.replace(parts=train_state.replace_net(current.parts, net, moved), contrasts=contrasts)
            metrics |= {f"{name}_{figure}": value for figure, value in figures.items()}
        return current, {"loss": metrics[f"{names[0]}_loss"], **metrics}

    def features_of(current: State, images: jax.Array, label: jax.Array) -> jax.Array:
        if info.is_features:
            return images.reshape(len(images), -1)
        return side_by_side({name: train_state.evaluate(net_of(current, name), images).features for name in names})

    def purified(current: State, view: DatasetView) -> State:
        """Stage 2."""
        if view.features is not None:
            rows, trusted = view.features["noisy"], view.features["trusted"]
        else:
            rows, trusted = (view.map(split, features_of, current) for split in ("noisy", "trusted"))
        soft = purify(
            rows,
            view.given_label,
            trusted,
            view.trusted_label,
            num_classes=info.num_classes,
            variant=options.variant,
            epochs=options.purify_epochs,
            seed=config.seed,
            ridge=1e-6 if options.variant == "release" else None,  # with its 0 one dead feature is the end
        )
        other = float(np.mean(soft.argmax(axis=1) != view.given_label))
        view.note(
            f"dmlp: {other:.1%} of the labels replaced; the largest belief is {soft.max(axis=1).mean():.2f} on average"
        )
        return current.replace(soft_label=Bank(jnp.asarray(soft)))

    def inner_view(view: DatasetView, label: np.ndarray) -> DatasetView:
        def over(split: str, fn: Any, current: Any, handed: np.ndarray | None = None) -> Any:
            return view.map(split, fn, current, label if split == "noisy" and handed is None else handed)

        return view._replace(given_label=label, map=over, history=without_ssl(view.history))

    def stage_of(number: int, inner: Sequence[Stage]) -> Stage:
        """The stages that the parts have at the same time, as one."""

        def begin(current: State, view: DatasetView) -> State:
            current = current if number else purified(current, view)
            label = np.argmax(view.fetch(current.soft_label.rows), axis=1).astype(np.int32)
            begun = tuple(
                part if stage.begin is None else stage.begin(part, inner_view(view, label))
                for part, stage in zip(current.parts, inner, strict=True)
            )
            return current.replace(parts=begun)

        def step(current: State, batch: Batch, key: jax.Array) -> tuple[State, Metrics]:
            soft = current.soft_label.rows[batch["index"]]
            learned = {"soft_label": soft, "label": jnp.argmax(soft, axis=1), "epoch": batch["epoch"] - ssl_epochs}
            moved, metrics = [], []
            for place, (part, stage) in enumerate(zip(current.parts, inner, strict=True)):
                new, figures = stage.step(part, batch | learned, jax.random.fold_in(key, place))
                moved.append(new)
                metrics.append(figures)
            extra = {f"teacher_{name}": value for figures in metrics[1:] for name, value in figures.items()}
            return current.replace(parts=tuple(moved)), metrics[0] | extra

        first, done = inner[0], None
        if (ends := first.done) is not None:
            done = lambda history: ends(without_ssl(history))  # noqa: E731
        return Stage(first.name, first.epochs, first.streams, step, begin, done)

    def predict(current: State, images: jax.Array) -> jax.Array:
        return parts[0].predict(current.parts[0], images)

    def correct(current: State, images: jax.Array, given_label: jax.Array, index: jax.Array) -> jax.Array:
        soft, known = current.soft_label.rows[jnp.maximum(index, 0)], index >= 0
        if options.then == "ce":
            return jnp.where(known[:, None], soft, jax.nn.softmax(predict(current, images)))
        label = jnp.where(known, jnp.argmax(soft, axis=1), given_label)
        return parts[0].correct(current.parts[0], images, label, index)

    def examine(current: State) -> dict[str, jax.Array]:
        found = parts[0].report(current.parts[0]).without_flags().columns
        soft = current.soft_label.rows
        label = jnp.argmax(soft, axis=1).astype(jnp.int32)
        return {"purified_label": label, "purified_confidence": jnp.max(soft, axis=1), **found}

    def diagnostics(current: State) -> dict[str, jax.Array]:
        return dict(parts[0].report(current.parts[0]).figures)

    streams = Streams(noisy=batch_size, trusted=config.train.trusted_batch_size, views=True)
    first: tuple[Stage, ...] = ()
    if ssl_epochs:
        check_images(info, "method.ssl_epochs")
        first = (Stage(SSL, ssl_epochs, streams, ssl_step),)
    together = zip(*(part.stages for part in parts), strict=True)
    return Legacy(
        init=init,
        stages=(*first, *(stage_of(number, inner) for number, inner in enumerate(together))),
        predict=predict,
        correct=correct,
        networks={name: partial(net_of, name=name) for name in where},
        deployed=parts[0].traits.deployed,
        ensemble=parts[0].traits.ensemble,
        examine=examine,
        diagnostics=diagnostics,
        pretrained=() if ready else tuple(names),
        reads_features=True,
        preparing=(SSL,),
    )


def without_ssl(history: list[dict]) -> list[dict]:
    """The epochs that the method of stage 3 knows as its own."""
    return [row for row in history if row["stage"] != SSL]
