"""DMLP: labels purified once on features that saw no label, then used by any method (Tu et al., CVPR 2023, arXiv
2302.06810).

    1. simclr   the run's networks learn features from the images alone (`parts.contrastive`)
    2. purify   `labels.purify` corrects the labels by the trusted ones, between two stages, on the features of both
                networks side by side (one purifier for each network did worse: benchmarks)
    3. then     another method learns from the purified labels, its networks starting from stage 1: ce (the paper's
                DMLP-Naive; teacher and student beside each other, on the soft labels), kdmlc, mlc or blind_kd with
                their default options (on each image's most likely label)

Stage 1 is left out where features are given (`data.features`), where the data are
features themselves, or where `init_from` names a run that has left all networks this one needs. What the method of
stage 3 notes of epochs counts from its own first one, and labels it holds wrong are purified ones.

Departures: SimCLR on this run's own batches and networks, where the paper uses SimCLR or MoCo with a ResNet-50 apart;
what purifying itself has of its own stands at `labels.purify`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from ml_collections import ConfigDict

from kdmlc_jax import methods, optim, train_state
from kdmlc_jax.errors import choose, in_range
from kdmlc_jax.labels.purify import purify
from kdmlc_jax.labels.purify.options import PurifyOptions
from kdmlc_jax.labels.purify.release import purify_release
from kdmlc_jax.methods.base import Batch, DatasetView, Info, Method, Metrics, Panel, Report, Stage, Streams, Traits
from kdmlc_jax.methods.parts import contrastive
from kdmlc_jax.methods.parts.contrastive import Contrastive, ContrastiveState, joint_features
from kdmlc_jax.methods.parts.fitted import flattened
from kdmlc_jax.shapes import Features, Inputs, Key, Labels, Logits, SoftLabels
from kdmlc_jax.train_state import Bank, NetState

SSL = "simclr"  # the stage
THEN = ("ce", "kdmlc", "mlc", "blind_kd")
RECIPES = {"cifar10": {"method.ssl_epochs": 200}}  # at batch 100
# With the release's own ridge, 0, one dead feature is the end.
PURIFIERS: dict[str, Callable] = {"fixed": purify, "release": partial(purify_release, ridge=1e-6)}
PURIFICATION = Panel(
    *("Purification", "curve", ("labels_replaced", "largest_belief")),
    over="purification_epoch",
    note="Share of the labels replaced, and mean of the largest belief, by the purifier's epoch; the last step is "
    "where the given labels come in as evidence.",
)


def default_config(preset: str = "") -> ConfigDict:
    """then: the method of stage 3; variant, purify_epochs: of the purifier, fixed | release.

    train_on: what ce learns from, noisy (the purified labels) | both (the trusted ones, too, in each step [ours]).
    ssl_epochs, ssl_lr: of SimCLR, before the `train.epochs` of stage 3; lr 0 = `optim.lr`; cosine, else as in `optim`.
    temperature, probe_lr: as in `simclr.default_config`.
    """
    choose("method.preset", preset, ("",))
    options = {"then": "ce", "train_on": "both", "variant": "fixed", "purify_epochs": 100}
    ssl = {"ssl_epochs": 40, "ssl_lr": 0.0, "temperature": 0.5, "probe_lr": 0.01}
    return ConfigDict({"name": "dmlp", "preset": preset, **options, **ssl})


def make(config: Any, info: Info) -> "DMLP":
    """The method that `config` describes; raises UserError for an option outside its range."""
    options = config.method
    purifier = PURIFIERS[choose("method.variant", options.variant, tuple(PURIFIERS))]
    choose("method.train_on", options.train_on, ("noisy", "both"))
    for name in ("purify_epochs", "ssl_epochs"):
        in_range(f"method.{name}", options[name], 1)
    in_range("method.ssl_lr", options.ssl_lr, 0.0)
    parts = parts_of(config, info)
    ready = info.is_features or info.num_features > 0
    ssl_epochs = 0 if ready or config.init_from else int(options.ssl_epochs)
    if ssl_epochs:
        contrastive.check_images(info, "method.ssl_epochs")
    return DMLP(
        traits=Traits(
            deployed=parts[0].traits.deployed,
            ensemble=parts[0].traits.ensemble,
            needs_trusted=True,
            pretrained=not ready,
            preparing=(SSL,),
            panels=(PURIFICATION, *parts[0].traits.panels),
        ),
        info=info,
        parts=parts,
        learner=learner_of(config, info, ssl_epochs),
        ssl_epochs=ssl_epochs,
        streams=Streams(noisy=config.train.batch_size, trusted=config.train.trusted_batch_size, views=True),
        purifier=partial(purifier, num_classes=info.num_classes, epochs=options.purify_epochs, seed=config.seed),
        believes_labels=options.then == "ce",
        purify_epochs=options.purify_epochs,
        points=2 + -(-options.purify_epochs // PurifyOptions.exchange_every),
    )


def parts_of(config: Any, info: Info) -> tuple[Method, ...]:
    """Stage 3: one method, or for ce one a network."""
    then = choose("method.then", config.method.then, THEN)
    module, made = methods.get(then), []
    for options in ({"network": "student"}, {"network": "teacher"}) if then == "ce" else ({},):
        own = config.copy_and_resolve_references()
        with own.unlocked():
            own.method = module.default_config()
            if "form" in own.method and own.method.form == "auto":
                own.method.form = "transition"  # purified labels have taken what features say
            own.method.update(options | ({"train_on": config.method.train_on} if then == "ce" else {}))
        # What trusted images carried says how the first labels went wrong, and nothing of purified ones.
        made.append(module.make(own, info._replace(num_own_given=0)))
    return tuple(made)


def learner_of(config: Any, info: Info, epochs: int) -> Contrastive:
    """Stage 1's step, with a schedule of its own."""
    options, rates = config.method, config.optim.copy_and_resolve_references()
    rates.lr, rates.schedule = options.ssl_lr or config.optim.lr, "cosine"
    tx = optim.build(rates, epochs * info.steps_per_epoch) if epochs else optax.identity()
    return contrastive.build(tx, info.num_classes, options.temperature, options.probe_lr)


