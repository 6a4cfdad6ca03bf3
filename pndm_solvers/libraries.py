"""The operations on arrays that a run needs, for each array library.

NumPy, and every library that follows the array API standard, needs no code of its own.
A library that does not follow it, or that has a faster linear combination, is one subclass and one entry of
`LIBRARIES`. No other module of the core tells array libraries apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from pndm_solvers.older import NUMPY_1, Completed

__all__ = ["LIBRARIES", "ArrayLibrary", "CupyLibrary", "JaxLibrary", "TorchLibrary", "dtype_name"]


def dtype_name(dtype: Any) -> str:
    """The name of a dtype of any library, as "float32"."""
    return str(dtype).rpartition(".")[2]


class ArrayLibrary:
    """NumPy and the array API standard, through `x.__array_namespace__()`.

    A library outside the standard overrides the methods that call `namespace`, as far as its runs need them. Every run
    needs `name`, `is_floating`, `is_finite`, `has_numbers`, `wide`, `cast`, `copy`, `times` and `from_numpy`. The class
    of its arrays has `ndim`.
    """

    def namespace(self, x: Any) -> Any:
        """The module of x's library, whose functions are named as in the standard."""
        return x.__array_namespace__() if hasattr(x, "__array_namespace__") else NUMPY_1

    def name(self, x: Any) -> str:
        """The name of `namespace`, as "jax.numpy"."""
        return self.namespace(x).__name__

    def is_dense(self, x: Any) -> bool:
        """Whether `x` is dense, with elementwise arithmetic."""
        # NumPy's matrices and masked arrays are arrays by name, but multiply and compare in ways of their own.
        return not (isinstance(x, np.matrix) or hasattr(x, "mask"))

    def is_floating(self, x: Any) -> bool:
        """Whether `x` holds real floating-point numbers."""
        return bool(self.namespace(x).isdtype(x.dtype, "real floating"))

    def is_integer(self, x: Any) -> bool:
        """Whether `x` holds integers."""
        return bool(self.namespace(x).isdtype(x.dtype, "integral"))

    def is_finite(self, x: Any) -> bool:
        """Whether every number of `x` is finite; True where `x` has no numbers yet."""
        xp = self.namespace(x)
        return not self.has_numbers(x) or bool(xp.all(xp.isfinite(self.wide(x))))

    def has_numbers(self, x: Any) -> bool:
        """Whether the numbers of `x` can be read now; while a function is compiled or mapped they cannot."""
        xp = self.namespace(x)
        none = xp.reshape(x, (-1,))[:0]
        try:
            return bool(xp.all(none == none))
        except TypeError:  # JAX raises it where numbers cannot be read
            return False

    def on_host(self, x: Any) -> bool:
        """Whether the numbers of `x` can be read without waiting for a device."""
        return "cpu" in str(self.device(x)).lower() and self.has_numbers(x)

    def check_generator(self, generator: Any) -> None:
        """TypeError unless `normal` can draw from `generator`."""
        if not isinstance(generator, np.random.Generator):
            raise TypeError(
                f"generator is a {type(generator).__name__}; for these states pass a numpy.random.Generator, or seed="
            )

    def combine(self, arrays: Sequence[Any], weights: Sequence[float], dtype: Any) -> Any:
        """Σ weight·array, of the given dtype; float16 and bfloat16 are summed in float32."""
        total = self.wide(arrays[0], dtype) * weights[0]
        for array, weight in zip(arrays[1:], weights[1:], strict=True):
            total = total + self.wide(array, dtype) * weight
        return self.cast(total, dtype)

    def wide(self, x: Any, dtype: Any = None) -> Any:
        """`x` in float32 where it has fewer bits, and in `dtype` where that has more."""
        x = self.cast(x, self.wide_dtype(x))
        bits = self.namespace(x).finfo
        return self.cast(x, dtype) if dtype is not None and bits(dtype).bits > bits(x.dtype).bits else x

    def wide_dtype(self, x: Any) -> Any:
        """The dtype in which sums of arrays like `x` are taken: its own, but float32 where that has fewer bits."""
        xp = self.namespace(x)
        return xp.float32 if xp.finfo(x.dtype).bits < 32 else x.dtype

    def cast(self, x: Any, dtype: Any) -> Any:
        """`x` in another dtype of its library."""
        return self.namespace(x).astype(x, dtype, copy=False)

    def copy(self, x: Any, dtype: Any = None) -> Any:
        """`x`, or `x` in another dtype, in memory of its own."""
        return self.namespace(x).astype(x, x.dtype if dtype is None else dtype, copy=True)

    def records_gradients(self, x: Any) -> bool:
        """Whether the library records how `x` was made, to differentiate it later."""
        return False

    def unrecorded(self) -> AbstractContextManager[Any]:
        """A context in which the library does not record."""
        return nullcontext()

    def vjp(self, function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
        """`function(x)`, and its vector-Jacobian product: the gradient in x of Σ e·function(x), for any number of e.

        The gradients of other arrays, a network's weights say, stay as they are. TypeError where there are none.
        """
        raise TypeError(
            f"x is a {type(x).__name__}, whose library {self.name(x)} has no derivatives; pass an array of torch or "
            f"JAX, and a network of that library"
        )

    def device(self, x: Any) -> Any:
        """The device of `x`; None within jax.jit, which has a device only when it runs."""
        return getattr(x, "device", None)

    def times(self, x: Any, t: float, dtype: Any, *, integer: bool) -> Any:
        """`t` for each sample of `x`: 1-D `(B,)`, an integer, or floating (float64 where `dtype` is, else float32)."""
        xp = self.namespace(x)
        dtype = xp.asarray(0).dtype if integer else xp.float64 if dtype == xp.float64 else xp.float32
        place = self.device(x)
        spread = len(getattr(place, "device_set", ())) > 1  # a layout over several devices does not fit the times
        return xp.full(x.shape[:1], t, dtype=dtype, device=None if spread else place)

    def numbers(self, x: Any) -> np.ndarray:
        """The real numbers of `x` as NumPy float64, on the host."""
        wide = self.wide(x) if self.is_floating(x) else x
        return self.to_bytes(wide).view(dtype_name(wide.dtype)).reshape(x.shape).astype(np.float64)

    def from_numpy(self, values: np.ndarray, like: Any, dtype: Any = None) -> Any:
        """float64 `values` as an array of `like`'s library and device, and of its dtype unless another is given."""
        dtype = like.dtype if dtype is None else dtype
        return self.namespace(like).asarray(values, dtype=dtype, device=self.device(like))

    def normal(self, like: Any, generator: Any) -> Any:
        """N(0, I) of `like`'s shape, dtype and device; None draws from fresh entropy."""
        if not self.has_numbers(like):
            raise ValueError(
                "noise drawn while JAX transforms a function (jit, vmap) would be the same at each call; pass seed= to "
                "choose it, or draw it outside"
            )
        generator = np.random.default_rng() if generator is None else generator
        return self.from_numpy(generator.standard_normal(like.shape), like)

    def clip(self, x: Any, bound: float) -> Any:
        """`x` held within [−bound, bound]."""
        return self.namespace(x).clip(x, -bound, bound)

    def dynamic_threshold(self, x: Any, quantile: float, bound: float, most: float) -> Any:
        """Each sample clipped to ±s and then scaled by bound/s, where s is its quantile of |x|, in [bound, most]."""
        xp = self.namespace(x)
        flat = xp.reshape(self.wide(x), (x.shape[0], math.prod(x.shape[1:])))
        s = xp.clip(_quantile(xp.sort(xp.abs(flat), axis=1), quantile), bound, most)
        return self.cast(xp.reshape(xp.minimum(xp.maximum(flat, -s), s) * (bound / s), x.shape), x.dtype)

    def root_mean_square(self, x: Any) -> np.ndarray:
        """The root mean square over each sample's dimensions: NumPy float64 `(B,)`."""
        xp = self.namespace(x)
        flat = xp.reshape(self.wide(x), (x.shape[0], math.prod(x.shape[1:])))
        return np.array([math.sqrt(float(value)) for value in xp.mean(flat * flat, axis=1)])

    def sum_of_squares(self, x: Any) -> Any:
        """Σ x² over each sample's dimensions, `(B,)`, of x's dtype."""
        xp = self.namespace(x)
        flat = xp.reshape(x, (x.shape[0], math.prod(x.shape[1:])))
        return xp.sum(flat * flat, axis=1)

    def concatenate(self, arrays: Sequence[Any]) -> Any:
        """The arrays joined along the batch."""
        return self.namespace(arrays[0]).concat(list(arrays), axis=0)

    # ------------------------------------------------------------- to and from files

    def to_bytes(self, x: Any) -> np.ndarray:
        """The numbers of `x` in the order of its dimensions, as bytes. ValueError where `x` has no numbers yet."""
        try:
            try:
                values = np.asarray(x)
            except (TypeError, RuntimeError):  # on another device: NumPy reads it through the standard's DLPack alone
                values = np.from_dlpack(x, device="cpu")
        except Exception as error:  # each library's own, for arrays within jax.jit and jax.grad
            raise ValueError(
                f"a state that is a {type(x).__name__} has no numbers to save; save outside of jax.jit and jax.grad"
            ) from error
        return np.ascontiguousarray(values).reshape(-1).view(np.uint8)

    def strides(self, x: Any) -> Sequence[int] | None:
        """The distance in memory between neighbours along each dimension; None where the library does not give it."""
        return getattr(x, "strides", None)

    def from_bytes(
        self, data: memoryview, dtype: str, shape: Sequence[int], order: Sequence[int], device: Any, like: Any
    ) -> Any:
        """The array that `to_bytes` wrote, of like's library, whose dimensions lie in memory in that `order`.

        `order` counts from the outermost dimension. ValueError for a dtype that the library lacks.
        """
        back = sorted(range(len(order)), key=order.__getitem__)
        x = None
        try:
            host = np.empty(shape, np.dtype(dtype))
            host.reshape(-1).view(np.uint8)[:] = np.frombuffer(data, np.uint8)
            host = np.ascontiguousarray(host.transpose(order)).transpose(back)
            x = self.namespace(like).asarray(host, device=device)
            kinds = ("real floating", "integral", "bool")
            known = self.namespace(x).isdtype(x.dtype, kinds) and dtype_name(x.dtype) == dtype
        except TypeError:
            known = False
        if not known:
            raise ValueError(
                f"{self.name(like)} has no {dtype} here; pass like= of a library that has (and of JAX: first "
                f"jax.config.update('jax_enable_x64', True))"
            )
        return x


class TorchLibrary(ArrayLibrary):
    """PyTorch, which follows the standard only in most names, and has a fused multiply-add."""

    @property
    def torch(self) -> Any:
        """The module, imported only where its arrays are used."""
        import torch

        return torch

    def namespace(self, x: Any) -> Any:
        return self.torch

    def is_dense(self, x: Any) -> bool:
        return x.layout == self.torch.strided

    def is_floating(self, x: Any) -> bool:
        return x.is_floating_point()

    def is_integer(self, x: Any) -> bool:
        return not (x.is_floating_point() or x.is_complex() or x.dtype == self.torch.bool)

    def has_numbers(self, x: Any) -> bool:
        if self.torch.compiler.is_compiling() or x.is_meta:
            return False
        try:
            return bool((x.reshape(-1)[:0] == 0).all())
        except Exception:  # torch.func.vmap's own, and that of fake tensors
            return False

    def check_generator(self, generator: Any) -> None:
        if not isinstance(generator, self.torch.Generator | np.random.Generator):
            raise TypeError(
                f"generator is a {type(generator).__name__}; for torch states pass a torch.Generator or a "
                f"numpy.random.Generator, or seed="
            )

    def combine(self, arrays: Sequence[Any], weights: Sequence[float], dtype: Any) -> Any:
        total = self.wide(arrays[0], dtype) * weights[0]
        for array, weight in zip(arrays[1:], weights[1:], strict=True):
            # In place: `total` is this call's own, so each term costs one pass over memory. Torch itself widens
            # the array that is added, unless it has 8 bits.
            total = total.add_(array if array.dtype.itemsize > 1 else array.float(), alpha=weight)
        return total.to(dtype)

    def wide(self, x: Any, dtype: Any = None) -> Any:
        x = x.float() if x.dtype.itemsize < 4 else x
        return x.to(dtype) if dtype is not None and dtype.itemsize > x.dtype.itemsize else x

    def wide_dtype(self, x: Any) -> Any:
        return self.torch.float32 if x.dtype.itemsize < 4 else x.dtype

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.to(dtype=dtype)  # by name, since `to` accepts a device or a tensor as well

    def copy(self, x: Any, dtype: Any = None) -> Any:
        return x.to(dtype=x.dtype if dtype is None else dtype, copy=True)

    def records_gradients(self, x: Any) -> bool:
        return x.requires_grad and self.torch.is_grad_enabled()

    def unrecorded(self) -> AbstractContextManager[Any]:
        return self.torch.no_grad()

    def vjp(self, function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
        x = x.detach().requires_grad_()
        with self.torch.enable_grad():
            value = function(x)
        return value.detach(), lambda e: self.torch.autograd.grad(value, x, e, retain_graph=True)[0]

    def times(self, x: Any, t: float, dtype: Any, *, integer: bool) -> Any:
        dtype = dtype if dtype == self.torch.float64 else self.torch.float32
        dtype = self.torch.int64 if integer else dtype
        return self.torch.full(x.shape[:1], int(t) if integer else t, dtype=dtype, device=x.device)

    def from_numpy(self, values: np.ndarray, like: Any, dtype: Any = None) -> Any:
        # Cast on the host: there are devices without float64.
        dtype = like.dtype if dtype is None else dtype
        host = self.torch.from_numpy(np.ascontiguousarray(values).reshape(np.shape(values))).to(dtype=dtype)
        return host.to(device=like.device)

    def normal(self, like: Any, generator: Any) -> Any:
        if isinstance(generator, np.random.Generator):
            return self.from_numpy(generator.standard_normal(like.shape), like)
        # Drawn where the generator lives, so that one on the CPU gives the same noise to every device.
        device = like.device if generator is None else generator.device
        return self.torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)

    def dynamic_threshold(self, x: Any, quantile: float, bound: float, most: float) -> Any:
        flat = self.wide(x).reshape(x.shape[0], math.prod(x.shape[1:]))
        # By sorting: torch's own quantile refuses more than 16 million values.
        s = _quantile(flat.abs().sort(dim=1).values, quantile).clamp(bound, most)
        return (flat.clamp(-s, s) * (bound / s)).reshape(x.shape).to(x.dtype)

    def root_mean_square(self, x: Any) -> np.ndarray:
        flat = self.wide(x).detach().reshape(x.shape[0], math.prod(x.shape[1:]))
        return flat.square().mean(1).sqrt().double().cpu().numpy()

    def to_bytes(self, x: Any) -> np.ndarray:
        if x.is_meta:
            raise ValueError("a state on torch's meta device has no numbers to save; move it to another")
        return x.detach().cpu().contiguous().reshape(-1).view(self.torch.uint8).numpy()

    def strides(self, x: Any) -> Sequence[int]:
        return x.stride()

    def from_bytes(
        self, data: memoryview, dtype: str, shape: Sequence[int], order: Sequence[int], device: Any, like: Any
    ) -> Any:
        back = sorted(range(len(order)), key=order.__getitem__)
        x = self.torch.empty(shape, dtype=getattr(self.torch, dtype), device="cpu")
        x.view(-1).view(self.torch.uint8).numpy()[:] = np.frombuffer(data, np.uint8)
        return self.torch.empty([shape[d] for d in order], dtype=x.dtype, device=device).permute(back).copy_(x)


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


def _quantile(rising: Any, quantile: float) -> Any:
    """The quantile of each row of a sorted `(B, n)` array, linear between its neighbours, as `(B, 1)`."""
    position = quantile * (rising.shape[1] - 1)
    below = int(position)
    low, high = rising[:, below : below + 1], rising[:, min(below + 1, rising.shape[1] - 1) :][:, :1]
    return low + (high - low) * (position - below)


# The keys are top-level modules: the one that defines an array's class, or a base of that class.
# JAX's arrays are of jaxlib, and what they are while a function is compiled or differentiated is of jax.
_JAX = JaxLibrary()
LIBRARIES: dict[str, ArrayLibrary] = {"torch": TorchLibrary(), "cupy": CupyLibrary(), "jax": _JAX, "jaxlib": _JAX}
