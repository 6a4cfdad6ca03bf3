"""What Python 3.10, NumPy 1.26 and CuPy lack."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

__all__ = ["NUMPY_1", "Completed", "Self", "Unpack"]

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


class Completed:
    """NumPy 1.26 or CuPy as a module of the array standard: the names that it lacks, or has for other signatures."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.acos, self.concat = module.arccos, module.concatenate
        self.linalg = SimpleNamespace(vector_norm=module.linalg.norm)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def isdtype(self, dtype: Any, kinds: str | tuple[str, ...]) -> bool:
        """As in the standard."""
        letters = {"real floating": "f", "integral": "iu", "bool": "b"}
        return any(dtype.kind in letters[kind] for kind in ((kinds,) if isinstance(kinds, str) else kinds))

    def astype(self, x: Any, dtype: Any, *, copy: bool = True) -> Any:
        """As in the standard."""
        return x.astype(dtype, copy=copy)

    # CuPy's devices are contexts; NumPy 1.26 has none.
    def asarray(self, values: Any, *, dtype: Any = None, device: Any = None) -> Any:
        """As in the standard."""
        with device or nullcontext():
            return self.module.asarray(values, dtype)

    def full(self, shape: Sequence[int], value: float, *, dtype: Any = None, device: Any = None) -> Any:
        """As in the standard."""
        with device or nullcontext():
            return self.module.full(shape, value, dtype)


NUMPY_1 = Completed(np)
