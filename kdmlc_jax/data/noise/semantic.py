"""The published asymmetric noise of CIFAR-10 and CIFAR-100: each class goes to one that looks like it, by name."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from kdmlc_jax.data.noise.base import Request
from kdmlc_jax.errors import UserError

RATED, CORRUPTS = True, True

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_TARGET = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}

# The 20 superclasses of CIFAR-100; within each, the order of the class numbers.
CIFAR100 = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


def matrix(request: Request) -> Float[np.ndarray, "C C"]:
    """1-r on the diagonal, r from y to `semantic_targets`; on CIFAR-10 five classes keep all their labels, so r/2 of
    the labels end up wrong."""
    identity = np.eye(request.num_classes)
    return (1.0 - request.rate) * identity + request.rate * identity[semantic_targets(request.class_names)]


def semantic_targets(class_names: Sequence[str]) -> Int[np.ndarray, " C"]:
    """The class each class is turned into; itself where the noise leaves it alone.

    CIFAR-10: truck → automobile, bird → airplane, deer → horse, cat ↔ dog (Patrini et al. 2017, arXiv 1609.03683,
    section 5). CIFAR-100: the next class of the same superclass, the last one to the first.

    Args:
      class_names: the names of either set, in any order and case, words apart by blank or underscore.

    Returns:
      i64[C].

    Raises:
      UserError: for the classes of any other set.
    """
    names = [name.lower().replace(" ", "_") for name in class_names]
    target = _cifar100_target()
    if sorted(names) == sorted(CIFAR10):
        target = {name: CIFAR10_TARGET.get(name, name) for name in CIFAR10}
    if sorted(names) != sorted(target):
        some = ", ".join(f'"{name}"' for name in class_names[:3])
        found = f"found {len(names)} classes {some}{', …' if len(names) > 3 else ''}"
        raise UserError(
            f'noise.kind: "semantic" is known for the classes of CIFAR-10 and CIFAR-100 only, {found}; '
            'give your own matrix with noise.kind "matrix"'
        )
    index = {name: position for position, name in enumerate(names)}
    return np.array([index[target[name]] for name in names])


def _cifar100_target() -> dict[str, str]:
    chains = [zip(names, (*names[1:], names[0]), strict=True) for names in CIFAR100.values()]
    return {name: following for chain in chains for name, following in chain}
