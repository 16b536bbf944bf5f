"""One run before its first step: data, method, devices, and every compiled function that the host loop calls."""

import pathlib
import zlib
from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from kdmlc_jax import export, methods, metrics, parallel, train_state
from kdmlc_jax.data import augment, pipeline, provenance
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.errors import NonFiniteError, NoTrustedError, UserError
from kdmlc_jax.methods.base import DatasetView, Info, Method, Stage

# Of so many images of the noisy split, a permutation, every evaluation says how they are fitted.
FIT_ROWS = 2000


def stream(seed: int, name: str) -> jax.Array:
    """The root key of a named random stream."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()) & 0x7FFFFFFF)


def map_rows(fn: Callable, images: Images, rows: np.ndarray, batch: int, *columns: np.ndarray) -> Any:
    """fn(batch of images, batches of columns…) over the images at `rows`, in batches of one size; host arrays.

    `columns` run over all images, as `images` does. Of several processes, each gives `fn` its own part of every batch;
    `fn` returns the whole one.
    """
    results = []
    for start in range(0, len(rows), batch):
        at = rows[np.minimum(np.arange(start, start + batch), len(rows) - 1)]
        kept, at = min(batch, len(rows) - start), at[parallel.own_rows(batch)]
        out = jax.device_get(fn(images[at], *(column[at] for column in columns)))
        results.append(jax.tree.map(lambda a, kept=kept: a[:kept], out))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def all_finite(tree: Any) -> jax.Array:
    """bool[]: no NaN and no infinity in any floating-point leaf."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in floats]))


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


def untrusted(dataset: Dataset) -> tuple[str, ...]:
    """The names of the classes without a trusted image."""
    seen = set(dataset.given_label[dataset.splits.trusted].tolist())
    return tuple(name for number, name in enumerate(dataset.class_names) if number not in seen)


