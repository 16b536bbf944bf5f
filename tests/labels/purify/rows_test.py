"""The parts of the rows that share a regression."""

import numpy as np
import pytest

from kdmlc_jax.labels.purify.rows import partition


@pytest.mark.parametrize(("total", "size"), [(10, 3), (10, 10), (10, 500), (11, 2), (7000, 499), (2, 2)])
def test_batches_hold_each_row_once(total, size):
    """Protects every row, the last ones too: parts that differ by one row, none over the size, filled up with N."""
    order = np.random.default_rng(0).permutation(total)
    parts = partition(order, size)
    real = parts < total
    np.testing.assert_array_equal(parts[real], order)
    assert parts.shape[1] <= size and set(np.ptp(real.sum(axis=1), keepdims=True)) <= {0, 1}
    assert (parts[~real] == total).all()
