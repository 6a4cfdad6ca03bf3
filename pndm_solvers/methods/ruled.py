"""The library's own rule for weights: which past answers a step combines, and how.

On the rule's own grid the polynomial is one in the rule's coordinate. Any other grid has been chosen by somebody who
placed levels where ε turns fastest, so its steps are taken as even there: Adams–Bashforth's idea, with exact integrals.
Why, and the measurements: docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.methods.adams import Interpolate, exact_weights, polynomial_mean
from pndm_solvers.program import Answer
from pndm_solvers.rule import RULE, Rule
from pndm_solvers.schedule import Level
from pndm_solvers.sde import TauLike

__all__ = ["bounded", "even_knee", "evenly", "ruled_correction", "ruled_mean", "well_apart"]


def ruled_mean(
    history: Sequence[Answer],
    there: Level,
    order: int,
    rule: Rule,
    careful: bool,
    space: str,
    even: bool,
    tau: TauLike = 0.0,
) -> Mapping[Answer, float]:
    """The polynomial mean of at most `order` answers, within the limits of the rule.

    With `careful`, the rule also limits the order of long steps, and the weights keep within its tighter bounds. `even`
    says that the grid is somebody else's: see `evenly`.
    """
    # An answer at σ/α = ∞ has no weight, and is always the oldest.
    ratios = [e.level.ratio for e in history if math.isfinite(e.level.ratio)]
    if len(ratios) < 2 or math.isinf(there.ratio):
        chosen: Mapping[int, float] = {0: 1.0}
    elif even:
        chosen = evenly(ratios, there.ratio, order, rule, space, tau)
    else:
        most, bound = rule.limits(ratios, order) if careful else (order, rule.wide_bound)
        keep = bounded if rule.mixed else well_apart
        if there.sigma == 0:  # the step below the trained levels
            keep, bound = well_apart, rule.last_bound
        chosen = keep(ratios, there.ratio, most, bound, rule.coordinate, space, tau)
    return {history[i]: weight for i, weight in chosen.items()}


def ruled_correction(
    answers: Sequence[Answer],
    number: int,
    steps: tuple[Level, Level, Level],
    rule: Rule,
    space: str,
    even: bool,
    tau: TauLike = 0.0,
) -> Mapping[Answer, float]:
    """The mean to repeat the step `number` along, from 0, once its end has an answer; empty where it stays as it is.

    The first step is Euler's, whose error nothing makes good later. The second answer does: with it the step becomes
    the trapezoid's. `steps` are the levels of the step and of the next one.
    """
    before, here, there = (level.ratio for level in steps)
    length, pure = abs(math.log(before / here)), math.isinf(before)
    if even:
        # From pure noise, where ε is exact whatever the network, or while that is accurate, or by a short step.
        accurate = pure or (length <= rule.even_short and before <= rule.even_top)
        wanted = number < rule.even_corrected and (accurate or length < rule.short)
        knee = rule.even_knee_within(here if pure or math.isinf(there) else even_knee(before, here, there))
        coordinate: Interpolate = partial(bent, knee=knee)
    else:
        wanted, coordinate = not number and length <= rule.corrected, rule.coordinate
    if not wanted or _distinct([e.level.ratio for e in answers], coordinate) < len(answers):
        return {}
    return polynomial_mean(answers, *steps[:2], coordinate, space, tau)


def bent(ratio: ArrayLike, knee: float) -> NDArray[np.float64]:
    """The coordinate ρ/(ρ + κ): even in ρ for a knee far above, in 1/ρ for one far below."""
    ratio = np.asarray(ratio, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(ratio), 1.0, ratio / (ratio + knee))


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
    ratios: Sequence[float],
    there: float,
    most: int,
    rule: Rule = RULE,
    space: str = "epsilon",
    tau: TauLike = 0.0,
) -> Mapping[int, float]:
    """The past answers that a step combines on a grid that others chose: indices in `ratios`, and weights.

    Polynomials are in u = ρ/(ρ + κ), with the κ of `even_knee` for the last step and this one, within the rule's
    bounds. A step of many e-folds and the one to σ = 0 reach far beyond the answers, and combine two at most. Those of
    the step to σ = 0 are then as far apart as the step is long.
    """
    far = there == 0 or abs(math.log(ratios[0] / there)) > rule.far
    most = min(most, 2 if far else most)
    if most == 1:
        return {0: 1.0}
    coordinate = partial(bent, knee=rule.even_knee_within(even_knee(ratios[1], ratios[0], there)))
    if _distinct(ratios[:2], coordinate) == 1:
        return {0: 1.0}
    if there == 0 and _size(_weighed(ratios[:2], there, coordinate, space, tau)) > rule.even_bound:
        return well_apart(ratios, there, most, rule.last_bound, rule.coordinate, space, tau)
    bound = rule.far_bound if far and there > 0 else rule.even_bound
    return bounded(ratios, there, most, bound, coordinate, space, tau)


def bounded(
    ratios: Sequence[float],
    there: float,
    most: int,
    bound: float,
    coordinate: Interpolate,
    space: str,
    tau: TauLike = 0.0,
) -> Mapping[int, float]:
    """The last `most` answers, the newest first, mixed so that absolute weights sum to no more than `bound`.

    The weights of the highest order that the bound admits are mixed with those of the next higher one, up to the bound.
    """
    count = _distinct(ratios[:most], coordinate)
    weights = _weighed(ratios[:count], there, coordinate, space, tau)
    for lower in range(count - 1, 0, -1):
        if _size(weights) <= bound:
            break
        fewer = np.append(_weighed(ratios[:lower], there, coordinate, space, tau), np.zeros(count - lower))
        weights = fewer + _share(weights, fewer, bound) * (weights - fewer)
    return dict(enumerate(weights.tolist()))


def _distinct(ratios: Sequence[float], coordinate: Interpolate) -> int:
    """How many of the newest answers stand apart in float64: no polynomial goes through two at one place."""
    places = coordinate(ratios).tolist()
    return next((i for i, place in enumerate(places) if place in places[:i]), len(places))


def _weighed(
    ratios: Sequence[float], there: float, coordinate: Interpolate, space: str, tau: TauLike
) -> NDArray[np.float64]:
    """Exact weights of answers, for the step from the newest of them, the first."""
    return np.array(exact_weights(ratios, ratios[0], there, coordinate, space, tau))


def _size(weights: NDArray[np.float64]) -> float:
    return float(np.abs(weights).sum())


def _share(weights: NDArray[np.float64], lower: NDArray[np.float64], bound: float) -> float:
    """The share of `weights` in a mixture with `lower` at which absolute weights sum to the bound, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _size(lower + middle * (weights - lower)) <= bound else (low, middle)
    return low


def well_apart(
    ratios: Sequence[float],
    there: float,
    most: int,
    bound: float,
    coordinate: Interpolate,
    space: str,
    tau: TauLike = 0.0,
) -> Mapping[int, float]:
    """The last `most` answers, unless absolute weights would sum to more than `bound`: the step is long for them.

    Then they are at least the step's length apart, `most` at most.
    """
    last = list(range(min(most, len(ratios))))
    u, reach = coordinate(ratios), abs(coordinate(there) - coordinate(ratios[0]))
    if np.all(np.diff(u[last])):
        weights = _weighed(ratios[: len(last)], there, coordinate, space, tau)
        if _size(weights) <= bound:
            return dict(enumerate(weights.tolist()))
    apart = [0]
    for i in range(1, len(ratios)):
        if abs(u[i] - u[apart[-1]]) >= max(reach, 1e-12):
            apart.append(i)
    chosen = apart[:most]
    return dict(zip(chosen, _weighed([ratios[i] for i in chosen], there, coordinate, space, tau).tolist(), strict=True))
