"""What Python 3.10 and NumPy 1.26 lack."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

__all__ = ["NUMPY_1", "Self", "Unpack"]

if sys.version_info >= (3, 11):
    from typing import Self, Unpack
elif TYPE_CHECKING:
    from typing_extensions import Self, Unpack
else:
    Self = Any

    class Unpack:
        """So that an annotation can be evaluated."""

        def __class_getitem__(cls, options: Any) -> Any:
            return options


class NumPy1:
    """NumPy as a module of the standard: the names that version 1.26 lacks, or has for other signatures."""

    acos, concat = staticmethod(np.arccos), staticmethod(np.concatenate)
    linalg = SimpleNamespace(vector_norm=np.linalg.norm)

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def isdtype(self, dtype: Any, kinds: str | tuple[str, ...]) -> bool:
        letters = {"real floating": "f", "integral": "iu", "bool": "b"}
        return any(dtype.kind in letters[kind] for kind in ((kinds,) if isinstance(kinds, str) else kinds))

    def astype(self, x: Any, dtype: Any, *, copy: bool = True) -> Any:
        return x.astype(dtype, copy=copy)

    def asarray(self, values: Any, *, dtype: Any = None, device: Any = None) -> Any:
        return np.asarray(values, dtype)

    def full(self, shape: Sequence[int], value: float, *, dtype: Any = None, device: Any = None) -> Any:
        return np.full(shape, value, dtype)


NUMPY_1 = NumPy1()
