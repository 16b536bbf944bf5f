"""CIFAR-100 (32x32, 100 classes) with synthetic noise: the recipe of AML-KD, for every method.

    python -m kdmlc_jax.main --config configs/cifar100.py:method=aml_kd,noise=uniform,rate=0.5 --workdir runs/cifar100
    python -m kdmlc_jax.main --config configs/cifar100.py:method=kdmlc,rate=0.8,quick --workdir …

WRN-40-2 teacher (2.3 M weights) and WRN-16-2 student (0.7 M), SGD .05, momentum .9, weight decay 5e-4, batch 256, 240
epochs each with steps at 150, 180 and 210, mutual refinement in the last quarter (doi 10.1109/TNNLS.2023.3335829, its
release), reflect-pad crop and flip. aml_kd, kd and blind_kd have no trusted images, the other methods 5 000. Made for a
GPU: accuracy and time there have not been measured yet. `quick` takes minutes on two CPU cores, to see that all works:
cnn24 and cnn12, 10 000 noisy images, 10 epochs each, batch 100, cosine schedule. `data.dir` is the downloaded archive,
binary or Python version, or the folder it unpacks to; '' looks below $KDMLC_DATA.

Arguments: those of `kdmlc_jax.config.SHORT`, options of the method, and `quick`.
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """The run that `arguments` describe; see the module."""
    config = config_lib.base()
    config.name = "cifar100"
    config.data.source = "cifar100"
    config.data.trusted, config.data.validation = 5000, 5000  # a method that needs no trusted images takes none
    config.noise.rate = 0.5
    config.augment.pad, config.augment.flip = 4, True
    config.teacher.net, config.student.net = "wrn40_2", "wrn16_2"
    config.optim.lr, config.optim.schedule = 0.05, "step"
    config.optim.milestones = (150 / 240, 180 / 240, 210 / 240)
    config.train.epochs, config.train.batch_size = 240, 256
    if arguments.pop("quick", None):
        config.teacher.net, config.student.net = "cnn24", "cnn12"
        config.data.noisy, config.train.epochs = 10_000, 10
        config.train.batch_size, config.optim.lr, config.optim.schedule = 100, 0.1, "cosine"
    return config_lib.resolve(config, arguments)
