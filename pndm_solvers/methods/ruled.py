"""The library's own rule for weights: which past answers a step combines, and how.

On the rule's own grid the polynomial is one in the rule's coordinate. Any other grid has been chosen by somebody who
placed levels where ε turns fastest, so its steps are taken as even there: Adams–Bashforth's idea, with exact integrals.
Why, and the measurements: docs/explanation/default-rule.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.methods.adams import (
    Interpolate,
    Places,
    Ratios,
    Weighing,
    exact_weights,
    places_of,
    polynomial_mean,
    weighed,
)
from pndm_solvers.program import Answer
from pndm_solvers.rule import RULE, Rule
from pndm_solvers.schedule import Level
from pndm_solvers.sde import TauLike

__all__ = [
    "bounded",
    "even_knee",
    "last_weights",
    "mirrored",
    "ruled_ahead",
    "ruled_correction",
    "ruled_mean",
    "ruled_weights",
    "well_apart",
]

# The answers that a step combines, by their places among its nodes, and their weights.
Chosen = Mapping[int, float]


def ruled_mean(
    history: Sequence[Answer],
    there: Level,
    order: int,
    rule: Rule,
    careful: bool,
    space: str,
    even: bool,
    tau: TauLike = 0.0,
    known: Mapping[Ratios, Chosen] | None = None,
) -> Mapping[Answer, float]:
    """The polynomial mean of at most `order` answers within the limits of the rule, and its share: see `ruled_weights`.

    `known` are weights that `ruled_ahead` made.
    """
    # Answers that shall be farther apart may be older.
    recent = history if there.sigma == 0 or not rule.mixed else history[: max(order, 2)]
    # An answer at σ/α = ∞ has no weight, and is always the oldest.
    ratios = tuple([ratio for e in recent if math.isfinite(ratio := e.at.level.ratio)])
    if len(ratios) < 2 or math.isinf(there.ratio):
        return {history[0]: 1.0}
    step = Weighing(ratios, ratios[0], there.ratio, tau)
    chosen = known.get(step.ratios) if known else None
    if there.sigma == 0:
        chosen = last_weights(step, order, rule, careful, space, even)
    elif not chosen:
        (chosen,) = ruled_weights([step], order, rule, careful, space, even)
    if careful and len(chosen) < order:
        chosen = with_older(chosen, len(ratios), rule.last_share if there.sigma == 0 else rule.share)
    return {history[i]: weight for i, weight in chosen.items()}


def with_older(chosen: Chosen, count: int, share: float) -> Chosen:
    """The weights, where the oldest answer gives a share of its own to the answer before it, if it is not the last.

    `count` are the answers that there are. Part of what the two newest ones differ by is the network's own error: the
    share spreads that of the older one over two.
    """
    oldest = max(chosen)
    if not share or len(chosen) < 2 or oldest + 1 == count:
        return chosen
    return {**chosen, oldest: (1 - share) * chosen[oldest], oldest + 1: share * chosen[oldest]}


def ruled_ahead(
    levels: Sequence[Level], order: int, rule: Rule, careful: bool, space: str, even: bool, tau: TauLike
) -> Mapping[Ratios, Chosen]:
    """The polynomials' weights in the steps of a run over the levels, but for that to σ = 0: many at a time."""
    ratios = [level.ratio for level in levels]
    steps = []
    for i in range(1, len(ratios) - 1):
        nodes = tuple([ratio for ratio in ratios[max(0, i + 1 - max(order, 2)) : i + 1][::-1] if math.isfinite(ratio)])
        if len(nodes) > 1 and 0 < ratios[i + 1] < math.inf:
            steps.append(Weighing(nodes, nodes[0], ratios[i + 1], tau))
    if not steps:
        return {}
    weights = ruled_weights(steps, order, rule, careful, space, even)
    return {step.ratios: chosen for step, chosen in zip(steps, weights, strict=True)}


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
    elif pure:  # where the network's coordinate has no end
        wanted, coordinate = rule.corrected > 0 and tau == 0, partial(bent, knee=rule.even_knee_within(here))
    else:
        wanted, coordinate = length <= rule.corrected, rule.coordinate
    if not wanted or _distinct(coordinate([e.level.ratio for e in answers]).tolist()) < len(answers):
        return {}
    return polynomial_mean(answers, *steps[:2], coordinate, space, tau)


