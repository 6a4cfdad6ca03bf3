"""A device without float64, for tests."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoFloat64(TorchDispatchMode):
    """Refuses each operation with a tensor in float64 on the device, as argument or as result."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "meta":
                assert leaf.dtype not in (torch.float64, torch.complex128), f"{func} has {leaf.dtype} on the device"
        return result
