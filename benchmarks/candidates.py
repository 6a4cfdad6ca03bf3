"""Candidates for the library's default, frozen: they stay what they are when the default changes."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from pndm_solvers import NoiseSchedule, PLMSSolver
from pndm_solvers.plan import Plan
from pndm_solvers.rule import Rule
from pndm_solvers.schedule import Level

Candidate = Callable[..., Plan]  # (schedule, calls, *, final="clean", and the facts of `Problem.grid_options`)
FROZEN = Rule(
    grid_scale=0.2, grid_rise=1.5, grid_fall=3.0, grid_first=1.0, grid_low=math.inf, knee=0.3, tail=0.1, short=0.25,
    orders=((20.0, 2), (0.03, 3), (0.0, 4)), bound=8.0, long_bound=8.0, last_bound=8.0, wide_bound=100.0,
    mixed=False, corrected=0.0, even=False,
)  # fmt: skip
# Of defaults that followed, for runs of up to so many steps. They were chosen without networks that get a condition.
# Where UP_TO_13 was in use, all longer runs had one rule.
UP_TO_5 = Rule(
    grid_scale=0.25, grid_rise=0.9, grid_fall=10.0, grid_first=1.0, grid_top=0.14, grid_low=0.0007, tail=0.0,
    orders=((0.0, 2),), last_bound=1.0,
)  # fmt: skip
# Then all runs of 3 to 6 steps had one grid.
UP_TO_6 = Rule(
    grid_scale=0.25, grid_rise=0.9, grid_fall=9.7, grid_first=0.92, grid_top=0.116, grid_low=0.00067, knee=0.173,
    tail=0.0, short=0.28, orders=((0.0, 2),), long_bound=2.65, last_bound=2.1, last_share=0.55, corrected=0.8,
)  # fmt: skip
UP_TO_8 = Rule(
    grid_scale=0.17, grid_rise=1.0, grid_fall=10.0, grid_first=1.0, grid_top=0.19, grid_low=0.0003, knee=0.095,
    tail=0.013, orders=((8.0, 2), (0.0, 3)), long_bound=3.7, last_bound=4.0,
)  # fmt: skip
UP_TO_16 = Rule(
    grid_scale=0.24, grid_rise=1.0, grid_fall=11.4, grid_first=0.9, grid_top=0.123, grid_low=0.00033, knee=0.114,
    tail=0.0255, orders=((12.3, 2), (0.0, 3)), long_bound=3.63, last_bound=5.0,
)  # fmt: skip
FROM_31 = Rule(  # runs of more than 30 steps
    grid_scale=0.25, grid_rise=1.44, grid_first=0.76, grid_top=0.27, grid_low=0.0005, knee=0.107, short=0.54,
    orders=((87.0, 2), (0.016, 3), (0.0, 4)), long_bound=6.9, last_bound=4.0, last_noise=0.41, corrected=0.62,
)  # fmt: skip
UP_TO_13 = Rule(
    grid_scale=0.18, grid_rise=1.0, grid_fall=10.0, grid_first=1.0, grid_top=0.12, grid_low=0.0003, knee=0.06,
    tail=0.007, orders=((10.0, 2), (0.0, 3)), long_bound=3.9, last_bound=7.0,
)  # fmt: skip


own = partial(PLMSSolver, order=4, starter="ramp", weights="exact", space="epsilon", coordinate="balanced", rule=FROZEN)
WEIGHTS: dict[str, Callable[[NoiseSchedule], PLMSSolver]] = {
    "default": own,
    "bound 5": partial(own, rule=replace(FROZEN, bound=5.0, long_bound=5.0)),
    "order 2": partial(own, order=2),
    "classical": partial(own, weights="classical"),
}


def candidate(weights: str = "default", grid: str = "balanced", top: float | None = None) -> Candidate:
    """On the grid "balanced", "quadratic" in t or even in "log" σ/α, from `top` on or, if lower, the highest σ/α."""

    def spacing(schedule: NoiseSchedule, steps: int, end: Level) -> np.ndarray:
        lowest, highest = (schedule.level(t).ratio for t in (schedule.t_min, schedule.t_max))
        first, t = (top, schedule.level_at(top).t) if top and top < highest else (highest, schedule.t_max)
        s = 1 - np.arange(steps) / steps
        if grid == "quadratic":
            return schedule.t_min + (t - schedule.t_min) * s**2
        if grid == "balanced":
            low, high = map(FROZEN.position, (lowest, first))
            ratios = FROZEN.grid_ratio(low + (high - low) * s[1:])
        else:  # the lowest level included, unless the run ends there
            ratios = np.geomspace(first, lowest, steps + (end.t == schedule.t_min))[1:steps]
        return np.append(t, schedule.time_at(-2 * np.log(ratios)))

    def plan(schedule: NoiseSchedule, calls: int, *, final: str = "clean", **facts: Any) -> Plan:
        return WEIGHTS[weights](schedule).plan(max_model_calls=calls, spacing=spacing, final=final)

    return plan


CANDIDATES: dict[str, Candidate] = {
    "2026-11": candidate(),  # the default of November 2026
    **{f"from {top}": candidate(top=top) for top in (10, 20)},
    **{name: candidate(name) for name in WEIGHTS if name != "default"},
    "quadratic from 10": candidate(grid="quadratic", top=10),
}
