"""Functions on states at a noise level: transfer, convert a prediction, interpolate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers import arrays
from pndm_solvers.arguments import choice, real, reals, shown
from pndm_solvers.array_library import ArrayLibrary
from pndm_solvers.arrays import check_floating, check_state, check_together, combine, library
from pndm_solvers.prediction import Prediction
from pndm_solvers.schedule import Level
from pndm_solvers.transfer import transfer_weights

__all__ = ["around", "convert", "slerp", "transfer"]


def around(mean: Any, noise: Any, level: Level) -> Any:
    """α·mean + σ·z, of the noise's dtype and device, where `noise` is pure noise of the level: √(α² + σ²)·z.

    `mean` is a number, or numbers that broadcast to the noise's shape `(B, …)`: an array of the noise's library or of
    NumPy, or a list. TypeError or ValueError otherwise.
    """
    check_state("the noise", noise)
    ours, share = library(noise), level.sigma / math.hypot(level.alpha, level.sigma)
    wide = ours.wide(noise)
    if isinstance(mean, (list, tuple, np.ndarray)) and not isinstance(noise, np.ndarray):
        mean = ours.from_numpy(reals("data_mean", mean), wide)
    elif isinstance(mean, (list, tuple)):
        mean = reals("data_mean", mean)
    if arrays.is_array(mean):
        check_floating("data_mean", mean)
        if not _broadcasts(tuple(mean.shape), tuple(noise.shape)):
            raise ValueError(
                f"data_mean is of shape {tuple(mean.shape)}, which does not broadcast to that of the noise, "
                f"{tuple(noise.shape)}"
            )
        mean = ours.cast(mean, wide.dtype)
    else:
        mean = real("data_mean", mean)
    return ours.cast(share * wide + level.alpha * mean, noise.dtype)


def mean_of(data_mean: Any) -> NDArray[np.float64]:
    """A mean as NumPy's float64, from whichever library or device. TypeError or ValueError for no finite numbers."""
    if arrays.is_array(data_mean) and not isinstance(data_mean, np.ndarray):
        check_floating("data_mean", data_mean)
        data_mean = library(data_mean).numbers(data_mean)
    mean = reals("data_mean", data_mean).astype(np.float64)
    if not np.isfinite(mean).all():
        raise ValueError(f"data_mean is {shown(data_mean)}; it must be finite")
    return mean


def first_state(x: Any, level: Level, data_mean: Any, options: Mapping[str, Any]) -> Any:
    """Where a run with these options of a plan begins: at noise `x` `around` the mean, or at `x` itself.

    Data smaller than 1 drown in less noise, where √(α² + σ²)·z is too wide for α·x_0 + σ·z. So their noise is taken
    around 0. With a start or times of the caller's own `x` is a state already.
    """
    if data_mean is None:
        given = options.get("start") is not None or options.get("timesteps") is not None
        if given or real("data_range", options.get("data_range", 1.0)) >= 1:
            return x
        data_mean = 0.0
    return around(data_mean, x, level)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    missing = len(to) - len(shape)
    return missing >= 0 and all(size in (1, whole) for size, whole in zip(shape, to[missing:], strict=True))


def transfer(x: Any, epsilon: Any, here: Level, there: Level) -> Any:
    """φ(x, ε, t, s) on arrays, the paper's eq. (9): `x` and `epsilon` of one shape, the result of x's dtype and device.

    Raises TypeError or ValueError for arrays that differ in kind or shape, and at α_t = 0.
    """
    check_floating("x", x)
    check_together("epsilon", epsilon, "x", x)
    for name, level in (("here", here), ("there", there)):
        if not isinstance(level, Level):
            raise TypeError(f"{name} is a {type(level).__name__}; it must be a Level, as schedule.level(t) gives")
    return combine([x, epsilon], transfer_weights(here, there))


