"""Adams' weights: how past answers are averaged over the next step, on even grids and on any grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import whole
from pndm_solvers.rule import RULE

__all__ = ["adams_bashforth", "exact_weights"]


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
    coordinate: Callable[[ArrayLike], NDArray[np.float64]] = RULE.coordinate,
) -> tuple[float, ...]:
    """Weights of ε at the `nodes`, for a step from `here` to `there`, all of them ratios ρ = σ/α.

    The step is x/α += ∫ ε dρ. ε is replaced by the polynomial in u = coordinate(ρ) through its values at the
    nodes, so the weight of node j is w_j = ∫ L_j(u(ρ)) dρ / ∫ dρ over the step, with
    Lagrange's L_j: Adams' construction (Bashforth and Adams, 1883) on any grid. They sum to 1, and
    where the nodes are even in u and dρ is proportional to du they are `adams_bashforth`.

    The quadrature is Gauss's on panels no wider than a factor e in ρ. Relative to the largest weight the
    result is good to 1e-12. In a step below a hundredth of ρ it is worse, by the rounding of the nodes.
    A node at ρ = ∞ (α = 0) is infinitely far in u and so has no weight. In a step that begins or ends
    there, or is too short for float64, the first node has all the weight; for a corrector that node is the
    new answer. Raises ValueError for two nodes at one u.
    """
    finite = [node for node in nodes if math.isfinite(node)]
    if len(finite) < 2 or not math.isfinite(here + there) or math.isclose(here, there, rel_tol=1e-12):
        return (1.0,) + (0.0,) * (len(nodes) - 1)
    ratios, parts = _quadrature(here, there)
    u, at = coordinate(ratios), coordinate(finite)
    if len(np.unique(at)) < len(at):
        raise ValueError(f"no polynomial goes through two values at one place; the nodes are {list(nodes)}")

    def weight(i: int) -> float:
        return float(parts @ math.prod((u - at[j]) / (at[i] - at[j]) for j in range(len(at)) if j != i))

    weights = iter([weight(i) for i in range(len(at))])
    return tuple(next(weights) if math.isfinite(node) else 0.0 for node in nodes)


# Panels are even in log ρ above this ρ and in ρ below it, where no network is trained.
_FLOOR = 1e-3


def _quadrature(here: float, there: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points ρ of the step and their shares in a mean over dρ: Gauss's, on panels even in asinh(ρ/floor)."""
    first, last = math.asinh(here / _FLOOR), math.asinh(there / _FLOOR)
    edges = np.linspace(first, last, 2 + int(abs(last - first)))
    points, parts = _gauss(16)
    middles, halves = (edges[1:] + edges[:-1])[:, None] / 2, np.diff(edges)[:, None] / 2
    v = middles + halves * points
    parts = halves * parts * np.cosh(v)
    return _FLOOR * np.sinh(v).ravel(), (parts / parts.sum()).ravel()


@cache
def _gauss(count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.polynomial.legendre.leggauss(count)
