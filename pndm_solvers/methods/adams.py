"""Adams' weights: how answers are averaged over a step, on even grids and on any grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache, reduce
from operator import mul
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import whole
from pndm_solvers.program import Answer
from pndm_solvers.quadrature import panels_of_steps, span
from pndm_solvers.rule import RULE
from pndm_solvers.schedule import Level
from pndm_solvers.sde import TauLike, share
from pndm_solvers.transfer import SPACES

__all__ = [
    "Float64",
    "Interpolate",
    "Known",
    "Places",
    "Ratios",
    "Weighing",
    "adams_bashforth",
    "exact_weights",
    "places_of",
    "polynomial_mean",
    "quadratures",
    "weighed",
    "weighed_ahead",
]

Float64 = NDArray[np.float64]

# v(ρ): the place of a ratio ρ = σ/α, for a polynomial.
Interpolate = Callable[[ArrayLike], Float64]


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
    step = Weighing(tuple(nodes), here, there, tau)
    return tuple(weighed([step], lambda ratios, _: coordinate(ratios), space)[0])


Ratios = tuple[tuple[float, ...], float, float]


class Weighing(NamedTuple):
    """The ratios ρ = σ/α of the answers that a step combines, and those of its ends; `tau` makes it stochastic."""

    nodes: tuple[float, ...]
    here: float
    there: float
    tau: TauLike = 0.0

    @property
    def ratios(self) -> Ratios:
        """All but τ, which follows from where a step begins, and need not be hashable."""
        return self[:3]


# The weights of steps.
Known = dict[Ratios, tuple[float, ...]]

# Places for polynomials in some of many steps: (ratios `(n, any number)`, the indices of the n steps) -> the places.
Places = Callable[[Float64, NDArray[np.int64]], Float64]


def weighed(steps: Sequence[Weighing], places: Places, space: str) -> list[list[float]]:
    """`exact_weights` of many steps."""
    weights = [[0.0] * len(step.nodes) for step in steps]
    if not steps:
        return weights
    finite: dict[int, list[int]] = {}  # of the steps that have a polynomial: the nodes that have a place
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = places_of(steps, places)
        for row, (nodes, here, there, _) in enumerate(steps):
            some = [i for i, place in enumerate(at[row][: len(nodes)]) if -math.inf < place < math.inf]
            if len(some) < 2 or math.isclose(here, there, rel_tol=1e-12):
                weights[row][some[0] if len(some) == 1 else 0] = 1.0
            else:
                finite[row] = some
        for rows, ratios, parts in quadratures({row: steps[row][1:] for row in finite}, space):
            v = places(ratios, np.array(rows))
            alike: dict[int, list[int]] = {}
            for i, row in enumerate(rows):
                _, here, there, _ = steps[row]
                if (here < math.inf and 0 < there < math.inf) or _has_a_mean(v[i], parts[i], finite[row], here, there):
                    alike.setdefault(len(finite[row]), []).append(i)
                else:
                    weights[row][0] = 1.0
            for own in alike.values():
                nodes = np.array([[at[rows[i]][j] for j in finite[rows[i]]] for i in own])
                several = slice(None) if len(own) == len(rows) else own
                for i, values in zip(own, lagrange_weights(nodes, v[several], parts[several]).tolist(), strict=True):
                    for j, value in zip(finite[rows[i]], values, strict=True):
                        weights[rows[i]][j] = value
    return weights


def places_of(steps: Sequence[Weighing], places: Places) -> list[list[float]]:
    """The places of each step's nodes; after them may follow others."""
    most = max([len(step.nodes) for step in steps])
    nodes = [step.nodes + step.nodes[:1] * (most - len(step.nodes)) for step in steps]
    return places(np.array(nodes), np.arange(len(steps))).tolist()


def weighed_ahead(steps: Sequence[Weighing], coordinate: Interpolate, space: str) -> Known:
    """`exact_weights` of the steps of a run, many at a time, for `polynomial_mean`.

    A step with two nodes at one place is left out: the run may not ask for it, and else it is an error there.
    """
    places: Places = lambda ratios, _: coordinate(ratios)  # noqa: E731
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        at = places_of(steps, places) if steps else []
    counts = [len(step.nodes) for step in steps]
    apart = [step for step, own, n in zip(steps, at, counts, strict=True) if len(set(own[:n])) == n]
    return {step.ratios: tuple(own) for step, own in zip(apart, weighed(apart, places, space), strict=True)}


