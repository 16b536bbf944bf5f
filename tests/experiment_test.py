"""What an experiment asks of data and method before anything is trained."""

import math
from functools import cache

import jax
import numpy as np
import pytest
import tiny

from kdmlc_jax import experiment, nets
from kdmlc_jax.data.prepare import prepare
from kdmlc_jax.errors import NoTrustedError, UserError
from kdmlc_jax.methods.base import Method, Stage, Streams, Traits


@cache
def dataset():
    return prepare(tiny.config())


class Needy(Method):
    """A method of given traits, whose steps read trusted images or none."""

    def __init__(self, trusted=0, **traits):
        self.traits, self._trusted = Traits(deployed="student", **traits), trusted

    @property
    def stages(self):
        return (Stage("train", 1, Streams(noisy=40, trusted=self._trusted), lambda *_: None),)

    init = predict = correct = networks = None


def refused(method, data, error=UserError, **fields):
    with pytest.raises(error) as caught:
        experiment.check_needs(method, tiny.config("method=ce", fields), data)
    return str(caught.value)


def without(data, classes):
    """The data set with no trusted image of these classes."""
    rows = data.splits.trusted
    kept = rows[~np.isin(data.given_label[rows], classes)]
    return data._replace(splits=data.splits._replace(trusted=kept))


def test_a_trusted_image_of_every_class():
    """Protects methods that cannot learn a class without a trusted image: its name is told; others do without."""
    assert "no trusted image of 3, 7; ce needs one or more of each class" in refused(
        Needy(needs_trusted=True), without(dataset(), [3, 7])
    )
    assert "no trusted image of 0, 1, 2, 3, 4 …" in refused(Needy(needs_trusted=True), without(dataset(), range(9)))
    for data in (dataset(), without(dataset(), [3, 7])):
        experiment.check_needs(Needy(trusted=40), tiny.config("method=ce"), data)
    experiment.check_needs(Needy(needs_trusted=True), tiny.config("method=ce"), dataset())


@pytest.mark.parametrize("method, wanted", [(Needy(trusted=40), 40), (Needy(needs_trusted=True), 1)])
def test_no_trusted_images(method, wanted):
    """Protects from a run without what its method learns from; a comparison takes it for a reason to leave it out."""
    message = refused(method, without(dataset(), range(10)), NoTrustedError)
    expected = f"data.trusted: no trusted images, and ce learns from them, expected {wanted} or more; "
    assert message.startswith(expected) and message.endswith(", or take a method that needs none")
    experiment.check_needs(Needy(), tiny.config("method=ce"), without(dataset(), range(10)))


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"data.source": "folder", "data.dir": "photos"}, "into photos/trusted/<class>/, the others below train/"),
        ({"data.source": "folder", "data.manifest": "a.csv"}, "say yes in a column trusted of a.csv"),
        ({"data.source": "features", "data.dir": "f"}, "name their rows in f/trusted.npy"),
        ({"data.source": "digits"}, "data.trusted=100 draws them"),
    ],
)
def test_where_trusted_images_are_put(fields, where):
    """Protects who has none: what to do is said for their kind of data."""
    assert where in refused(Needy(needs_trusted=True), without(dataset(), range(10)), NoTrustedError, **fields)


def test_what_a_method_has_no_use_for():
    """Protects a user who thinks that it helps: a trained teacher is refused by methods without a use."""
    fields = {"teacher.run": "runs/x"}
    assert "teacher.run: ce takes no trained teacher" in refused(Needy(), dataset(), **fields)
    experiment.check_needs(Needy(takes_teacher=True), tiny.config("method=ce", fields), dataset())


def test_how_uneven_classes_are_expected_to_be():
    """Protects the guard against collapse: the entropy of given or of trusted labels, whichever says less; trusted
    images that were drawn are as many of each class."""
    data, splits = dataset(), dataset().splits
    given = data.given_label.copy()
    given[splits.noisy] = np.arange(len(splits.noisy)) % 20 == 0  # .95 and .05
    unequal = experiment.describe(data._replace(given_label=given), 40).class_entropy
    assert unequal == pytest.approx(-0.95 * math.log(0.95) - 0.05 * math.log(0.05), rel=1e-5)
    given[splits.noisy], given[splits.trusted] = np.arange(len(splits.noisy)) % 10, np.arange(100) % 2
    assert experiment.describe(data._replace(given_label=given), 40).class_entropy == pytest.approx(math.log(2))
    none = without(data._replace(given_label=given), range(10))
    assert experiment.describe(none, 40).class_entropy == pytest.approx(math.log(10))


