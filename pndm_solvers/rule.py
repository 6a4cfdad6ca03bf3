"""The numbers of the library's own rule: its grid, its coordinate, and the order of each step.

Methods and spacings read them; a search varies them. Why these: docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["RULE", "Rule"]


@dataclass(frozen=True)
class Rule:
    """How "balanced" spacing places levels, and how `PLMSSolver` weighs past answers. ρ = σ/α throughout.

    Attributes
    ----------
    grid_scale, grid_rise, grid_fall:
        The grid `ρ = scale·s^rise/(1 − s)^fall`, for even s.
    knee, tail:
        The coordinate `u = ρ/(ρ + knee) + tail·√log(1 + ρ²)` in which ε is interpolated.
    short:
        Where the last step changed log ρ by less than this, the next step has the full order.
    orders:
        Pairs (ρ, order), the highest ρ first. After a longer step, a step from above ρ combines up to `order` answers.
    bound, wide_bound:
        The most to which absolute weights may sum: `bound` with the starter "ramp" and in every step to σ = 0,
        `wide_bound` elsewhere.
    """

    grid_scale: float = 0.2
    grid_rise: float = 1.5
    grid_fall: float = 3.0
    knee: float = 0.3
    tail: float = 0.1
    short: float = 0.25
    orders: tuple[tuple[float, int], ...] = ((20.0, 2), (0.03, 3), (0.0, 4))
    bound: float = 8.0
    wide_bound: float = 100.0

    def grid_ratio(self, s: Any) -> Any:
        """ρ of the grid at s in [0, 1)."""
        return self.grid_scale * s**self.grid_rise / (1 - s) ** self.grid_fall

    def coordinate(self, ratio: ArrayLike) -> NDArray[np.float64]:
        """u(ρ) at noise-to-signal ratios ρ ≥ 0 (any shape).

        The first part follows ε on typical data. Along the flow of a Gaussian of deviation s, ε goes as ρ/√(s² + ρ²),
        so it is nearly straight in a coordinate of that shape. The second part keeps levels near pure noise apart, as
        the time of common schedules does; for α² + σ² = 1 its root is √(−log α²). Made for data of about unit range.
        """
        ratio = np.asarray(ratio, np.float64)
        return ratio / (ratio + self.knee) + self.tail * np.sqrt(np.log1p(ratio**2))

    def order(self, ratios: Sequence[float], most: int) -> int:
        """How many past answers the next step may combine: `most` or fewer. `ratios` are theirs, the newest first."""
        if len(ratios) > 1 and abs(math.log(ratios[1] / ratios[0])) < self.short:
            return most
        ratio = ratios[0] / (1 + 1e-6)  # so that a ratio at a bound counts as below it, whatever rounded it
        return min(most, next(order for above, order in self.orders if ratio > above))


RULE = Rule()
