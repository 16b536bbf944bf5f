"""Learning from noisy labels with distillation and meta label correction, in JAX.

`NoisyLabelClassifier` is scikit-learn's way in, `run(config, workdir)` that of who has a config; the command is
`python -m kdmlc_jax`. Nothing heavy is imported before one of them is asked for.
"""

from typing import Any

__version__ = "0.1.0"
__all__ = ["NoisyLabelClassifier", "run"]


def __getattr__(name: str) -> Any:
    """What the package hands on, imported when it is asked for."""
    if name == "NoisyLabelClassifier":
        from kdmlc_jax.estimator import NoisyLabelClassifier

        return NoisyLabelClassifier
    if name == "run":
        from kdmlc_jax.main import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
