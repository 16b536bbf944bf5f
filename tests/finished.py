"""What a finished run says of itself, as far as its page needs it."""

import numpy as np

from kdmlc_jax.data.dataset import Dataset
from kdmlc_jax.data.splits import Splits
from kdmlc_jax.labels.table import Decided, table

HOSTILE = ("</script><script>alert(1)</script>", "<img src=x onerror=alert(2)>", "a\"'&b")


def summary(dataset: str, noisy: int, trusted: int, classes: int = 3) -> dict:
    """As summary.json, with markup in what a user could have named."""
    return {
        "dataset": dataset,
        "method": "m<i>",
        "options": {"name": "m", "x": 1},
        "seed": 0,
        "versions": {"jax": "0"},
        "device": "cpu",
        "seconds": 1.0,
        "notes": ["<u>"],
        "networks": {"student": {"name": "mlp8", "parameters": 100, "epoch": 2, "last": 0.5}},
        "data": {"noisy": noisy, "trusted": trusted, "validation": 0, "held_out": 0},
        "noise": {"estimated": 0.2, "interval": [0.1, 0.3], "transition": np.eye(classes).tolist()},
        "verdict": {
            "assessed": True,
            "apply": False,
            "text": "Do <em>not</em>",
            "corrections": 0,
            "reviews": 8,
            "review_precision": 0.9,
            "precision": {"estimate": None},
        },
    }


def made(features=True):
    """A run's remains: 40 noisy and 6 trusted images, three classes with hostile names, every fifth label wrong."""
    rng = np.random.default_rng(0)
    true = np.arange(46) % 3
    given = np.where((np.arange(46) % 5 == 0) & (np.arange(46) < 40), (true + 1) % 3, true).astype(np.int32)
    images = rng.integers(0, 256, (46, 8, 8, 3)).astype(np.uint8)
    ids = np.array([f"{HOSTILE[i % 3]}/{i}" for i in range(46)])
    none = np.zeros(0, int)
    splits = Splits(np.arange(40), np.arange(40, 46), none, none)
    dataset = Dataset(
        *(
            "set <b>",
            HOSTILE,
            images,
            given,
            given,
            np.full(46, -1),
            np.full(46, -1),
            splits,
            None,
            none,
            None,
            None,
            ids,
        ),
        features=np.eye(3, dtype=np.float32)[true] if features else None,
    )
    beliefs = np.full((46, 3), 0.05)
    beliefs[np.arange(46), true] = 0.9
    names = np.repeat(["noisy", "trusted"], [40, 6])
    decision = np.where((given != true) & (names == "noisy"), "review", "keep")
    rows = table(ids, names, given, beliefs, HOSTILE, {}, Decided(given, decision, "p_given"))
    made_of = summary(dataset.name, 40, 6)
    history = [{"student_test": 0.4, "student_validation_given": None}, {"student_test": 0.5}]
    return dataset, rows, beliefs, made_of, history
