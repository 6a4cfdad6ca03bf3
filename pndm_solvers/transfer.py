"""The transfer φ of "Pseudo Numerical Methods for Diffusion Models on Manifolds", eq. (9), as numbers.

φ moves a state from one noise level to another along a prediction that stays the same on the way. The paper's
prediction is ε. Moved along x_0, φ is the step of DPM-Solver++'s data space; along ε − x_0, of rectified flow.
"""

from __future__ import annotations

from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.schedule import Level

__all__ = ["answer_weights", "mean_parts", "transfer_weights"]


def transfer_weights(here: Level, there: Level, space: str = "epsilon") -> tuple[float, float]:
    """(p, q) of φ: `x_s = p·x_t + q·e` from the level `here` (t) to the level `there` (s).

    Here e = a·x_0 + b·ε is the prediction named `space`, one of `PREDICTIONS`, with a and b at the level `here`. The
    state x_t and e determine x̂_0 and ε. Then x_s = α_s·x̂_0 + σ_s·ε gives

        p = (α_s·b − σ_s·a)/(α_t·b − σ_t·a),    q·b = σ_s − p·σ_t,    q·a = α_s − p·α_t.

    For ε (a = 0, b = 1) that is p = α_s/α_t and q = σ_s − p·σ_t: the paper's eq. (9), with α = √ᾱ and σ = √(1 − ᾱ).
    φ is exact at any distance of the levels while e stays the same.

    Raises ValueError where x_t and e do not determine x̂_0, as ε does not at α_t = 0.
    """
    a, b = PREDICTIONS[space](here.alpha, here.sigma)
    before, after = (level.alpha * b - level.sigma * a for level in (here, there))
    if before == 0:
        raise ValueError(
            f"{space!r} does not determine the picture at t = {here.t:g}, where α = {here.alpha:g} and σ = "
            f"{here.sigma:g}; begin at another time, or run a plan with a network that predicts v, x_0 or flow"
        )
    p = after / before
    return p, (there.sigma - p * here.sigma) / b if abs(b) >= abs(a) else (there.alpha - p * here.alpha) / a


def mean_parts(level: Level, space: str, weight: float) -> tuple[float, float]:
    """(picture, epsilon) such that weight·e = `picture·x̂_0 + epsilon·ε`, for the prediction e named `space`."""
    a, b = PREDICTIONS[space](level.alpha, level.sigma)
    return weight * a, weight * b


def answer_weights(level: Level, picture: float, epsilon: float) -> tuple[float, float]:
    """(p, q) such that `picture·x̂_0 + epsilon·ε = p·x + q·answer`, for a plan's state and answer at `level`.

    The answer is ε, and x̂_0 = (x − σ·ε)/α. Where α = 0 the answer is x̂_0, and ε = x/σ. `level.space` names which of
    the two it is.
    """
    _, alpha, sigma = level
    if level.space == "epsilon":
        return picture / alpha, epsilon - picture * sigma / alpha
    return epsilon / sigma, picture
