"""One experiment before its first step: data, method, devices, and every compiled function that the host loop calls."""

import contextlib
import zlib
from collections.abc import Callable, Generator, Sequence
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from kdmlc_jax import losses, methods, parallel, train_state
from kdmlc_jax.data import pipeline
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.evaluate import Evaluator
from kdmlc_jax.methods.base import Info, Method, Metrics, Stage
from kdmlc_jax.shapes import ON_FEATURES, Key


def stream(seed: int, name: str) -> Key:
    """The root key of a named random stream."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def all_finite(tree: Any) -> jax.Array:
    """bool[]: no NaN and no infinity in any floating-point leaf."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


def changed_leaves(before: Any, after: Any) -> dict[str, Any]:
    """The arrays of `after`, by their paths, that are not those of `before` themselves."""
    same = {id(leaf) for leaf in jax.tree.leaves(before)}
    return {name: leaf for name, leaf in train_state.named_leaves(after).items() if id(leaf) not in same}


def entropy_of(label: np.ndarray, num_classes: int) -> float:
    """Entropy of the classes' shares among labels i32[n], in nats; that of even ones where there is no label."""
    count = np.bincount(label, minlength=num_classes) if len(label) else np.ones(num_classes)
    return float(losses.entropy(jnp.asarray(count / count.sum(), jnp.float32)))


def describe(dataset: Dataset, batch_size: int) -> Info:
    """What a method may know of the data before it sees any."""
    noisy, trusted = (dataset.given_label[rows] for rows in (dataset.splits.noisy, dataset.splits.trusted))
    classes = len(dataset.class_names)
    return Info(
        num_classes=classes,
        image_shape=dataset.images.shape[1:],
        steps_per_epoch=len(noisy) // batch_size,
        num_noisy=len(noisy),
        num_trusted=len(trusted),
        num_features=0 if dataset.features is None else dataset.features.shape[1],
        num_own_given=int((dataset.trusted_given[dataset.splits.trusted] >= 0).sum()),
        # Trusted images that the splits draw are as many of each class, noisy labels are flatter than the true ones.
        class_entropy=min(entropy_of(noisy, classes), entropy_of(trusted, classes)),
        trusted_of=dict(zip(dataset.class_names, np.bincount(trusted, minlength=classes).tolist(), strict=True)),
    )


