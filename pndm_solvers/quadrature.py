"""Integrals over a step from one noise level to another: Gauss's, on panels even in log ρ, ρ = σ/α."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Panels", "panels", "panels_of_steps", "span"]

Float64 = NDArray[np.float64]

TINY = np.finfo(np.float64).tiny


class Panels(NamedTuple):
    """Points of a step, the first panel first.

    Attributes
    ----------
    ratios:
        ρ at the points, `(panels, 16)`, or `(steps, panels, 16)`.
    logs:
        The weights of the points in an integral over log ρ, positive. Times ρ they are those of one over ρ.
    """

    ratios: Float64
    logs: Float64

    def until(self, values: Float64) -> Float64:
        """The integrals over |d log ρ| from the step's beginning to each point, of a function by its values."""
        halves = self.logs.sum(-1, keepdims=True) / 2
        before = np.cumsum((self.logs * values).sum(-1, keepdims=True), axis=-2)
        before = np.concatenate([np.zeros_like(before[..., :1, :]), before[..., :-1, :]], axis=-2)
        return before + halves * (values @ _antiderivatives().T)


def panels(here: float, there: float) -> Panels:
    """Points of the step between two ratios, on panels no wider than a factor e in ρ.

    The integral of a smooth function is good to about 1e-14 of it. Where an end is 0 or infinite, the points reach to
    e^±50 of the other.
    """
    steps = panels_of_steps([span(here, there)])
    return Panels(steps.ratios[0], steps.logs[0])


def span(here: float, there: float) -> tuple[float, float, float, int]:
    """A ratio of the step, the logs of both ends relative to it, and the number of panels between."""
    if 0 < here < math.inf and 0 < there / here < math.inf:  # the common case, and the fastest
        last = math.log(there / here)
        return here, 0.0, last, 1 + int(abs(last))
    middle = next((ratio for ratio in (here, there) if 0 < ratio < math.inf), 1.0)
    first, last = (
        math.log(ratio / middle) if 0 < ratio / middle < math.inf else math.copysign(50, ratio - middle)
        for ratio in (here, there)
    )
    return middle, first, last, 1 + int(abs(last - first))


def panels_of_steps(spans: Sequence[tuple[float, float, float, int]]) -> Panels:
    """The `panels` of several steps, all of one number of panels."""
    middle, first, last, _ = np.array(spans).T[..., None]
    count = spans[0][3]
    edges = np.arange(count + 1) * ((last - first) / count) + first
    edges[:, -1:] = last
    points, parts = gauss()
    below, above = edges[:, :-1, None], edges[:, 1:, None]
    halves = (above - below) / 2
    ratios = np.maximum(middle[..., None] * np.exp((above + below) / 2 + halves * points), TINY)
    return Panels(ratios, np.abs(halves) * parts)


@cache
def gauss() -> tuple[Float64, Float64]:
    """Gauss's 16 points in [−1, 1] and their weights."""
    return np.polynomial.legendre.leggauss(16)


@cache
def _antiderivatives() -> Float64:
    """Entry (i, j) is ∫ L_j from −1 to the i-th point, with Lagrange's polynomial L_j through the points."""
    points, parts = gauss()
    degrees = np.arange(len(points))
    legendre = np.polynomial.legendre.legvander(points, len(points))
    # L_j = Σ_n (n + 1/2)·w_j·P_n(x_j)·P_n, and (2n + 1)·∫ P_n = P_{n+1} − P_{n−1}.
    below = np.concatenate([-np.ones((len(points), 1)), legendre[:, :-2]], axis=1)
    return (legendre[:, 1:] - below) / 2 @ (legendre[:, degrees] * parts[:, None]).T
