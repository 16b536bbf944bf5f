"""A method for the tests of the house: it has all that a method may have and compiles in no time.

Two stages of plain CE on one small network. The first ends itself after an epoch where it is told to; the second learns
soft labels that `begin` decides on for the whole set, again every two epochs, and that the method remembers by row.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tiny
from flax import struct

from kdmlc_jax import parallel, train
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.methods import ce
from kdmlc_jax.methods.base import Method, Stage, Traits
from kdmlc_jax.storage.checkpoint import Checkpoints
from kdmlc_jax.train_state import Bank, NetState, named_leaves

SPEC = "method=ce,teacher=mlp8,student=mlp8"
CHEAP = {"augment.pad": 0, "optim.schedule": "constant"}  # no matter how many epochs, it is one program


def config(arguments: str = "epochs=5", fields: Mapping[str, Any] = {}) -> Any:
    """Five steps an epoch; stage "first" has the first epoch, "second" the others, if the first one ends early."""
    return tiny.config(f"{SPEC},{arguments}", {**CHEAP, **fields})


class ToyState(struct.PyTreeNode):
    """A network, the soft labels that it learns in the second stage, and how often `begin` was called."""

    net: NetState
    labels: Bank
    begun: jax.Array


@dataclass(frozen=True, eq=False)
class Toy(Method):
    """See the module."""

    plain: ce.CrossEntropy
    rows: int
    early: bool = True

    @property
    def traits(self) -> Traits:
        return self.plain.traits

    @property
    def stages(self) -> tuple[Stage, ...]:
        epochs, streams = self.plain.epochs, self.plain.streams
        first = Stage("first", -(-epochs * 3 // 5), streams, self.step, done=self.done if self.early else None)
        second = Stage("second", epochs - first.epochs, streams, self.second_step, begin=self.begin, every=2)
        return first, second

    def done(self, history):
        assert not any(name.endswith(("_test", "_true")) for row in history for name in row)
        return len(history) == 1

    def init(self, key, images):
        bank = Bank(jnp.zeros((self.rows, self.plain.num_classes)))
        return ToyState(self.plain.init(key, images), bank, jnp.zeros((), jnp.int32))

    def step(self, state, batch, key):
        # The key and the remembered rows take part, so that another key or row is another result.
        images = batch["image"] * (1.0 + 0.1 * jax.random.normal(key, (len(batch["image"]), 1, 1, 1)))
        net, metrics = self.plain.step(state.net, {**batch, "image": images}, key)
        rows = 0.9 * state.labels.rows[batch["index"]] + 0.1 * jax.nn.softmax(self.plain.predict(net, images))
        return state.replace(net=net, labels=Bank(state.labels.rows.at[batch["index"]].set(rows))), metrics

    def second_step(self, state, batch, key):
        return self.step(state, {**batch, "soft_label": state.labels.rows[batch["index"]]}, key)

    def beliefs(self, net, images, given_label):
        return jax.nn.softmax(self.plain.predict(net, images)), given_label

    def begin(self, state, view):
        beliefs, given = view.map("noisy", self.beliefs, state.net)
        assert beliefs.shape == (self.rows, self.plain.num_classes) and np.array_equal(given, view.given_label)
        assert [row["stage"] for row in view.history][:1] == ["first"]
        hard = np.eye(self.plain.num_classes, dtype=np.float32)[given]
        labels = view.decide(lambda: 0.5 * (beliefs + hard))
        view.note(f"turn {int(state.begun) + 1} of the second stage begins")
        return state.replace(labels=Bank(labels), begun=np.int32(state.begun + 1))

    def predict(self, state, images):
        return self.plain.predict(state.net, images)

    def correct(self, state, images, given_label, index):
        return self.plain.correct(state.net, images, given_label, index)

    def networks(self, state):
        return self.plain.networks(state.net)


def install(patch: Any, kind: Callable = Toy, **fields: Any) -> None:
    """Puts the toy, or a kind of it, in the place of plain CE."""
    make = ce.make
    patch.setattr(ce, "make", lambda config, info: kind(make(config, info), info.num_noisy, **fields))


class Kept(train.Experiment):
    """An experiment whose steps are compiled once, however many runs it serves; it keeps no run's state."""

    @cached_property
    def compiled(self) -> dict[tuple[str, int], Callable]:
        return {}

    def compile(self, stage: Stage, steps: int = 1) -> Callable:
        if (stage.name, steps) not in self.compiled:
            self.compiled[stage.name, steps] = super().compile(stage, steps)
        return self.compiled[stage.name, steps]


def keep(patch: Any, made: dict[str, Kept]) -> None:
    """Lets all runs of one config share one experiment, those in `made`."""

    def experiment(config: Any, dataset: Any) -> Kept:
        key = config.to_json()
        if key not in made:
            made[key] = Kept(config, dataset)
        return made[key]

    patch.setattr(train, "Experiment", experiment)


def few_steps(job: Any, steps: int = 5) -> dict[str, np.ndarray]:
    """On the host, by name: carry and metrics after so many steps of each stage, and the beliefs on all images."""
    carry, history = job.init(), [{"stage": "first"}]
    for number, stage in enumerate(job.method.stages):
        if stage.begin is not None:
            view = job.evaluator.view(history, lambda line: None)
            carry = job.place({**carry, "method": stage.begin(carry["method"], view)})
        compiled = job.compile(stage)
        for feed in job.feeds(stage, steps * number, steps * number + steps):
            carry, metrics = job.call(compiled, carry, feed)
            metrics.pop("stop", None)
    beliefs = job.evaluator.beliefs(carry["method"], np.concatenate(job.dataset.splits))
    return named_leaves(parallel.fetch({"carry": carry, "metrics": metrics, "beliefs": beliefs}))


def assert_close(got: dict[str, Any], want: dict[str, Any]) -> None:
    """Equal to float32 rounding: |a - b| ≤ 1e-4 of the leaf's largest entry, and 1e-6 for leaves near 0."""
    assert sorted(got) == sorted(want)
    for name, value in want.items():
        limit = 1e-4 * np.max(np.abs(value), initial=0) + 1e-6
        np.testing.assert_allclose(1.0 * got[name], 1.0 * value, rtol=0, atol=limit, err_msg=name)


def newest(workdir: Any, config: Any) -> tuple[dict[str, str], dict]:
    """SHA-256 of each array of the last checkpoint, and the host's progress."""
    checkpoints = Checkpoints(workdir / "checkpoints", 9)
    carry, progress = checkpoints.restore(train.Experiment(config, prepare(config)).init())
    checkpoints.close()
    return {name: hashlib.sha256(np.asarray(leaf)).hexdigest() for name, leaf in named_leaves(carry).items()}, progress
