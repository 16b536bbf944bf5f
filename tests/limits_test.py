"""Limits that a machine holds a run to."""

import pytest

from kdmlc_jax import limits
from kdmlc_jax.errors import LimitError, UserError

SUMMARY = {"noise": {"estimated": 0.2}, "labels": {"flagged": 30}}


def test_what_is_read():
    """Protects both figures, and blanks."""
    assert limits.parse("noise=0.1, flagged = 500") == {"noise": 0.1, "flagged": 500.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nois=.1", 'fail-on: "nois" is not one of noise, flagged .did you mean "noise"'),
        ("noise", '--fail-on noise: "" is not a number'),
        ("noise=many", "is not a number"),
        ("noise=10", "--fail-on noise: 10.0 is outside .0, 1."),
        ("flagged=-1", "outside"),
        ("flagged=nan", "outside"),
        ("", "is not one of"),
    ],
)
def test_what_is_refused(text, message):
    """Protects a pipeline from a limit that never holds it."""
    with pytest.raises(UserError, match=message):
        limits.parse(text)


def test_figures_at_and_above():
    """Protects the border, and what was not estimated: nobody can say that it is low."""
    limits.check({"noise": 0.2, "flagged": 30.0}, SUMMARY)
    with pytest.raises(LimitError, match=r"^flagged: 30, at most 29 is allowed$"):
        limits.check({"noise": 0.2, "flagged": 29.0}, SUMMARY)
    with pytest.raises(LimitError, match=r"noise: not estimated, at most 1 is allowed"):
        limits.check({"noise": 1.0}, {**SUMMARY, "noise": {"estimated": None}})
