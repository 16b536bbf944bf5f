"""The command: what it leaves is whole, read back, summed and described, or it leaves nothing."""

import hashlib
import importlib.util
import json
import re
import shutil

import finished as said
import numpy as np
import optax
import pytest
import untrained
from jax import export as jax_export

from kdmlc_jax import finished, nets, published
from kdmlc_jax.data.formats.safetensors import read_safetensors
from kdmlc_jax.errors import StorageError, UserError
from kdmlc_jax.export import checks, deployed
from kdmlc_jax.export.__main__ import main
from kdmlc_jax.export.formats import onnx, safetensors
from kdmlc_jax.storage import checksums, files, networks
from kdmlc_jax.train_state import NetState

NAMES = ["<script>alert(1)</script>", "cat | dog", "---\nlicense: mit", "`x` [y](z)", "猫"]


def saved(folder, name, net, shape=(8, 8, 1)):
    network = untrained.deployed(net, shape, NAMES)
    weights = {"params": network.variables["params"], "batch_stats": network.variables["batch_stats"]}
    state = NetState(step=0, apply_fn=network.module.apply, tx=optax.identity(), opt_state=(), ema=None, **weights)
    networks.save(folder / name, state, network.about)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that has ended, with two networks; nothing was trained."""
    folder = tmp_path_factory.mktemp("run")
    saved(folder, "student", "cnn4")
    saved(folder, "teacher", "cnn16")
    summary = said.summary("data <i> | set\n# head", 100, 20) | {
        "labels": {"accuracy_before": 0.6},
        "deployed": "student",
    }
    summary["networks"]["teacher"] = {"name": "cnn16", "parameters": 7, "last": None}
    sums = {f"{net}/{name}": "" for net in ("student", "teacher") for name in ("network.json", "weights.msgpack")}
    summary["files"] = {name: checksums.file_sum(folder / name) for name in sums}
    files.write_sealed(folder / finished.SUMMARY, summary)
    return folder


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Its student in three formats, and what was printed."""
    out = tmp_path_factory.mktemp("out") / "student"
    main(["--workdir", str(run), "--to", "onnx,stablehlo,safetensors", "--out", str(out)])
    return out


def test_what_is_left(exported, run):
    """Protects who takes the folder along: all files, each with its sum, and nothing half-written beside them."""
    names = ["MODEL_CARD.md", "config.json", "model.onnx", "model.safetensors", "model.stablehlo", "network.json"]
    lines = (exported / "SHA256SUMS").read_text().splitlines()
    assert [line[66:] for line in lines] == names and [path.name for path in exported.parent.iterdir()] == ["student"]
    assert sorted(path.name for path in exported.iterdir()) == sorted([*names, "SHA256SUMS"])
    for line in lines:
        assert line[:64] == hashlib.sha256((exported / line[66:]).read_bytes()).hexdigest()
    about = json.loads((exported / "network.json").read_text())
    assert about["class_names"] == NAMES and about["net"] == "cnn4"


def test_stablehlo_is_for_all_platforms(exported, run):
    """Protects who has another accelerator: one file for CPU, CUDA and TPU, for any number of images."""
    read = jax_export.deserialize(bytearray((exported / "model.stablehlo").read_bytes()))
    assert read.platforms == ("cpu", "cuda", "tpu")
    network = deployed.read(run / "student")
    inputs = network.examples(3)
    np.testing.assert_allclose(read.call(inputs), untrained.answers(network, inputs), atol=1e-6)


def test_the_card_says_only_what_it_means(exported):
    """Protects the Hub's pages from names of classes and data sets: no markup of theirs, no field of theirs."""
    card = (exported / "MODEL_CARD.md").read_text()
    _, front, text = card.split("---\n", 2)
    fields = dict(line.split(": ", 1) for line in front.splitlines())
    assert json.loads(fields["license"]) == "other" and "noisy-labels" in json.loads(fields["tags"])
    (model,) = json.loads(fields["model-index"])
    assert model["results"][0]["metrics"][0] == {"type": "accuracy", "value": 0.5}
    assert model["results"][0]["dataset"]["name"] == "data <i> | set\\n# head"
    assert not re.search(r"<(?!!)|^# head|^license|(?<!\\)`x|(?<!\\)\[y", text, re.MULTILINE)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;, cat \\| dog, ---\\\\nlicense: mit, \\`x\\` \\[y\\](z), 猫." in text
    assert "0.200 (90 % interval 0.100 to 0.300)" in text and "six months" in text and "| student | this one | " in text


