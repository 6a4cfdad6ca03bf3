"""A dictionary by tensors themselves, not by their numbers, that keeps none of them alive."""

from __future__ import annotations

import weakref
from typing import Any, Generic, TypeVar

from torch import Tensor

__all__ = ["ByTensor"]

Value = TypeVar("Value")


class _Reference(weakref.ref[Tensor]):
    """A reference with the place of its entry, so that no closure is made for each."""

    __slots__ = ("entries", "key")
    entries: dict[int, tuple[_Reference, Any]]
    key: int

    def __deepcopy__(self, memo: Any) -> _Reference:
        return self  # as of other references


def _forget(gone: Any) -> None:
    if (entry := gone.entries.get(gone.key)) is not None and entry[0] is gone:
        del gone.entries[gone.key]


class ByTensor(Generic[Value]):
    """Values by tensor. An entry goes with its tensor; other threads may read and write meanwhile."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[_Reference, Value]] = {}

    def get(self, tensor: Tensor) -> Value | None:
        """The tensor's value, or None."""
        entry = self._entries.get(id(tensor))
        # Another tensor may have the place in memory, and so the id, of one that is gone.
        return entry[1] if entry is not None and entry[0]() is tensor else None

    def __setitem__(self, tensor: Tensor, value: Value) -> None:
        reference = _Reference(tensor, _forget)
        reference.entries, reference.key = self._entries, id(tensor)
        self._entries[reference.key] = reference, value

    def items(self) -> list[tuple[Tensor, Value]]:
        """The tensors that are alive, the newest first, and their values."""
        found = [(reference(), value) for reference, value in reversed(list(self._entries.values()))]
        return [(tensor, value) for tensor, value in found if tensor is not None]
