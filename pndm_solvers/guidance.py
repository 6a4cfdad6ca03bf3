"""Classifier-free guidance: the answers with and without a condition as one, by one call of the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from pndm_solvers.arguments import function, real, shown, whole
from pndm_solvers.array_library import ArrayLibrary
from pndm_solvers.arrays import check_floating, check_together, combine, is_array, library

__all__ = ["classifier_free_guidance"]

# The keyword of a condition that is a scale for each sample.
SCALE = "guidance_scale"


def classifier_free_guidance(
    conditional: Callable[..., Any],
    unconditional: Mapping[str, Any] | Callable[[Any, Any], Any],
    scale: float,
    *,
    rescale: float = 0.0,
) -> Callable[..., Any]:
    """A model that answers g = u + scale·(c − u), c with the condition and u without: Ho and Salimans (2022), eq. (6).

    A run's `condition=` goes to c. So it is cut, joined and saved with the samples that it belongs to.

    Parameters
    ----------
    conditional:
        A model `(x, t, **condition)` of any kind of prediction.
    unconditional:
        What u receives in place of a condition, by keyword: a number, or an array of the condition's library and kind
        that broadcasts to it, `{"label": 10}` say. Other keywords are the same for both. Each call of the result is
        then one call of the model, with `(2·B, …)`: the B samples with their conditions, then without. Or another model
        `(x, t)`, which is called beside the first.
    scale:
        With 1 the conditional answer alone is asked for, with 0 the unconditional one. A run's condition may hold a
        scale for each sample, `{"label": y, "guidance_scale": w}` with w `(B,)`, which takes its place.
    rescale:
        φ from 0 to 1 of Lin et al. (2024), eq. (15) and (16), against overexposure at large scales: g is multiplied by
        φ·std(c)/std(g) + 1 − φ, the deviations over each sample, except where the scale is 0. They take 0.7. For
        pictures: over a handful of numbers a deviation says little, and over one nothing.

    Raises
    ------
    TypeError, ValueError:
        For other arguments, and, when called, for conditions and answers that do not go together.
    """
    function("conditional", conditional, "model(x, t)")
    if not unconditional or not (isinstance(unconditional, Mapping) or callable(unconditional)):
        raise TypeError(
            f"unconditional is {shown(unconditional)}; it must be what stands in place of each condition, as "
            f"{{'label': 10}}, or another model(x, t)"
        )
    if getattr(scale, "ndim", 0) or isinstance(scale, (list, tuple)):
        raise TypeError(f"scale is {shown(scale)}; pass a scale for each sample as condition={{{SCALE!r}: …}}")
    scale = real("scale", scale)
    rescale = real("rescale", rescale, "from 0, for none, to 1", lambda share: 0 <= share <= 1)

    def guided(x: Any, t: Any, **condition: Any) -> Any:
        scales = condition.pop(SCALE, scale)
        if scales is scale and scale == 1:
            return conditional(x, t, **condition)
        if scales is scale and scale == 0:
            if isinstance(unconditional, Mapping):
                return conditional(x, t, **_without(condition, unconditional))
            return unconditional(x, t)
        if isinstance(unconditional, Mapping):
            c, u = _of_one_call(conditional, x, t, condition, _without(condition, unconditional))
        else:
            c, u = _of_two_calls(conditional, unconditional, x, t, condition)
        ours = library(c)
        if scales is scale:
            g = combine([c, u], [scale, 1 - scale])
        else:
            scales = _column(ours, ours.cast(scales, ours.wide_dtype(c)), c)
            g = ours.cast(scales * ours.wide(c) + (1 - scales) * ours.wide(u), c.dtype)
        return _rescaled(ours, g, c, rescale, scales) if rescale else g

    return guided


def _without(condition: Mapping[str, Any], nulls: Mapping[str, Any]) -> dict[str, Any]:
    """The condition with the values that stand for none."""
    without = dict(condition)
    for name, null in nulls.items():
        if name not in condition:
            raise TypeError(f"the condition has no {name!r}, which guidance leaves out; pass condition={{{name!r}: …}}")
        like = condition[name]
        ours, xp = library(like), library(like).namespace(like)
        if is_array(null):
            check_together(f"unconditional {name!r}", null, "the condition", like, shape=null.shape, floating=False)
            if ours.is_floating(null) is not ours.is_floating(like):
                raise TypeError(f"unconditional {name!r} is of dtype {null.dtype}, and the condition of {like.dtype}")
            null = ours.cast(null, like.dtype)
        else:
            null = xp.full_like(like[:1], _number_of(f"unconditional {name!r}", null, like))
        try:
            without[name] = xp.broadcast_to(null, like.shape)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"unconditional {name!r} is of shape {tuple(null.shape)}, which does not broadcast to that of the "
                f"condition, {tuple(like.shape)}"
            ) from error
    return without


def _number_of(name: str, null: Any, like: Any) -> float:
    """A number that arrays like `like` can hold: a fraction, or 300 among bytes, would become another label unseen."""
    ours = library(like)
    if ours.is_floating(like):
        return real(name, null)
    if not ours.is_integer(like):
        raise TypeError(
            f"{name} is {shown(null)}, and the condition of dtype {like.dtype}; pass an array of that dtype"
        )
    holds = ours.namespace(like).iinfo(like.dtype)
    return whole(name, null, int(holds.min), int(holds.max))


def _of_one_call(
    model: Callable[..., Any], x: Any, t: Any, condition: Mapping[str, Any], without: Mapping[str, Any]
) -> tuple[Any, Any]:
    """The answers with and without the condition, of one call with both."""
    ours, count = library(x), x.shape[0]
    twice = ours.concatenate([x, x])
    both = {name: library(value).concatenate([value, without[name]]) for name, value in condition.items()}
    answer = model(twice, ours.concatenate([t, t]) if getattr(t, "ndim", 0) else t, **both)
    check_together("the model's answer", answer, "the state, twice,", twice)
    return answer[:count, ...], answer[count:, ...]


def _of_two_calls(
    conditional: Callable[..., Any], unconditional: Callable[..., Any], x: Any, t: Any, condition: Mapping[str, Any]
) -> tuple[Any, Any]:
    # Copies, since either may work in place on its arguments, and both may answer in one buffer.
    first = conditional(*(library(a).copy(a) if is_array(a) else a for a in (x, t)), **condition)
    check_floating("conditional's answer", first)
    first = library(first).copy(first)
    second = unconditional(x, t)
    check_together("unconditional's answer", second, "conditional's answer", first)
    return first, second


def _rescaled(ours: ArrayLibrary, guided: Any, conditional: Any, rescale: float, scales: Any) -> Any:
    xp = ours.namespace(guided)
    if math.prod(guided.shape[1:]) < 2:
        raise ValueError(f"rescale is {rescale:g}, but samples of shape {tuple(guided.shape[1:])} have no deviation")

    def variance(x: Any) -> Any:
        flat = xp.reshape(ours.wide(x), (x.shape[0], math.prod(x.shape[1:])))
        away = flat - xp.mean(flat, axis=1, keepdims=True)
        return xp.mean(away * away, axis=1)

    wanted, there = variance(conditional), variance(guided)
    ratio = xp.sqrt(wanted / xp.where(there > 0, there, xp.ones_like(there)))
    factor = _column(ours, rescale * ratio + (1 - rescale), guided)
    if not isinstance(scales, float):
        factor = xp.where(scales == 0, xp.ones_like(factor), factor)
    return ours.cast(ours.wide(guided) * factor, guided.dtype)


def _column(ours: ArrayLibrary, values: Any, like: Any) -> Any:
    """`values` `(B,)` as `(B, 1, …)`, with as many dimensions as `like`."""
    return ours.namespace(like).reshape(values, (-1,) + (1,) * (like.ndim - 1))
