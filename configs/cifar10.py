"""CIFAR-10 (32x32, 10 classes) with synthetic noise: the recipe of MLC, with KDMLC's student beside it.

    python -m kdmlc_jax.main --config configs/cifar10.py:noise=uniform,rate=0.8 --workdir runs/cifar10
    python -m kdmlc_jax.main --config configs/cifar10.py:preset=paper,noise=flip,rate=0.4,cutout=16 --workdir …

ResNet-32 teacher (464 k weights) and ResNet-20 student (270 k), SGD .1, momentum .9, weight decay 5e-4, batch 100,
120 epochs with steps at 80 and 100 (MLC, arXiv 1911.03809, its release), 1 000 trusted images, reflect-pad crop and
flip; `cutout=16` is KDMLC's (doi 10.7544/issn1000-1239.202330382). `method=blind_kd` has the recipe of its authors
(arXiv 2211.11355, its release): two PreAct-ResNet-18, no trusted images, SGD .02, batch 128, 300 epochs with a step at
150; `method=simclr` that of SupContrast's SimCLR (SGD .5, batch 1024, 1 000 epochs, weight decay 1e-4); `method=dmlp`
has 200 epochs of SimCLR, at batch 100, before its 120. Made for a GPU: accuracy and time there have not been measured
yet. On two CPU cores one bi-level step takes seconds; `quick` takes minutes: cnn24 and cnn12, 10 000 noisy images, 10
epochs, cosine schedule; for `simclr` 20 epochs, for `blind_kd` two cnn24 and 20 epochs. `data.dir` is the downloaded
archive, binary or Python version, or the folder it unpacks to; '' looks below $KDMLC_DATA.

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
    alone = arguments.get("method") == "blind_kd"
    if alone:  # its own recipe, without trusted images
        config.data.trusted = 0
        if "quick" not in arguments:
            arguments = {"longest_blind": "0.5", **arguments}  # before the step that lets networks memorise
        config.teacher.net = config.student.net = "preact_resnet18"
        config.optim.lr, config.optim.milestones = 0.02, (0.5,)
        config.train.epochs, config.train.batch_size = 300, 128
    ssl = arguments.get("method") == "simclr"
    if ssl and "quick" not in arguments:
        config.optim.schedule = "cosine"
        config.optim.lr, config.optim.warm_up, config.optim.weight_decay = 0.5, 0.01, 1e-4
        config.train.epochs, config.train.batch_size = 1000, 1024
    if arguments.get("method") == "dmlp" and "quick" not in arguments:
        arguments = {"ssl_epochs": "200", **arguments}
    if arguments.pop("quick", None):
        config.teacher.net, config.student.net = "cnn24", "cnn24" if alone else "cnn12"
        config.data.noisy, config.train.epochs = 10_000, 20 if alone or ssl else 10
        config.train.batch_size, config.optim.lr, config.optim.schedule = 100, 0.1, "cosine"
    return config_lib.resolve(config, arguments)
