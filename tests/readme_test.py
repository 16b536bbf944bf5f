"""Every command of README, in its order, on small photographs: what a user copies is what works.

Runs are made by the first command that trains on a folder, shortened; of every other command that trains, `check`
builds the same run from the same words, and says that it would start.
"""

import csv
import importlib
import re
import shlex
import shutil
from pathlib import Path

import docs_test
import numpy as np
import onnx_bytes
import photos
import pytest
from PIL import Image

from kdmlc_jax import cli
from kdmlc_jax.compare import __main__ as compare
from kdmlc_jax.compare.grid import cells_of
from kdmlc_jax.config.words import expand
from kdmlc_jax.data.images import near
from kdmlc_jax.kdmlc import COMMANDS

# What installs, and what runs all tests.
EXEMPT = ("python3 -m venv .venv", "pip install -e", "python -m pytest -n 2")
TRAINED, NEXT = Path("runs/photos"), Path("runs/again")
SMALL = ["--config.train.batch_size=4", "--config.train.trusted_batch_size=4", "--config.devices=1"]
SHORT = "method=ce,train_on=noisy,network=student,student=mlp8,epochs=1"


def commands():
    """The commands of README's blocks, and those in its sentences that begin with python and have a flag, in order."""
    text = (docs_test.ROOT / "README.md").read_text()
    found = []
    for block, span in re.findall(r"^```bash\n(.*?)^```|`(python -m kdmlc_jax[^`\n]* --[^`\n]*)`", text, re.M | re.S):
        lines = (block or span).replace("\\\n", " ").splitlines()
        found += [word.strip() for line in lines if not line.startswith("#") for word in line.split("&&")]
    return [word.removeprefix(".venv/bin/") for word in found if word]


def folder(root):
    """What the user of README has: photos/ with a manifest, new/ images, an encoder."""
    photos.make(root / "photos", train=30, trusted=15, test=9)
    cat = root / "photos/train/cat"
    (cat / "00.png").rename(cat / "0017.png")
    with open(root / "photos/labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "trusted", "split"))
        for path in sorted((root / "photos").rglob("*.png")):
            part, label, _ = path.relative_to(root / "photos").parts
            trusted = "yes" if part == "trusted" else "no"
            rows.writerow((path.relative_to(root / "photos"), label, trusted, "test" if part == "test" else "train"))
    (root / "new").mkdir()
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(root / "new/1.png")
    (root / "encoder.onnx").write_bytes(onnx_bytes.mean_of_channels(8))
    (root / "configs").symlink_to(docs_test.ROOT / "configs")


def decided(workdir):
    """corrections.csv, as the page saves it: one label for a doubtful image."""
    with open(workdir / "labels.csv", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["split"] == "noisy")
    with open("corrections.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "decision", "label", "given_label", "note"))
        rows.writerow((row["id"], "other", "owl", row["given_class"], ""))


def called(words):
    """Runs one command, one that trains as said above."""
    module, *flags = words
    found = next(name for name, _ in COMMANDS.values() if name.removesuffix(".__main__") == module)
    run = importlib.import_module(found).main
    if module != "kdmlc_jax.main":
        run([*flags, *(SMALL if module == "kdmlc_jax.data.check" else [])])
        return
    assert (flags[0], flags[-2]) == ("--config", "--workdir")
    workdir = Path(flags[-1])
    called(["kdmlc_jax.data.check", *flags[:-2]])
    if workdir == TRAINED and not workdir.exists():
        run([flags[0], f"{flags[1]},{SHORT}", *flags[2:], *SMALL, "--config.baselines=()", "--quiet"])
        decided(workdir)
    elif workdir == NEXT:
        shutil.copytree(TRAINED, workdir)


def test_every_command_of_readme_works(tmp_path, monkeypatch, capsys):
    """Protects who copies a command: each is understood, finds what those before it have left, and ends well."""
    pytest.importorskip("onnxruntime")
    folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "called", "")
    monkeypatch.setattr(near, "is_known", lambda: False)  # takes seconds, and is tested in its place
    table = []
    monkeypatch.setattr(compare, "compare", lambda *given: table.append(given) or "")
    tried = 0
    for command in commands():
        if command.startswith(EXEMPT):
            continue
        python, m, *words = shlex.split(command)
        assert (python, m) == ("python", "-m"), command
        called(words)
        tried += 1
    assert tried > 12
    specs, named, seeds, overrides, workdir = table[0]
    words = [one for method in named for one in expand(method)]
    assert len(cells_of(specs, words, seeds, overrides)) == 3 * len(words) and workdir == Path("runs/compare")
    assert {"model.onnx", "model.safetensors", "MODEL_CARD.md"} <= {path.name for path in Path("shipped").iterdir()}
    assert len(Path("predictions.csv").read_text().splitlines()) == 2
