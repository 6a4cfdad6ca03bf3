"""The library's own rule for weights: which past answers a step combines, and how.

On the rule's own grid the polynomial is one in the rule's coordinate. Any other grid has been chosen by somebody who
placed levels where ε turns fastest, so its steps are taken as even there: Adams–Bashforth's idea, with exact integrals.
Why, and the measurements: docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.methods.adams import Interpolate, exact_weights, lagrange_weights, polynomial_mean, shares
from pndm_solvers.program import Answer
from pndm_solvers.quadrature import panels_of_steps, span
from pndm_solvers.rule import RULE, Rule
from pndm_solvers.schedule import Level
from pndm_solvers.sde import TauLike

__all__ = ["bounded", "even_knee", "evenly", "ruled_correction", "ruled_mean", "weighed_steps", "well_apart"]

# Chosen answers and their weights, by the ratios of the last answers and that of the step's end.
Weighed = Mapping[tuple[tuple[float, ...], float], Mapping[int, float]]


def ruled_mean(
    history: Sequence[Answer],
    there: Level,
    order: int,
    rule: Rule,
    careful: bool,
    space: str,
    even: bool,
    tau: TauLike = 0.0,
    known: Weighed | None = None,
) -> Mapping[Answer, float]:
    """The polynomial mean of at most `order` answers, within the limits of the rule.

    With `careful`, the rule also limits the order of long steps, and the weights keep within its tighter bounds. `even`
    says that the grid is somebody else's: see `evenly`. `known` are weights that `weighed_steps` made before.
    """
    # Answers that shall be farther apart may be older.
    recent = history if there.sigma == 0 or not rule.mixed else history[: max(order, 2)]
    # An answer at σ/α = ∞ has no weight, and is always the oldest.
    ratios = [ratio for e in recent if math.isfinite(ratio := e.at.level.ratio)]
    if len(ratios) < 2 or math.isinf(there.ratio):
        chosen: Mapping[int, float] = {0: 1.0}
    elif known and (found := known.get((tuple(ratios), there.ratio))):
        chosen = found
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
    if number >= (rule.even_corrected if even else 1):
        return {}
    before, here, there = (level.ratio for level in steps)
    length, pure = abs(math.log(before / here)), math.isinf(before)
    if even:
        # From pure noise, where ε is exact whatever the network, or while that is accurate, or by a short step.
        accurate = pure or (length <= rule.even_short and before <= rule.even_top)
        wanted = accurate or length < rule.short
        knee = rule.even_knee_within(here if pure or math.isinf(there) else even_knee(before, here, there))
        coordinate: Interpolate = partial(bent, knee=knee)
    else:
        wanted, coordinate = length <= rule.corrected, rule.coordinate
    if not wanted or _distinct([e.level.ratio for e in answers], coordinate) < len(answers):
        return {}
    return polynomial_mean(answers, *steps[:2], coordinate, space, tau)


def bent(ratio: ArrayLike, knee: Any) -> NDArray[np.float64]:
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
    most, bound, knee = _even_limits(ratios, there, most, rule)
    if most == 1:
        return {0: 1.0}
    coordinate = partial(bent, knee=knee)
    if _distinct(ratios[:2], coordinate) == 1:
        return {0: 1.0}
    if there == 0 and _size(_weighed(ratios[:2], there, coordinate, space, tau)) > rule.even_bound:
        return well_apart(ratios, there, most, rule.last_bound, rule.coordinate, space, tau)
    return bounded(ratios, there, most, bound, coordinate, space, tau)


def _even_limits(ratios: Sequence[float], there: float, most: int, rule: Rule) -> tuple[int, float, float]:
    """For a step of `evenly`: how many answers it combines, the bound of their weights, and the knee."""
    far = there == 0 or abs(math.log(ratios[0] / there)) > rule.far
    bound = rule.far_bound if far and there > 0 else rule.even_bound
    return min(most, 2 if far else most), bound, rule.even_knee_within(even_knee(ratios[1], ratios[0], there))


def weighed_steps(levels: Sequence[Level], order: int, rule: Rule, careful: bool, space: str, even: bool) -> Weighed:
    """What `ruled_mean` chooses in each step of a run over the levels, for the ordinary steps: many at a time.

    Left out are steps to σ = 0 or ∞, and those that are too short for float64 or whose polynomial has no finite mean.
    """
    ratios = [level.ratio for level in levels]
    if not rule.mixed or order == 1:
        return {}
    alike: dict[tuple[int, int], list[_Step]] = {}  # by the number of answers and of panels
    for i in range(1, len(ratios) - 1):
        there = ratios[i + 1]
        window = [ratio for ratio in ratios[max(0, i + 1 - max(order, 2)) : i + 1][::-1] if math.isfinite(ratio)]
        if len(window) < 2 or not 0 < there < math.inf or math.isclose(window[0], there, rel_tol=1e-12):
            continue
        if even:
            most, bound, knee = _even_limits(window, there, order, rule)
        else:
            most, bound = rule.limits(window, order) if careful else (order, rule.wide_bound)
            knee = rule.knee
        if most > 1:
            step = _Step((tuple(window), there), window[:most], bound, knee, span(window[0], there))
            alike.setdefault((len(step.nodes), step.span[3]), []).append(step)
    known: dict[tuple[tuple[float, ...], float], Mapping[int, float]] = {}
    for steps in alike.values():
        known |= _weighed_alike(steps, rule, space, even)
    return known


class _Step(NamedTuple):
    """A step of `weighed_steps`: its key there, the answers' ratios, the bound of their weights, the knee, its span."""

    key: tuple[tuple[float, ...], float]
    nodes: list[float]
    bound: float
    knee: float
    span: tuple[float, float, float, int]


