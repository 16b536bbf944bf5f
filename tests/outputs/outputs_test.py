"""What a finished run leaves: every output there is, from one result."""

import finished
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax import nets, optim, outputs, train_state
from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.labels.table import table
from kdmlc_jax.outputs import networks as networks_output
from kdmlc_jax.storage import labels, networks

BELIEFS = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
GIVEN = np.array([0, 0], np.int32)


@pytest.fixture(scope="module")
def result():
    """Of a run with one network on two images of 2 x 2 pixels."""
    config = config_lib.base()
    config.student.net = "mlp2"
    module, tx = nets.build("mlp2", 2), optim.build(config.optim, 1)
    net = train_state.create(jax.random.key(0), module, tx, jnp.zeros((2, 2, 2, 1)))
    none = np.zeros(0, int)
    dataset = Dataset(
        *("pets", ("cat", "dog"), np.zeros((2, 2, 2, 1), np.uint8), GIVEN, GIVEN, GIVEN, GIVEN),
        *(Splits(np.arange(2), none, none), None, none, None, None, np.arange(2)),
        side=2,
    )
    rows = table(np.arange(2), ["noisy", "noisy"], GIVEN, BELIEFS, dataset.class_names)
    fixed = {"mean": np.array([0.25], np.float32), "std": np.array([0.5], np.float32)}
    return outputs.Result(
        config, dataset, np.arange(2), BELIEFS, rows, {"student": net}, fixed, [], finished.summary("pets", 2, 0, 2)
    )


def test_every_output_is_written(result, tmp_path):
    """Protects what a run leaves: the label table and the beliefs as they are, each network with all it takes to run
    it, and nothing else."""
    outputs.write_all(result, tmp_path)
    left = {"labels.csv", "labels.parquet", "soft_labels.npy", "student", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == left
    corrected, beliefs = labels.read(tmp_path, np.arange(2), GIVEN, 2, "suggested")
    assert corrected.tolist() == [0, 1]
    np.testing.assert_array_equal(beliefs, BELIEFS)
    about, weights = networks.read(tmp_path / "student")
    assert about == networks_output.description(result, "student") == {
        "net": "mlp2", "class_names": ["cat", "dog"], "image_shape": [2, 2, 1], "mean": [0.25], "std": [0.5],
        "values": "uint8", "resize": "centre_square",
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, weights["params"], jax.device_get(result.networks["student"].params))


def test_a_new_output_is_one_file(result, tmp_path, monkeypatch):
    """Protects outputs from a table to edit: a file put among them is found by its name, and given all there is."""
    (tmp_path / "extra").mkdir()
    (tmp_path / "extra" / "zz_classes.py").write_text(
        "def write(result, workdir):\n    (workdir / 'classes.txt').write_text(' '.join(result.dataset.class_names))\n"
    )
    monkeypatch.setattr(outputs, "__path__", [*outputs.__path__, str(tmp_path / "extra")])
    work = tmp_path / "work"
    work.mkdir()
    outputs.write_all(result, work)
    assert (work / "classes.txt").read_text() == "cat dog" and (work / "labels.csv").exists()
