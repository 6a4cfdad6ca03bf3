"""What a run needs of an array library, and the array API standard, which most libraries follow.

NumPy, and every library that follows the array API standard, needs no code of its own.
A library that does not follow it, or that has a faster linear combination, is one subclass and one entry of
`LIBRARIES`. No other module of the core tells array libraries apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import accumulate
from typing import Any

import numpy as np

from pndm_solvers.older import NUMPY_1

__all__ = ["ArrayLibrary", "dtype_name", "quantile_of"]


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

    def is_compiling(self) -> bool:
        """Whether the library now reads this code to compile it, and so what the code reads must stay as it is."""
        return False

    def on_host(self, x: Any) -> bool:
        """Whether the numbers of `x` can be read without waiting for a device."""
        return "cpu" in str(self.device(x)).lower() and self.has_numbers(x)

    def alike(self, answer: Any, x: Any) -> bool:
        """Whether `answer` surely goes together with the state `x`: see `arrays.check_together`. False if unsure."""
        return False

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

    # ------------------------------------------------------------- in place, see `in_place`

    def writes_again(self, x: Any) -> bool:
        """Whether sums may be made in `x` itself: its library can, holders are counted, and rounding stays the same."""
        return False

    def matcher(self, x: Any) -> Callable[[Any], bool]:
        """A quick test for answers that are `alike` and fit: of x's very dtype, say. False if unsure."""
        return lambda answer: False

    def fits(self, answer: Any, x: Any) -> bool:
        """Whether `answer`, which is `alike`, can be added to `x` in place, with the rounding of a sum apart."""
        return False

    def empty_like(self, x: Any) -> Any:
        """An array like `x`, of any numbers."""
        raise NotImplementedError

    def scratch(self, x: Any) -> Any:
        """What `add` needs of memory beside its arguments: an array like `x`, or None."""
        raise NotImplementedError

    def scale(self, x: Any, weight: float, out: Any) -> None:
        """weight·x into `out`."""
        raise NotImplementedError

    def add(self, total: Any, x: Any, weight: float, scratch: Any) -> Any:
        """`total`, to which weight·x is added in place."""
        raise NotImplementedError

    def fill(self, x: Any, values: Any) -> None:
        """Writes `values` into `x`, rounded to its dtype."""
        raise NotImplementedError

    def clip_in_place(self, x: Any, bound: float) -> Any:
        """`x`, held within [−bound, bound] in place."""
        raise NotImplementedError

    def alias(self, x: Any) -> Any:
        """Another array on the memory of `x`."""
        raise NotImplementedError

    def holders(self, x: Any) -> Callable[[], int]:
        """A function that counts who holds the memory of `x`, from any array."""
        raise NotImplementedError

    # ------------------------------------------------------------- derivatives

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

    def times(self, x: Any, t: float | np.ndarray, dtype: Any, *, integer: bool) -> Any:
        """`t` for each sample of `x`: 1-D `(B,)`, an integer, or floating (float64 where `dtype` is, else float32).

        `t` is one time, or a time for each sample.
        """
        xp = self.namespace(x)
        dtype = xp.asarray(0).dtype if integer else xp.float64 if dtype == xp.float64 else xp.float32
        place = self.device(x)
        spread = len(getattr(place, "device_set", ())) > 1  # a layout over several devices does not fit the times
        if isinstance(t, np.ndarray):
            return xp.asarray(t, dtype=dtype, device=None if spread else place)
        return xp.full(x.shape[:1], t, dtype=dtype, device=None if spread else place)

    def all_times(self, x: Any, ts: Sequence[float], dtype: Any, *, integer: bool) -> Sequence[Any]:
        """`times` for each of `ts`."""
        return [self.times(x, t, dtype, integer=integer) for t in ts]

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
        s = xp.clip(quantile_of(xp.sort(xp.abs(flat), axis=1), quantile), bound, most)
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

    # ------------------------------------------------------------- many runs in one batch, see `batching`

    def split(self, x: Any, sizes: Sequence[int]) -> list[Any]:
        """`x` in parts of so many samples, each in memory of its own."""
        return [self.copy(x[end - size : end, ...]) for size, end in zip(sizes, accumulate(sizes), strict=True)]

    def column(self, values: np.ndarray, like: Any) -> Any:
        """A number for each sample, `(B, 1, …)`, of as many dimensions as `like` and of its dtype."""
        return self.from_numpy(values.reshape(-1, *[1] * (like.ndim - 1)), like)

    def add_rows(self, total: Any, x: Any, weights: Any) -> Any:
        """`total`, which is the caller's own, with weights·x added to its first samples; `combine`'s rounding."""
        count = x.shape[0]
        first = total[:count, ...] + x * weights
        return first if count == total.shape[0] else self.concatenate([first, total[count:, ...]])

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


def quantile_of(rising: Any, quantile: float) -> Any:
    """The quantile of each row of a sorted `(B, n)` array, linear between its neighbours, as `(B, 1)`."""
    position = quantile * (rising.shape[1] - 1)
    below = int(position)
    low, high = rising[:, below : below + 1], rising[:, min(below + 1, rising.shape[1] - 1) :][:, :1]
    return low + (high - low) * (position - below)
