"""The forward process on arrays: levels, noised states and training targets, of any library and on any device.

`NoiseSchedule`'s own functions are NumPy's, in float64. These take the times of a batch as a network receives them, and
compute where they are: on a device, within `jax.jit`, and for one sample of a mapped batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pndm_solvers.advice import advise_on_times
from pndm_solvers.arguments import shown
from pndm_solvers.arrays import check_floating, check_together, is_array, library
from pndm_solvers.prediction import PREDICTIONS, Prediction
from pndm_solvers.schedule import Schedule

__all__ = ["add_noise", "alpha_sigma", "training_target"]


def alpha_sigma(schedule: Schedule, t: Any, like: Any) -> tuple[Any, Any]:
    """α and σ at the times `t` of the states `like` `(B, …)`, shaped to be multiplied with them.

    Parameters
    ----------
    schedule:
        The levels.
    t:
        One time, or one for each sample `(B,)`, or one for each of its first dimensions `(B, n)`: numbers, or an array
        of NumPy, or an array of like's library on its device, integer or floating. At the clean time, −1 for a table,
        α is 1.
    like:
        A floating array, whose library, device and dtype the result has; float32 where that has fewer bits.

    Returns
    -------
    tuple
        Two arrays of t's shape, with as many dimensions as `like`: `(B, 1, …)`. Gradients flow to `t`.

    Raises
    ------
    TypeError, ValueError:
        For times that do not go with `like`, and for times outside the schedule. Where numbers cannot be read, or only
        after waiting for a device, the levels of such times are NaN instead.
    """
    check_floating("like", like)
    return _levels(schedule, t, "like", like)


def _levels(schedule: Schedule, t: Any, name: str, like: Any) -> tuple[Any, Any]:
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule is {shown(schedule)}; it must be a NoiseSchedule, as NoiseSchedule.linear() gives")
    ours = library(like)
    dtype = ours.wide_dtype(like)
    if not is_array(t) or isinstance(t, (np.ndarray, np.generic)):
        levels = [ours.from_numpy(of(t), like, dtype) for of in (schedule.alpha, schedule.sigma)]
    else:
        check_together("t", t, name, like, shape=t.shape, floating=False)
        if not (ours.is_floating(t) or ours.is_integer(t)):
            raise TypeError(f"t is of dtype {t.dtype}; times are real numbers")
        if ours.on_host(t):
            advise_on_times(schedule.checked_times(ours.numbers(t))[0], schedule)
        levels = _levels_of_arrays(schedule, ours, t, dtype)
    shape = tuple(levels[0].shape)
    if len(shape) > like.ndim or any(n not in (1, size) for n, size in zip(shape, like.shape, strict=False)):
        raise ValueError(
            f"t is of shape {shape}; beside {name} of shape {tuple(like.shape)} it must be one time, or one for each "
            f"sample: {tuple(like.shape[:1])}"
        )
    xp = ours.namespace(like)
    alpha, sigma = (xp.reshape(level, shape + (1,) * (like.ndim - len(shape))) for level in levels)
    return alpha, sigma


def _levels_of_arrays(schedule: Schedule, ours: Any, t: Any, dtype: Any) -> list[Any]:
    """α and σ at the times `t`, computed where they are; NaN for times outside the schedule."""
    xp, table = ours.namespace(t), schedule.every_level
    on_table = bool(table) and ours.is_integer(t)
    if on_table:
        t = ours.cast(t, xp.int32)
        near = xp.clip(t, 0, len(table[0]) - 1)
        clean, inside = t == int(schedule.clean.t), t == near
        levels = [ours.from_numpy(column, t, dtype)[near] for column in table]
    else:
        t = ours.cast(t, dtype)
        near = xp.clip(t, schedule.t_min if schedule.t_floor is None else schedule.t_floor, schedule.t_max)
        # A time of few bits, as networks receive it, may lie past an end by its own rounding.
        clean, inside = t == schedule.clean.t, xp.abs(t - near) <= 1e-6 * xp.abs(near)
        levels = [of(near, xp) for of in (schedule._alpha, schedule._sigma)]
    of_clean = schedule.clean.alpha, schedule.clean.sigma
    return [
        xp.where(clean, xp.full_like(level, at_clean), xp.where(inside, level, xp.full_like(level, math.nan)))
        for level, at_clean in zip(levels, of_clean, strict=True)
    ]


def add_noise(schedule: Schedule, x0: Any, noise: Any, t: Any) -> Any:
    """The forward process α(t)·x_0 + σ(t)·noise, of x0's dtype and device.

    `t` is one time, or one for each sample, as for `alpha_sigma`. A run with `start=t` begins from the result. Raises
    TypeError or ValueError unless `x0` and `noise` are floating arrays of one library and shape.
    """
    return _mean(schedule, "", x0, noise, t)


def training_target(schedule: Schedule, x0: Any, noise: Any, t: Any, prediction: str | Prediction = "epsilon") -> Any:
    """What a network of that `prediction` is to answer at `add_noise(schedule, x0, noise, t)`, of x0's dtype.

    "epsilon" is the noise, "sample" x_0, "v_prediction" α·ε − σ·x_0, "score" −ε/σ and "flow" ε − x_0: a·x_0 + b·ε, as
    `Prediction` means them. Arguments and errors are those of `add_noise`; ValueError for an unknown prediction.
    """
    return _mean(schedule, Prediction.of(prediction).type, x0, noise, t)


def _mean(schedule: Schedule, prediction: str, x0: Any, noise: Any, t: Any) -> Any:
    """The mean of x_0 and the noise that is a `prediction`, or the state itself."""
    check_floating("x0", x0)
    check_together("noise", noise, "x0", x0)
    levels = _levels(schedule, t, "x0", x0)
    ours = library(x0)
    a, b = PREDICTIONS[prediction](*levels) if prediction else levels
    return ours.cast(a * ours.wide(x0) + b * ours.wide(noise, ours.wide_dtype(x0)), x0.dtype)
