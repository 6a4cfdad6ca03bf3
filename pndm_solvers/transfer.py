"""The transfer φ of "Pseudo Numerical Methods for Diffusion Models on Manifolds", eq. (9)."""

from __future__ import annotations

from typing import Any

from pndm_solvers.arguments import alike, real
from pndm_solvers.arrays import combine
from pndm_solvers.schedule import Level

__all__ = ["transfer", "transfer_weights"]


def transfer_weights(here: Level, there: Level) -> tuple[float, float]:
    """(a, b) of φ: `x_s = a·x_t + b·ε` from the level `here` (t) to the level `there` (s).

    The picture that (x_t, ε) implies is `x̂_0 = (x_t − σ_t·ε)/α_t`, and φ adds the same ε to it at
    the other level: `x_s = α_s·x̂_0 + σ_s·ε`. With α² + σ² = 1 this is the paper's eq. (9). It is
    exact, however far apart the levels, when ε is the same along the way.

    Raises ValueError at α_t = 0, where x_t holds no picture and ε cannot tell it.
    """
    if here.alpha == 0:
        raise ValueError(
            f"ε does not determine the picture at t = {here.t:g}, where α = 0 (zero terminal SNR); "
            f"start at an earlier time, or run a plan with a network that predicts v, x_0 or flow"
        )
    a = there.alpha / here.alpha
    return a, there.sigma - a * here.sigma


def transfer(x: Any, epsilon: Any, here: Level, there: Level) -> Any:
    """φ(x, ε, t, s) on arrays: `x` and `epsilon` of one shape, the result of x's dtype and device.

    Raises TypeError or ValueError for arrays that differ, for what is no `Level`, and at α_t = 0.
    """
    alike("epsilon", epsilon, "x", x)
    for name, level in (("here", here), ("there", there)):
        if not isinstance(level, Level):
            raise TypeError(f"{name} is a {type(level).__name__}; it must be a Level, as schedule.level(t) gives")
        if min(real(f"{name}.alpha", level.alpha), real(f"{name}.sigma", level.sigma)) < 0:
            raise ValueError(f"{name} is {level}; alpha and sigma must not be negative")
    return combine([x, epsilon], transfer_weights(here, there))
