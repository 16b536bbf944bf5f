"""A new method, source, network, noise kind, augmentation or output is one file, found without a table to edit."""

import importlib
import json
import sys
import textwrap

import pytest

from kdmlc_jax import config, nets, registry, train
from kdmlc_jax.data import augment, noise
from kdmlc_jax.errors import UserError

NEW = {
    "methods": '''
        """Learns nothing, and says how bright its images are."""
        from typing import Any
        import jax
        import jax.numpy as jnp
        import optax
        from ml_collections import ConfigDict
        from kdmlc_jax import nets, train_state
        from kdmlc_jax.methods.base import Method, Report, Stage, Streams, Traits

        def default_config(preset: str = "") -> ConfigDict:
            return ConfigDict({"name": "planted", "preset": preset, "answer": 0.0})

        def make(config: Any, info: Any) -> "Planted":
            return Planted(config, info)

        class Planted(Method):
            traits = Traits(deployed="student")

            def __init__(self, config, info):
                self.answer = config.method.answer
                self.module = nets.build(config.student.net, info.num_classes, "student.net")
                self.stages_ = (Stage("look", config.train.epochs, Streams(noisy=config.train.batch_size), self.step),)

            @property
            def stages(self):
                return self.stages_

            def init(self, key, images):
                return train_state.create(key, self.module, optax.sgd(0.1), images)

            def step(self, net, batch, key):
                return net.replace(step=net.step + 1), {"brightest": jnp.max(batch["image"]), "loss": jnp.zeros(())}

            def predict(self, net, images):
                return train_state.evaluate(net, images).logits

            def correct(self, net, images, given_label, index):
                return jax.nn.softmax(self.predict(net, images))

            def networks(self, net):
                return {"student": net}

            def report(self, net):
                return Report(figures={"answer": jnp.float32(self.answer)})
    ''',
    "data.sources": '''
        """Sixty images of noise."""
        import numpy as np
        from kdmlc_jax.data.sources.base import Part, Source

        def load(data):
            labels = np.arange(60, dtype=np.int32) % 3
            images = np.random.default_rng(0).integers(0, 255, (60, 8, 8, 1)).astype(np.uint8)
            part = Part(images, labels, labels)
            return Source("planted", ("ant", "bee", "cow"), part, Part(images[:12], labels[:12], labels[:12]))
    ''',
    "nets": '''
        """One dense layer."""
        import re
        from flax import linen as nn
        from kdmlc_jax.nets.base import Output

        FORM, EXAMPLES = "planted<anything>", ("planted1",)

        class Planted(nn.Module):
            num_classes: int

            @nn.compact
            def __call__(self, images, train):
                features = images.reshape(len(images), -1)
                return Output(nn.Dense(self.num_classes)(features), features)

        def build(name: str, num_classes: int) -> Planted | None:
            return Planted(num_classes) if re.fullmatch(r"planted[0-9]+", name) else None
    ''',
    "data.noise": '''
        """Every label is the first class."""
        import numpy as np

        RATED, CORRUPTS = False, True

        def matrix(request):
            return np.eye(request.num_classes)[np.zeros(request.num_classes, int)]
    ''',
    "data.augment": '''
        """Sets all pixels to a value."""
        FIELD, DEFAULT, ORDER, WEAK = "planted", 0.0, 90, True

        def check(value, size):
            pass

        def apply(key, images, value):
            return images * 0 + value
    ''',
    "outputs": '''
        """An answer."""
        from kdmlc_jax.storage import files

        def write(result, workdir):
            files.write_json(workdir / "planted.json", {"answer": 42})
    ''',
}  # fmt: skip


@pytest.fixture
def planted(tmp_path):
    """The package with one more file of each kind, which afterwards is as it was."""
    before = dict(sys.modules)
    packages = {kind: importlib.import_module(f"kdmlc_jax.{kind}") for kind in NEW}
    for kind, text in NEW.items():
        folder = tmp_path / kind
        folder.mkdir()
        (folder / "planted.py").write_text(textwrap.dedent(text))
        packages[kind].__path__.append(str(folder))
    importlib.invalidate_caches()
    try:
        yield packages
    finally:
        for package in packages.values():
            package.__path__.pop()
            vars(package).pop("planted", None)
        for name in [name for name in sys.modules if name.endswith(".planted") and name not in before]:
            del sys.modules[name]


def settings():
    """A run that uses all of them; without an argument of its own, nothing in configs knows their names."""
    arguments = {"method": "planted", "source": "planted", "noise": "planted", "student": "planted1", "answer": "6.5"}
    made = config.resolve(config.base(), arguments | {"trusted": "6", "epochs": "1"})
    made.augment.planted = 2.5
    made.train.update({"batch_size": 18, "trusted_batch_size": 6})
    made.devices = 1
    return made


def test_one_file_adds_one_of_each_kind(planted, tmp_path):
    """Protects that each kind grows by one file: a run takes all six, and each one's effect is in what it leaves."""
    summary = train.run(settings(), tmp_path / "run", quiet=True)
    assert summary["method"] == summary["dataset"] == "planted"
    assert summary["diagnostics"]["answer"] == 6.5
    assert summary["networks"]["student"]["name"] == "planted1"
    assert summary["networks"]["student"]["parameters"] == 64 * 3 + 3
    # Two of three classes are given the wrong label.
    assert summary["noise"]["kind"] == "planted"
    assert summary["noise"]["realised"] == pytest.approx(2 / 3, abs=0.02)
    epoch = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert epoch["brightest"] == pytest.approx(2.5)
    assert json.loads((tmp_path / "run" / "planted.json").read_text()) == {"answer": 42}


def test_without_the_file_it_is_unknown():
    """Protects that nothing else knows them: with the files gone, each name is refused as any unknown one is."""
    for kind in NEW:
        package = importlib.import_module(f"kdmlc_jax.{kind}")
        assert "planted" not in registry.names(package)
    with pytest.raises(UserError, match="planted1"):
        nets.build("planted1", 3)
    with pytest.raises(UserError, match="planted"):
        noise.is_rated("planted")
    assert "planted" not in augment.defaults()
