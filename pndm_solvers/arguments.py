"""Checks of single arguments: numbers, names, paths and functions. Each error says what came and what is allowed.

The wrong kind of thing is a TypeError, a wrong value of the right kind a ValueError. Checks of arrays are in
`arrays.py`.
"""

from __future__ import annotations

import math
import os
import reprlib
from collections.abc import Callable, Iterable
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["boolean", "check_options", "choice", "function", "location", "real", "reals", "shown", "whole"]

# Plans and schedules are tables in memory: a count beyond this is almost certainly a typo.
MANY = 100_000


def whole(name: str, value: Any, least: int = 1, most: float = MANY) -> int:
    """`value` as an integer from `least` to `most`. Whole floats count as integers, booleans do not."""
    value = number = _scalar(value)
    if isinstance(value, float) and value.is_integer():
        number = int(value)
    number = number if isinstance(number, int) and not isinstance(value, bool) else None
    if number is None or not least <= number <= most:
        kind = ValueError if isinstance(value, Real) else TypeError
        bounds = f"at least {least}" if math.isinf(most) or number is None or number < least else f"at most {most:g}"
        raise kind(f"{name} is {shown(value)}; it must be a whole number of {bounds}")
    return number


def real(
    name: str,
    value: Any,
    allowed: str = "a finite number",
    # Two comparisons: torch.compile can trace them, and NaN fails them.
    holds: Callable[[float], bool] = lambda number: -math.inf < number < math.inf,
) -> float:
    """`value` as a float for which `holds`, in words `allowed`."""
    if type(value) is not float:  # the common case costs nothing
        value = _scalar(value)
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} is {shown(value)}; it must be {allowed}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not holds(value):
        raise ValueError(f"{name} is {value:g}; it must be {allowed}")
    return value


def from_zero(name: str, value: Any) -> float:
    """A finite number from 0. TypeError or ValueError for anything else."""
    return real(name, value, "a number from 0", lambda number: 0 <= number < math.inf)


def reals(name: str, values: Any) -> NDArray[Any]:
    """`values` as a NumPy array of integers or floats, of any shape; finite or not."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors that NumPy cannot read
        array = np.empty(0, object)
    if array.dtype.kind not in "iuf":
        raise TypeError(
            f"{name} is {shown(values)}; it must be real numbers that NumPy can read (of a tensor: "
            f".detach().cpu(), of a dtype that NumPy has)"
        )
    return array


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """`value`, one of the `known` names."""
    if not isinstance(value, str) or value not in known:
        kind = ValueError if isinstance(value, str) else TypeError
        raise kind(f"{name} is {shown(value)}; known are {', '.join(map(repr, known))}")
    return value


def boolean(name: str, value: Any) -> bool:
    """`value`, which is True or False: a text or a number there is mostly meant for another argument."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {shown(value)}; it must be True or False")
    return bool(value)


def location(name: str, value: Any) -> Path:
    """`value` as the path of a file, its `~` expanded."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} is {shown(value)}; it must be the path of a file, a text or a pathlib.Path")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty; it must be the path of a file")
    from pathlib import Path  # here and below: imports that take milliseconds, and that most programs never need

    return Path(value).expanduser()


# Options of one function that are a step of their own before another.
AROUND = "pndm_solvers.latents.around(mean, noise, plan.levels[0])"
ELSEWHERE = {
    ("plan", "data_mean"): f"pass it to Solver.sample, or run the plan from {AROUND}",
    ("run", "data_mean"): f"pass the state that has it: {AROUND}",
    ("run", "data_range"): "it chooses where a plan begins: pass it to Solver.plan",
}


def check_options(called: str, given: Iterable[str], known: Iterable[str]) -> None:
    """TypeError, as Python's own, for an option that a function does not have; it names the nearest that it has."""
    known = sorted(known)
    for name in given:
        if name not in known:
            from difflib import get_close_matches

            near = get_close_matches(name, known, 1, 0.4)
            if name.endswith("steps") and "num_inference_steps" in known:  # by letters "timesteps" is nearer
                near = ["num_inference_steps"]
            hint = f"did you mean {near[0]}" if near else f"options are {', '.join(known)}"
            hint = ELSEWHERE.get((called, name), hint)
            raise TypeError(f"{called}() got an unexpected keyword argument {name!r}; {hint}")


def function(name: str, value: Any, called: str) -> Any:
    """`value`, which must be callable; error messages show the call as `called`."""
    if not callable(value):
        raise TypeError(f"{name} is {shown(value)}; it must be a function that can be called as {called}")
    return value


def shown(value: Any) -> str:
    """The beginning of the value's repr, on one line, and its type where the repr does not show it."""
    text = " ".join(reprlib.repr(value).split())
    return text if isinstance(value, (str, int, float, type(None))) else f"{text}, a {type(value).__name__}"


def _scalar(value: Any) -> Any:
    """The number in a 0-d array or tensor; anything else unchanged."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except Exception:  # each library's own, for arrays without numbers: sparse, on the meta device, within jax.jit
        return value
