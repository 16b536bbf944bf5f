"""Handwritten digits (scikit-learn, 8x8 pixels): the default run; needs no download.

    python -m kdmlc_jax.main --config configs/digits.py --workdir runs/digits
    python -m kdmlc_jax.main --config configs/digits.py:method=mlc,rate=0.8,seed=1 --workdir runs/digits_mlc

KDMLC (doi 10.7544/issn1000-1239.202330382) in its strong form, 100 trusted images, uniform noise .6 (true class among
those drawn), the three plain baselines on both networks, and two linear ones, which add 5 s. Expect 90 to 105 s on two
CPU cores, compilation included, and a student at .968 ± .011 (five seeds; plain training on the same network
.937 ± .024 at best).
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """Arguments: those of `kdmlc_jax.config.SHORT`, `quick`, and options of the method."""
    config = config_lib.base()
    config.name = "digits"
    config.data.source = "digits"
    config.data.trusted = 100
    config.data.validation = 200
    config.noise.rate = 0.6
    config.augment.pad = 1
    config.train.epochs = 5 if arguments.pop("quick", None) else 40
    config.train.batch_size = 50
    config.train.trusted_batch_size = 50
    config.baselines = (
        ("plain, noisy labels", "ce:train_on=noisy"),
        ("plain, trusted labels", "ce:train_on=trusted"),
        ("plain, both", "ce:train_on=both"),
        ("linear, noisy labels", "linear:train_on=noisy"),
        ("linear, trusted labels", "linear"),
    )
    config.checkpoint.every = 5  # an epoch takes less time than saving it
    config.devices = 1  # a step is too small to be worth sharing
    return config_lib.resolve(config, arguments)
