"""Checks of single arguments, for the edge of the library: each says what came, what is allowed and what to do.

The wrong kind of thing is a TypeError, the wrong value of the right kind a ValueError.
"""

from __future__ import annotations

import math
import os
import reprlib
import sys
import warnings
from collections.abc import Iterable
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.arrays import elsewhere, is_array, library

__all__ = ["alike", "boolean", "choice", "floating", "function", "location", "real", "reals", "warn", "whole"]

# Plans and schedules are tables in memory: a count beyond this is a slip of the hand.
MANY = 100_000


def whole(name: str, value: Any, least: int = 1, most: float = MANY) -> int:
    """`value` as an integer from `least` to `most`: whole floats are, booleans are not."""
    value = number = _scalar(value)
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    number = number if isinstance(number, int) and not isinstance(value, bool) else None
    if number is None or not least <= number <= most:
        kind = ValueError if isinstance(value, Real) else TypeError
        bounds = f"at least {least}" if math.isinf(most) or number is None or number < least else f"at most {most:g}"
        raise kind(f"{name} is {_shown(value)}; it must be a whole number of {bounds}")
    return number


def real(name: str, value: Any, allowed: str = "a finite number", *, finite: bool = True) -> float:
    """`value` as a float, never NaN; `allowed` is what a message says that it must be."""
    if type(value) is not float:  # the common case costs nothing
        value = _scalar(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} is {_shown(value)}; it must be {allowed}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    # By comparison, which torch.compile can trace; NaN is within no bounds.
    if not (-math.inf < value < math.inf if finite else value == value):
        raise ValueError(f"{name} is {value:g}; it must be {allowed}")
    return value


def reals(name: str, values: Any) -> NDArray[Any]:
    """`values` as a NumPy array of integers or floats, of any shape; finite or not."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors that NumPy cannot read
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"{name} is {_shown(values)}; it must be real numbers that NumPy can read (of a tensor: "
            f".detach().cpu(), of a dtype that NumPy has)"
        )
    return array


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """`value`, one of the `known` names."""
    if not isinstance(value, str) or value not in known:
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} is {_shown(value)}; known are {', '.join(map(repr, known))}")
    return value


def boolean(name: str, value: Any, *, or_none: bool = False) -> bool:
    """`value`, which is True or False (or None, as False): a text or a number is mostly another argument's."""
    if not isinstance(value, (bool, np.bool_)) and not (value is None and or_none):
        raise TypeError(f"{name} is {_shown(value)}; it must be True{', False or None' if or_none else ' or False'}")
    return bool(value)


def location(name: str, value: Any) -> Path:
    """`value` as the path of a file, its `~` expanded."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise TypeError(f"{name} is {_shown(value)}; it must be the path of a file, a text or a pathlib.Path")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty; it must be the path of a file")
    if "\0" in os.fspath(value):
        raise ValueError(f"{name} is {_shown(value)}; it must be the path of a file, and none has a NUL in it")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} is {_shown(value)}, of whose user no home is known; write it out") from error


def function(name: str, value: Any, called: str) -> Any:
    """`value`, which can be `called` so."""
    if not callable(value):
        raise TypeError(f"{name} is {_shown(value)}; it must be a function that can be called as {called}")
    return value


def floating(name: str, x: Any) -> Any:
    """`x`, a floating array of NumPy, torch, JAX or CuPy."""
    if not is_array(x):
        raise TypeError(f"{name} is {_shown(x)}; it must be a dense floating array of NumPy, torch, JAX or CuPy")
    if not library(x).is_floating(x):
        raise TypeError(f"{name} is of dtype {x.dtype}; convert it to a floating one, images to about [-1, 1]")
    return x


def alike(name: str, value: Any, other: str, x: Any) -> None:
    """Refuses a `value` that is no floating array of the library and shape of `x`: none is broadcast in silence."""
    floating(other, x)
    floating(name, value)
    if library(value) is not library(x):
        raise TypeError(
            f"{name} is a {type(value).__name__} and {other} a {type(x).__name__}; pass arrays of one library"
        )
    if tuple(value.shape) != tuple(x.shape):
        raise ValueError(
            f"{name} is of shape {tuple(value.shape)} and {other} of {tuple(x.shape)}; pass one for each number"
        )
    if elsewhere(value, x):
        raise ValueError(f"{name} and {other} lie on {library(x).device(value)} and {library(x).device(x)}; move one")


def warn(message: str) -> None:
    """Warns at the line outside of the library that it was called from, through however many of its own functions."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pndm_solvers"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _scalar(value: Any) -> Any:
    """What a 0-d array or tensor holds; anything else as it is."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item() if not is_array(value) or library(value).has_numbers(value) else value
    except NotImplementedError:  # JAX's random keys, which are arrays of no numbers
        return value


def _shown(value: Any) -> str:
    """The value's beginning, on one line, and what it is where that does not show."""
    text = " ".join(reprlib.repr(value).split())
    return text if isinstance(value, (str, int, float, type(None))) else f"{text}, a {type(value).__name__}"
