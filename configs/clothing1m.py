"""Clothing1M (Xiao et al. 2015; 14 classes, labels from shops, about 38 % wrong): the recipe of MLC, with a student.

    python -m kdmlc_jax.data.check --config configs/clothing1m.py:dir=clothing1m
    python -m kdmlc_jax.main --config configs/clothing1m.py:dir=clothing1m --workdir runs/clothing1m

`data.dir` is the published folder: the four key lists, the two label files and `images/`. Trusted images are
clean_train, validation clean_val, test clean_test. ResNet-50 teacher (23.5 M weights) and ResNet-18 student (11.2 M),
skip-gated corrector, k = 5 look-aheads, SGD .1 and x.1 at epoch 5 of 15, batch 32, corrector 3e-3 (MLC, arXiv
1911.03809, its release). Departure: both networks start from random weights, where MLC starts from ImageNet's; expect
less than its 75.78 %. Made for GPUs; its accuracy and time have not been measured.

Arguments: those of `kdmlc_jax.config.SHORT`, options of the method, and `quick` (small networks on 32 x 32, one epoch).
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """The run that `arguments` describe; see the module."""
    config = config_lib.base()
    config.name = "clothing1m"
    config.data.source = "clothing1m"
    config.data.image_size, config.data.channels = 224, 3
    config.data.trusted = 0
    config.data.verify = False  # a million files: the check above reads them all
    config.data.select_on = "true"  # clean_val has been checked
    config.noise.kind = "none"
    config.augment.pad, config.augment.flip = 16, True
    config.teacher.net, config.student.net = "imagenet_resnet50", "imagenet_resnet18"
    config.optim.schedule, config.optim.milestones = "step", (5 / 15,)
    config.train.epochs, config.train.batch_size, config.train.trusted_batch_size = 15, 32, 32
    if arguments.pop("quick", None):
        config.data.image_size, config.augment.pad, config.train.epochs = 32, 2, 1
        config.teacher.net, config.student.net = "cnn16", "cnn8"
    return config_lib.resolve(config, arguments)
