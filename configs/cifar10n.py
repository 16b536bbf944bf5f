"""CIFAR-10 with the labels that people gave it (CIFAR-10N, Wei et al., arXiv 2110.12088).

    python -m kdmlc_jax.main --config configs/cifar10n.py:human=worst --workdir runs/cifar10n
    python -m kdmlc_jax.main --config configs/cifar10n.py:human=random1,pairs=estimated,quick --workdir …
    python -m kdmlc_jax.main --config configs/cifar10n.py:human=worst,method=blind_kd,quick --workdir …

`human` is aggre (9 % wrong), random1, random2, random3 (17 to 18 %) or worst (40 %), read from CIFAR-10_human.pt in
`noise.file` or in $KDMLC_DATA/cifar-10n. The 1 000 trusted images carry their human label too: these
pairs teach the corrector, unless `pairs=estimated` draws them by an estimated transition matrix. Networks and recipes,
Blind-KD's among them, are those of `configs/cifar10.py`; neither accuracy nor time of the full ones have been measured
yet.

Arguments: those of `configs/cifar10.py`.
"""

from ml_collections import ConfigDict

from kdmlc_jax import config as config_lib


def get_config(arguments: dict[str, str]) -> ConfigDict:
    """The run that `arguments` describe; see the module."""
    config = config_lib.call("configs/cifar10.py", {"noise": "human", "rate": "0", **arguments})
    config.name = "cifar10n"
    return config
