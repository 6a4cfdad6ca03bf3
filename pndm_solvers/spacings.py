"""Spacings: where a run of N steps visits a schedule, by name. docs/reference/names.md has other programs' names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.coordinates import COORDINATES, Coordinate
from pndm_solvers.rule import COUNT, RULE, Rule
from pndm_solvers.schedule import Level, Schedule

__all__ = [
    "ALIGN_YOUR_STEPS",
    "DEFAULT_SPACING",
    "INTEGRAL_SPACINGS",
    "ROOT",
    "ROUNDED",
    "SPACINGS",
    "Spacing",
    "at_quantiles",
    "beta_sigmas",
    "default",
    "evenly",
]

DEFAULT_SPACING = "default"

BALANCED = Rule(grid_scale=0.2, grid_rise=1.5, grid_fall=3.0, grid_first=1.0, grid_top=math.inf, grid_low=math.inf)

# Spacings that give integer times on a table of T levels, and so at most T steps.
INTEGRAL_SPACINGS = ("leading", "trailing", "linspace", "simple")

# (schedule, number of steps, the level where the run ends) -> the times where the steps begin
Spacing = Callable[[Schedule, int, Level], Any]


def _table_size(schedule: Schedule, steps: int) -> int | None:
    """The number of levels T of a table, None for a continuous schedule. ValueError for more than T `steps`."""
    size = schedule.num_train_timesteps
    if size is not None and steps > size:
        others = ", ".join(repr(name) for name in SPACINGS if name not in INTEGRAL_SPACINGS)
        raise ValueError(
            f"num_inference_steps is {steps}, but the schedule has {size} integer levels; "
            f"use at most {size}, or a spacing not bound to integers: {others}"
        )
    return size


# ---------------------------------------------------------------------- even in time


def leading(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """The first level of each of n equal parts, as in DDPM, DDIM and PNDM."""
    size = _table_size(schedule, steps)
    if size is None:
        return np.maximum(schedule.time_of_share(np.arange(steps)[::-1] / steps), schedule.t_min)
    return np.arange(steps)[::-1] * (size // steps)


def trailing(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """The last level of each of n equal parts: it begins at pure noise (Lin et al. 2024, table 2)."""
    size = _table_size(schedule, steps)
    if size is None:
        return schedule.time_of_share(1 - np.arange(steps) / steps)
    return np.round(size - np.arange(steps) * (size / steps)).astype(np.int64) - 1


def linspace(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """Evenly from the highest level to the lowest, both included."""
    size = _table_size(schedule, steps)
    if steps == 1:
        return np.array([schedule.t_max if size is None else size - 1])
    if size is None:
        return schedule.time_of_share(np.linspace(1.0, schedule.share_of_time(schedule.t_min), steps))
    return np.linspace(schedule.t_min, schedule.t_max, steps)[::-1].round().astype(np.int64)


def simple(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """As "trailing", but times between the integers are rounded up."""
    size = _table_size(schedule, steps)
    if size is None:
        return trailing(schedule, steps, end)
    return size - 1 - (np.arange(steps) * (size / steps)).astype(np.int64)


def normal(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """Evenly from the highest level to the lowest, both included; not rounded."""
    return _shares(schedule, np.linspace(1.0, 0.0, steps))


def sgm_uniform(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """Evenly from the highest level to just above the lowest; not rounded."""
    return _shares(schedule, np.linspace(1.0, 0.0, steps + 1)[:-1])


def quadratic(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """T·(1 − i/n)² above the lowest level: dense near the data, where ε turns fastest; not rounded."""
    return _shares(schedule, (1 - np.arange(steps) / steps) ** 2)


def beta(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """Times at the quantiles of a Beta(0.6, 0.6) distribution, dense at both ends: Lee et al. (2024); not rounded."""
    return _shares(schedule, beta_quantiles(1 - np.arange(steps) / steps))


def beta_quantiles(shares: ArrayLike, a: float = 0.6, b: float = 0.6) -> NDArray[np.float64]:
    """The quantiles of a Beta distribution. ImportError without SciPy."""
    try:
        from scipy.special import betaincinv
    except ImportError as error:
        raise ImportError("the spacing 'beta' needs SciPy: pip install 'pndm_solvers[exact]'") from error
    return betaincinv(a, b, np.asarray(shares, np.float64))


def _shares(schedule: Schedule, shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """The times at shares of the way from the lowest level (0) to the highest (1)."""
    lowest = schedule.share_of_time(schedule.t_min)
    return schedule.time_of_share(lowest + (1 - lowest) * shares)


# ---------------------------------------------------------------------- even in a function of σ


def log_snr(schedule: Schedule, steps: int, end: Level, **ends: float | None) -> NDArray[Any]:
    """Evenly in log σ from the highest level to the lowest (Lu et al. 2022), or within `ends` of σ; not rounded."""
    return _even(schedule, steps, end, COORDINATES["log_ratio"], **ends)


def karras(schedule: Schedule, steps: int, end: Level, **ends: float | None) -> NDArray[Any]:
    """Evenly in σ^(1/7) from the highest level to the lowest, or within `ends` of σ; not rounded.

    Karras et al. (2022), eq. (5).
    """
    return _even(schedule, steps, end, ROOT, **ends)


def beta_sigmas(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """σ at the quantiles of a Beta(0.6, 0.6) distribution, from the highest level to the lowest; not rounded."""
    highest, lowest = _ends(schedule)
    return schedule.time_of_k_sigma(at_quantiles(highest, lowest, steps))


def at_quantiles(first: float, last: float, count: int) -> NDArray[np.float64]:
    """σ from the first to the last at the quantiles of a Beta distribution."""
    return last + (first - last) * beta_quantiles(np.linspace(1.0, 0.0, count))


def kl_optimal(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """Evenly in arctan σ from the highest level to the lowest (Sabour et al. 2024, theorem 3.1); not rounded."""
    return _even(schedule, steps, end, COORDINATES["angle"])


def linear_quadratic(schedule: Schedule, steps: int, end: Level, threshold: float = 0.025) -> NDArray[Any]:
    """The first half of the steps takes 0.025 of σ away, evenly, and the rest falls as a parabola (Mochi 1)."""
    highest, linear = schedule.k_sigma(schedule.t_max), steps // 2
    if highest > 1:
        raise ValueError(f"spacing is 'linear_quadratic', which is made for flows, and σ of {schedule!r} exceeds 1")
    if steps == 1:
        return np.array([schedule.t_max])
    i, rest = np.arange(steps, dtype=np.float64), steps - linear
    excess = linear - threshold * steps
    square = excess / (linear * rest**2)
    slope = threshold / linear - 2 * excess / rest**2
    fallen = np.where(i < linear, i * threshold / linear, square * i**2 + slope * i + square * linear**2)
    return schedule.time_of_k_sigma(highest * (1 - fallen))


# σ^(1/7), of Karras et al.
ROOT = Coordinate(lambda sigma: sigma ** (1 / 7), lambda root: root**7)


def evenly(first: float, last: float, count: int, coordinate: Coordinate) -> NDArray[np.float64]:
    """σ from the first to the last, even in a coordinate."""
    return coordinate.ratio(np.linspace(coordinate.of(first), coordinate.of(last), count))


def _even(
    schedule: Schedule,
    steps: int,
    end: Level,
    coordinate: Coordinate,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> NDArray[np.float64]:
    """The times of `steps` levels even in a coordinate of σ, which is that of `Schedule.k_sigma`.

    The last is the lowest level, or just above it where the run ends there.
    """
    highest, lowest = _ends(schedule)
    first, last = np.clip([sigma_max or highest, sigma_min or lowest], lowest, highest)
    count = steps + (end.t == schedule.t_min)
    times = schedule.time_of_k_sigma(evenly(first, last, count, coordinate)[:steps])
    return np.append(schedule.t_max, times[1:]) if sigma_max is None else times  # the top without its rounding


def _ends(schedule: Schedule) -> NDArray[np.float64]:
    """σ of the highest and the lowest level. ValueError where that is infinite."""
    sigmas = schedule.k_sigma(np.array([schedule.t_max, schedule.t_min]))
    if not np.isfinite(sigmas[0]):
        raise ValueError(
            f"{schedule!r} begins at log-SNR −∞ (α = 0), where no spacing in log-SNR or σ/α can start; "
            f"use spacing='balanced', 'trailing', 'linspace' or 'quadratic'"
        )
    return sigmas


# ---------------------------------------------------------------------- published

# σ of ten steps, and the lowest level: "Align Your Steps", Sabour, Fidler and Kreis (2024), from the authors' page.
ALIGN_YOUR_STEPS = {
    "ays_sd15": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904, 0.6523686016,
        0.3977456272, 0.1515232662, 0.0291671582,
    ),
    "ays_sdxl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289, 0.3798540708,
        0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "ays_svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip


# By how much a published number may lie outside the levels that its network was trained for: two or three digits.
ROUNDED = 1.01


def published(schedule: Schedule, steps: int, end: Level, sigmas: Sequence[float]) -> NDArray[np.float64]:
    """The times of a list of σ, interpolated in log σ for other numbers of steps, as its authors do.

    ValueError for a schedule that has no such levels. The list's own rounding counts as none.
    """
    highest, lowest = schedule.k_sigma(np.array([schedule.t_max, schedule.t_min]))
    if not (sigmas[0] <= ROUNDED * highest and lowest <= ROUNDED * sigmas[-1]):
        raise ValueError(
            f"this published list has σ from {sigmas[0]:g} to {sigmas[-1]:g}, and {schedule!r} from {highest:g} to "
            f"{lowest:g}; use the list of a network like yours, or spacing='default'"
        )
    places = np.linspace(0, len(sigmas) - 1, steps + 1)[:-1]
    return schedule.time_of_k_sigma(np.exp(np.interp(places, np.arange(len(sigmas)), np.log(sigmas))))


# ---------------------------------------------------------------------- the library's own


def balanced(schedule: Schedule, steps: int, end: Level) -> NDArray[Any]:
    """σ/α = 0.2·s^1.5/(1 − s)³ for even s, from the highest level to just above the lowest; not rounded.

    Dense where pictures are decided, σ/α from 0.05 to 1, and thinner to either end; why, see
    docs/explanation/default-rule.md. It begins at pure noise as well, where σ/α is infinite and s = 1.
    """
    return _ruled(schedule, steps, end, schedule.level(schedule.t_max), math.inf, BALANCED, "balanced")


def default(
    schedule: Schedule,
    steps: int,
    end: Level,
    first: Level | None = None,
    drowned: float | None = None,
    rule: Rule = RULE,
) -> NDArray[Any]:
    """The library's own: σ/α = a·s^b/(1 − s)^c for even s, from the level `first` to just above the lowest.

    Not rounded. The numbers are those of `rule`, and depend on how many steps there are:
    docs/explanation/default-rule.md. By itself the spacing begins at the highest level, and a run from pure noise at
    `default_start`. Far above the ratio at which the data are `drowned`, that of 1,024 numbers of range 1 unless said,
    nothing changes but the noise. So the even s begin at a multiple of it, and the first step leads there from above.
    """
    first, rule = first or schedule.level(schedule.t_max), rule.of(steps)
    return _ruled(schedule, steps, end, first, drowned or rule.start_ratio(COUNT), rule, DEFAULT_SPACING)


def _ruled(
    schedule: Schedule, steps: int, end: Level, first: Level, drowned: float, rule: Rule, name: str
) -> NDArray[Any]:
    """The times of a rule's grid from a level on."""
    if 1e40 < first.ratio < math.inf:  # where 1 − s would be lost beside 1
        raise ValueError(
            f"spacing is {name!r}, which begins at σ/α = 1e40 at most, and this schedule at {first.ratio:g}; use a "
            f"lower sigma_max, or timesteps of your own"
        )
    begin, lowest = (level.ratio / schedule.shift for level in (first, schedule.level(schedule.t_min)))
    above = rule.grid_top * steps * drowned  # from here on little changes but the noise
    high = rule.position(above if lowest < above < begin else begin)
    shares = (rule.grid_first + np.arange(steps - 1)) / (rule.grid_first + steps - 1)
    length = high - rule.position(lowest)
    if steps > 1 and end.sigma == 0:  # then the network may be asked at the lowest level itself
        low = rule.grid_low * min(1.0, 10 / steps) * min(begin, drowned)
        length = min(max(length, high - rule.position(low)), length / shares[-1])
    times = schedule.time_at(-2 * np.log(schedule.shift * rule.grid_ratio(high - length * shares)))
    return np.append(first.t, np.maximum(times, schedule.t_min))


SPACINGS: dict[str, Spacing] = {
    "default": default,
    "balanced": balanced,
    "leading": leading,
    "trailing": trailing,
    "linspace": linspace,
    "simple": simple,
    "normal": normal,
    "sgm_uniform": sgm_uniform,
    "quadratic": quadratic,
    "beta": beta,
    "log_snr": log_snr,
    "exponential": log_snr,
    "karras": karras,
    "kl_optimal": kl_optimal,
    "linear_quadratic": linear_quadratic,
    **{name: partial(published, sigmas=sigmas) for name, sigmas in ALIGN_YOUR_STEPS.items()},
}