def bent(ratio: ArrayLike, knee: Any) -> NDArray[np.float64]:
    """The coordinate ρ/(ρ + κ): even in ρ for a knee far above, in 1/ρ for one far below."""
    ratio = np.asarray(ratio, np.float64)
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(ratio), 1.0, ratio / (ratio + knee))


def even_knee(before: float, here: float, there: float) -> float:
    """The κ ≥ 0 at which `u = ρ/(ρ + κ)` makes the steps before → here → there, falling ρ, equally long.

    Falls between even in 1/ρ (κ = 0) and even in ρ (κ = ∞) have one. For those beyond it is the nearer of the two.
    """
    bend = before + there - 2 * here  # of ρ itself
    twist = here * (before + there) - 2 * before * there  # of 1/ρ, times their product
    if bend <= 0:
        return math.inf
    return max(twist / bend, 0.0)


def ruled_weights(
    steps: Sequence[Weighing],
    order: int,
    rule: Rule = RULE,
    careful: bool = True,
    space: str = "epsilon",
    even: bool = False,
) -> list[Chosen]:
    """The past answers that steps between levels combine, `order` at most, and their weights. Nodes: the newest first.

    With `careful`, the rule also limits the order of long steps, and the weights keep within its tighter bounds.

    `even` says that others chose the grid. Polynomials are then in u = ρ/(ρ + κ), with the κ of `even_knee` for the
    last step and this one, within the rule's bounds. A step of many e-folds reaches far beyond the answers, and
    combines two at most.
    """
    if not even:
        limits = [rule.limits(step.nodes, order) if careful else (order, rule.wide_bound) for step in steps]
        if rule.mixed:
            return bounded(steps, limits, lambda ratios, _: rule.coordinate(ratios), space)
        return [well_apart(step, *own, rule.coordinate, space) for step, own in zip(steps, limits, strict=True)]
    far = [abs(math.log(step.nodes[0] / step.there)) > rule.far for step in steps]
    limits = [(min(order, 2), rule.far_bound) if distant else (order, rule.even_bound) for distant in far]
    knees = np.array([_knee(step, rule) for step in steps])[:, None]
    return bounded(steps, limits, lambda ratios, rows: bent(ratios, knees[rows]), space)


def last_weights(
    step: Weighing,
    order: int,
    rule: Rule = RULE,
    careful: bool = True,
    space: str = "epsilon",
    even: bool = False,
) -> Chosen:
    """As `ruled_weights`, for the step to σ = 0. On a grid that others chose it combines two answers at most.

    Where these would weigh too much, they are as far apart as the step is long.
    """
    if even and order > 1:
        coordinate, newest, order = partial(bent, knee=_knee(step, rule)), step.nodes[:2], 2
        if _distinct(coordinate(newest).tolist()) == 1:
            return {0: 1.0}
        weights = exact_weights(newest, step.here, step.there, coordinate, space, step.tau)
        longer = step.here > (1 + 1e-6) * (step.nodes[1] - step.here)  # than the step before
        if longer and step.here > rule.even_last and _size(weights) > rule.even_last_bound:
            weights = _mixed(weights, [1.0, 0.0], rule.even_last_bound)
        if _size(weights) <= rule.even_bound:
            return dict(enumerate(weights))
    elif careful:
        order, _ = rule.limits(step.nodes, order)
        if rule.last_noise and space == "epsilon" and step.tau == 0 and min(order, len(step.nodes)) > 2:
            return mirrored(step.nodes, order, min(rule.bound, max(rule.last_bound, rule.last_noise / step.here)))
    return well_apart(step, order, rule.last_bound, rule.coordinate, space)


def _knee(step: Weighing, rule: Rule) -> float:
    """The κ of a step on a grid that others chose."""
    return rule.even_knee_within(even_knee(step.nodes[1], step.nodes[0], step.there))


