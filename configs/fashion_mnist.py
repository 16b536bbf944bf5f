"""Fashion-MNIST (28x28, 10 classes) with synthetic noise, at the scale of two CPU cores.

    python -m kdmlc_jax.main --config configs/fashion_mnist.py:noise=uniform,rate=0.8 --workdir runs/fashion
    python -m kdmlc_jax.main --config configs/fashion_mnist.py:method=mlc,network=student,noise=flip,rate=0.4 …

10 000 noisy and 1 000 trusted training images, 5 000 for validation, none of them augmented; teacher cnn16
(24 k weights), student cnn8 (6 k). Expect 80 to 105 s a run on two CPU cores, compilation included, and a student at
.817 ± .008 (three seeds; plain training on the same network .753 ± .005 at best); other noises in benchmarks/. The four
idx files lie in `data.dir` or in $KDMLC_DATA/fashion-mnist.

Arguments: those of `kdmlc_jax.config.SHORT`, options of the method, `quick` (4 epochs: to see that all works),
`augmented` (crop by 1 pixel and flip: better for every method, and far more so for those that see few labels) and
`full` (all images, ResNet-32 teacher and ResNet-20 student: for a GPU).
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """The run that `arguments` describe; see the module."""
    config = config_lib.base()
    config.name = "fashion_mnist"
    config.data.source = "fashion_mnist"
    config.data.trusted, config.data.validation, config.data.noisy = 1000, 5000, 10_000
    config.noise.rate = 0.8
    config.teacher.net, config.student.net = "cnn16", "cnn8"
    config.train.epochs = 16
    if arguments.pop("augmented", None):
        config.augment.pad, config.augment.flip = 1, True
    if arguments.pop("full", None):
        config.data.noisy, config.train.epochs = 0, 60
        config.teacher.net, config.student.net = "resnet32", "resnet20"
    if arguments.pop("quick", None):
        config.train.epochs = 4
    config.devices = 1  # a step is too small to be worth sharing
    return config_lib.resolve(config, arguments)
