"""Coefficients as data: Butcher tableaux and Adams–Bashforth weights in exact fractions, exact weights on any grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["ADAMS_BASHFORTH", "TABLEAUX", "ButcherTableau", "coordinate", "exact_weights"]


@dataclass(frozen=True)
class ButcherTableau:
    """An explicit Runge–Kutta method: nodes c, stage weights a (below the diagonal), weights b.

    Numbers may be integers, fractions, strings such as "2/3", or floats, which are taken for the simple
    fraction to which they are nearest. Raises TypeError for what is no number, and ValueError unless the method is
    explicit, each row of `a` sums to its c, b sums to 1, and every c after the first lies in (0, 1], since a stage is
    a transfer to the level at that fraction of the step.
    """

    name: str
    c: tuple[Fraction, ...]
    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]

    def __init__(self, name: str, c: Sequence, a: Sequence[Sequence], b: Sequence) -> None:
        if not isinstance(name, str):
            raise TypeError(f"name is {name!r}; it must be a text")
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "c", _exact("c", c))
        object.__setattr__(self, "a", tuple(_exact("a row of a", row) for row in _sequence("a", a)))
        object.__setattr__(self, "b", _exact("b", b))
        if not len(self.c) == len(self.a) == len(self.b) > 0:
            raise ValueError(f"tableau {name!r}: c, a and b have {len(self.c)}, {len(self.a)} and {len(self.b)} rows")
        if self.c[0] != 0 or not all(0 < node <= 1 for node in self.c[1:]):
            raise ValueError(f"tableau {name!r}: c must be 0 first and then in (0, 1], not {_show(self.c)}")
        for i, (node, row) in enumerate(zip(self.c, self.a, strict=True)):
            if len(row) != i:
                raise ValueError(f"tableau {name!r}: row {i} of a must have {i} entries (explicit), not {len(row)}")
            if sum(row) != node:
                raise ValueError(f"tableau {name!r}: row {i} of a must sum to c = {node}, not {sum(row)}")
        if sum(self.b) != 1:
            raise ValueError(f"tableau {name!r}: b must sum to 1, not {sum(self.b)}")

    @property
    def order(self) -> int:
        """The order of the classical method, from the order conditions up to 4 (Butcher 1963).

        With the row sums given, a method has order p when `Σ b·Φ = 1/γ` for every rooted tree of
        up to p nodes, Φ the tree's elementary weight and γ its density.
        """
        c = self.c

        def inner(values: Sequence[Fraction]) -> list[Fraction]:
            return [sum((w * v for w, v in zip(row, values, strict=False)), Fraction(0)) for row in self.a]

        def holds(values: Sequence[Fraction], density: int) -> bool:
            return sum(w * v for w, v in zip(self.b, values, strict=True)) == Fraction(1, density)

        def times(left: Sequence[Fraction], right: Sequence[Fraction]) -> list[Fraction]:
            return [p * q for p, q in zip(left, right, strict=True)]

        ac = inner(c)
        conditions: list[Callable[[], bool]] = [
            lambda: holds(c, 2),
            lambda: holds(times(c, c), 3) and holds(ac, 6),
            lambda: (
                holds(times(c, times(c, c)), 4)
                and holds(times(c, ac), 8)
                and holds(inner(times(c, c)), 12)
                and holds(inner(ac), 24)
            ),
        ]
        order = 1
        for condition in conditions:
            if not condition():
                break
            order += 1
        return order


def _sequence(name: str, values: Sequence) -> Sequence:
    if not hasattr(values, "__len__") or isinstance(values, (str, bytes)) or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} is {values!r}; it must be a sequence")
    return values


def _exact(name: str, values: Sequence[int | str | float | Fraction]) -> tuple[Fraction, ...]:
    """The fractions that are meant: 2/3 for the float that is nearest to it."""
    numbers = []
    for value in _sequence(name, values):
        value = value.item() if isinstance(value, np.generic) else value
        try:
            if isinstance(value, bool):
                raise TypeError
            exact = Fraction(value)
        except TypeError:
            raise TypeError(
                f"{name} holds {value!r}; its numbers may be integers, fractions, texts or floats"
            ) from None
        except (ValueError, OverflowError, ZeroDivisionError):
            raise ValueError(f"{name} holds {value!r}; its numbers must be finite, as 2/3, '2/3' or 0.5") from None
        near = exact.limit_denominator(10_000)
        numbers.append(near if isinstance(value, float) and float(near) == value else exact)
    return tuple(numbers)


def _show(values: Sequence[Fraction]) -> str:
    return "(" + ", ".join(map(str, values)) + ")"


EULER = ButcherTableau("euler", c=[0], a=[[]], b=[1])

# Improved Euler: the paper's S-PNDM starts with it, latent diffusion's PLMS too.
HEUN = ButcherTableau("heun", c=[0, 1], a=[[], [1]], b=["1/2", "1/2"])

# Kutta's "the" method of 1901: the paper's F-PNDM starts with it.
RK4 = ButcherTableau(
    "rk4",
    c=[0, "1/2", "1/2", 1],
    a=[[], ["1/2"], [0, "1/2"], [0, 0, 1]],
    b=["1/6", "1/3", "1/3", "1/6"],
)

TABLEAUX = {tableau.name: tableau for tableau in (EULER, HEUN, RK4)}

# order: weights of the newest evaluation first (Bashforth and Adams, 1883); each sums to 1.
ADAMS_BASHFORTH = {
    1: (Fraction(1),),
    2: (Fraction(3, 2), Fraction(-1, 2)),
    3: (Fraction(23, 12), Fraction(-16, 12), Fraction(5, 12)),
    4: (Fraction(55, 24), Fraction(-59, 24), Fraction(37, 24), Fraction(-9, 24)),
}


def coordinate(ratio: ArrayLike) -> NDArray[np.float64]:
    """u(ρ), the coordinate in which ε is interpolated, at noise-to-signal ratios ρ = σ/α ≥ 0 (any shape).

    u = ρ/(ρ + 0.3) + 0.1·√log(1 + ρ²). The first part is what ε itself does on typical data: along the flow of a
    Gaussian of deviation s it goes as ρ/√(s² + ρ²), so in such a coordinate it is nearly straight. The second
    keeps levels near pure noise apart as the time of common schedules does, in which networks turn slowly; for
    α² + σ² = 1 its root is √(−log α²). Made for data of about unit range. Why these: docs/theory.md.
    """
    ratio = np.asarray(ratio, np.float64)
    return ratio / (ratio + 0.3) + 0.1 * np.sqrt(np.log1p(ratio**2))


def exact_weights(
    nodes: Sequence[float],
    here: float,
    there: float,
    coordinate: Callable[[ArrayLike], NDArray[np.float64]] = coordinate,
) -> tuple[float, ...]:
    """Weights of ε at the `nodes`, for a step from `here` to `there`, all of them ratios ρ = σ/α.

    The step is x/α += ∫ ε dρ. In the place of ε stands the polynomial in u = coordinate(ρ) through its
    values at the nodes, so the weight of node j is w_j = ∫ L_j(u(ρ)) dρ / ∫ dρ over the step, with
    Lagrange's L_j: Adams' construction (Bashforth and Adams, 1883) on any grid. They sum to 1, and
    where the nodes are even in u and dρ is proportional to du they are `ADAMS_BASHFORTH`.

    The quadrature is Gauss's on panels no wider than a factor e in ρ; relative to the largest weight the
    result is good to 1e-12, unless the step is below a hundredth of ρ: the nodes' own rounding then counts.
    A node at ρ = ∞ (α = 0) is infinitely far in u and so has no weight; a step that begins or ends there,
    or is too short for float64 to tell, has its first node alone. Raises ValueError for two nodes at one u.
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


# Where a panel's width stops being measured in log ρ, and starts to be in ρ: below every trained level.
_FLOOR = 1e-3


def _quadrature(here: float, there: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points ρ of the step, and what each counts in a mean over dρ: Gauss's, on panels even in asinh(ρ/floor)."""
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
