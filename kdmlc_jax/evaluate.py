"""A method looked at over whole splits, un-augmented: accuracies, beliefs, and what `Stage.begin` may see."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax import metrics, parallel, train_state
from kdmlc_jax.data import pipeline
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.sources.base import Images
from kdmlc_jax.errors import NonFiniteError
from kdmlc_jax.methods.base import DatasetView, Method
from kdmlc_jax.shapes import Inputs, Seen

# Of so many images of the noisy split, a permutation, every evaluation says how they are fitted.
FIT_ROWS = 2000


def map_rows(fn: Callable, images: Images | Seen, rows: Int[np.ndarray, " n"], batch: int, *columns: np.ndarray) -> Any:
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


class Evaluator:
    """The compiled functions that look at images without learning from them.

    Args:
      method: whose states are looked at.
      dataset: of the run.
      mesh: the devices.
      fixed: the pipeline's arrays on them, with the pixels' mean and standard deviation.
      batch: images in one call, a multiple of the data axis.
    """

    def __init__(self, method: Method, dataset: Dataset, mesh: Any, fixed: Any, batch: int):
        self.method, self.dataset, self.mesh, self.fixed, self.batch = method, dataset, mesh, fixed, batch
        self._logits = self._compiled(self._logits_of)
        self._correct = self._compiled(lambda state, images, given, index: method.correct(state, images, given, index))
        self._maps: dict[Callable, Callable] = {}  # what stages have looked at the whole set with

    def _compiled(self, fn: Callable) -> Callable:
        """(state, images u8, …) -> fn(state, normalised images, …), whole on every device."""

        def on_batch(fixed: Any, state: Any, images: Any, *rest: jax.Array) -> Any:
            return fn(state, pipeline.scaled(images, fixed), *rest)

        compiled = parallel.compile_step(on_batch, out=parallel.replicated(self.mesh))
        return lambda *arguments: compiled(self.fixed, *arguments)

    def _map(
        self, compiled: Callable, state: Any, images: Images | Seen, rows: np.ndarray, *columns: np.ndarray
    ) -> Any:
        """`map_rows` with each batch split over the devices."""
        put = lambda *batch: compiled(state, *parallel.put_batch(batch, self.mesh))  # noqa: E731
        return map_rows(put, images, rows, self.batch, *columns)

    def _logits_of(self, state: Any, images: Inputs) -> dict[str, jax.Array]:
        """Of each network, and of their ensemble."""
        nets = self.method.networks(state)
        logits = {name: train_state.evaluate(net, images).logits for name, net in nets.items()}
        if self.method.traits.ensemble:
            logits[self.method.traits.ensemble] = self.method.predict(state, images)
        return logits

    def logits(self, state: Any, images: Images | Seen, rows: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """Logits f32[n, C] of each network, and of their ensemble, for the images at `rows`, by name.

        Raises:
          NonFiniteError: where a network's logits are not finite.
        """
        found: dict[str, np.ndarray] = self._map(self._logits, state, images, rows)
        for name, logits in found.items():
            if not np.isfinite(logits).all():
                raise NonFiniteError(f"evaluation: {name}'s logits are not finite")
        return found

    def predicted(self, state: Any, images: Images | Seen, rows: Int[np.ndarray, " n"]) -> dict[str, np.ndarray]:
        """The class i32[n] that each predicts, by name; raises as `logits`."""
        return {name: logits.argmax(axis=1) for name, logits in self.logits(state, images, rows).items()}

    def accuracies(self, state: Any) -> dict[str, float | None]:
        """Accuracy of each network on the test set, and on the validation split by given and by true labels.

        `fit_right_true` and `fit_wrong_true` are the shares of the noisy split's rightly and wrongly labelled images
        (of FIT_ROWS) that a network classifies as labelled; the second is what it has memorised.

        Raises:
          NonFiniteError: where a network's logits are not finite.
        """
        data, row = self.dataset, {}
        if data.test_inputs is not None:
            for name, found in self.predicted(state, data.test_inputs, np.arange(len(data.test_label))).items():
                row[f"{name}_test"] = metrics.accuracy(found, data.test_label)
        rows = data.splits.validation
        if len(rows):
            known = data.truth[rows] >= 0
            for name, found in self.predicted(state, data.inputs, rows).items():
                row[f"{name}_validation_given"] = metrics.accuracy(found, data.given_label[rows])
                row[f"{name}_validation_true"] = metrics.accuracy(found[known], data.truth[rows][known])
        rows = data.splits.noisy[data.truth[data.splits.noisy] >= 0][:FIT_ROWS]
        if len(rows):
            wrong = data.given_label[rows] != data.truth[rows]
            for name, found in self.predicted(state, data.inputs, rows).items():
                for kind, part in (("right", ~wrong), ("wrong", wrong)):
                    row[f"{name}_fit_{kind}_true"] = metrics.accuracy(found[part], data.given_label[rows][part])
        return row

    def by_class(self, state: Any) -> dict[str, dict]:
        """`metrics.by_class` of each network on the test set, on the validation images by given label without one; on a
        test set also the `reliability` of its softmax, with the name of that part."""
        data, part = self.dataset, self.dataset.splits.validation
        images, rows, label = data.inputs, part, data.given_label[part]
        if data.test_inputs is not None:
            images, rows, label = data.test_inputs, np.arange(len(data.test_label)), data.test_label
        if not len(rows):
            return {}
        found = {}
        for name, logits in self.logits(state, images, rows).items():
            guess = logits.argmax(axis=1)
            found[name] = metrics.by_class(guess, label, data.class_names)
            if data.test_inputs is not None:
                sure = 1.0 / np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1, dtype=np.float64)
                found[name]["reliability"] = metrics.reliability(sure, guess == label)
        return found

    def beliefs(self, state: Any, rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n C"]:
        """The method's beliefs f32[n, C] on training images `rows`."""
        data = self.dataset
        index = np.full(len(data.given_label), -1, np.int32)
        index[data.splits.noisy] = np.arange(len(data.splits.noisy))
        found: np.ndarray = self._map(self._correct, state, data.inputs, rows, data.given_label, index)
        return found

    def view(self, history: list[dict], note: Callable[[str], None]) -> DatasetView:
        """What a stage's `begin` may see; `history` without test or true-label figures."""
        data = self.dataset
        parts = {"noisy": data.splits.noisy, "trusted": data.splits.trusted}

        def over(split: str, fn: Callable, state: Any, label: np.ndarray | None = None) -> Any:
            handed = data.given_label.copy()
            handed[parts[split]] = handed[parts[split]] if label is None else label
            if fn not in self._maps:
                self._maps[fn] = self._compiled(fn)
            return self._map(self._maps[fn], state, data.inputs, parts[split], handed)

        given, trusted = (data.given_label[parts[split]] for split in ("noisy", "trusted"))
        features = None if data.features is None else {name: data.features[rows] for name, rows in parts.items()}
        return DatasetView(given, trusted, over, parallel.decide, parallel.fetch, history, note, features)
