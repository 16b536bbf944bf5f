"""Configs by name: arguments, presets, overrides and their types, and what a run keeps of them."""

import pathlib
import subprocess
import sys

import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax.config.arguments import PATHS
from kdmlc_jax.errors import UserError
from kdmlc_jax.storage import files

DIGITS = "configs/digits.py"
REPOSITORY = pathlib.Path(__file__).parents[2]


def test_importing_needs_no_jax():
    """Protects the answer time of --help: neither the flags nor the configs import JAX."""
    code = "import sys, kdmlc_jax.config, kdmlc_jax.main; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60).returncode == 0


@pytest.mark.parametrize("name", sorted(path.name for path in (REPOSITORY / "configs").glob("*.py")))
def test_every_shipped_config_loads(name):
    """Protects the shipped files: each resolves, in full and `quick`, with baselines that are methods."""
    full, quick = config_lib.load(f"configs/{name}"), config_lib.load(f"configs/{name}:quick")
    assert full.method.name == "kdmlc" and quick.train.epochs < full.train.epochs
    for _, baseline in full.baselines:
        method, _, options = baseline.partition(":")
        assert config_lib.load(f"configs/{name}:method={method},{options}").method.name == method


def test_shipped_config_is_found_from_any_folder(tmp_path, monkeypatch):
    """Protects a user who does not stand in the repository: the shipped names are found, a file at hand wins."""
    monkeypatch.chdir(tmp_path)
    assert config_lib.load(DIGITS).name == "digits"
    (tmp_path / "configs").mkdir()
    (tmp_path / DIGITS).write_text(config_lib.find(REPOSITORY / DIGITS).read_text().replace('"digits"', '"mine"'))
    assert config_lib.load(DIGITS).name == "mine"


def test_missing_file_names_the_shipped_ones():
    """Protects a mistyped file name: the error lists what there is."""
    with pytest.raises(UserError, match=r"configs/digit\.py does not exist.*digits\.py, fashion_mnist\.py"):
        config_lib.load("configs/digit.py")


def test_arguments_set_fields_and_method_options():
    """Protects the short names: each reaches its field, and an option of the method its option."""
    spec = f"{DIGITS}:method=mlc,rate=0.8,noise=flip,trusted=50,noisy=300,seed=3,lr=1,teacher=cnn4,look_ahead_steps=2"
    config = config_lib.load(spec)
    assert (config.method.name, config.method.look_ahead_steps) == ("mlc", 2)
    assert (config.noise.kind, config.noise.rate) == ("flip", 0.8)
    assert (config.data.trusted, config.data.noisy, config.seed) == (50, 300, 3)
    assert config.optim.lr == 1.0 and type(config.optim.lr) is float
    assert config.teacher.net == "cnn4"


def test_every_short_name_is_a_field():
    """Protects SHORT from fields that were renamed."""
    assert set(config_lib.SHORT.values()) <= set(config_lib.flatten(config_lib.load(DIGITS)))


def test_preset_is_expanded_before_its_options():
    """Protects an option given next to a preset: it wins whichever comes first, in the name or as an override."""
    before, after = (config_lib.load(f"{DIGITS}:{words}") for words in ("ema=0.5,preset=paper", "preset=paper,ema=0.5"))
    assert before == after
    assert (after.method.preset, after.method.ema, after.method.supervised) == ("paper", 0.5, 0.0)
    flags = config_lib.load(f"{DIGITS}:ema=0.5", {"method.ema": "0.25", "method.preset": "paper"})
    assert (flags.method.preset, flags.method.ema, flags.method.supervised) == ("paper", 0.25, 0.0)


def test_method_as_an_override():
    """Protects --config.method.name: the options are those of the method it names."""
    config = config_lib.load(f"{DIGITS}:method=kdmlc", {"method.name": "ce", "method.train_on": "trusted"})
    assert (config.method.name, config.method.train_on) == ("ce", "trusted")
    assert "kd_weight" not in config.method