def test_sizes_and_times_of_both(exported, run, capsys, tmp_path):
    """Protects the choice between them: weights and latency of student and teacher stand side by side."""
    main(["--workdir", str(run), "--to", "safetensors", "--network", "teacher", "--out", str(tmp_path / "t")])
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines}
    for name in ("student", "teacher"):
        weights, time = rows[name]
        assert weights == f"{deployed.read(run / name).parameters:,}" and float(time) > 0
    assert "arrays by our own names (timm has no cnn16)" in lines[0]


def test_nothing_is_overwritten(exported, run, tmp_path):
    """Protects what is there: a folder, a file, a dangling link; it stays as it is."""
    before = (exported / "SHA256SUMS").read_text()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for out in (exported, exported / "model.onnx", tmp_path / "link"):
        with pytest.raises(UserError, match="is there already, expected a name that is free"):
            main(["--workdir", str(run), "--to", "safetensors", "--out", str(out)])
    assert (exported / "SHA256SUMS").read_text() == before


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--to", "onx"], r'--to: "onx" is not one of onnx, .* \(did you mean "onnx"\?\)'),
        (["--to", ","], "--to: nothing named"),
        (["--network", "corrector"], '--network: "corrector" is not one of student, teacher'),
        (["--workdir", "none"], "none: no summary.json in it"),
    ],
)
def test_bad_flags_are_one_line(flags, words, run, tmp_path):
    """Protects a person who mistypes: the flag, the value, what is allowed; before anything is written."""
    with pytest.raises(UserError, match=words):
        main(["--workdir", str(run), "--out", str(tmp_path / "out"), *flags])
    assert not list(tmp_path.iterdir())


def test_other_weights_than_the_run_left(run, tmp_path):
    """Protects from exporting what the card's scores are not of."""
    changed = tmp_path / "run"
    shutil.copytree(run, changed)
    saved(changed, "student", "cnn4", (8, 8, 1))
    path = changed / "student" / "network.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(StorageError, match=r"network\.json: not what this run has left"):
        main(["--workdir", str(changed), "--out", str(tmp_path / "out")])


def test_a_file_that_answers_otherwise_is_not_left(run, tmp_path, monkeypatch):
    """Protects the promise "read back": a wrong file, and one that cannot be read, end the command; nothing is left."""
    other = untrained.deployed("cnn4", (8, 8, 1), NAMES)
    other.variables["params"]["Dense_0"]["bias"][0] += 0.01
    for content, words in (
        (onnx.encode(other)[onnx.FILE], r"reads \S+ from ours"),
        (b"none", "cannot be read|cannot read"),
    ):
        monkeypatch.setattr(onnx, "encode", lambda network, content=content: {onnx.FILE: content})
        with pytest.raises(StorageError, match=words) as error:
            main(["--workdir", str(run), "--to", "onnx", "--out", str(tmp_path / "out")])
        assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_without_a_reader_it_says_so(run, tmp_path, monkeypatch, capsys):
    """Protects from a promise that nobody kept: what was not checked is said, and so is what to install."""
    monkeypatch.setattr(checks, "is_installed", lambda module: False)
    main(["--workdir", str(run), "--to", "onnx", "--out", str(tmp_path / "out")])
    wanted = 'not checked: onnxruntime is not installed (pip install "kdmlc-jax[onnx]")'
    said = capsys.readouterr().out
    assert wanted in said and "(jax " in said
    assert "not checked" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


