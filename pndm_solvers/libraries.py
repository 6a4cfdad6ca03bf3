"""The array libraries that have code of their own.

A library that does not follow the array API standard, or that has a faster linear combination, is one subclass of
`ArrayLibrary` and one entry of `LIBRARIES`. No other module of the core tells array libraries apart.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from pndm_solvers.array_library import ArrayLibrary
from pndm_solvers.older import Completed
from pndm_solvers.torch_library import TorchLibrary

__all__ = ["LIBRARIES", "ArrayLibrary", "CupyLibrary", "JaxLibrary", "NumpyLibrary"]


class NumpyLibrary(ArrayLibrary):
    """NumPy, which follows the standard, and can write into arrays that there are."""

    def writes_again(self, x: Any) -> bool:
        counted = hasattr(sys, "getrefcount")  # CPython's alone
        return counted and type(x) is np.ndarray and x.dtype.itemsize >= 4 and x.ndim > 0 and x.base is None

    def alike(self, answer: Any, x: Any) -> bool:
        return type(answer) is np.ndarray and answer.shape == x.shape and answer.dtype.kind == "f"

    def matcher(self, x: Any) -> Callable[[Any], bool]:
        dtype, shape = x.dtype, x.shape
        return lambda answer: type(answer) is np.ndarray and answer.dtype == dtype and answer.shape == shape

    def fits(self, answer: Any, x: Any) -> bool:
        return answer.dtype.itemsize <= x.dtype.itemsize

    def empty_like(self, x: Any) -> Any:
        return np.empty_like(x)

    def scratch(self, x: Any) -> Any:
        return np.empty_like(x)

    def scale(self, x: Any, weight: float, out: Any) -> None:
        np.multiply(x, weight, out=out)

    def add(self, total: Any, x: Any, weight: float, scratch: Any) -> Any:
        if x.dtype != total.dtype:
            scratch[...] = x
            x = scratch
        return np.add(total, np.multiply(x, weight, out=scratch), out=total)

    def fill(self, x: Any, values: Any) -> None:
        x[...] = values

    def clip_in_place(self, x: Any, bound: float) -> Any:
        return np.clip(x, -bound, bound, out=x)

    def alias(self, x: Any) -> Any:
        return x.view()

    def holders(self, x: Any) -> Callable[[], int]:
        # By the array: whatever shares its memory holds it as its base.
        return lambda: sys.getrefcount(x)

    def all_times(self, x: Any, ts: Sequence[float], dtype: Any, *, integer: bool) -> Sequence[Any]:
        kind = self.times(x[:0], 0.0, dtype, integer=integer).dtype
        return list(np.repeat(np.array(ts, np.float64).astype(kind)[:, None], len(x), 1))


class CupyLibrary(ArrayLibrary):
    """CuPy, whose functions have the standard's names, but take no device."""

    def namespace(self, x: Any) -> Any:
        return _cupy()


@cache
def _cupy() -> Any:
    return Completed(import_module("cupy"))


class JaxLibrary(ArrayLibrary):
    """JAX, which follows the standard, and has derivatives."""

    def vjp(self, function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
        import jax

        value, pullback = jax.vjp(function, x)
        return value, lambda e: pullback(e)[0]


# The keys are top-level modules: the one that defines an array's class, or a base of that class.
# JAX's arrays are of jaxlib, and what they are while a function is compiled or differentiated is of jax.
_JAX = JaxLibrary()
LIBRARIES: dict[str, ArrayLibrary] = {
    "numpy": NumpyLibrary(),
    "torch": TorchLibrary(),
    "cupy": CupyLibrary(),
    "jax": _JAX,
    "jaxlib": _JAX,
}
