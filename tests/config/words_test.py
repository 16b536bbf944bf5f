"""A method in a word: the runs it stands for, and names of configs and folders."""

import pytest

from kdmlc_jax.config import words
from kdmlc_jax.errors import UserError


@pytest.mark.parametrize(
    "method, expected",
    [
        ("ce:train_on=noisy", ["method=ce,train_on=noisy,network=student", "method=ce,train_on=noisy,network=teacher"]),
        ("mlc:network=student,ema=0.9", ["method=mlc,network=student,ema=0.9"]),
        ("mlc", ["method=mlc,network=student", "method=mlc,network=teacher"]),
        ("kdmlc:preset=strong", ["method=kdmlc,preset=strong"]),
        ("kdmlc", ["method=kdmlc"]),
    ],
)
def test_expand(method, expected):
    """Protects fairness: a method of one network runs on both, unless it is told which."""
    assert words.expand(method) == expected


def test_expand_refuses_an_unknown_method():
    """Protects a long comparison from a typing error in its list: it ends before the first run."""
    with pytest.raises(UserError, match=r'method\.name: "kdmcl" is not one of .*did you mean "kdmlc"'):
        words.expand("kdmcl:preset=strong")


def test_join():
    """Protects the name of a cell's config, with and without arguments of its own."""
    assert words.join("a.py", "method=ce,seed=1") == "a.py:method=ce,seed=1"
    assert words.join("a.py:rate=0.8", "method=ce") == "a.py:rate=0.8,method=ce"


@pytest.mark.parametrize(
    "text, expected", [("ce,train_on=both", "ce,train_on=both"), ("a b/../c", "a-b-..-c"), ("x=(1, 2)", "x=-1,-2")]
)
def test_slug(text, expected):
    """Protects the file system: no separator, space or bracket in a folder's name."""
    assert words.slug(text) == expected
