"""Fashion-MNIST with synthetic label noise."""

from kdmlc_jax import config as config_lib


def get_config(arguments):
    config = config_lib.base()
    config.name = "fashion_mnist"
    config.data.source = "fashion_mnist"
    config.data.trusted = 1000
    config.data.validation = 5000
    config.data.noisy = 10000
    config.noise.rate = 0.8
    config.augment.pad = 2
    config.augment.flip = True
    return config_lib.resolve(config, arguments)