def _weighed_alike(steps: Sequence[_Step], rule: Rule, space: str, even: bool) -> Weighed:
    """The weights of steps that have as many answers and as many panels: array operations for all of them."""
    coordinate = partial(bent, knee=np.array([step.knee for step in steps])[:, None]) if even else rule.coordinate
    points = panels_of_steps([step.span for step in steps])
    parts = shares(points, space)
    at, v = coordinate(np.array([step.nodes for step in steps])), coordinate(points.ratios.reshape(parts.shape))
    apart = np.all(np.diff(np.sort(at)) > 0, axis=1) & np.isfinite(at).all(1) & np.isfinite(v).all(1)
    rows = np.flatnonzero(apart)
    weights = _mixed(
        lambda few, some: lagrange_weights(at[some, :few], v[some], parts[some]),
        at.shape[1],
        np.array([step.bound for step in steps]),
        rows,
    )
    return {steps[row].key: dict(enumerate(own)) for row, own in zip(rows.tolist(), weights.tolist(), strict=True)}


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
    (weights,) = _mixed(
        lambda few, _: _weighed(ratios[:few], there, coordinate, space, tau)[None],
        count,
        np.array([bound]),
        np.zeros(1, np.int64),
    )
    return dict(enumerate(weights.tolist()))


def _mixed(
    weigh: Callable[[int, NDArray[np.int64]], NDArray[np.float64]],
    count: int,
    bounds: NDArray[np.float64],
    rows: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The weights of `count` answers in each step of `rows`, mixed as in `bounded`.

    `weigh(few, rows)` gives those of the newest `few` answers in some of the steps.
    """
    weights = weigh(count, rows)
    for lower in range(count - 1, 0, -1):
        over = np.flatnonzero(_size(weights) > bounds[rows])
        if not len(over):
            break
        fewer = np.pad(weigh(lower, rows[over]), ((0, 0), (0, count - lower)))
        most = weights[over]
        weights[over] = fewer + _share(most, fewer, bounds[rows[over]])[:, None] * (most - fewer)
    return weights


def _distinct(ratios: Sequence[float], coordinate: Interpolate) -> int:
    """How many of the newest answers stand apart in float64: no polynomial goes through two at one place."""
    places = coordinate(ratios).tolist()
    return next((i for i, place in enumerate(places) if place in places[:i]), len(places))


def _weighed(
    ratios: Sequence[float], there: float, coordinate: Interpolate, space: str, tau: TauLike
) -> NDArray[np.float64]:
    """Exact weights of answers, for the step from the newest of them, the first."""
    return np.array(exact_weights(ratios, ratios[0], there, coordinate, space, tau))


def _size(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(weights).sum(-1)


def _share(
    weights: NDArray[np.float64], lower: NDArray[np.float64], bounds: NDArray[np.float64]
) -> NDArray[np.float64]:
    """For each step, the share of `weights` in a mixture with `lower` at which absolute weights sum to the bound."""
    low, length, rest = np.zeros(len(weights)), 1.0, weights - lower
    for _ in range(40):
        length /= 2
        low = np.where(_size(lower + (low + length)[:, None] * rest) <= bounds, low + length, low)
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
