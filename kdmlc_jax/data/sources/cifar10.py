"""CIFAR-10 in the binary or the Python version, from the folder or the downloaded .tar.gz."""

from kdmlc_jax.data.sources._cifar import load as load
