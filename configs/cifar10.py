"""CIFAR-10 (32x32, 10 classes) with synthetic noise: the recipe of MLC, with KDMLC's student beside it.

    python -m kdmlc_jax.main --config configs/cifar10.py:noise=uniform,rate=0.8 --workdir runs/cifar10
    python -m kdmlc_jax.main --config configs/cifar10.py:preset=paper,noise=flip,rate=0.4,cutout=16 --workdir …

ResNet-32 teacher (464 k weights) and ResNet-20 student (270 k), SGD .1, momentum .9, weight decay 5e-4, batch 100,
120 epochs with steps at 80 and 100 (MLC, arXiv 1911.03809, its release), 1 000 trusted images, reflect-pad crop and
flip; `cutout=16` is KDMLC's (doi 10.7544/issn1000-1239.202330382). What a method's authors did otherwise is in its
RECIPES: `method=blind_kd`, `simclr` and `dmlp` have some. Made for a GPU: what was measured on one is in
benchmarks/README.md. On two CPU cores one bi-level step takes seconds; `quick` takes minutes: cnn24 and cnn12, 10 000
noisy images, 10 epochs (20 for `blind_kd` and `simclr`), cosine schedule. `data.dir` is the downloaded archive, binary
or Python version, or the folder it unpacks to; '' looks below $KDMLC_DATA.

Arguments: those of `kdmlc_jax.config.SHORT`, options of the method, and `quick`.
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """The run that `arguments` describe; see the module."""
    config = config_lib.base()
    config.name = "cifar10"
    config.data.source = "cifar10"
    config.data.trusted, config.data.validation = 1000, 5000
    config.noise.rate = 0.8
    config.augment.pad, config.augment.flip = 4, True
    config.teacher.net, config.student.net = "resnet32", "resnet20"
    config.optim.schedule, config.optim.milestones = "step", (80 / 120, 100 / 120)
    config.train.epochs = 120
    recipe = config.name
    if arguments.pop("quick", None):
        recipe += ",quick"
        config.teacher.net, config.student.net = "cnn24", "cnn12"
        config.data.noisy, config.train.epochs = 10_000, 10
        config.train.batch_size, config.optim.lr, config.optim.schedule = 100, 0.1, "cosine"
    return config_lib.resolve(config, arguments, recipe)
