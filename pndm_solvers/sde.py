"""Steps of the reverse SDE, as numbers: the linear part and the noise are exact.

Between the probability-flow ODE and the reverse SDE lies a family with the same marginals (Xue et al. 2023, SA-Solver,
eq. 5). In y = x/α and ρ = σ/α it is

    dy = (1 + τ²)·ε dρ + τ·√(2ρ) dw        ρ falls; τ = 0 is the flow, τ = 1 the reverse SDE

A prediction e with the scale D has ε = (e + D′·y)/D, D′ = dD(1, ρ)/dρ: see `transfer.py`. So y/(D·E), with
E(ρ) = exp ∫ τ²·D′/D dρ from the step's end, changes by e and by noise alone:

    d(y/(D·E)) = (1 + τ²)/(D²·E)·e dρ + τ·√(2ρ)/(D·E) dw

In data space D = ρ, so E = (ρ/ρ_s)^τ² for a constant τ, and the step from t to s is

    x_s = σ_s/(σ_t·E_t)·x_t + (α_s − α_t·σ_s/(σ_t·E_t))·x̄_0 + σ_s·√(1 − 1/E_t²)·z

With τ = 1 that is DDPM's posterior, and with the noise η·√β̃ DDIM's eq. (12): η² = (1 − r^(2τ²))/(1 − r²), r = ρ_s/ρ_t.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import choice, real
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.quadrature import Panels, panels
from pndm_solvers.schedule import Level
from pndm_solvers.transfer import SPACES

__all__ = [
    "TAUS",
    "TauLike",
    "checked_tau",
    "er_sde",
    "forward_deviation",
    "posterior_deviation",
    "remaining",
    "share",
    "show_tau",
    "stochastic_weights",
]

Float64 = NDArray[np.float64]

# τ: a number, a name of `TAUS`, or a smooth function of ρ.
TauLike = float | str | Callable[..., Any]


def er_sde(ratio: ArrayLike) -> Float64:
    """τ(ρ) of ER-SDE-Solvers: 1 + τ² = ρ·φ′/φ for their noise scale φ(ρ) = ρ·(exp(ρ^0.3) + 10).

    It falls with ρ: 0.95 at 80, 0.25 at 1, 0.1 at 0.01. Reference: Cui et al. (2023), "ER SDE 5".
    """
    power = np.asarray(ratio, np.float64) ** 0.3
    return np.sqrt(0.3 * power / (1 + 10 * np.exp(-np.minimum(power, 700.0))))


# Functions τ(ρ) by name.
TAUS: dict[str, Callable[[Float64], Float64]] = {"er_sde": er_sde}


def checked_tau(tau: Any) -> TauLike:
    """A float, a name of `TAUS`, or a callable. TypeError or ValueError for anything else."""
    if callable(tau):
        return tau
    if isinstance(tau, str):
        return choice("tau", tau, TAUS)
    return real("tau", tau, "a number from 0, a function of σ/α, or 'er_sde'", lambda tau: 0 <= tau < math.inf)


def show_tau(tau: TauLike) -> str:
    """τ as solvers' names have it; nothing for 0."""
    if callable(tau):
        return f"τ = {getattr(tau, '__name__', 'a function')}"
    return f"τ = {tau if isinstance(tau, str) else f'{tau:g}'}" if tau != 0 else ""


def stochastic_weights(here: Level, there: Level, space: str, tau: TauLike) -> tuple[float, float, float]:
    """(p, q, c) of `x_s = p·x_t + q·e + c·z` from the level `here` (t) down to `there` (s), e the slope of `space`.

    Exact at any distance of the levels while e stays the same: see this module. ValueError for a step upwards.
    """
    if not there.ratio < here.ratio:
        raise _upwards(here, there)
    before, after = (SPACES[space].scale(level.alpha, level.sigma) for level in (here, there))
    if space == "sample":
        damping = _log_damping(here.ratio, there.ratio, tau)
        p = after / before * math.exp(-damping)
        return p, there.alpha - p * here.alpha, there.sigma * math.sqrt(-math.expm1(-2 * damping))
    points = panels(here.ratio, there.ratio)
    rate, damping, whole = _along(points, space, tau)
    whole = math.exp(min(float(whole), 700.0))
    scale = SPACES[space].scale(1.0, points.ratios)
    q = -after * float((points.logs * points.ratios * (1 + rate) / (scale**2 * damping)).sum())
    variance = float((points.logs * rate * 2 * (points.ratios / (scale * damping)) ** 2).sum())
    return after / before / whole, q, after * math.sqrt(variance)


