"""CIFAR-100 with its 100 fine labels, in the binary or the Python version, as `cifar10`."""

from kdmlc_jax.data.sources._cifar import load as load
