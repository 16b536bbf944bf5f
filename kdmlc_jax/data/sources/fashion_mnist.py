"""Fashion-MNIST in the four idx files it is published in, plain or gzip."""

from kdmlc_jax.data.sources._idx import load as load