def forward_deviation(here: Level, there: Level) -> float:
    """√(σ_t² − (α_t/α_s)²·σ_s²): the noise that the forward process adds between `there` (s) and `here` (t).

    Its square is β of the step, 1 − ᾱ_t/ᾱ_s, where α² + σ² = 1. Raises ValueError for s above t.
    """
    variance = here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2 if there.ratio < here.ratio else -1.0
    if variance < 0:
        raise _upwards(here, there)
    return math.sqrt(variance)


def remaining(sigma: float, noise: float) -> float:
    """√(σ² − noise²): the weight of ε beside fresh noise. 0 where rounding has the noise exceed σ."""
    return math.sqrt(max(0.0, sigma**2 - noise**2))


def posterior_deviation(here: Level, there: Level) -> float:
    """√β̃ of the step: the deviation of q(x_s | x_t, x_0), Ho et al. (2020), eq. (7)."""
    return there.sigma / here.sigma * forward_deviation(here, there)


def share(points: Panels, space: str, tau: TauLike) -> Float64 | float:
    """(1 + τ²)/E at the points of each step. The flow's mean over du has 1 in its place."""
    if tau == 0:
        return 1.0
    rate, damping, _ = _along(points, space, tau)
    return (1 + rate) / damping


def _along(points: Panels, space: str, tau: TauLike) -> tuple[Float64, Float64, Float64]:
    """τ² and E at the points of each step, and log E at its beginning."""
    rate = _squared(points.ratios, tau)
    # E grows with D: D′ at α = 1 is the prediction's part of x_0, up to the sign.
    part, _ = PREDICTIONS[space](1.0, points.ratios)
    growth = (
        rate
        * points.ratios
        * np.abs(part)
        / (SPACES[space].scale(1.0, points.ratios) * SPACES[space].size(1.0, points.ratios))
    )
    whole = (points.logs * growth).reshape(*growth.shape[:-2], -1).sum(-1)
    return rate, np.exp(np.minimum(whole[..., None, None] - points.until(growth), 700.0)), whole


def _log_damping(here: float, there: float, tau: TauLike) -> float:
    """∫ τ² d log ρ from `there` to `here`."""
    if callable(tau) or isinstance(tau, str):
        points = panels(here, there)
        return float((points.logs * _squared(points.ratios, tau)).sum()) if there else math.inf
    return tau**2 * (math.log(here / there) if there else math.inf)


def _squared(ratios: Float64, tau: TauLike) -> Float64:
    """τ² at the points. TypeError or ValueError for a function that does not give numbers from 0 for an array."""
    function = TAUS[tau] if isinstance(tau, str) else tau
    if not callable(function):
        return np.full(ratios.shape, function**2)
    try:
        values = np.broadcast_to(np.asarray(function(ratios), np.float64), ratios.shape)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"tau is a function that fails for an array of σ/α, of shape {ratios.shape}: {error}; use NumPy's "
            f"functions, as lambda ratio: np.where(ratio > 1, 0.5, 0.0)"
        ) from error
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError(f"tau is a function that gives {values.min():g} to {values.max():g}; it must not go below 0")
    return values**2


def _upwards(here: Level, there: Level) -> ValueError:
    return ValueError(
        f"a stochastic solver runs from noise to data, not from t = {here.t:g} to {there.t:g}; start above stop"
    )