@pytest.mark.parametrize(
    "field, text, value",
    [
        ("optim.lr", "1", 1.0),
        ("optim.lr", "1e-3", 1e-3),
        ("train.epochs", "7", 7),
        ("augment.flip", "true", True),
        ("augment.flip", "False", False),
        ("augment.flip", "1", True),
        ("optim.milestones", "(0.5, 0.75)", (0.5, 0.75)),
        ("optim.milestones", "[0.5]", (0.5,)),
        ("optim.milestones", "()", ()),
        ("teacher.net", "resnet20", "resnet20"),
        ("data.dir", "123", "123"),
    ],
)
def test_override_is_read_as_the_type_of_its_field(field, text, value):
    """Protects the types: text becomes what the field holds, an int is a float where one is due."""
    config = config_lib.load(DIGITS, {field: text})
    got = config_lib.flatten(config)[field]
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    "field, text",
    [
        ("optim.lr", "fast"),
        ("optim.lr", "nan"),
        ("optim.lr", "True"),
        ("optim.lr", ""),
        ("train.epochs", "2.5"),
        ("train.epochs", "True"),
        ("augment.flip", "yes"),
        ("augment.flip", "2"),
        ("optim.milestones", "0.5"),
        ("optim.milestones", "{[]: 1}"),
    ],
)
def test_override_of_the_wrong_type_is_refused(field, text):
    """Protects a run from a value its field cannot hold: the error names field, value and type."""
    with pytest.raises(UserError) as error:
        config_lib.load(DIGITS, {field: text})
    assert f'"{field}": "{text}" is not a ' in str(error.value)


@pytest.mark.parametrize(
    "words, message",
    [
        ("sed=1", 'argument "sed" is unknown (did you mean "seed"?)'),
        ("kd_wieght=1", 'argument "kd_wieght" is unknown (did you mean "kd_weight"?)'),
        ("method=ce,kd_weight=1", 'argument "kd_weight" is unknown'),
        ("method=kdmcl", 'method.name: "kdmcl" is not one of'),
        ("preset=stong", 'method.preset: "stong" is not one of paper, strong (did you mean "strong"?)'),
        ("rate=much", 'config field "noise.rate": "much" is not a float'),
    ],
)
def test_unknown_argument_is_refused(words, message):
    """Protects a mistyped argument: one line that names it and the nearest that exists."""
    with pytest.raises(UserError) as error:
        config_lib.load(f"{DIGITS}:{words}")
    assert message in str(error.value)


def test_name_is_not_an_argument():
    """Protects the method from `name=`: the name of a method is an option no argument may overwrite."""
    with pytest.raises(UserError, match='argument "name" is unknown'):
        config_lib.load(f"{DIGITS}:name=mine")


def test_home_is_known_in_every_path(monkeypatch):
    """Protects `~`, which no shell expands behind an equals sign: in all fields that hold a path, and in no other."""
    monkeypatch.setenv("HOME", "/somewhere")
    made = config_lib.load(f"{DIGITS}:labels=~/run", {"data.features": "~/f.npy", "name": "~"})
    assert (made.data.labels, made.data.features, made.name) == ("/somewhere/run", "/somewhere/f.npy", "~")
    assert set(PATHS) <= set(config_lib.flatten(made))


@pytest.mark.parametrize(
    "field, nearest",
    [("optim.lrr", "optim.lr"), ("trian.epochs", "train.epochs"), ("method.emma", "method.ema"), ("sed", "seed")],
)
def test_unknown_field_is_refused(field, nearest):
    """Protects a mistyped --config flag: the error suggests the nearest field."""
    with pytest.raises(UserError) as error:
        config_lib.load(DIGITS, {field: "1"})
    assert str(error.value) == f'config has no field "{field}" (did you mean "{nearest}"?)'


@pytest.mark.parametrize("field", ["optim", "optim.lr.base", "optim.", ".lr", "seed.x"])
def test_group_or_path_below_a_leaf_is_no_field(field):
    """Protects groups from being overwritten by a value, and leaves from being entered."""
    with pytest.raises(UserError, match="config has no field"):
        config_lib.load(DIGITS, {field: "1"})