@pytest.mark.parametrize(
    "name", ["imagenet_resnet18", "imagenet_resnet50", "efficientnet_lite0", "resnet20", "nearest51"]
)
def test_arrays_are_named_as_timm_has_them(name, tmp_path):
    """Protects other people's programs: names, OIHW, types; all arrays, each the same numbers."""
    shape = (1, 1, 7) if name == "nearest51" else (16, 16, 3)
    network = untrained.deployed(name, shape)
    content = safetensors.encode(network)
    (tmp_path / "m.safetensors").write_bytes(content[safetensors.FILE])
    found, config = read_safetensors(tmp_path / "m.safetensors"), json.loads(content[safetensors.CONFIG])
    ours = network.variables["params"]
    assert len(found) == sum(
        len(list(untrained.jax.tree.leaves(network.variables[part]))) for part in network.variables
    )
    if "Conv_0" in ours:
        first = {"imagenet_resnet18": "conv1", "imagenet_resnet50": "conv1", "efficientnet_lite0": "conv_stem"}
        kernel = found[f"{first.get(name, 'Conv_0')}.weight"]
        np.testing.assert_array_equal(kernel, np.transpose(ours["Conv_0"]["kernel"], (3, 2, 0, 1)))
    if name.startswith("imagenet"):
        weights = published.read(tmp_path / "m.safetensors")
        untrained.jax.tree.map(np.testing.assert_array_equal, weights.variables, network.variables)
        assert weights.net == name
    theirs = {
        "imagenet_resnet18": "resnet18",
        "imagenet_resnet50": "resnet50",
        "efficientnet_lite0": "tf_efficientnet_lite0",
    }
    assert config["architecture"] == theirs.get(name, name)
    assert config["architecture_of"] == ("timm" if name in theirs else "kdmlc_jax")
    assert config["pretrained_cfg"]["input_size"] == [shape[2], *shape[:2]] and config["label_names"] == list("abcde")


def test_timms_names_are_each_once():
    """Protects the tables: every layer of ours has a name there, no two the same."""
    for name in ("efficientnet_lite0", "imagenet_resnet34"):
        known, theirs = nets.timm(name), nets.published()[name][0]
        assert known.layers.keys() == theirs.layers.keys() and len({*known.layers.values()}) == len(known.layers)
    assert nets.timm("cnn16") is None


@pytest.mark.skipif(importlib.util.find_spec("litert_converter") is None, reason="the extra tflite is not installed")
@pytest.mark.parametrize("net", ["cnn4", "resnet20", "efficientnet_lite0", "mlp256"])
def test_tflite_answers_as_here(net, tmp_path):
    """Protects phones, and the pin of a converter whose entry point is private: LiteRT reads what it makes."""
    from kdmlc_jax.export.formats import tflite

    network = untrained.deployed(net)
    (tmp_path / tflite.FILE).write_bytes(tflite.encode(network)[tflite.FILE])
    checks.expected(network, tmp_path / "answers.npz")
    assert checks.read_back(tflite.READER, tmp_path / tflite.FILE, tmp_path / "answers.npz").difference <= 1e-5


@pytest.mark.skipif(importlib.util.find_spec("ai_edge_quantizer") is None, reason="the extra tflite is not installed")
@pytest.mark.parametrize("net", ["cnn4", "resnet20", "efficientnet_lite0", "mlp256"])
def test_tflite_of_8_bits_answers_nearly_as_here(net, tmp_path):
    """Protects phones with little memory: smaller, and as near as rounding lets it be."""
    from kdmlc_jax.export.formats import tflite, tflite_int8

    network = untrained.deployed(net)
    whole, small = tflite.encode(network)[tflite.FILE], tflite_int8.encode(network)[tflite_int8.FILE]
    assert len(small) < (0.5 if network.parameters > 1e5 else 1.0) * len(whole)
    (tmp_path / tflite_int8.FILE).write_bytes(small)
    checks.expected(network, tmp_path / "answers.npz")
    found = checks.checked(tflite_int8, network, tmp_path, tmp_path / "answers.npz")
    assert "read back by ai_edge_litert" in found
