"""Arrays of any library: which one an array is of, sums, and the checks of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pndm_solvers.arguments import shown
from pndm_solvers.libraries import LIBRARIES, ArrayLibrary

__all__ = ["check_floating", "check_state", "check_together", "combine", "is_array", "library"]

_STANDARD = ArrayLibrary()


def _library_of(kind: type) -> ArrayLibrary | None:
    for base in kind.__mro__:
        found = LIBRARIES.get(base.__module__.partition(".")[0])
        if found is not None and hasattr(kind, "ndim"):  # a torch.Generator, say, is no array
            return found
    return _STANDARD if hasattr(kind, "__array_namespace__") or issubclass(kind, (np.ndarray, np.generic)) else None


def is_array(x: Any) -> bool:
    """Whether `x` is a dense array of a known library."""
    found = _library_of(type(x))
    return found is not None and found.is_dense(x)


def library(x: Any) -> ArrayLibrary:
    """The library of the array `x`; TypeError for anything else."""
    found = _library_of(type(x))
    if found is None:
        raise TypeError(f"a state must be an array of NumPy, torch, JAX or CuPy, not a {type(x).__name__}")
    return found


def combine(arrays: Sequence[Any], weights: Sequence[float], dtype: Any = None) -> Any:
    """Σ weight·array, by the first array's library, on its device, and in its dtype unless another is given."""
    return library(arrays[0]).combine(arrays, weights, arrays[0].dtype if dtype is None else dtype)


# ---------------------------------------------------------------------- checks


def check_floating(name: str, x: Any) -> None:
    """TypeError unless `x` is a dense floating array."""
    if not is_array(x):
        raise TypeError(f"{name} is {shown(x)}; it must be a dense floating array of NumPy, torch, JAX or CuPy")
    if not library(x).is_floating(x):
        raise TypeError(f"{name} is of dtype {x.dtype}; convert it to a floating one, images to about [-1, 1]")


def check_state(name: str, x: Any) -> None:
    """TypeError or ValueError unless `x` is a dense floating array `(B, …)`."""
    check_floating(name, x)
    if x.ndim < 1:
        raise ValueError(f"{name} is a scalar; it must be (B, …) with the batch first")


def check_together(
    name: str,
    value: Any,
    other: str,
    x: Any,
    *,
    shape: Sequence[int] | None = None,
    dtype: bool = False,
    floating: bool = True,
) -> None:
    """TypeError or ValueError unless `value` goes together with the floating array `x`.

    It must be of x's library, on x's device, of x's shape (or of `shape`), and `floating`. With `dtype` it must also
    have x's dtype. Nothing is broadcast in silence.
    """
    if floating:
        check_floating(name, value)
    elif not is_array(value):
        raise TypeError(f"{name} is {shown(value)}; it must be a dense array, of the library of {other}")
    ours, shape = library(x), tuple(x.shape if shape is None else shape)
    if type(value) is not type(x) and (library(value) is not ours or ours.name(value) != ours.name(x)):
        raise TypeError(
            f"{name} is a {type(value).__name__} and {other} a {type(x).__name__}; pass arrays of one library"
        )
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} is of shape {tuple(value.shape)}; beside {other} it must be of shape {shape}")
    if dtype and value.dtype != x.dtype:
        raise ValueError(f"{name} is of dtype {value.dtype} and {other} of {x.dtype}; convert one of them")
    # JAX describes how an array is spread over several devices; a network may spread its answer otherwise.
    here, there = (getattr(place, "device_set", place) for place in (ours.device(x), ours.device(value)))
    if None not in (here, there) and here != there:
        raise ValueError(f"{name} lies on the device {there} and {other} on {here}; move one of them")
