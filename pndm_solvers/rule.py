"""The numbers of the library's own rule: its grid, its coordinate, and the order of each step, by the length of a run.

Methods and spacings read them; a search varies them. Why these: docs/explanation/default-rule.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["COUNT", "NOISY_RULE", "OVER_30", "RULE", "SHORT", "Rule"]

# The numbers of a sample whose shape is not known: those of a picture of 32×32.
COUNT = 1024

# More steps than any run has, and a higher σ/α than any begins at.
MOST = 2**62

# Runs of up to so many steps begin at this σ/α at most, for data of unit range.
SHORT, SHORT_START = 6, 85.0


@dataclass(frozen=True)
class Rule:
    """Where the default grid begins and its levels stand, and how `PLMSSolver` weighs past answers. ρ = σ/α throughout.

    Attributes
    ----------
    start, spread, start_most:
        An ε- or score-network's run begins at `ρ = start·max(1, √D/spread)` for samples of D numbers, but at
        `start_most` at most.
    grid_scale, grid_rise, grid_fall:
        The grid `ρ = scale·s^rise/(1 − s)^fall`, for even s.
    grid_first:
        The length of the first step in s, in lengths of the others. It is the only step of order 1.
    grid_top:
        In N steps the s are even from the first ρ or, where that is lower, from `grid_top·N` times `start_ratio`. The
        first step of a run from above leads there.
    grid_low:
        The grid leads to just above the lowest trained level. Where that is higher than this share of the first ρ, or
        of a lower `start_ratio`, 10/N of it for more than 10 steps, it leads there; but the last call is at the lowest
        level at least.
    knee, tail:
        The coordinate `u = ρ/(ρ + knee) + tail·√log(1 + (ρ/unit)²)` in which ε is interpolated.
    short:
        Where the last step changed log ρ by less than this, the next step has the full order.
    orders:
        Pairs (ρ, order), the highest ρ first. After a longer step, a step from above ρ combines up to `order` answers,
        apart from the one that has a share.
    bound, long_bound, last_bound, wide_bound:
        The most to which absolute weights may sum: with the starter "ramp", there after a longer step, in every step to
        σ = 0, and with other starters.
    last_noise:
        Where not 0, a step to σ = 0 by three answers or more takes the path as even in ρ (`mirrored`). Then absolute
        weights may also sum to this over the last ρ, up to `bound`: a network's noise reaches the sample times ρ.
    share, last_share:
        With the starter "ramp", the share of the oldest answer's weight that goes to the answer before it: in a step,
        and in that to σ = 0. See `with_older`.
    mixed:
        Whether weights beyond the bound are mixed with those of a lower order; else their answers are taken farther
        apart, as they always are in a step to σ = 0.
    corrected:
        With the starter "ramp", a first step that changes log ρ by less than this is corrected by the second answer. So
        is one from ρ = ∞, unless this is 0.
    even:
        Whether grids that are not the rule's own are weighed in a coordinate in which their steps are even.
    even_knees, even_bound:
        There, the least and the largest knee of that coordinate, and the most to which absolute weights may sum.
    even_corrected, even_short, even_top:
        There, how many first steps are corrected: short ones, the one from ρ = ∞, and from `even_top` down those that
        change log ρ by less than `even_short`.
    even_last, even_last_bound:
        There, the most to which absolute weights may sum in a step to σ = 0 from above ρ = `even_last` that is longer
        in ρ than the step before.
    far, far_bound:
        There, a step that changes log ρ by more than `far` combines two answers, absolute weights up to `far_bound`.
    unit, small:
        The unit of every ρ here, 1 for data of about unit range; for others it is their range, to the power `small`
        where that is below 1. See `of_range`.
    by_length:
        Rules of their own for runs of some lengths: the least and the most number of steps, and the rule.
    """

    start: float = 10.0
    spread: float = 6.0
    start_most: float = MOST
    grid_scale: float = 0.18
    grid_rise: float = 1.3
    grid_fall: float = 3.0
    grid_first: float = 0.6
    grid_top: float = 0.25
    grid_low: float = 0.001
    knee: float = 0.17
    tail: float = 0.11
    short: float = 0.25
    orders: tuple[tuple[float, int], ...] = ((32.0, 2), (0.015, 3), (0.0, 4))
    bound: float = 7.0
    long_bound: float = 5.0
    last_bound: float = 4.5
    last_noise: float = 0.0
    share: float = 0.0
    last_share: float = 0.0
    wide_bound: float = 100.0
    mixed: bool = True
    corrected: float = 0.5
    even: bool = True
    even_knees: tuple[float, float] = (0.01, 300.0)
    even_bound: float = 6.0
    even_corrected: int = 2
    even_short: float = 0.7
    even_top: float = 32.0
    even_last: float = 0.3
    even_last_bound: float = 1.25
    far: float = 3.0
    far_bound: float = 2.0
    unit: float = 1.0
    small: float = 0.5
    by_length: tuple[tuple[int, int, Rule], ...] = ()

    def of(self, steps: int) -> Rule:
        """The rule of a run of as many steps."""
        return next((rule for least, most, rule in self.by_length if least <= steps <= most), self)

    def of_levels(self, ratios: Sequence[float]) -> Rule:
        """The rule that made these levels, maybe as a part of a longer grid; else this one.

        Any rule can have made the levels of three steps or fewer. There it is that of a run of as many steps.
        """
        rules = self.of(len(ratios) - 1), self, *(rule for _, _, rule in self.by_length)
        return next((rule for rule in rules if rule.made(ratios)), self)

    def everywhere(self, **numbers: Any) -> Rule:
        """The rule with other numbers, for runs of every length."""
        by_length = tuple((least, most, replace(rule, **numbers)) for least, most, rule in self.by_length)
        return replace(self, by_length=by_length, **numbers)

    def of_range(self, data_range: float) -> Rule:
        """The rule for data whose deviation is `data_range`, or down to half of it.

        The flow of c·x at σ/α = c·ρ is c times that of x at ρ. So for data that are c times as large all that is a ρ
        grows by c, and each sample's error is c times what it was. Where data are smaller, all shrinks by √c alone: a
        network's own errors do not shrink with its data, and the levels at which they show stay where they are.
        """
        if (unit := data_range if data_range > 1 else data_range**self.small) == 1:
            return self
        names = "unit", "start", "start_most", "grid_scale", "knee", "last_noise", "even_top", "even_last"
        return replace(
            self,
            **{name: unit * getattr(self, name) for name in names},
            orders=tuple((unit * ratio, order) for ratio, order in self.orders),
            even_knees=(unit * self.even_knees[0], unit * self.even_knees[1]),
            by_length=tuple((least, most, rule.of_range(data_range)) for least, most, rule in self.by_length),
        )

    def start_ratio(self, count: int) -> float:
        """The ρ at which a run from pure noise begins, for samples of `count` numbers."""
        return min(self.start * max(1.0, math.sqrt(count) / self.spread), self.start_most)

    def grid_ratio(self, s: Any) -> Any:
        """ρ of the grid at s in [0, 1)."""
        return self.grid_scale * s**self.grid_rise / (1 - s) ** self.grid_fall

    def position(self, ratio: float) -> float:
        """The s in [0, 1] at which the grid has the ratio, by bisection; 1 at ρ = ∞."""
        if math.isinf(ratio):
            return 1.0
        if ratio == 0:
            return 0.0
        # Newton's method comes near, in log s/(1 − s), in which log ρ is nearly straight. 1 − s is not lost up to 36.
        logit = 0.0
        for _ in range(5):
            s = 1 / (1 + math.exp(-logit))
            off = math.log(self.grid_scale / ratio) + self.grid_rise * math.log(s) - self.grid_fall * math.log1p(-s)
            logit = min(logit - off / (self.grid_rise * (1 - s) + self.grid_fall * s), 36.0)
        parts = 2.0**44
        low = math.floor(parts / (1 + math.exp(-logit))) / parts
        high = low + 1 / parts
        if not (high < 1 and self.grid_ratio(low) < ratio <= self.grid_ratio(high)):
            low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if middle in (low, high):
                break
            low, high = (middle, high) if self.grid_ratio(middle) < ratio else (low, middle)
        return low

    def made(self, ratios: Sequence[float]) -> bool:
        """Whether levels are those of the rule's grid: even in s, the first and the last step apart."""
        inner = np.array(ratios[1:-1])
        if len(inner) < 3:
            return True
        even = np.linspace(self.position(inner[0]), self.position(inner[-1]), len(inner))
        off = 1e-6 * abs(even[1] - even[0])
        return bool(np.all((self.grid_ratio((even - off).clip(0)) <= inner) & (inner <= self.grid_ratio(even + off))))

    def even_on(self, ratios: Sequence[float]) -> bool:
        """Whether a grid of these levels is weighed in a coordinate in which its own steps are even."""
        return self.even and not self.made(ratios)

    def even_knee_within(self, knee: float) -> float:
        """The knee, or the nearer of `even_knees`."""
        least, largest = self.even_knees
        return min(max(knee, least), largest)

    def coordinate(self, ratio: ArrayLike) -> NDArray[np.float64]:
        """u(ρ) at noise-to-signal ratios ρ ≥ 0 (any shape).

        The first part follows ε on typical data. Along the flow of a Gaussian of deviation s, ε goes as ρ/√(s² + ρ²),
        so it is nearly straight in a coordinate of that shape. The second part keeps levels near pure noise apart, as
        the time of common schedules does; for α² + σ² = 1 its root is √(−log α²).
        """
        ratio = np.asarray(ratio, np.float64)
        return ratio / (ratio + self.knee) + self.tail * np.sqrt(np.log1p((ratio / self.unit) ** 2))

    def limits(self, ratios: Sequence[float], most: int) -> tuple[int, float]:
        """How many past answers the next step may combine, `most` or fewer, and the bound of their weights.

        `ratios` are those of the answers, the newest first.
        """
        if len(ratios) > 1 and abs(math.log(ratios[1] / ratios[0])) < self.short:
            return most, self.bound
        ratio = ratios[0] / (1 + 1e-6)  # so that a ratio at a bound counts as below it, whatever rounded it
        return min(most, next(order for above, order in self.orders if ratio > above)), self.long_bound


