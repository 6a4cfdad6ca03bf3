"""The array libraries that the tests run over. To test another one, add it to LIBRARIES."""

import importlib
from dataclasses import dataclass
from typing import Any

import array_api_strict
import jax
import jax.numpy as jnp
import numpy as np
import torch

from pndm_solvers.arrays import library


@dataclass(frozen=True)
class Library:
    """An array library, and what it has without further configuration.

    Attributes
    ----------
    namespace:
        The module that makes its arrays.
    dtypes:
        The names of its floating dtypes of 16 bits and more, the widest last.
    eight_bits:
        The names of its floating dtypes of 8 bits.
    integer:
        The name of its default integer dtype.
    mutable:
        Whether its arrays can be written into.
    named_by_files:
        Whether `State.load` makes its arrays without `like=`.
    """

    namespace: Any
    dtypes: tuple[str, ...]
    eight_bits: tuple[str, ...] = ()
    integer: str = "int64"
    mutable: bool = True
    named_by_files: bool = False

    @property
    def name(self):
        return self.namespace.__name__

    @property
    def like(self):
        """What `State.load` needs as `like=` to make such arrays."""
        return None if self.named_by_files else self.array([0.0])

    def dtype(self, name):
        return getattr(self.namespace, name)

    def array(self, values, dtype=None):
        """NumPy's `values` in memory of its own, in the widest dtype unless another one is named."""
        return self.namespace.asarray(np.array(values), dtype=self.dtype(dtype or self.dtypes[-1]))


# A context; before version 0.8 of JAX it was an experiment.
enable_x64 = (jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")).enable_x64

EIGHT_BITS = ("float8_e4m3fn", "float8_e5m2")
LIBRARIES = (
    Library(np, ("float16", "float32", "float64"), named_by_files=True),
    Library(torch, ("float16", "bfloat16", "float32", "float64"), EIGHT_BITS, named_by_files=True),
    Library(jnp, ("float16", "bfloat16", "float32"), EIGHT_BITS, integer="int32", mutable=False),
    Library(array_api_strict, ("float32", "float64")),
)


def numbers(x):
    """The numbers of an array of any library and floating dtype, in float64 of NumPy."""
    return x.detach().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x).astype(float)


def cast(x, dtype):
    return library(x).cast(x, dtype)


def same(a, b):
    """Whether two arrays are equal to the last bit. They must be of one library, dtype and shape."""
    assert type(a) is type(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if isinstance(a, torch.Tensor):
        a, b = (x.detach().reshape(-1).view(torch.uint8).numpy() for x in (a, b))
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()
