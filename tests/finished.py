"""What a finished run says of itself, as far as its page needs it."""

import numpy as np


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
