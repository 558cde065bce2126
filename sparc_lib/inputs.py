"""What callers give: numbers and columns that mean what they say, or an error that names them."""

import math
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def whole_number(value: Any, name: str) -> int:
    """`value` as a plain int: torch reads no other from a checkpoint. ValueError for fractions and text."""
    if not isinstance(value, Integral) or isinstance(value, bool | np.bool_):
        raise ValueError(f"{name}: got {value!r}; give a whole number")
    return int(value)


def at_least_one(value: Any, name: str) -> int:
    """As `whole_number`, and ValueError below 1."""
    number = whole_number(value, name)
    if number < 1:
        raise ValueError(f"{name}={number}: must be at least 1")
    return number


def demand_weights(**weights: Any) -> None:
    """Raise ValueError unless each can weigh a term of a loss: a finite number of at least 0."""
    for name, value in weights.items():
        if not isinstance(value, Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name}: got {value!r}; give a finite number of at least 0")


def real_numbers(values: Any, name: str) -> Any:
    """`values`, if they are dense real numbers, such that `torch.as_tensor` reads them: it refuses other byte
    orders and backward views, and of masked and complex arrays it loses what makes them so. Lists stay lists.

    Raises ValueError, naming `name`, for masks, complex numbers, text, objects and sparse matrices.
    """
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise ValueError(f"{name}: a sparse tensor; give it as SciPy's CSR, or values.to_dense()")
        if values.is_complex():
            raise ValueError(f"{name}: complex numbers; give real ones, say their absolute values")
        return values
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"{name}: a masked array, whose mask would be lost; fill it (.filled) or leave rows out"
        )
    if hasattr(values, "tocsr"):
        raise ValueError(f"{name}: a sparse matrix; give it dense, values.toarray()")
    if not hasattr(values, "__array__"):
        return values
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}: holds {array.dtype}; give real numbers, as float32 or float64")
    if array.dtype == np.longdouble:  # torch has none
        array = array.astype(np.float64)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.copy() if min(array.strides, default=0) < 0 else array


def listed(column: Iterable, name: str) -> list:
    """The entries of a column in their order. ValueError for text, sets and mappings: they are none."""
    if isinstance(column, str | bytes | Set | Mapping) or not isinstance(column, Iterable):
        raise ValueError(
            f"{name}: got a {type(column).__name__}; give a list, one entry each, in their order"
        )
    return list(column)
