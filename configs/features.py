"""Features of images, by an encoder of your own choice: vectors in a folder, networks that are small heads on them.

    python -m kdmlc_jax.embed --config configs/folder.py:dir=photos --encoder encoder.onnx --out features/photos
    python -m kdmlc_jax.main --config configs/features.py:dir=features/photos --workdir runs/photos_features

The folder holds `features.npy` f[N, D] and `labels.npy` i[N]; it may hold `trusted.npy` (bool[N], or the rows),
`true_labels.npy` (-1 = unknown), `test_features.npy` with `test_labels.npy`, `classes.txt` and `ids.txt`. Labels are as
they are (`noise=uniform,rate=0.8` corrupts them); the trusted rows are those of `trusted.npy`, or `trusted=200` draws
them. Teacher mlp512, student mlp64 (kdmlc: linear ones), no augmentation. What needs no training stands first among the
baselines, logistic regression and the vote of neighbours (kNN, WANN): see whether anything more pays.

Arguments: those of `kdmlc_jax.config.SHORT`, options of the method, and `quick` (4 epochs).
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """The run that `arguments` describe; see the module."""
    config = config_lib.base()
    config.name = "features"
    config.data.source = "features"
    config.data.trusted, config.data.validation, config.data.verify = 0, 0.1, False
    config.noise.kind = "none"
    config.teacher.net, config.student.net = "mlp512", "mlp64"
    config.optim.lr = 0.02
    config.train.epochs = 4 if arguments.pop("quick", None) else 20
    config.train.batch_size = config.train.trusted_batch_size = 50
    config.baselines = (
        ("linear, trusted labels", "linear"),
        ("linear, given labels", "linear:train_on=noisy"),
        ("nearest neighbours", "knn"),
        ("the same, weighed", "wann"),
        ("plain, given labels", "ce:train_on=noisy"),
        ("plain, trusted labels", "ce:train_on=trusted"),
        ("plain, both", "ce:train_on=both"),
    )
    config.devices = 1  # a step is too small to be worth sharing
    return config_lib.resolve(config, arguments)