def lagrange_weights(at: Float64, v: Float64, parts: Float64) -> Float64:
    """∫ L_j of several steps, `(steps, nodes)`, as Σ parts·L_j(v); `parts` and `v` are `(steps, points)`.

    L_j are Lagrange's polynomials through the places `at`, `(steps, nodes)`. ValueError for two nodes at one place.
    """
    count, in_order = at.shape[1], np.sort(at)
    if (in_order[:, 1:] == in_order[:, :-1]).any():
        raise ValueError(f"no polynomial goes through two values at one place; the nodes are at {at.tolist()}")
    weights = np.ones(at.shape)
    away = [v - place[:, None] for place in at.T]
    for i in range(count if count > 1 else 0):
        lagrange = reduce(mul, [away[j] / (at[:, i] - at[:, j])[:, None] for j in range(count) if j != i])
        weights[:, i] = (parts[:, None, :] @ lagrange[..., None])[:, 0, 0]
    return weights


def polynomial_mean(
    answers: Sequence[Answer],
    here: Level,
    there: Level,
    coordinate: Interpolate,
    space: str,
    tau: TauLike = 0.0,
    known: Known | None = None,
) -> Mapping[Answer, float]:
    """The mean that integrates the polynomial through all `answers` exactly over the step from `here` to `there`.

    Of answers at one level, as stages that are rounded to one trained time give, the last counts. `known` are weights
    that `weighed_ahead` made.
    """
    at = {e.level.ratio: e for e in answers}
    step = Weighing(tuple(at), here.ratio, there.ratio, tau)
    weights = known.get(step.ratios) if known else None
    return dict(zip(at.values(), weights or exact_weights(*step[:3], coordinate, space, tau), strict=True))


def _has_a_mean(v: Float64, parts: Float64, nodes: Sequence[int], here: float, there: float) -> bool:
    """Whether a polynomial in `v` through as many `nodes` has a mean, by the shares `parts` of a step's points.

    An integral up to ρ = 0 or ∞ has one if it has converged where the quadrature breaks off, and if v is finite there.
    """
    if not np.isfinite(v).all():
        return False
    terms = np.abs(v) ** (len(nodes) - 1) * parts
    ends = [terms[-16:]] * (there in (0, math.inf)) + [terms[:16]] * (here == math.inf)
    return len(terms) < 16 or all(end.sum() <= 1e-9 * terms.sum() for end in ends)


Key = TypeVar("Key")


def quadratures(
    steps: Mapping[Key, tuple[float, float, TauLike]], space: str
) -> Iterator[tuple[list[Key], Float64, Float64]]:
    """Points ρ of steps and their shares in means over du, `(steps, points)`, for all steps that have as many points.

    A step is from one ratio to another; by its τ it may be stochastic.
    """
    alike: dict[tuple[str, int, float | str | int], list[Key]] = {}
    for key, (here, there, tau) in steps.items():
        own, count = space, 0
        if here < math.inf and 0 < there < math.inf:
            count = span(here, there)[3]
        else:
            own = "sample" if math.isinf(here) and space == "epsilon" else space  # as φ itself
            with np.errstate(divide="ignore"):
                if np.isfinite(SPACES[own].coordinate.of(np.float64(there))):
                    count = span(here, there)[3]
        alike.setdefault((own, count, id(tau) if callable(tau) else tau), []).append(key)
    for (own, count, _), keys in alike.items():
        if not count:  # u is infinite at the step's end, which counts alone
            yield keys, np.array([[steps[key][1]] for key in keys]), np.ones((len(keys), 1))
            continue
        points = panels_of_steps([span(*steps[key][:2]) for key in keys])
        parts = (
            points.logs
            * points.ratios
            / SPACES[own].scale(1.0, points.ratios) ** 2
            * share(points, own, steps[keys[0]][2])
        )
        parts = parts.reshape(len(keys), -1)
        yield keys, points.ratios.reshape(parts.shape), parts / parts.sum(-1, keepdims=True)
