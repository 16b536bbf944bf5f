"""What a purifier is given must be usable, and what it gives finite."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, Integer

from kdmlc_jax.arrays import check_features, check_labels
from kdmlc_jax.errors import NonFiniteError, UserError, in_range

Pair = tuple[np.ndarray, np.ndarray]


def check_views(features: Any, trusted: Any, second: Any = None, second_trusted: Any = None) -> list[Pair]:
    """(features, trusted features) of both purifiers, f32; the same arrays twice where there is no second view.

    Raises:
      UserError: naming the argument as `purify` does.
    """
    if (second is None) != (second_trusted is None):
        raise UserError("second_features: they come with second_trusted_features, expected both or neither")
    first = check_view("features", features, "trusted_features", trusted)
    if second is None:
        return [first, first]
    other = check_view("second_features", second, "second_trusted_features", second_trusted)
    for name, got, want in zip(("second_features", "second_trusted_features"), other, first, strict=True):
        if len(got) != len(want):
            raise UserError(f"{name}: {len(got)} rows, expected {len(want)} as in {name.removeprefix('second_')}")
    return [first, other]


def check_view(name: str, features: Any, trusted_name: str, trusted: Any) -> Pair:
    """Both as f32, of as many columns; raises UserError."""
    rows, known = check_features(name, features), check_features(trusted_name, trusted)
    if known.shape[1] != rows.shape[1]:
        raise UserError(f"{trusted_name}: {known.shape[1]} columns, expected {rows.shape[1]} as in {name}")
    return rows, known


def check_label_pair(
    given: Any, trusted: Any, rows: Pair, num_classes: int | None
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " M"], int]:
    """Both labels and C (1 + the largest label where it is None); `rows` are the features and the trusted ones.

    Raises:
      UserError: naming the argument as `purify` does; also where a class has no trusted row.
    """
    if num_classes is not None:
        in_range("num_classes", num_classes, 2)
    arrays = []
    for name, values, count in zip(("given_label", "trusted_label"), (given, trusted), map(len, rows), strict=True):
        array = np.asarray(values)
        if array.shape != (count,):
            raise UserError(f"{name}: shape {array.shape}, expected [{count}], a label for each row of features")
        largest = int(array.max()) + 1 if np.issubdtype(array.dtype, np.integer) else 1
        check_labels(array, largest if num_classes is None else num_classes, name)
        arrays.append(array)
    classes = int(max(array.max() for array in arrays)) + 1 if num_classes is None else int(num_classes)
    if classes < 2:
        raise UserError("given_label: all labels are 0, expected two classes or more")
    check_present(arrays[1], classes)
    given, trusted = (array.astype(np.int32) for array in arrays)
    return given, trusted, classes


def check_present(trusted: Integer[np.ndarray, " M"], classes: int) -> None:
    """Raises UserError where a class has no trusted row."""
    present = set(np.unique(trusted).tolist())
    absent = classes - len(present)
    if absent:
        named = [label for label in range(min(classes, len(present) + 10)) if label not in present][:10]
        more = f" and {absent - len(named)} more" if absent > len(named) else ""
        listed = ", ".join(map(str, named))
        raise UserError(f"trusted_label: no row of class {listed}{more}, expected one or more of each of {classes}")


def check_finite(soft: jax.Array, **rates: float) -> Float[np.ndarray, "N C"]:
    """`soft` on the host; raises NonFiniteError, with the rates that were used, where it is not finite."""
    result = np.asarray(soft)
    if not np.isfinite(result).all():
        used = ", ".join(f"{name}={rate:g}" for name, rate in rates.items())
        raise NonFiniteError(f"labels became NaN or infinite ({used}), smaller rates may help")
    return result
