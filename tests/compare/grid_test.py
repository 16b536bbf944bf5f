"""The cells of a comparison: their folders, and that all are of the same images."""

import pathlib

import pytest
import tiny

from kdmlc_jax.compare import grid
from kdmlc_jax.errors import UserError


def test_cells_have_folders_of_their_own():
    """Protects cells from each other: config arguments, method options and seed all move the folder."""
    spec = "configs/digits.py:rate=0.8"
    folder = grid.cell_folder(spec, "method=ce,train_on=noisy,network=student", 2)
    assert folder.as_posix() == "digits,rate=0.8/ce,train_on=noisy,network=student/seed2"
    others = {
        grid.cell_folder(*cell)
        for cell in [
            ("configs/digits.py", "method=ce", 0),
            ("configs/digits.py", "method=ce", 1),
            ("configs/digits.py", "method=mlc", 0),
            ("configs/digits.py:rate=0.2", "method=ce", 0),
            ("configs/fashion_mnist.py", "method=ce", 0),
        ]
    }
    assert len(others) == 5


def cells(*words, specs=(tiny.SPEC,), overrides=frozenset()):
    """Cells of one seed."""
    return grid.cells_of(specs, [f"method={each}" for each in words], [0], dict(overrides))


def test_cells_by_hand():
    """Protects what is run: every config with every method and seed, in that order, `{seed}` being the cell's, and
    overrides in all."""
    made = grid.cells_of(
        ["configs/digits.py", "configs/digits.py:rate=0.2"],
        ["method=ce", "method=mlc,network=student"],
        [0, 7],
        {"init_from": "", "optim.lr": "0.5"},
    )
    of = [(cell.config.noise.rate, cell.config.method.name, cell.config.seed, cell.config.optim.lr) for cell in made]
    rates, methods, seeds = (0.6, 0.2), ("ce", "mlc"), (0, 7)
    assert of == [(rate, method, seed, 0.5) for rate in rates for method in methods for seed in seeds]
    assert made[-1].folder == pathlib.Path("digits,rate=0.2/mlc,network=student/seed7")
    assert (made[-1].data, made[-1].arguments) == ("digits,rate=0.2", "method=mlc,network=student")
    (cell,) = cells("ce,init_from=runs/seed{seed}")
    assert cell.config.init_from == "runs/seed0"


@pytest.mark.parametrize(
    ("words", "field", "message"),
    [
        (["ce"], "seed", r"--config\.seed: would make every cell alike"),
        (["ce"], "method.network", r"--config\.method\.network: would make every cell alike"),
        (["ce,network=student", "ce,network=student"], "devices", r"ce,network=student/seed0 is named twice"),
    ],
)
def test_one_run_is_not_counted_twice(words, field, message):
    """Protects the deviation over seeds from runs that are the same run, by an override or by two names."""
    with pytest.raises(UserError, match=message):
        cells(*words, overrides={field: "1"})


def test_cells_on_other_images_are_refused():
    """Protects a fair table: two methods whose configs ask for other splits end before the first run; other weights,
    other configs and other labels of the same images may stand side by side."""
    with pytest.raises(
        UserError, match=r"method=mlc,trusted=50: data.trusted=50.0, but 100.0 in .*: method=kdmlc; give it in --config"
    ):
        cells("kdmlc", "mlc,trusted=50")
    assert len(cells("kdmlc", "mlc,lr=0.01", "dmlp,labels=runs/other")) == 3
    assert len(cells("kdmlc", specs=(tiny.SPEC, f"{tiny.SPEC},trusted=50"))) == 2
    with pytest.raises(UserError, match=r"method=blind_kd: data.trusted=0"):
        cells("kdmlc", "blind_kd", specs=("configs/cifar10.py:quick",))
