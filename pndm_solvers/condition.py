"""Conditions: arrays that follow the batch, which a model receives as keywords beside x and t."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pndm_solvers.arguments import shown
from pndm_solvers.arrays import check_together, library

__all__ = ["Condition", "checked_condition", "joined", "rows_of"]

# keyword of the model -> an array with the batch first
Condition = Mapping[str, Any]


def checked_condition(condition: Condition | None, x: Any) -> dict[str, Any]:
    """The condition of a run from `x` `(B, …)`; {} for None.

    Raises TypeError or ValueError unless each value is an array of x's library and device with B rows, of any dtype.
    """
    if condition is None:
        return {}
    if not isinstance(condition, Mapping) or not all(isinstance(name, str) for name in condition):
        raise TypeError(f"condition is {shown(condition)}; it must be a dict from the model's keywords to arrays")
    for name, value in condition.items():
        shape = (*x.shape[:1], *getattr(value, "shape", ())[1:])
        check_together(f"condition {name!r}", value, "the state", x, shape=shape, floating=False)
    return dict(condition)


def rows_of(condition: Condition | None, rows: slice) -> Condition | None:
    """The condition of some samples. What has no rows stays: `checked_condition` refuses it by name."""
    if not isinstance(condition, Mapping):
        return condition
    return {name: value[rows, ...] if getattr(value, "ndim", 0) else value for name, value in condition.items()}


def joined(conditions: Sequence[Condition]) -> Condition:
    """The condition of several runs in one batch. ValueError for runs whose conditions do not go together."""
    first = conditions[0]
    for n, condition in enumerate(conditions):
        if condition.keys() != first.keys():
            raise ValueError(
                f"state {n} has the condition {sorted(condition)} and the first state {sorted(first)}; one call of the "
                f"model has one set of keywords"
            )
        for name, value in condition.items():
            like = first[name]
            if value.dtype != like.dtype or tuple(value.shape[1:]) != tuple(like.shape[1:]):
                raise ValueError(
                    f"condition {name!r} of state {n} is of shape {tuple(value.shape)} and {value.dtype}, and that of "
                    f"the first state of {tuple(like.shape)} and {like.dtype}; beyond the batch they must be alike"
                )
    return {name: library(first[name]).concatenate([c[name] for c in conditions]) for name in first}
