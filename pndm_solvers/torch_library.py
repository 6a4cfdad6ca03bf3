"""PyTorch as an array library."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np

from pndm_solvers.array_library import ArrayLibrary, quantile_of

__all__ = ["TorchLibrary"]


class TorchLibrary(ArrayLibrary):
    """PyTorch, which follows the standard only in most names, and has a fused multiply-add."""

    @property
    def torch(self) -> Any:
        """The module, imported only where its arrays are used."""
        import torch

        return torch  # not cached: torch.compile cannot enter the lock of a cached property

    def namespace(self, x: Any) -> Any:
        return self.torch

    def is_dense(self, x: Any) -> bool:
        return x.layout == self.torch.strided

    def is_floating(self, x: Any) -> bool:
        return x.is_floating_point()

    def is_integer(self, x: Any) -> bool:
        return not (x.is_floating_point() or x.is_complex() or x.dtype == self.torch.bool)

    def has_numbers(self, x: Any) -> bool:
        if self.is_compiling() or x.is_meta:
            return False
        try:
            return bool((x.reshape(-1)[:0] == 0).all())
        except Exception:  # torch.func.vmap's own, and that of fake tensors
            return False

    def alike(self, answer: Any, x: Any) -> bool:
        return (
            type(answer) is type(x)
            and answer.shape == x.shape
            and answer.is_floating_point()
            and answer.device == x.device
            and answer.layout == x.layout
        )

    def is_compiling(self) -> bool:
        return self.torch.compiler.is_compiling()

    def is_finite(self, x: Any) -> bool:
        try:  # a finite sum has finite terms alone
            if not self.is_compiling() and math.isfinite(x.detach().sum().item()):
                return True
        except Exception:  # numbers of 8 bits have no sum, and those that are mapped or meta cannot be read
            pass
        return super().is_finite(x)

    def check_generator(self, generator: Any) -> None:
        if not isinstance(generator, self.torch.Generator | np.random.Generator):
            raise TypeError(
                f"generator is a {type(generator).__name__}; for torch states pass a torch.Generator or a "
                f"numpy.random.Generator, or seed="
            )

    def combine(self, arrays: Sequence[Any], weights: Sequence[float], dtype: Any) -> Any:
        x = self.wide(arrays[0], dtype)
        # The weight as a tensor would cost half as much. But small tensors that outlive a row lie between the large
        # ones, and the C library then takes new memory for each row of a run on the CPU.
        total = x * weights[0]
        for array, weight in zip(arrays[1:], weights[1:], strict=True):
            # In place: `total` is this call's own, so each term costs one pass over memory. Torch itself widens
            # the array that is added, unless it has 8 bits.
            total = total.add_(array if array.dtype.itemsize > 1 else array.float(), alpha=weight)
        return total if total.dtype == dtype else total.to(dtype)

    def wide(self, x: Any, dtype: Any = None) -> Any:
        x = x.float() if x.dtype.itemsize < 4 else x
        return x.to(dtype) if dtype is not None and dtype.itemsize > x.dtype.itemsize else x

    def wide_dtype(self, x: Any) -> Any:
        return self.torch.float32 if x.dtype.itemsize < 4 else x.dtype

    def cast(self, x: Any, dtype: Any) -> Any:
        return x.to(dtype=dtype)  # by name, since `to` accepts a device or a tensor as well

    def copy(self, x: Any, dtype: Any = None) -> Any:
        return x.clone() if dtype is None or dtype == x.dtype else x.to(dtype=dtype)

    def writes_again(self, x: Any) -> bool:
        torch = self.torch
        if self.is_compiling() or type(x) is not torch.Tensor or x.requires_grad or x.dtype.itemsize < 4:
            return False
        if not x.numel():  # torch's own operations choose the strides of what is empty
            return False
        try:
            x.untyped_storage()
        except NotImplementedError:  # within torch.func's transforms
            return False
        return hasattr(torch._C, "_storage_Use_Count") and torch.autograd.forward_ad.unpack_dual(x).tangent is None

    def matcher(self, x: Any) -> Callable[[Any], bool]:
        kind, dtype, shape, device, layout = type(x), x.dtype, x.shape, x.device, x.layout
        return lambda answer: (
            type(answer) is kind
            and answer.dtype is dtype
            and answer.shape == shape
            and answer.device == device
            and answer.layout is layout
            and not answer.requires_grad
        )

    def fits(self, answer: Any, x: Any) -> bool:
        narrow = answer.dtype == x.dtype or 2 <= answer.dtype.itemsize <= x.dtype.itemsize
        return narrow and not answer.requires_grad

    def empty_like(self, x: Any) -> Any:
        return self.torch.empty_like(x)

    def scratch(self, x: Any) -> Any:
        return None

    def scale(self, x: Any, weight: float, out: Any) -> None:
        self.torch.mul(x, weight, out=out)

    def add(self, total: Any, x: Any, weight: float, scratch: Any) -> Any:
        return total.add_(x, alpha=weight)

    def fill(self, x: Any, values: Any) -> None:
        x.copy_(values)

    def clip_in_place(self, x: Any, bound: float) -> Any:
        return x.clamp_(-bound, bound)

    def alias(self, x: Any) -> Any:
        return x.data  # as `detach`, in half the time

    def holders(self, x: Any) -> Callable[[], int]:
        # Views of other shapes hold the storage, and so do tensors that no Python object stands for; a caller may hold
        # the object of the storage itself.
        storage, count, references = x.untyped_storage(), self.torch._C._storage_Use_Count, sys.getrefcount
        place = storage._cdata
        return lambda: count(place) + references(storage)

    def records_gradients(self, x: Any) -> bool:
        return x.requires_grad and self.torch.is_grad_enabled()

    def unrecorded(self) -> AbstractContextManager[Any]:
        return self.torch.no_grad()

    def vjp(self, function: Callable[[Any], Any], x: Any) -> tuple[Any, Callable[[Any], Any]]:
        x = x.detach().requires_grad_()
        with self.torch.enable_grad():
            value = function(x)
        return value.detach(), lambda e: self.torch.autograd.grad(value, x, e, retain_graph=True)[0]

    def times(self, x: Any, t: float | np.ndarray, dtype: Any, *, integer: bool) -> Any:
        dtype = self.time_dtype(dtype, integer)
        if isinstance(t, np.ndarray):
            return self.from_numpy(t, x, dtype)
        return self.torch.full(x.shape[:1], int(t) if integer else t, dtype=dtype, device=x.device)

    def time_dtype(self, dtype: Any, integer: bool) -> Any:
        """The dtype of times beside states of `dtype`."""
        torch = self.torch
        return torch.int64 if integer else torch.float64 if dtype == torch.float64 else torch.float32

    def all_times(self, x: Any, ts: Sequence[float], dtype: Any, *, integer: bool) -> Sequence[Any]:
        if x.device.type != "cpu":  # a copy from the host cannot be part of a CUDA graph
            return super().all_times(x, ts, dtype, integer=integer)
        return _laid_down(ts, self.time_dtype(dtype, integer)).repeat(1, len(x)).unbind(0)

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

    def split(self, x: Any, sizes: Sequence[int]) -> list[Any]:
        return list(self.torch.split_with_sizes_copy(x, list(sizes)))

    def add_rows(self, total: Any, x: Any, weights: Any) -> Any:
        # Fused, with the rounding of `add_` with a number: one multiply-add an element.
        total[: len(x)].addcmul_(x, weights)
        return total

    def dynamic_threshold(self, x: Any, quantile: float, bound: float, most: float) -> Any:
        flat = self.wide(x).reshape(x.shape[0], math.prod(x.shape[1:]))
        # By sorting: torch's own quantile refuses more than 16 million values.
        s = quantile_of(flat.abs().sort(dim=1).values, quantile).clamp(bound, most)
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


@lru_cache(maxsize=64)
def _laid_down(ts: tuple[float, ...], dtype: Any) -> Any:
    """Times as a tensor `(rows, 1)` on the host."""
    import torch

    with torch.inference_mode(False):
        return torch.tensor(ts, dtype=torch.float64, device="cpu").to(dtype)[:, None]