def test_read_gives_back_what_was_written(tmp_path):
    """Protects resume: config.json holds the config to the type, tuples included."""
    config = config_lib.load(f"{DIGITS}:rate=0.8", {"optim.lr": "1", "optim.milestones": "(0.5,)"})
    path = tmp_path / "config.json"
    files.write_sealed(path, config.to_dict())
    again = config_lib.read(path)
    assert again == config
    assert {k: type(v) for k, v in config_lib.flatten(again).items()} == {
        k: type(v) for k, v in config_lib.flatten(config).items()
    }
    assert config_lib.changes(config, path) == []


@pytest.mark.parametrize("text", [None, "{", "[1]", "3"])
def test_read_refuses_what_is_no_config(tmp_path, text):
    """Protects a user whose workdir holds something else: an error that names the file, no traceback."""
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(
        UserError, match=r"config\.json: (no such file, expected|cannot be read as) the config of a run"
    ):
        config_lib.read(path)


def test_a_run_goes_on_only_with_what_it_may_change(tmp_path):
    """Protects a run from being continued as another experiment: the first such field is named, with both values."""
    path = tmp_path / "config.json"
    config = config_lib.load(DIGITS)
    assert config_lib.changes(config, path) == []
    files.write_sealed(path, config.to_dict())
    with pytest.raises(UserError, match=r"holds a run with optim\.lr=0\.1, not 0\.5"):
        config_lib.changes(config_lib.load(DIGITS, {"optim.lr": "0.5"}), path)
    with pytest.raises(UserError, match=r"holds a run with method\.bilevel="):
        config_lib.changes(config_lib.load(f"{DIGITS}:method=ce"), path)
    with pytest.raises(UserError, match=r"holds a run with student\.net='cnn6', not 'cnn8'"):
        config_lib.changes(config_lib.load(f"{DIGITS}:student=cnn8,epochs=50"), path)
    longer = config_lib.load(f"{DIGITS}:epochs=50,sharding=fsdp", {"checkpoint.keep": "3"})
    assert config_lib.changes(longer, path) == [
        "checkpoint.keep=3 (was 2)",
        "parallel.sharding='fsdp' (was 'replicated')",
        "train.epochs=50 (was 40)",
    ]


def test_labels_of_people_and_of_runs():
    """Protects two things with their own names: `human` says which people's labels, `labels` names another run."""
    config = config_lib.load("configs/cifar10n.py:human=random1,labels=runs/one,init_from=runs/two,features=f.npy")
    assert (config.noise.human, config.data.labels) == ("random1", "runs/one")
    assert (config.init_from, config.data.features) == ("runs/two", "f.npy")


def test_a_config_of_an_earlier_version_is_read(tmp_path):
    """Protects runs begun before a field existed: it has its default, in a section too, and nothing else changes."""
    config = config_lib.load("configs/digits.py:lr=0.05")
    written = config.to_dict()
    del written["deploy"], written["train"]["steps_per_call"]
    path = tmp_path / "config.json"
    files.write_sealed(path, written)
    read = config_lib.read(path)
    config_lib.check(read)
    assert config_lib.flatten(read) == config_lib.flatten(config)
    assert config_lib.changes(config, path) == []


def test_commas_in_paths(tmp_path, monkeypatch):
    """Protects folders whose names have commas: read where they exist, else the way around is named."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b,c").mkdir()
    (tmp_path / "d").mkdir()
    for text, expected in {
        "dir=a,b,c,trusted=8,quick": {"dir": "a,b,c", "trusted": "8", "quick": "true"},
        f"dir={tmp_path}/a,b,c": {"dir": f"{tmp_path}/a,b,c"},
        "dir=d,b,c": {"dir": "d", "b": "true", "c": "true"},
        "dir=x,y,,method=ce": {"dir": "x", "y": "true", "method": "ce"},
    }.items():
        assert config_lib.parse_arguments(text) == expected
    with pytest.raises(UserError, match=r'"y" is unknown.*; a path with a comma goes in --config\.data\.dir=…'):
        config_lib.load("configs/folder.py:dir=x,y")
