"""Rows of an array are those of the images they are named after."""

import numpy as np
import pytest

from kdmlc_jax.data.formats.rows import rows_of
from kdmlc_jax.errors import UserError

IDS = np.array(["a/2.png", "a/10.png", "b/1.png"])


def test_rows_follow_names(tmp_path):
    """Protects features and labels from another order of the images, and from rows of images that are not there."""
    (tmp_path / "ids.txt").write_text("b/1.png\na/10.png\nleft/out.png\na/2.png\n")
    np.testing.assert_array_equal(rows_of(tmp_path / "f.npy", 4, 3, IDS), [3, 1, 0])


def test_numbered_images_are_taken_in_their_order(tmp_path):
    """Protects published sets, whose images have no names: a row each."""
    np.testing.assert_array_equal(rows_of(tmp_path / "f.npy", 3, 3, None), [0, 1, 2])
    with pytest.raises(UserError, match=r"f\.npy: 4 rows, expected 3, one for each image in their order"):
        rows_of(tmp_path / "f.npy", 4, 3, None)


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (None, r'ids.txt: no such file; these images have names \("a/2.png"\), and rows of f.npy are told apart by'),
        ("a/2.png\na/10.png", "ids.txt: 2 lines, expected 3, the rows of f.npy"),
        ("a/2.png\na/10.png\nb/11.png", r'ids.txt: no line for "b/1.png" \(1 such images\)'),
        ("a/2.png\na/10.png\na/2.png", 'ids.txt line 3: "a/2.png" is in line 1 already'),
        ("a/2.png\n\nb/1.png", "ids.txt line 2: empty, expected a name"),
    ],
)
def test_names_that_do_not_fit(tmp_path, lines, says):
    """Protects from rows that would be taken for those of other images."""
    if lines is not None:
        (tmp_path / "ids.txt").write_text(lines)
    with pytest.raises(UserError, match=says):
        rows_of(tmp_path / "f.npy", 3, 3, IDS)
