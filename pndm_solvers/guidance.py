"""Classifier-free guidance: two models as one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pndm_solvers.arguments import function, real
from pndm_solvers.arrays import check_floating, check_together, combine, is_array, library

__all__ = ["classifier_free_guidance"]


def classifier_free_guidance(
    conditional: Callable[..., Any], unconditional: Callable[[Any, Any], Any], scale: float
) -> Callable[..., Any]:
    """A model that answers `unconditional + scale·(conditional − unconditional)`: Ho and Salimans (2022).

    Both are models `(x, t)` of the same kind of prediction. Each call of the result calls both once;
    with `scale=1` only the conditional one, with `scale=0` only the other. A run's `condition=` goes to the conditional
    one. Raises TypeError or ValueError for models
    that are no functions, a scale that is no finite number, and, when called, answers that differ in kind or shape.
    """
    function("conditional", conditional, "model(x, t)")
    function("unconditional", unconditional, "model(x, t)")
    scale = real("scale", scale)
    if scale == 1:
        return conditional
    if scale == 0:
        return lambda x, t, **condition: unconditional(x, t)

    def guided(x: Any, t: Any, **condition: Any) -> Any:
        # Copies, since either may work in place on its arguments, and both may answer in one buffer.
        first = conditional(*(library(a).copy(a) if is_array(a) else a for a in (x, t)), **condition)
        check_floating("conditional's answer", first)
        first = library(first).copy(first)
        second = unconditional(x, t)
        check_together("unconditional's answer", second, "conditional's answer", first)
        return combine([first, second], [scale, 1 - scale])

    return guided