def fitted(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    """`config` with a trusted batch that is no larger than what is left beside the trusted images held out."""
    left, size = len(dataset.splits.trusted), config.train.trusted_batch_size
    if not left < size <= left + len(dataset.splits.held_out):
        return config
    copied = config.copy_and_resolve_references()
    copied.train.trusted_batch_size = left
    return copied


def where_trusted(data: Any) -> str:
    """Where a person says which images are trusted."""
    if data.source == "folder" and data.manifest:
        return f"say yes in a column trusted of {data.manifest}"
    if data.source == "folder":
        return f"put images whose labels you have checked into {data.dir}/trusted/<class>/, the others below train/"
    if data.source in ("features", "arrays"):
        return f"name their rows in {data.dir}/trusted.npy"
    return "data.trusted=100 draws them from the published labels"


def check_needs(method: Method, config: Any, dataset: Dataset) -> None:
    """Raises UserError where the run gives a method what it cannot use, or not what its traits and streams need."""
    name, traits, splits = config.method.name, method.traits, dataset.splits
    if config.teacher.run and not traits.takes_teacher:
        raise UserError(f"teacher.run: {name} takes no trained teacher, expected none")
    for place in ("teacher", "student"):
        net, freeze = config[place].net, config[place].freeze
        if freeze and not config.init_from:
            raise UserError(f"{place}.freeze: random weights would stand still, expected a start for them (init_from)")
        if freeze and any(stage.streams.views for stage in method.stages):
            raise UserError(f"{place}.freeze: {name} learns what is below the last layer, expected false")
        if net.startswith(ON_FEATURES) and dataset.images.dtype == np.uint8 and dataset.features is None:
            raise UserError(f'{place}.net: "{net}" is shown features, expected those of a file (data.features)')
    wanted = any(stage.streams.trusted or stage.streams.meta for stage in method.stages)
    size, have = config.train.trusted_batch_size, len(splits.trusted) + len(splits.held_out)
    if (wanted or traits.needs_trusted) and not have:
        raise NoTrustedError(
            f"data.trusted: no trusted images, and {name} learns from them, expected {size if wanted else 1} or more; "
            f"{where_trusted(config.data)}, or take a method that needs none"
        )
    if wanted and not 1 <= size <= have:
        raise UserError(f"train.trusted_batch_size: {size} is outside [1, {have}], the number of trusted images")
    if config.deploy == "best_val" and not len(splits.validation):
        raise UserError("deploy: best_val chooses on validation images, and data.validation is 0, expected last")
    if traits.needs_trusted and (absent := dataset.classes_without(splits.trusted)):
        few = ", ".join(absent[:5]) + (" …" if len(absent) > 5 else "")
        missing = f"data.trusted: no trusted image of {few}; {name} needs one or more of each class"
        raise NoTrustedError(f"{missing}: {where_trusted(config.data)}")


def check_divisible(method: Method, devices: int, sizes: Any) -> None:
    """Raises UserError where a batch of some stage cannot be cut into equal parts, one a device."""
    for stage in method.stages:
        fields = {
            "batch_size": (stage.streams.noisy,),
            "trusted_batch_size": (stage.streams.trusted, stage.streams.meta),
        }
        for field, widths in fields.items():
            if any(width % devices for width in widths):
                each = f"each half of it, {widths[0]} and {widths[1]}, " if len(widths) > 1 and all(widths) else ""
                raise UserError(f"train.{field}: {sizes[field]}: {each}expected a multiple of {devices}, the devices")


class Experiment:
    """One method on one data set and its devices: everything that is fixed before the first step."""

    def __init__(self, config: ConfigDict, dataset: Dataset):
        self.config, self.dataset = fitted(config, dataset), dataset
        config = self.config
        self.info = describe(dataset, config.train.batch_size)
        self.method: Method = methods.get(config.method.name).make(config, self.info)
        check_needs(self.method, config, dataset)
        self.mesh = parallel.make_mesh(config.devices, config.parallel.model)
        self.per_device = config.parallel.mode == "pmap"
        if self.per_device and not parallel.alone():
            raise UserError("parallel.mode: pmap works in one process; several need jit")
        slices = self.mesh.shape["data"]
        check_divisible(self.method, slices, config.train)
        shard = jax.process_index(), jax.process_count()
        self.pipeline = pipeline.choose(dataset, config.data.pipeline, config.seed, self.info.steps_per_epoch, shard)
        self.fixed = parallel.replicate(self.pipeline.fixed, self.mesh)
        self.key = parallel.replicate_key(lambda: stream(config.seed, "train"), self.mesh)
        batch = -(-config.train.eval_batch_size // slices) * slices
        self.evaluator = Evaluator(self.method, dataset, self.mesh, self.fixed, batch)

    @cached_property
    def _first(self) -> Any:
        """() -> the carry before the first step, under jit; traced once for its shapes and its arrays."""

        def first() -> dict[str, Any]:
            two = jax.tree.map(lambda rows: jnp.zeros(rows.shape, jnp.float32), self.dataset.inputs[np.arange(2)])
            made = self.method.init(stream(self.config.seed, "init"), two)
            for name in self.method.networks(made):
                net = self.method.networks(made)[name]  # of the state as it is now: a network is told by identity
                if self.config[name].freeze:
                    made = train_state.replace_net(made, net, train_state.frozen(net))
                elif (share := self.config[name].lr_below) < 1:
                    made = train_state.replace_net(made, net, train_state.slowed(net, share))
            return {"method": made, "step": jnp.zeros((), jnp.int32)}

        return parallel.compile_once(first)

    @cached_property
    def layout(self) -> Any:
        """The sharding of each array of the carry."""
        return parallel.layout(self._first.eval_shape(), self.mesh, self.config.parallel)

    @property
    def is_split(self) -> bool:
        """Whether a device may hold less than the whole carry."""
        return self.config.parallel.sharding == "fsdp" or self.config.parallel.split_banks

    def epochs_of(self, runs: Sequence[ConfigDict]) -> int:
        """How many epochs runs of other configs on these data have in all."""
        total = 0
        for config in runs:
            with contextlib.suppress(UserError):  # one that cannot begin takes no time; it says so in its turn
                method = methods.get(config.method.name).make(config, self.info)
                total += sum(stage.epochs for stage in method.stages)
        return total

    def memory(self) -> list[parallel.Placed]:
        """What of the state lies where: see `parallel.table`."""
        return parallel.table(self._first.eval_shape()["method"], self.layout["method"])

    def init(self) -> dict[str, Any]:
        """The carry before the first step: the method's state, and the step count."""
        return self.place(self._first())

    def place(self, carry: Any) -> Any:
        """A carry, wherever it is, on the devices as `layout` says."""
        return parallel.place(carry, self.layout)

    def compile(self, stage: Stage, steps: int = 1) -> Callable:
        """(carry, fixed, feed, key) -> (carry, metrics) of `stage`; the carry is donated.

        With `steps` > 1 it takes a sequence of as many feeds and returns metrics f32[steps]. Of several processes it
        takes their flags (`parallel.put_flag`) as a last argument, and `stop` among the metrics says whether one is
        set. `call` gives it all that.
        """
        chosen: Callable = partial(self.step, stage) if steps == 1 else partial(self.several_steps, stage, steps)
        if self.per_device:
            chosen = parallel.one_per_device(chosen, self.mesh)
        elif self.is_split:
            chosen = parallel.with_networks(chosen, lambda apply_fn: parallel.gathering(apply_fn, self.mesh))

        # Not a program of its own: on CPUs two programs that exchange something at the same time may wait for ever.
        def agreeing(carry: Any, fixed: Any, feed: Any, key: jax.Array, flags: jax.Array) -> Any:
            new, out = chosen(carry, fixed, feed, key)
            return new, out | {"stop": jnp.any(flags)}

        whole, final = parallel.replicated(self.mesh), chosen if parallel.alone() else agreeing
        return parallel.compile_step(final, donate=(0,), out=(self.layout, whole) if self.is_split else whole)

    def step(self, stage: Stage, carry: dict[str, Any], fixed: Any, feed: Any, key: Key) -> tuple[Any, Metrics]:
        """One step of `stage`, pure: rows → augmented batch → the method's step.

        `finite` among the metrics says whether they and the updated state are; with `train.on_nonfinite` "skip" the
        state stays where not.
        """
        count, old = carry["step"], carry["method"]
        key = jax.random.fold_in(key, count)
        rows = self.pipeline.rows(fixed, feed, count % self.info.steps_per_epoch)
        how, views = self.config.augment, stage.streams.views
        batch = pipeline.make_batch(rows, fixed, jax.random.fold_in(key, 0), how, views)
        if not self.per_device:
            batch = parallel.split_batch(batch, self.mesh)
        batch["epoch"] = count // self.info.steps_per_epoch
        new, out = stage.step(old, batch, jax.random.fold_in(key, 1))
        finite = all_finite((new, out))
        if self.config.train.on_nonfinite == "skip":
            new = optax.tree.where(finite, new, old)
        return {"method": new, "step": count + 1}, out | {"finite": finite}

    def several_steps(
        self, stage: Stage, steps: int, carry: dict[str, Any], fixed: Any, feeds: Sequence, key: Key
    ) -> tuple[Any, Metrics]:
        """As many steps as one program."""
        if not self.pipeline.per_step:  # one feed serves them all
            return jax.lax.scan(lambda c, _: self.step(stage, c, fixed, feeds[0], key), carry, length=steps)
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *feeds)
        return jax.lax.scan(lambda c, feed: self.step(stage, c, fixed, feed, key), carry, stacked)

    def call(self, compiled: Callable, carry: Any, feed: Any, asked: bool = False) -> tuple[Any, dict[str, jax.Array]]:
        """One call of what `compile` gave; `asked`: whether this process was told to stop."""
        flags = () if parallel.alone() else (parallel.put_flag(asked, self.mesh),)
        made: tuple[Any, dict[str, jax.Array]] = compiled(carry, self.fixed, feed, self.key, *flags)
        return made

    def feeds(self, stage: Stage, start: int, stop: int) -> Generator[Any]:
        """What each step of the run from `start` to `stop` is given, on the devices."""
        split = self.pipeline.per_step and not self.per_device
        put = parallel.put_batch if split else parallel.replicate
        return self.pipeline.feeds(stage.streams, start, stop, lambda feed: put(feed, self.mesh))

    def images_of(self, stage: Stage, step: int) -> dict[str, list]:
        """The ids of the images that a step of the run eats, by kind."""
        return pipeline.images_of(self.dataset, self.config.seed, self.info.steps_per_epoch, stage.streams, step)

    def evaluate(self, state: Any) -> dict[str, float | None]:
        """See `Evaluator.accuracies`."""
        return self.evaluator.accuracies(state)
