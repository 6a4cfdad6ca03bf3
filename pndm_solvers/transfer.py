"""The transfer φ of "Pseudo Numerical Methods for Diffusion Models on Manifolds", eq. (9), as numbers.

φ moves a state from one noise level to another along a prediction that stays the same on the way. The paper's
prediction is ε. Each prediction e has a scale D(α, σ) such that x/D is a straight line while e is constant:

    x_s/D_s = x_t/D_t + (u_s − u_t)·e        u a function of ρ = σ/α, du = dρ/D(1, ρ)²

Its slope is e = (∂D/∂α)·ε − (∂D/∂σ)·x_0, up to the sign. So D = α gives the paper's φ; D = σ the data space of
DPM-Solver++; D = α + σ rectified flow; and D = √(α² + σ²) is v's, where u is the angle of Salimans and Ho (2022).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pndm_solvers.coordinates import COORDINATES, Coordinate
from pndm_solvers.schedule import Level

__all__ = ["SPACES", "Space", "transfer_weights"]


class Space(NamedTuple):
    """A prediction as the slope of a state.

    Attributes
    ----------
    scale, shift:
        D and D·u at the level (α, σ), both of degree 1: x/D is a straight line in u.
    coordinate:
        u as a function of ρ.
    size:
        What the prediction, as a network gives it, is divided by to be the slope: 1, and √(α² + σ²) for v, since v is
        defined for α² + σ² = 1.
    """

    scale: Callable[[Any, Any], Any]
    shift: Callable[[Any, Any], Any]
    coordinate: Coordinate
    size: Callable[[Any, Any], Any] = lambda alpha, sigma: 1.0


# By the names of `PREDICTIONS`. A score has ε's space.
SPACES = {
    "epsilon": Space(lambda alpha, sigma: alpha, lambda alpha, sigma: sigma, COORDINATES["ratio"]),
    "sample": Space(lambda alpha, sigma: sigma, lambda alpha, sigma: alpha, COORDINATES["inverse_ratio"]),
    "v_prediction": Space(
        np.hypot,
        lambda alpha, sigma: np.hypot(alpha, sigma) * np.arctan2(sigma, alpha),
        COORDINATES["angle"],
        size=np.hypot,
    ),
    "flow": Space(lambda alpha, sigma: alpha + sigma, lambda alpha, sigma: sigma, COORDINATES["noise_share"]),
}


def transfer_weights(here: Level, there: Level, space: str = "epsilon") -> tuple[float, float]:
    """(p, q) of φ: `x_s = p·x_t + q·e` from the level `here` (t) to the level `there` (s), e the slope of `space`.

    With D and u as in this module, p = D_s/D_t and q = D_s·(u_s − u_t). For ε that is p = α_s/α_t and
    q = σ_s − p·σ_t: the paper's eq. (9), with α = √ᾱ and σ = √(1 − ᾱ). φ is exact at any distance of the levels while e
    stays the same.

    Raises ValueError where D_t = 0, as at α_t = 0 for ε: there x_t and e do not determine the picture.
    """
    scale, shift, *_ = SPACES[space]
    before = scale(here.alpha, here.sigma)
    if before == 0:
        raise ValueError(
            f"{space!r} does not determine the picture at t = {here.t:g}, where α = {here.alpha:g} and σ = "
            f"{here.sigma:g}; begin at another time, or run a plan with a network that predicts v, x_0 or flow"
        )
    p = float(scale(there.alpha, there.sigma) / before)
    return p, float(shift(there.alpha, there.sigma) - p * shift(here.alpha, here.sigma))