class DMLPState(struct.PyTreeNode):
    """The methods of stage 3, what stage 1 has beside their networks, and the labels between them."""

    parts: tuple[Any, ...]  # of each method, its state
    contrastive: dict[str, ContrastiveState]  # by network; empty without stage 1
    soft_label: Bank  # f32[N, C]; even before the labels are purified
    trace: jax.Array  # f32[points, 3] of stage 2: epoch, share of labels replaced, mean of the largest belief


@dataclass(frozen=True, eq=False)
class DMLP(Method):
    """Other methods, on labels purified in between."""

    traits: Traits
    info: Info
    parts: tuple[Method, ...]
    learner: Contrastive
    ssl_epochs: int  # 0 = no stage 1
    streams: Streams  # of stage 1
    purifier: Callable[..., np.ndarray]  # (features, given labels, trusted features, trusted labels) -> f32[N, C]
    believes_labels: bool  # whether the purified labels are the beliefs, not what stage 3 makes of them
    purify_epochs: int = 0
    points: int = 2  # of the trace: the start, each exchange, the end

    @property
    def stages(self) -> tuple[Stage, ...]:
        """SimCLR, if the networks are not ready, and stage 3's."""
        first = (Stage(SSL, self.ssl_epochs, self.streams, self.contrastive_step),) if self.ssl_epochs else ()
        at_once = zip(*(part.stages for part in self.parts), strict=True)
        return *first, *(self.on_purified(inner, not number) for number, inner in enumerate(at_once))

    def on_purified(self, inner: tuple[Stage, ...], purifies: bool) -> Stage:
        """The stages that the parts have at the same time, as one."""
        name, epochs, streams, ends = inner[0].name, inner[0].epochs, inner[0].streams, inner[0].done
        done = None if ends is None else lambda history: ends(without_ssl(history))
        return Stage(name, epochs, streams, partial(self.step, inner), partial(self.begin, inner, purifies), done)

    def init(self, key: Key, images: Inputs) -> DMLPState:
        made = tuple(part.init(jax.random.fold_in(key, number), images) for number, part in enumerate(self.parts))
        even = jnp.full((self.info.num_noisy, self.info.num_classes), 1.0 / self.info.num_classes)
        state = DMLPState(made, {}, Bank(even), jnp.zeros((self.points, 3)))
        if not self.ssl_epochs:
            return state
        return state.replace(contrastive=self.learner.init_all(key, self.encoders(state), images))

    def encoders(self, state: DMLPState) -> dict[str, NetState]:
        """The networks in the order of their features: the teacher's come first."""
        return dict(sorted(self.networks(state).items(), reverse=True))

    def contrastive_step(self, state: DMLPState, batch: Batch, key: Key) -> tuple[DMLPState, Metrics]:
        """Stage 1: one update of each network."""
        moved, beside, metrics, _ = self.learner.step_all(self.encoders(state), state.contrastive, batch)
        for name, net in moved.items():
            state = state.replace(parts=train_state.replace_net(state.parts, self.networks(state)[name], net))
        return state.replace(contrastive=beside), {"loss": metrics[f"{next(iter(moved))}_loss"], **metrics}

    def features(self, state: DMLPState, images: Inputs, label: Labels) -> Features:
        """What labels are purified on."""
        if self.info.is_features:
            return flattened(state, images, label)
        return joint_features(self.encoders(state), images)

    def purified(self, state: DMLPState, view: DatasetView) -> DMLPState:
        """Stage 2."""
        rows = view.features or {split: view.map(split, self.features, state) for split in ("noisy", "trusted")}
        arrays = rows["noisy"], view.given_label, rows["trusted"], view.trusted_label
        soft, trace = view.decide(lambda: self.watched(*arrays))
        other, sure = trace[-1, 1:]
        view.note(f"dmlp: {other:.1%} of the labels replaced; the largest belief is {sure:.2f} on average")
        return state.replace(soft_label=Bank(jnp.asarray(soft)), trace=jnp.asarray(trace))

    def watched(self, features: np.ndarray, given: np.ndarray, *trusted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The purified labels f32[N, C] and the trace; points that a purifier does not show are as the end."""
        seen = [(0.0, 0.0, 1.0)]

        def watch(epoch: int, soft: Any) -> None:
            labels = np.asarray(soft)
            replaced = float(np.mean(labels.argmax(axis=1) != given))
            seen.append((float(epoch), replaced, float(labels.max(axis=1).mean())))

        soft = self.purifier(features, given, *trusted, watch=watch)
        watch(self.purify_epochs, soft)
        ends = [seen[-1]] * (self.points - len(seen))
        return soft, np.array([*seen, *ends][: self.points], np.float32)

    def begin(self, inner: tuple[Stage, ...], purifies: bool, state: DMLPState, view: DatasetView) -> DMLPState:
        """Purifies, before the first of stage 3's stages; then the parts look at the set with purified labels."""
        state = self.purified(state, view) if purifies else state
        label = np.argmax(view.fetch(state.soft_label.rows), axis=1).astype(np.int32)
        view = view_of_purified(view, label)
        both = zip(state.parts, inner, strict=True)
        return state.replace(parts=tuple(stage.begin(part, view) if stage.begin else part for part, stage in both))

    def step(self, inner: tuple[Stage, ...], state: DMLPState, batch: Batch, key: Key) -> tuple[DMLPState, Metrics]:
        """Stage 3: one step of each part, on the purified labels and in epochs of its own."""
        soft = state.soft_label.rows[batch["index"]]
        batch = batch | {
            "soft_label": soft,
            "label": jnp.argmax(soft, axis=1),
            "epoch": batch["epoch"] - self.ssl_epochs,
        }
        moved: list[Any] = []
        metrics: Metrics = {}
        for number, (part, stage) in enumerate(zip(state.parts, inner, strict=True)):
            new, figures = stage.step(part, batch, jax.random.fold_in(key, number))
            moved.append(new)
            metrics |= {f"teacher_{name}" if number else name: value for name, value in figures.items()}
        return state.replace(parts=tuple(moved)), metrics

    def predict(self, state: DMLPState, images: Inputs) -> Logits:
        """The first part's."""
        return self.parts[0].predict(state.parts[0], images)

    def correct(self, state: DMLPState, images: Inputs, given_label: Labels, index: Labels) -> SoftLabels:
        """The purified labels, or what stage 3 believes where they are given; its own beliefs of other images."""
        soft, known = state.soft_label.rows[jnp.maximum(index, 0)], index >= 0
        if self.believes_labels:
            return jnp.where(known[:, None], soft, jax.nn.softmax(self.predict(state, images)))
        label = jnp.where(known, jnp.argmax(soft, axis=1), given_label)
        return self.parts[0].correct(state.parts[0], images, label, index)

    def networks(self, state: DMLPState) -> dict[str, NetState]:
        found = (part.networks(own) for part, own in zip(self.parts, state.parts, strict=True))
        return {name: net for nets in found for name, net in nets.items()}

    def report(self, state: DMLPState) -> Report:
        """The purified labels, and what stage 3 has found but flags."""
        found = self.parts[0].report(state.parts[0]).without_flags()
        soft = state.soft_label.rows
        label = jnp.argmax(soft, axis=1).astype(jnp.int32)
        columns = {"purified_label": label, "purified_confidence": jnp.max(soft, axis=1), **found.columns}
        names = ("purification_epoch", "labels_replaced", "largest_belief")
        traced = dict(zip(names, state.trace.T, strict=True))
        return Report(columns=columns, figures={**found.figures, **traced})


def view_of_purified(view: DatasetView, label: np.ndarray) -> DatasetView:
    """The set as a method of stage 3 sees it: with purified labels `label` i32[N], and its own epochs alone."""

    def over(split: str, fn: Any, current: Any, given: np.ndarray | None = None) -> Any:
        return view.map(split, fn, current, label if split == "noisy" and given is None else given)

    return view._replace(given_label=label, map=over, history=without_ssl(view.history))


def without_ssl(history: list[dict]) -> list[dict]:
    """The epochs that the method of stage 3 knows as its own."""
    return [row for row in history if row["stage"] != SSL]
