"""Adams' weights: how answers are averaged over a step, on even grids and on any grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import whole
from pndm_solvers.program import Answer
from pndm_solvers.quadrature import Panels, panels
from pndm_solvers.rule import RULE
from pndm_solvers.schedule import Level
from pndm_solvers.sde import TauLike, share
from pndm_solvers.transfer import SPACES

__all__ = [
    "Interpolate",
    "adams_bashforth",
    "exact_weights",
    "lagrange_weights",
    "polynomial_mean",
    "quadrature",
    "shares",
]

# v(ρ): the place of a ratio ρ = σ/α, for a polynomial.
Interpolate = Callable[[ArrayLike], NDArray[np.float64]]


@cache
def adams_bashforth(order: int) -> tuple[Fraction, ...]:
    """Weights of the last `order` evaluations, the newest first, for even steps; they sum to 1.

    Weight j is ∫₀¹ L_j(s) ds, with Lagrange's polynomial L_j through the places 0, −1, −2, … of the evaluations:
    (3, −1)/2, (23, −16, 5)/12, (55, −59, 37, −9)/24, … (Bashforth and Adams, 1883). There is no highest order.
    """
    order = whole("order", order)
    weights = []
    for j in range(order):
        lagrange = [Fraction(1)]  # L_j's coefficients, of rising powers of s
        for i in range(order):
            if i != j:  # times (s + i)/(i − j)
                lagrange = [
                    (i * same + lower) / (i - j) for same, lower in zip([*lagrange, 0], [0, *lagrange], strict=True)
                ]
        weights.append(sum((coefficient / (power + 1) for power, coefficient in enumerate(lagrange)), Fraction(0)))
    return tuple(weights)


def exact_weights(
    nodes: Sequence[float],
    here: float,
    there: float,
    coordinate: Interpolate = RULE.coordinate,
    space: str = "epsilon",
    tau: TauLike = 0.0,
) -> tuple[float, ...]:
    """Weights of the answers at the `nodes`, for a step from `here` to `there`, all of them ratios ρ = σ/α.

    A step in a space is a transfer along the mean of its slope e: ∫ e du / ∫ du, with du = dρ/D(1, ρ)² as in
    `transfer.py`; for ε, du = dρ. e is replaced by the polynomial in v = coordinate(ρ) through its values at the
    nodes, so the weight of node j is w_j = ∫ L_j(v(ρ)) du / ∫ du over the step, with Lagrange's L_j: Adams'
    construction (Bashforth and Adams, 1883) on any grid. They sum to 1, and where the nodes are even in v and du is
    proportional to dv they are `adams_bashforth`. In a stochastic step, by `tau`, du has the factor (1 + τ²)/E of
    `sde.py`.

    The quadrature is Gauss's on panels no wider than a factor e in ρ. Relative to the largest weight the
    result is good to 1e-12. In a step below a hundredth of ρ it is worse, by the rounding of the nodes.
    Some steps have no polynomial, or no finite mean of it, and then one node has all the weight. A node where v is
    infinite, as most coordinates are at ρ = ∞, has no place: a single other node counts, and without one the first. The
    first counts too in a step that is too short for float64, and where the polynomial's mean is infinite, as that of a
    power of 1/ρ over dρ down to ρ = 0. Where u is infinite at the step's end, as 1/ρ at σ = 0, the mean is the value
    there. Raises ValueError for two nodes at one v.
    """

    def places(ratios: ArrayLike) -> NDArray[np.float64]:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(coordinate(np.asarray(ratios, np.float64)), np.float64)

    at = places(nodes)
    finite = [i for i, place in enumerate(at) if math.isfinite(place)]
    if len(finite) < 2 or math.isclose(here, there, rel_tol=1e-12):
        newest = finite[0] if len(finite) == 1 else 0
        return tuple(float(i == newest) for i in range(len(nodes)))
    ratios, parts = quadrature(here, there, space, tau)
    v = places(ratios)
    if not np.isfinite(v).all() or not _has_a_mean(np.abs(v) ** (len(finite) - 1) * parts, here, there):
        return (1.0,) + (0.0,) * (len(nodes) - 1)
    if len(np.unique(at[finite])) < len(finite):
        raise ValueError(f"no polynomial goes through two values at one place; the nodes are {list(nodes)}")

    weights = np.zeros(len(nodes))
    weights[finite] = lagrange_weights(at[None, finite], v[None], parts[None])[0]
    return tuple(weights.tolist())


def lagrange_weights(
    at: NDArray[np.float64], v: NDArray[np.float64], parts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """∫ L_j of several steps, `(steps, nodes)`, as Σ parts·L_j(v); `parts` and `v` are `(steps, points)`.

    L_j are Lagrange's polynomials through the places `at`, `(steps, nodes)`.
    """
    count = at.shape[1]
    weights = np.ones(at.shape)
    away = [v - place[:, None] for place in at.T]
    for i in range(count if count > 1 else 0):
        lagrange: Any = math.prod(away[j] / (at[:, i] - at[:, j])[:, None] for j in range(count) if j != i)
        weights[:, i] = (parts[:, None, :] @ lagrange[..., None])[:, 0, 0]
    return weights


def polynomial_mean(
    answers: Sequence[Answer], here: Level, there: Level, coordinate: Interpolate, space: str, tau: TauLike = 0.0
) -> Mapping[Answer, float]:
    """The mean that integrates the polynomial through all `answers` exactly over the step from `here` to `there`.

    Of answers at one level, as stages that are rounded to one trained time give, the last counts.
    """
    at = {e.level.ratio: e for e in answers}
    weights = exact_weights(list(at), here.ratio, there.ratio, coordinate, space, tau)
    return dict(zip(at.values(), weights, strict=True))


def _has_a_mean(terms: NDArray[np.float64], here: float, there: float) -> bool:
    """Whether an integral up to ρ = 0 or ∞ has converged where the quadrature breaks off; `terms` are its summands."""
    ends = [terms[-16:]] * (there in (0, math.inf)) + [terms[:16]] * (here == math.inf)
    return len(terms) < 16 or all(end.sum() <= 1e-9 * terms.sum() for end in ends)


def quadrature(
    here: float, there: float, space: str, tau: TauLike = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points ρ of the step and their shares in a mean over du, or with `tau` in the mean of a stochastic step."""
    space = "sample" if math.isinf(here) and space == "epsilon" else space  # as φ itself
    with np.errstate(divide="ignore", over="ignore"):
        if not np.isfinite(SPACES[space].coordinate.of(np.float64(there))):
            return np.array([there]), np.ones(1)
    points = panels(here, there)
    (parts,) = shares(Panels(points.ratios[None], points.logs[None]), space, share(points, space, tau))
    return points.ratios.ravel(), parts


def shares(points: Panels, space: str, factor: NDArray[np.float64] | float = 1.0) -> NDArray[np.float64]:
    """The shares of several steps' points in means over du, `(steps, points)`; with a `factor`, over factor·du."""
    parts = points.logs * points.ratios / SPACES[space].scale(1.0, points.ratios) ** 2 * factor
    parts = parts.reshape(len(parts), -1)
    return parts / parts.sum(-1, keepdims=True)