# The fewer the steps, the lower the order; up to 7 each length has its own numbers. Up to 16 steps the grids are nearly
# even in log ρ above ρ = 0.1.
UP_TO_2 = Rule(start_most=SHORT_START)
FEW = Rule(tail=0.0, orders=((0.0, 2),))
LOW = replace(FEW, start_most=SHORT_START)
OF_3 = replace(
    LOW, grid_scale=0.25, grid_rise=0.9, grid_fall=9.7, grid_first=0.92, grid_top=0.116, grid_low=0.00067, knee=0.173,
    long_bound=2.45, last_bound=2.1, share=0.8, last_share=0.7,
)  # fmt: skip
OF_4 = replace(
    LOW, grid_scale=0.21, grid_rise=0.78, grid_fall=10.35, grid_first=1.08, grid_top=0.108, grid_low=0.00088,
    knee=0.188, long_bound=2.6, last_bound=1.85, share=0.65, last_share=0.45,
)  # fmt: skip
OF_5 = replace(
    LOW, grid_scale=0.145, grid_rise=0.99, grid_fall=6.0, grid_first=0.81, grid_top=0.088, grid_low=0.001, knee=0.141,
    long_bound=2.69, last_bound=1.9, share=0.165, last_share=0.5,
)  # fmt: skip
OF_6 = replace(
    LOW, grid_scale=0.146, grid_rise=0.9, grid_fall=6.2, grid_first=0.84, grid_top=0.101, grid_low=0.00026, knee=0.121,
    long_bound=2.58, last_bound=2.4, last_share=0.5,
)  # fmt: skip
OF_7 = replace(
    FEW, grid_scale=0.117, grid_rise=0.71, grid_fall=8.9, grid_first=0.94, grid_top=0.112, grid_low=0.0002, knee=0.088,
    tail=0.02, long_bound=3.25, last_bound=5.6, last_share=0.72,
)  # fmt: skip
UP_TO_9 = Rule(
    grid_scale=0.224, grid_rise=1.15, grid_fall=9.6, grid_first=1.0, grid_top=0.205, grid_low=0.00015, knee=0.099,
    tail=0.02, orders=((9.6, 2), (0.0, 3)), long_bound=3.25, last_bound=3.4,
)  # fmt: skip
UP_TO_16 = Rule(
    grid_scale=0.232, grid_rise=1.06, grid_fall=9.36, grid_first=0.69, grid_top=0.128, grid_low=0.000175, knee=0.108,
    tail=0.087, orders=((18.6, 2), (0.0, 3)), long_bound=3.74, last_bound=1.5, corrected=0.39,
)  # fmt: skip
UP_TO_30 = Rule(
    grid_scale=0.175, grid_rise=1.15, grid_fall=2.67, grid_first=0.605, grid_top=0.138, grid_low=0.00019, knee=0.125,
    tail=0.11, orders=((50.0, 2), (0.02, 3), (0.0, 4)), corrected=2.0,
)  # fmt: skip
OVER_30 = Rule(
    grid_scale=0.3, grid_rise=2.2, grid_first=0.78, grid_top=0.18, grid_low=0.0001, knee=0.085, tail=0.127, short=1.08,
    orders=((34.0, 2), (0.03, 3), (0.0, 4)), long_bound=7.0, last_bound=2.6, last_noise=0.31, corrected=1.0,
)  # fmt: skip
# The numbers that are not of a length are those of grids that others chose, and of the start of longer runs.
RULE = Rule(
    by_length=(
        (1, 2, UP_TO_2), (3, 3, OF_3), (4, 4, OF_4), (5, 5, OF_5), (SHORT, SHORT, OF_6), (7, 7, OF_7),
        (8, 9, UP_TO_9), (10, 16, UP_TO_16), (17, 30, UP_TO_30), (31, MOST, OVER_30),
    )
)  # fmt: skip

# With noise in the steps. Two answers at most, as the weak order is 2, and the differences of more would be mostly
# noise. ρ/(1 + ρ) is calm in data space: with few calls the flow's knee is three to forty times worse. The grid is that
# of 17 to 30 steps at any number: it is thinner near pure noise, where a step's noise hides what the answer lacked.
NOISY_RULE = replace(
    UP_TO_30, knee=1.0, tail=0.0, short=0.0, orders=((0.0, 2),), long_bound=2.5, corrected=0.5, even=False
)