class Run:
    """One run of one method: everything that is fixed before the first step."""

    def __init__(self, config: ConfigDict, dataset: Dataset):
        self.config, self.dataset = config, dataset
        self.info = Info(
            len(dataset.class_names),
            dataset.images.shape[1:],
            len(dataset.splits.noisy) // config.train.batch_size,
            len(dataset.splits.noisy),
            len(dataset.splits.trusted),
            untrusted(dataset),
            0 if dataset.features is None else dataset.features.shape[1],
        )
        self.method: Method = methods.get(config.method.name).make(config, self.info)
        if dataset.features is not None and not self.method.traits.reads_features:
            raise UserError(
                f"data.features: {config.method.name} has no use for features, expected method dmlp, or none"
            )
        if config.teacher.run and not self.method.traits.takes_teacher:
            raise UserError(f"teacher.run: {config.method.name} takes no trained teacher, expected method kd or aml_kd")
        wanted = any(stage.streams.trusted or stage.streams.meta for stage in self.method.stages)
        size, have = config.train.trusted_batch_size, self.info.num_trusted
        if wanted and not have:
            raise NoTrustedError(
                f"data.trusted: no trusted images, and {config.method.name} learns from them, expected {size} "
                "(train.trusted_batch_size) or more; ce:train_on=noisy, kd, aml_kd and blind_kd need none"
            )
        if wanted and not 1 <= size <= have:
            raise UserError(f"train.trusted_batch_size: {size} is outside [1, {have}], the number of trusted images")
        self.mesh = parallel.make_mesh(config.devices, config.parallel.model)
        self.per_device = config.parallel.mode == "pmap"
        if self.per_device and not parallel.alone():
            raise UserError("parallel.mode: pmap works in one process; several need jit")
        slices = self.mesh.shape["data"]
        check_divisible(self.method, slices, config.train)
        self.eval_batch = -(-config.train.eval_batch_size // slices) * slices
        shard = jax.process_index(), jax.process_count()
        self.pipeline = pipeline.choose(dataset, config.data.pipeline, config.seed, self.info.steps_per_epoch, shard)
        self.fixed = parallel.replicate(self.pipeline.fixed, self.mesh)
        self.key = parallel.replicate_key(lambda: stream(config.seed, "train"), self.mesh)
        whole = parallel.replicated(self.mesh)
        self._infer = parallel.compile_step(self._predictions, out=whole)
        self._correct = parallel.compile_step(self._beliefs, out=whole)
        self._maps: dict[Callable, Callable] = {}  # what stages have looked at the whole set with

    @cached_property
    def _first(self) -> Any:
        """() -> the carry before the first step, under jit; traced once for its shapes and its arrays."""

        def first() -> dict[str, Any]:
            example = jnp.zeros((2, *self.info.image_shape), jnp.float32)
            made = self.method.init(stream(self.config.seed, "init"), example)
            return {"method": made, "step": jnp.zeros((), jnp.int32)}

        return jax.jit(first)

    @cached_property
    def layout(self) -> Any:
        """The sharding of each array of the carry."""
        return parallel.layout(self._first.eval_shape(), self.mesh, self.config.parallel)

    @property
    def is_split(self) -> bool:
        """Whether a device may hold less than the whole carry."""
        return self.config.parallel.sharding == "fsdp" or self.config.parallel.split_banks

    def memory(self) -> list[parallel.Placed]:
        """What of the state lies where: see `parallel.table`."""
        return parallel.table(self._first.eval_shape()["method"], self.layout["method"])

    def init(self) -> dict[str, Any]:
        """The carry before the first step: the method's state, and the step count."""
        return self.place(self._first())

    def starts(self, carry: Any) -> tuple[Any, list[str]]:
        """`carry` with the networks of the runs that `init_from` and `teacher.run` name, and a line for each; see
        `start_from`."""
        config = self.config
        lines: list[str] = []
        if config.init_from:
            carry, lines = self.start_from(carry, pathlib.Path(config.init_from))
        if config.teacher.run:
            carry, more = self.start_from(carry, pathlib.Path(config.teacher.run), "teacher.run")
            lines = [line for line in lines if not line.startswith("teacher ")] + more
        return carry, lines

    def start_from(self, carry: Any, folder: pathlib.Path, field: str = "init_from") -> tuple[Any, list[str]]:
        """`carry` with the networks that a run has left in `folder`, and a line for each network here.

        A network starts from the one of its name there, or else from another one of its architecture. `teacher.run`
        gives the teacher alone, as it is.

        Raises:
          UserError: where no network there has an architecture of those here, or arrays differ; where images were
            trained on there that validate here, or trusted there and are noisy here.
        """
        if not folder.is_dir():
            raise UserError(f"{field}: {folder} is no folder, expected that of a finished run")
        self._check_splits(folder, field)
        alone = field == "teacher.run"
        found = sorted(path.parent for path in (*folder.glob("network.json"), *folder.glob("*/network.json")))
        saved = {path.absolute().name: (path, *export.read(path)) for path in found}
        there = ", ".join(f"{name} ({about['net']})" for name, (_, about, _) in saved.items()) or "no network"
        lines, current = [], carry["method"]
        for name, net in self.method.networks(current).items():
            if alone and name != "teacher":
                continue
            wanted = self.config[name].net
            fits = [other for other, (_, about, _) in saved.items() if about["net"] == wanted]
            if not fits and (alone or name in self.method.traits.pretrained):
                raise UserError(f"{field}: {folder} has {there}, expected {name} ({wanted}) among them")
            if not fits:
                lines.append(f"{name} ({wanted}) starts from random weights: there is none in {folder}")
                continue
            path, about, weights = saved[name if name in fits else fits[0]]
            new, whole = export.start(net, about, weights, self.dataset.class_names, f"{field}: {path}")
            if alone and not whole:
                raise UserError(f"{field}: {path} knows other classes, expected {', '.join(self.dataset.class_names)}")
            if alone and about["image_shape"] != list(self.info.image_shape):
                raise UserError(
                    f"{field}: {path} sees images {about['image_shape']}, not {list(self.info.image_shape)}"
                )
            current = train_state.replace_net(current, net, new)
            note = "" if whole else ", but for its last layer: the classes differ"
            lines.append(f"{name} ({wanted}) {'is that of' if alone else 'starts from'} {path}{note}")
        if current is carry["method"]:
            here = ", ".join(f"{name} ({self.config[name].net})" for name in self.method.networks(current))
            raise UserError(f"{field}: {folder} has {there}, expected one like {here}")
        return self.place({**carry, "method": current}), lines

    def _check_splits(self, folder: pathlib.Path, field: str) -> None:
        """Refuses weights that have seen labels which must be unknown here; see `start_from`."""
        path = next((path for path in (folder / "noise.npz", folder.parent / "noise.npz") if path.exists()), None)
        if path is None:
            return
        there, here = provenance.load(path), self.dataset.splits
        if there.images != provenance.fingerprint(self.dataset.ids, self.dataset.class_names):
            return
        both = np.intersect1d(here.noisy, there.splits.noisy)
        if field == "teacher.run" and (there.given_labels[both] != self.dataset.reported_label[both]).any():
            raise UserError(
                f"{field}: {folder} has learned from other given labels, expected those of this run's images"
            )
        trusted, learned = there.splits.trusted, np.concatenate([there.splits.noisy, there.splits.trusted])
        for what, count in {
            "trusted there and noisy": np.isin(here.noisy, trusted).sum(),
            "trained on there and for validation": np.isin(here.validation, learned).sum(),
        }.items():
            if count:
                raise UserError(
                    f"{field}: {count} images were {what} here; take that run's splits (data.splits={path}) or seed"
                )

    def place(self, carry: Any) -> Any:
        """A carry, wherever it is, on the devices as `layout` says."""
        return parallel.place(carry, self.layout)

    def compile(self, stage: Stage, steps: int = 1) -> Callable:
        """(carry, fixed, feed, key) -> (carry, metrics) of `stage`; the carry is donated.

        With `steps` > 1 it takes a sequence of as many feeds and returns metrics f32[steps]. `finite` among the metrics
        says whether they and the updated state are; with `train.on_nonfinite` "skip" the state stays where not. Of
        several processes it takes their flags (`parallel.put_flag`) as a last argument, and `stop` among the metrics
        says whether one is set. `call` gives it all that.
        """
        how, skip = self.config.augment, self.config.train.on_nonfinite == "skip"

        def step(carry: dict[str, Any], fixed: Any, feed: Any, key: jax.Array) -> Any:
            count, old = carry["step"], carry["method"]
            key = jax.random.fold_in(key, count)
            rows = self.pipeline.rows(fixed, feed, count % self.info.steps_per_epoch)
            batch = pipeline.make_batch(rows, fixed, jax.random.fold_in(key, 0), how, stage.streams.views)
            if not self.per_device:
                batch = parallel.split_batch(batch, self.mesh)
            batch["epoch"] = count // self.info.steps_per_epoch
            new, out = stage.step(old, batch, jax.random.fold_in(key, 1))
            finite = all_finite((new, out))
            if skip:
                new = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
            return {"method": new, "step": count + 1}, out | {"finite": finite}

        def several(carry: dict[str, Any], fixed: Any, feeds: Sequence, key: jax.Array) -> Any:
            if not self.pipeline.per_step:  # one feed serves them all
                return jax.lax.scan(lambda c, _: step(c, fixed, feeds[0], key), carry, length=steps)
            stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *feeds)
            return jax.lax.scan(lambda c, feed: step(c, fixed, feed, key), carry, stacked)

        chosen = step if steps == 1 else several
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

    def _normalise(self, fixed: Any, images: jax.Array) -> jax.Array:
        return augment.normalise(images, fixed["mean"], fixed["std"])

    def _predictions(self, fixed: Any, current: Any, images: jax.Array) -> dict[str, jax.Array]:
        """The class that each network predicts, and their ensemble; -1 where logits are not finite."""
        x, classes = self._normalise(fixed, images), {}

        def predicted(logits: jax.Array) -> jax.Array:
            return jnp.where(jnp.isfinite(logits).all(-1), jnp.argmax(logits, -1), -1)

        for name, net in self.method.networks(current).items():
            logits = train_state.evaluate(net, x).logits
            classes[name] = predicted(logits)
        if self.method.traits.ensemble:
            classes[self.method.traits.ensemble] = predicted(self.method.predict(current, x))
        return classes

    def _beliefs(self, fixed: Any, current: Any, images: jax.Array, given: jax.Array, index: jax.Array) -> jax.Array:
        return self.method.correct(current, self._normalise(fixed, images), given, index)

    def _map(self, fn: Callable, images: Images, rows: np.ndarray, *columns: np.ndarray) -> Any:
        """`map_rows` with each batch split over the devices."""
        put = lambda *batch: fn(*parallel.put_batch(batch, self.mesh))  # noqa: E731
        return map_rows(put, images, rows, self.eval_batch, *columns)

    def evaluate(self, current: Any) -> dict[str, float | None]:
        """Accuracy of each network on the test set, and on the validation split by given and by true labels.

        `fit_right_true` and `fit_wrong_true` are the shares of the noisy split's rightly and wrongly labelled images
        (of FIT_ROWS) that a network classifies as labelled; the second is what it has memorised.

        Raises:
          NonFiniteError: where a network's logits are not finite.
        """
        data, row = self.dataset, {}

        def predict(images: Images, rows: np.ndarray) -> Any:
            found = self._map(lambda batch: self._infer(self.fixed, current, batch), images, rows)
            for name, predicted in found.items():
                if (predicted < 0).any():
                    raise NonFiniteError(f"evaluation: {name}'s logits are not finite")
            return found.items()

        if data.test_images is not None:
            for name, predicted in predict(data.test_images, np.arange(len(data.test_label))):
                row[f"{name}_test"] = metrics.accuracy(predicted, data.test_label)
        rows = data.splits.validation
        if len(rows):
            known = data.truth[rows] >= 0
            for name, predicted in predict(data.images, rows):
                row[f"{name}_validation_given"] = metrics.accuracy(predicted, data.given_label[rows])
                row[f"{name}_validation_true"] = metrics.accuracy(predicted[known], data.truth[rows][known])
        rows = data.splits.noisy[data.truth[data.splits.noisy] >= 0][:FIT_ROWS]
        if len(rows):
            wrong = data.given_label[rows] != data.truth[rows]
            for name, predicted in predict(data.images, rows):
                for kind, part in (("right", ~wrong), ("wrong", wrong)):
                    row[f"{name}_fit_{kind}_true"] = metrics.accuracy(predicted[part], data.given_label[rows][part])
        return row

    def beliefs(self, current: Any, rows: np.ndarray) -> np.ndarray:
        """The method's beliefs f32[n, C] on training images `rows`, un-augmented."""
        data = self.dataset
        index = np.full(len(data.given_label), -1, np.int32)
        index[data.splits.noisy] = np.arange(self.info.num_noisy)
        correct = lambda *batch: self._correct(self.fixed, current, *batch)  # noqa: E731
        return self._map(correct, data.images, rows, data.given_label, index)

    def view(self, history: list[dict], note: Callable[[str], None]) -> DatasetView:
        """What a stage's `begin` may see; `history` without test or true-label figures."""
        data = self.dataset
        parts = {"noisy": data.splits.noisy, "trusted": data.splits.trusted}

        def over(split: str, fn: Callable, current: Any, label: np.ndarray | None = None) -> Any:
            handed = data.given_label.copy()
            handed[parts[split]] = handed[parts[split]] if label is None else label
            whole = parallel.replicated(self.mesh)
            on_batch = lambda fixed, now, images, given: fn(now, self._normalise(fixed, images), given)  # noqa: E731
            if fn not in self._maps:
                self._maps[fn] = parallel.compile_step(on_batch, out=whole)
            compiled = self._maps[fn]
            put = lambda images, given: compiled(self.fixed, current, images, given)  # noqa: E731
            return self._map(put, data.images, parts[split], handed)

        given, trusted = (data.given_label[parts[split]] for split in ("noisy", "trusted"))
        features = None if data.features is None else {name: data.features[rows] for name, rows in parts.items()}
        return DatasetView(given, trusted, over, parallel.decide, parallel.fetch, history, note, features)
