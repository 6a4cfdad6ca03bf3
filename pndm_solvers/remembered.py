"""Values that were made before, by what they were made from; the ones unused for longest are forgotten."""

from __future__ import annotations

from _thread import allocate_lock  # threading's own Lock, without the import
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import is_dataclass
from typing import Any, Generic, TypeVar

import numpy as np

__all__ = ["Remembered", "frozen"]

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """At most `most` values by key; safe to share between threads."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = allocate_lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of the key, made now if there is none. An error of `make` is not remembered."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        made = make()  # without the lock, so that one slow value holds nobody up
        with self._lock:
            value = self._values.setdefault(key, made)
            self._values.move_to_end(key)
            if len(self._values) > self.most:
                self._values.popitem(last=False)
        return value

    def clear(self) -> None:
        """Forgets all values."""
        with self._lock:
            self._values.clear()


def frozen(value: Any, opened: type) -> Hashable:
    """A key that equal arguments alone share: 1, 1.0 and True differ, and later changes of an array do not count.

    The library's own values are their own keys, but for instances of `opened`, which may hold things of the caller's.
    TypeError for anything else than numbers, texts, arrays, lists and these: a function may change, or warn.
    """
    kind = type(value)
    if kind in (type(None), bool, int, float, str):
        return repr(value)
    if kind in (tuple, list):
        return kind, tuple(frozen(item, opened) for item in value)
    if (kind is np.ndarray or isinstance(value, np.generic)) and not value.dtype.hasobject:
        return kind, value.dtype.str, value.shape, value.tobytes()
    if kind.__module__.startswith("pndm_solvers."):
        if isinstance(value, opened):
            return kind, tuple((name, frozen(part, opened)) for name, part in vars(value).items())
        if is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            return value
    raise TypeError(f"{kind.__name__} is no key")