def bounded(steps: Sequence[Weighing], limits: Sequence[tuple[int, float]], places: Places, space: str) -> list[Chosen]:
    """For each step its last answers, the newest first, mixed so that absolute weights sum to no more than a bound.

    `limits` are how many answers that are, and the bound. The weights of the highest order that the bound admits are
    mixed with those of the next higher one, up to the bound.
    """
    steps = [Weighing(step[0][:most], *step[1:]) for step, (most, _) in zip(steps, limits, strict=True)]
    counts = [_distinct(at[: len(step.nodes)]) for step, at in zip(steps, places_of(steps, places), strict=True)]

    def weigh(rows: Sequence[int], fewer: int) -> list[list[float]]:
        some, of = [Weighing(steps[row][0][: counts[row] - fewer], *steps[row][1:]) for row in rows], np.array(rows)
        return weighed(some, lambda ratios, own: places(ratios, of[own]), space)

    weights = weigh(range(len(steps)), 0)
    for fewer in range(1, max(counts)):
        over = [row for row, own in enumerate(weights) if counts[row] > fewer and _size(own) > limits[row][1]]
        for row, lower in zip(over, weigh(over, fewer) if over else [], strict=True):
            weights[row] = _mixed(weights[row], lower + [0.0] * fewer, limits[row][1])
    return [dict(enumerate(own)) for own in weights]


def _distinct(places: Sequence[float]) -> int:
    """How many of the newest answers stand apart in float64: no polynomial goes through two at one place."""
    if len(set(places)) == len(places):
        return len(places)
    return next(i for i, place in enumerate(places) if place in places[:i])


def _size(weights: Sequence[float]) -> float:
    return sum(map(abs, weights))


def _mixed(weights: Sequence[float], lower: Sequence[float], bound: float) -> list[float]:
    """The mixture lower + s·(weights − lower) whose absolute weights sum to the bound; s is 0 where none does."""
    rest = [most - few for most, few in zip(weights, lower, strict=True)]

    def of(share: float) -> list[float]:
        return [few + share * more for few, more in zip(lower, rest, strict=True)]

    share = 1.0 if _size(lower) < bound else 0.0
    # The sum is convex and piecewise straight: Newton's method comes down from s = 1 by a piece or more at a time.
    for _ in rest if share else []:
        mixed = of(share)
        slope = sum([math.copysign(more, more * weight) for more, weight in zip(rest, mixed, strict=True)])
        share -= (_size(mixed) - bound) / slope
    # Rounded down, so that the sum does not exceed the bound.
    return of(math.floor(share * 2**40) / 2**40)


def well_apart(step: Weighing, most: int, bound: float, coordinate: Interpolate, space: str) -> Chosen:
    """The last `most` answers, unless absolute weights would sum to more than `bound`: the step is long for them.

    Then they are at least the step's length apart, `most` at most.
    """
    u, reach = coordinate(step.nodes).tolist(), float(abs(coordinate(step.there) - coordinate(step.here)))
    apart = [0]
    for i, place in enumerate(u):
        if len(apart) < most and abs(place - u[apart[-1]]) >= max(reach, 1e-12):
            apart.append(i)
    among = [apart] if _distinct(u[:most]) < len(u[:most]) else [apart, range(len(u[:most]))]
    some = [step._replace(nodes=tuple([step.nodes[i] for i in chosen])) for chosen in among]
    weights = weighed(some, lambda ratios, _: coordinate(ratios), space)
    best = -1 if _size(weights[-1]) <= bound else 0
    return dict(zip(among[best], weights[best], strict=True))


def mirrored(nodes: Sequence[float], most: int, bound: float) -> Chosen:
    """For the step from the newest answer to σ = 0: weights that are exact for ε = c₀ + c₁ρ + c₃ρ³ + ….

    The flow `dx̄/dρ = −ρ·∇log p(x̄, ρ²)`, with x̄ = x/α, does not change when ρ changes its sign. So near data that have a
    density x̄ is even in ρ, and ε = dx̄/dρ odd. c₀ is for directions in which the data have no extent. Of the answers
    every k-th counts, `most` at most, with the least k at which absolute weights sum to no more than the bound.
    """
    for k in range(1, len(nodes)):
        if nodes[k] < 1.01 * nodes[0]:  # they would weigh a hundred and more
            continue
        chosen = range(0, len(nodes), k)[:most]
        ratios = np.array([nodes[i] / nodes[0] for i in chosen])
        powers = np.maximum(2 * np.arange(len(ratios)) - 1, 0)
        weights = np.linalg.solve(ratios ** powers[:, None], 1 / (powers + 1)).tolist()
        if _size(weights) <= bound:
            return dict(zip(chosen, weights, strict=True))
    return {0: 1.0}
