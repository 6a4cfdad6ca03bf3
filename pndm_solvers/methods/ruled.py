"""The library's own rule for weights: which past answers a step combines, and how.

On the rule's own grid the polynomial is one in the rule's coordinate. Any other grid has been chosen by somebody who
placed levels where ε turns fastest, so its steps are taken as even there: Adams–Bashforth's idea, with exact integrals.
Why, and the measurements: docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.methods.adams import exact_weights
from pndm_solvers.program import Answer
from pndm_solvers.rule import RULE, Rule
from pndm_solvers.schedule import Level

__all__ = ["even_knee", "evenly", "ruled_mean", "well_apart"]


def ruled_mean(
    history: Sequence[Answer], there: Level, order: int, rule: Rule, careful: bool, space: str, even: bool
) -> Mapping[Answer, float]:
    """The polynomial mean of at most `order` answers, within the limits of the rule.

    With `careful`, the rule also limits the order of long steps, and the weights keep within its tighter bounds. `even`
    says that the grid is somebody else's: see `evenly`.
    """
    ratios = [e.level.ratio for e in history]
    if even:
        chosen = evenly(ratios, there.ratio, order, rule, space)
    else:
        # The last step leads below the trained levels. There the tighter bound holds for every starter.
        bound = rule.last_bound if there.sigma == 0 else rule.bound if careful else rule.wide_bound
        chosen = well_apart(ratios, there.ratio, rule.order(ratios, order) if careful else order, bound, rule, space)
    return {history[i]: weight for i, weight in chosen.items()}


def even_knee(before: float, here: float, there: float) -> float:
    """The κ ≥ 0 at which `u = ρ/(ρ + κ)` makes the steps before → here → there, falling ρ, equally long.

    Every fall of three levels from even in 1/ρ (κ = 0) to even in ρ (κ = ∞) has one; beyond, the nearer of the two.
    """
    bend = before + there - 2 * here  # of ρ itself
    twist = here * (before + there) - 2 * before * there  # of 1/ρ, times their product
    if bend <= 0:
        return math.inf
    return max(twist / bend, 0.0)


def evenly(
    ratios: Sequence[float], there: float, most: int, rule: Rule = RULE, space: str = "epsilon"
) -> Mapping[int, float]:
    """The past answers that a step combines on a grid that others chose: as `well_apart`.

    Polynomials are in u = ρ/(ρ + κ), with the κ of `even_knee` for the last step and this one, within the rule's
    bounds. Where the absolute weights of an order sum to more than the bound, they are mixed with those of the next
    lower one. A step of many e-folds and the one to σ = 0 reach far beyond the answers, and combine two at most. Those
    of the step to σ = 0 are then as far apart as the step is long.
    """
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)] or [math.inf]
    if len(ratios) == 1 or math.isinf(there):
        return {0: 1.0}
    far = there == 0 or abs(math.log(ratios[0] / there)) > rule.far
    order = min(most, 2 if far else most, len(ratios))
    if order == 1:
        return {0: 1.0}
    levels = sorted((ratios[1], ratios[0], there), reverse=True)  # the steps of an inversion rise
    least, largest = rule.even_knees
    knee = min(max(even_knee(*levels), least), largest)

    def coordinate(ratio: ArrayLike) -> NDArray[np.float64]:
        ratio = np.asarray(ratio, np.float64)
        return ratio / (ratio + knee)

    def weighed(count: int) -> NDArray[np.float64]:
        weights = exact_weights(ratios[:count], ratios[0], there, coordinate, space) if count > 1 else (1.0,)
        return np.append(weights, np.zeros(order - count))

    bound = rule.far_bound if far and there > 0 else rule.even_bound
    weights = weighed(order)
    if there == 0 and np.abs(weights).sum() > bound:
        return well_apart(ratios, there, order, rule.last_bound, rule, space)
    for count in range(order - 1, 0, -1):
        if np.abs(weights).sum() <= bound:
            break
        lower = weighed(count)
        weights = lower + _share(weights, lower, bound) * (weights - lower)
    return dict(enumerate(weights.tolist()))


def _share(weights: NDArray[np.float64], lower: NDArray[np.float64], bound: float) -> float:
    """The share of `weights` in a mixture with `lower` at which absolute weights sum to the bound, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        fits = np.abs(lower + middle * (weights - lower)).sum() <= bound
        low, high = (middle, high) if fits else (low, middle)
    return low


def well_apart(
    ratios: Sequence[float], there: float, most: int, bound: float, rule: Rule = RULE, space: str = "epsilon"
) -> Mapping[int, float]:
    """The past answers that a step to the σ/α `there` combines: indices in `ratios`, the newest first, and weights.

    They are the last `most`, unless the step reaches so far beyond them that the absolute weights sum to more than
    `bound` (those of Adams–Bashforth 4 sum to 6.7). Then they are at least the step's length apart, `most` at most.
    """
    # An answer at σ/α = ∞ has no weight, and is always the oldest.
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)] or [math.inf]
    last = list(range(min(most, len(ratios))))
    if len(last) == 1 or math.isinf(there):
        return {0: 1.0}

    def weighed(chosen: Sequence[int]) -> Mapping[int, float]:
        weights = exact_weights([ratios[i] for i in chosen], ratios[0], there, rule.coordinate, space)
        return dict(zip(chosen, weights, strict=True))

    u, reach = rule.coordinate(ratios), abs(rule.coordinate(there) - rule.coordinate(ratios[0]))
    if np.all(np.diff(u[last])):
        weights = weighed(last)
        if np.abs(list(weights.values())).sum() <= bound:
            return weights
    apart = [0]
    for i in range(1, len(ratios)):
        if abs(u[i] - u[apart[-1]]) >= max(reach, 1e-12):
            apart.append(i)
    return weighed(apart[:most])