def convert(prediction: str | Prediction, wanted: str, x: Any, answer: Any, alpha: float, sigma: float) -> Any:
    """A network's answer as "epsilon" or "sample", whichever is `wanted`, at the state `x`.

    Parameters
    ----------
    prediction:
        What the answer means; clipping and thresholding are applied to the picture that it implies.
    wanted:
        "epsilon" or "sample".
    x, answer:
        Floating `(B, …)` arrays of one library and shape, and so is the result. An answer of the wanted kind is
        returned itself, not a copy.
    alpha, sigma:
        The level of `x`.

    Raises
    ------
    TypeError, ValueError:
        For arrays that differ in kind or shape, and where the answer does not determine the wanted one.
    """
    check_floating("x", x)
    check_together("answer", answer, "x", x)
    choice("wanted", wanted, ("epsilon", "sample"))
    level = Level(0.0, real("alpha", alpha), real("sigma", sigma))
    return converted(library(x), Prediction.of(prediction), wanted, x, answer, level)


def converted(ours: ArrayLibrary, prediction: Prediction, wanted: str, x: Any, answer: Any, level: Level) -> Any:
    """`convert` without its checks, for arrays of the library `ours`."""
    for number, weights in enumerate(prediction.conversions(wanted, level.alpha, level.sigma)):
        answer = ours.combine([x, answer], weights, x.dtype)
        if number == 0 and prediction.threshold is not None:
            answer = prediction.thresholded(ours, answer)
        elif number == 0 and prediction.clip is not None:
            answer = ours.clip(answer, prediction.bound)
    return answer


def slerp(a: Any, b: Any, weight: Any) -> Any:
    """Between the latents `a` (weight 0) and `b` (weight 1), along the arc: Shoemake (1985), section 3.3.

    `sin((1 − weight)·θ)/sin θ·a + sin(weight·θ)/sin θ·b`, where θ is the angle between a sample of `a` and its
    partner in `b`. Points between two draws of noise are then as long as noise is; on the chord they would be
    shorter, and no network has seen such. Parallel samples, whose arc is a point, are mixed linearly.

    Parameters
    ----------
    a, b:
        `(B, …)`, floating, of one library, shape, dtype and device, as is the result. Each sample has its own angle.
    weight:
        A number from 0 to 1; one outside goes on along the same circle. A 0-d array of the library carries gradients.

    Raises
    ------
    TypeError, ValueError:
        For arrays that do not match, and for samples that are not finite, or each other's opposite: no arc between
        those is the shortest. (Within `jax.jit`, where numbers cannot be read, the result is NaN.)
    """
    check_state("a", a)
    check_together("b", b, "a", a, dtype=True)
    ours, xp = library(a), library(a).namespace(a)
    # A 0-d array of the library stays one, so that it carries gradients.
    if not (arrays.is_array(weight) and library(weight) is ours and weight.ndim == 0 and ours.is_floating(weight)):
        weight = real("weight", weight)
    rows = (a.shape[0], math.prod(a.shape[1:]))
    u, v = (xp.reshape(ours.wide(x), rows) for x in (a, b))
    cosine = xp.clip(xp.sum(_directions(u, xp) * _directions(v, xp), axis=1), -1, 1)
    # Nearer than this the weights differ from the linear ones by a rounding, and θ has no derivative.
    narrow = 1 - cosine**2 < 8 * xp.finfo(u.dtype).eps
    angle = xp.acos(xp.where(narrow, xp.zeros_like(cosine), cosine))
    parts = []
    for x, share in ((u, 1 - weight), (v, weight)):
        straight = xp.where(cosine > 0, xp.zeros_like(angle) + share, xp.full_like(angle, math.nan))
        parts.append(x * xp.reshape(xp.where(narrow, straight, xp.sin(share * angle) / xp.sin(angle)), (-1, 1)))
    between = ours.cast(xp.reshape(parts[0] + parts[1], a.shape), a.dtype)
    if not ours.is_finite(between):
        raise ValueError(
            f"no arc of finite numbers: weight is {weight}, and no sample of a and b may hold infinity or NaN, nor be "
            f"the opposite of its partner; use others, or go by way of a third"
        )
    return between


def _directions(x: Any, xp: Any) -> Any:
    """The rows of `x` `(B, n)` at length 1. Rows of zeros have no direction and stay: any angle will do."""
    if 0 in x.shape:
        return x
    for order in (math.inf, 2):  # by the largest number first, since squares of huge and tiny ones leave the range
        size = xp.linalg.vector_norm(x, ord=order, axis=1, keepdims=True)
        x = x / xp.where(size > 0, size, xp.ones_like(size))
    return x
