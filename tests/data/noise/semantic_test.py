"""Asymmetric noise between classes that look alike, by class name."""

import numpy as np
import pytest

from kdmlc_jax.data import noise
from kdmlc_jax.data.noise import semantic as noise_semantic
from kdmlc_jax.errors import UserError

# Not in the order of the published numbers: the map goes by name.
CIFAR10 = ("frog", "cat", "truck", "horse", "Dog", "ship", "bird", "automobile", "deer", "airplane")


def test_semantic_map_of_cifar10():
    """Protects the published asymmetric noise: five named pairs at the rate, the other classes untouched."""
    matrix = noise.transition_matrix("semantic", 0.4, 10, 0, CIFAR10)
    pairs = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "Dog", "Dog": "cat"}
    for row, name in enumerate(CIFAR10):
        expected = {name: 0.6, pairs[name]: 0.4} if name in pairs else {name: 1.0}
        np.testing.assert_allclose(matrix[row], [expected.get(other, 0.0) for other in CIFAR10])


def test_semantic_map_of_cifar100():
    """Protects the cycles: 20 superclasses of five, each class to the next one and back after five steps."""
    names = sorted(name for group in noise_semantic.CIFAR100.values() for name in group)
    assert len(noise_semantic.CIFAR100) == 20 and len(set(names)) == 100
    step = noise_semantic.semantic_targets(names)
    walk = [np.arange(100)]
    for _ in range(5):
        walk.append(step[walk[-1]])
    np.testing.assert_array_equal(walk[5], walk[0])
    assert all((walk[k] != walk[0]).all() for k in range(1, 5))
    following = {name: names[step[row]] for row, name in enumerate(names)}
    # By hand, from the list of superclasses on the set's page.
    for name, other in [("beaver", "dolphin"), ("whale", "beaver"), ("man", "woman"), ("tractor", "lawn_mower")]:
        assert following[name] == other
    # Within a superclass the numbers of the classes, which are those of the sorted names, rise up to the last.
    assert (step > walk[0]).sum() == 80
    blanks = [name.replace("_", " ").title() for name in names]
    np.testing.assert_array_equal(noise_semantic.semantic_targets(blanks), step)


@pytest.mark.parametrize("names", [(), ("0", "1", "2", "3", "4"), CIFAR10[:9], (*CIFAR10[:9], "cat")])
def test_semantic_of_other_classes(names):
    """Protects the user of another set: told what is supported and what to do instead."""
    with pytest.raises(UserError) as caught:
        noise.transition_matrix("semantic", 0.4, max(len(names), 2), 0, names)
    for part in ('"semantic"', "CIFAR-10 and CIFAR-100 only", f"found {len(names)} classes", '"matrix"'):
        assert part in str(caught.value)
