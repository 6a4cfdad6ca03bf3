"""The levels at which diffusers' schedulers ask, where no named spacing has them, and those that callers pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pndm_solvers.arguments import real, reals
from pndm_solvers.coordinates import COORDINATES
from pndm_solvers.schedule import Schedule
from pndm_solvers.schedules import shifted
from pndm_solvers.spacings import ROOT, ROUNDED, at_quantiles, evenly

__all__ = ["even_sigmas", "flow_shift", "flow_sigmas", "numbers", "times_of_ratios"]

Float64 = NDArray[np.float64]


def numbers(name: str, values: Any) -> NDArray[Any]:
    """The caller's numbers on the host, 1-D. ValueError for none."""
    values = values.detach().cpu() if isinstance(values, Tensor) and not values.is_meta else values
    found = np.atleast_1d(reals(name, values))
    if found.ndim != 1 or not found.size:
        raise ValueError(f"{name} is of shape {found.shape}; it must be one or more numbers in a row")
    return found


def flow_shift(config: Any, static: float, mu: float | None) -> float:
    """The shift of a flow's run: `static`, or with dynamic shifting that of `mu`. ValueError where that is missing.

    Pipelines pass `mu` whether or not the config asks for it.
    """
    if not config.get("use_dynamic_shifting"):
        return static
    if mu is None:
        raise ValueError("the config has use_dynamic_shifting, so that each run has its own shift; pass mu=")
    mu = real("mu", mu, "a number up to 100", lambda mu: -100 < mu <= 100)
    return math.exp(mu) if config.time_shift_type == "exponential" else mu


def even_sigmas(kind: str, steps: int, size: int, shift: float) -> Float64:
    """σ of a flow before they are shifted, as the class of diffusers of that kind lays them out.

    The lowest of flow matching's own classes has been shifted once, when the class was made.
    """
    if kind == "FlowMatch":
        return np.linspace(1.0, shifted(1 / size, shift), steps)
    if kind == "UniPC":
        return np.linspace(1.0, 1 / size, steps + 1)[:-1]
    return 1 - np.linspace(1 / size, 1.0, steps + 1)[:-1]


def flow_sigmas(config: Any, even: Float64, shift: float) -> Float64:
    """σ of a flow's run as diffusers makes them: `even` ones are shifted, stretched and respaced as the config says."""
    sigmas = shifted(even, shift)
    if terminal := config.get("shift_terminal"):
        sigmas = 1 - (1 - sigmas) * (1 - terminal) / (1 - sigmas[-1])
    first, last, count = sigmas[0], sigmas[-1], len(sigmas)
    if config.get("use_karras_sigmas"):
        return evenly(first, last, count, ROOT)
    if config.get("use_exponential_sigmas"):
        return evenly(first, last, count, COORDINATES["log_ratio"])
    return at_quantiles(first, last, count) if config.get("use_beta_sigmas") else sigmas


def times_of_ratios(schedule: Schedule, ratios: Float64) -> tuple[list[float], dict[str, Any]]:
    """The times at σ/α, which fall, and the options that end a plan at the last one.

    ValueError for values for which the network was not trained; those that rounding explains count as the nearest.
    """
    lowest, highest = (schedule.level(t).ratio for t in (schedule.t_min, schedule.t_max))
    clean = bool(np.all(ratios[-1:] == 0))
    levels = ratios[:-1] if clean else ratios
    trained = np.all((lowest <= ROUNDED * levels) & (levels <= highest * ROUNDED))
    if ratios.ndim != 1 or len(ratios) < 2 or not trained or np.any(np.diff(ratios) >= 0):
        raise ValueError(
            f"sigmas must be two or more falling σ/α, from {highest:g} to {lowest:g} as the network was trained, "
            f"or at last to 0; not {ratios}"
        )
    times = [schedule.level_at(ratio).t for ratio in levels.tolist()]
    return (times, {"final": "clean"}) if clean else (times[:-1], {"stop": times[-1]})
