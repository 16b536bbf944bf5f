"""Learning from noisy labels with distillation and meta label correction, in JAX."""

__version__ = "0.1.0"