def test_own_labels_are_counted():
    """Protects what a method is told: of how many trusted images, and of these alone, the own given label is known."""
    data = dataset()
    own = np.full_like(data.given_label, -1)
    assert experiment.describe(data._replace(trusted_given=own), 40).num_own_given == 0
    own[data.splits.trusted[:7]] = 0
    assert experiment.describe(data._replace(trusted_given=own), 40).num_own_given == 7


def test_named_streams():
    """Protects random numbers from meeting: streams of other names and seeds are other keys, the same ones the same."""
    drawn = [jax.random.bits(experiment.stream(seed, name)).item() for seed in (0, 1) for name in ("init", "train")]
    assert len(set(drawn)) == 4
    assert jax.random.bits(experiment.stream(1, "train")).item() == drawn[-1]


KDMLC = "method=kdmlc,preset=strong,warm_up=0"
FROZEN = [(KDMLC, "teacher"), (KDMLC, "student"), ("method=ce,network=teacher,train_on=both", "teacher")]


@pytest.mark.parametrize("words, place", FROZEN)
def test_a_frozen_network(words, place):
    """Protects `freeze` in a step, with a look-ahead through the teacher too: the network's last layer learns, all
    else of it stands to the bit, and another one learns whole."""
    config = tiny.config(f"{words},teacher=mlp6,student=mlp4", {f"{place}.freeze": True, "init_from": "runs/other"})
    made = experiment.Experiment(config, prepare(config))
    before = jax.tree.map(np.array, made.init())
    carry, (stage, *_) = made.init(), made.method.stages
    step = made.compile(stage)
    for feed in made.feeds(stage, 0, 3):
        carry, _ = made.call(step, carry, feed)
    networks = made.method.networks
    pair = networks(before["method"]), networks(jax.tree.map(np.array, carry)["method"])
    for name in pair[0]:
        was, now = (each[name] for each in pair)
        moved = {
            layer: any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (part, now.params[layer])), strict=True))
            for layer, part in was.params.items()
        }
        assert moved == {layer: name != place or layer == nets.head_of(was.params) for layer in moved}
        stats = zip(*map(jax.tree.leaves, (was.batch_stats, now.batch_stats)), strict=True)
        assert any((a != b).any() for a, b in stats) == (name != place)


def test_networks_learn_more_slowly_below_the_head():
    """Protects `lr_below` of either network in a step: with next to nothing of it, only the last layer moves much."""
    words = "method=kdmlc,preset=strong,warm_up=0,teacher=mlp6,student=mlp4"
    config = tiny.config(words, {"teacher.lr_below": 1e-6, "student.lr_below": 1e-6})
    made = experiment.Experiment(config, prepare(config))
    before, carry, (stage, *_) = jax.tree.map(np.array, made.init()), made.init(), made.method.stages
    (feed,) = made.feeds(stage, 0, 1)
    carry, _ = made.call(made.compile(stage), carry, feed)
    for name, net in made.method.networks(before["method"]).items():
        now = made.method.networks(carry["method"])[name].params
        moved = {}
        for layer, part in net.params.items():
            pairs = zip(*map(jax.tree.leaves, (part, now[layer])), strict=True)
            moved[layer] = max(np.abs(a - b).max() for a, b in pairs)
        head = moved.pop(nets.head_of(net.params))
        assert moved and max(moved.values()) < 1e-4 * head


def test_what_cannot_be_frozen():
    """Protects from a network of random weights that stand, and from a method that learns the layers themselves."""
    with pytest.raises(UserError, match=r"teacher.freeze: random weights would stand still, expected a start"):
        config = tiny.config("method=ce,network=teacher", {"teacher.freeze": True})
        experiment.Experiment(config, prepare(config))
    with pytest.raises(UserError, match=r"teacher.freeze: simclr learns what is below the last layer"):
        config = tiny.config("method=simclr", {"teacher.freeze": True, "init_from": "runs/other"})
        experiment.Experiment(config, prepare(config))
