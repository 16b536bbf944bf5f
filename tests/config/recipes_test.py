"""A method's own recipe for a data set: where it stands among file, arguments and overrides, and that it is found."""

import ast
import pathlib

import pytest

from kdmlc_jax import config as config_lib
from kdmlc_jax import methods
from kdmlc_jax.errors import UserError

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))
RECIPES = [(name, key) for name in methods.names() for key in getattr(methods.get(name), "RECIPES", {})]


@pytest.mark.parametrize(("name", "key"), RECIPES)
def test_every_recipe_is_reached(name, key):
    """Protects a recipe from being written for a config, a variant or a field that there is not: each value of each
    arrives in the config that a person names."""
    data, _, variant = key.partition(",")
    config = config_lib.flatten(config_lib.load(f"configs/{data or 'digits'}.py:method={name},{variant}"))
    for field, value in methods.get(name).RECIPES[key].items():
        assert config[field] == value and type(config[field]) in (type(value), float), field


def test_arguments_win_over_the_recipe():
    """Protects what a person asks for: an argument and an override win over the method's recipe, it over the file."""
    full = config_lib.load("configs/cifar10.py:method=blind_kd,epochs=9", {"optim.lr": "0.3"})
    assert (full.train.epochs, full.optim.lr, full.train.batch_size, full.data.trusted) == (9, 0.3, 128, 0)
    strong = config_lib.load("configs/clothing1m.py:preset=strong,corrector_lr=1e-2").method
    assert (strong.preset, strong.corrector_lr, strong.look_ahead_steps, strong.ema) == ("strong", 1e-2, 5, 0.99)


def test_recipe_of_one_method_is_not_another_ones():
    """Protects the other methods of the same file, and the file's own small variant."""
    plain, quick = (config_lib.load(f"configs/cifar10.py:{words}") for words in ("method=ce", "quick"))
    ssl = config_lib.load("configs/cifar10.py:method=simclr,quick")
    assert (plain.train.epochs, plain.data.trusted, plain.optim.schedule) == (120, 1000, "step")
    assert ssl.train.epochs == 20 and ssl.optim == quick.optim and quick.train.epochs == 10
    assert config_lib.load("configs/cifar100.py:method=kd,quick").data.trusted == 0
    assert config_lib.load("configs/cifar100.py:method=mlc,quick").data.trusted == 5000


def test_preset_of_another_method_is_refused():
    """Protects from a preset that would be dropped without a word."""
    with pytest.raises(UserError, match=r"method\.preset: \"paper\" is not one of ''"):
        config_lib.load("configs/clothing1m.py:method=ce,preset=paper")


def test_unknown_recipe_is_none():
    """Protects a config file of one's own, whose name no method knows, and a baseline, which takes no recipe."""
    config = config_lib.base()
    config.name = "cifar100"
    assert config_lib.resolve(config, {"method": "kd"}, recipe="").data.trusted == 100
    assert config_lib.resolve(config, {"method": "kd"}).data.trusted == 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_name_no_method(path):
    """Protects the wall: a config file asks for no method; the labels of its baselines alone may name one."""
    tree = ast.parse(path.read_text())
    given = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Tuple) for part in node.elts}
    words = [
        node.value for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in given
    ]  # fmt: skip
    assert not {word.partition(":")[0] for word in words} & {*methods.names(), "method"}
