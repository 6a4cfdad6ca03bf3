"""What networks predict.

Every prediction in use is a mean of the picture and the noise, `a·x_0 + b·ε`, with two numbers that depend on the
level. Together with `x_t = α·x_0 + σ·ε` that is two equations for two unknowns, so one formula turns any prediction
into ε or x̂_0. A new kind of prediction is one entry of `PREDICTIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pndm_solvers.arguments import choice, real
from pndm_solvers.schedule import Level

__all__ = ["PREDICTIONS", "Prediction", "conversion"]

# name: (a, b) at the level (α, σ)
PREDICTIONS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "epsilon": lambda alpha, sigma: (0.0, 1.0),
    "sample": lambda alpha, sigma: (1.0, 0.0),
    "v_prediction": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho (2022), section 4
    "score": lambda alpha, sigma: (0.0, -1.0 / sigma),  # ∇ log p_t(x) = −ε/σ
    "flow": lambda alpha, sigma: (-1.0, 1.0),  # dx/dt of the straight path, Liu et al. (2023)
}


def conversion(given: str, wanted: str, alpha: float, sigma: float) -> tuple[float, float]:
    """(p, q) such that `p·x + q·e` is the prediction named `wanted`, where e is the one named `given`, at (α, σ).

    With e = a·x_0 + b·ε, and a' and b' for the wanted one: p = (a'·b − b'·a)/D and q = (α·b' − σ·a')/D, where
    D = α·b − σ·a. Raises ValueError where D = 0, as for ε at α = 0: there x and e do not determine x_0.
    """
    if given == wanted:
        return 0.0, 1.0
    if sigma > 0 or "score" not in (given, wanted):
        a, b = PREDICTIONS[given](alpha, sigma)
        mine, other = PREDICTIONS[wanted](alpha, sigma)
        if determinant := alpha * b - sigma * a:
            return (mine * b - other * a) / determinant, (alpha * other - sigma * mine) / determinant
    raise ValueError(
        f"prediction is {given!r}, which does not determine {wanted!r} at α = {alpha:g}, σ = {sigma:g}; use "
        f"a network that predicts 'v_prediction', 'sample' or 'flow', or times away from that end"
    )


@dataclass(frozen=True)
class Prediction:
    """What a network's answer means, and how its implied picture x̂_0 is kept in range.

    Parameters
    ----------
    type:
        "epsilon", "sample" (x_0), "v_prediction" (α·ε − σ·x_0), "score" (−ε/σ) or "flow" (ε − x_0).
    clip:
        x̂_0 is clipped to [−clip, clip], and ε follows from the clipped x̂_0. None leaves both as they are.
    threshold:
        Dynamic thresholding (Saharia et al. 2022, section 2.3): a quantile of |x̂_0| over each sample, in (0, 1].
        Where the quantile exceeds 1, the sample is clipped to the quantile and then divided by it. With `clip` the
        bound is `clip` instead of 1.
    threshold_max:
        A larger quantile counts as this one. Where this one equals the bound, thresholding is plain clipping.

    Raises
    ------
    ValueError:
        For an unknown type, a clip ≤ 0, a threshold outside (0, 1] or a threshold_max below the bound.
    """

    type: str = "epsilon"
    clip: float | None = None
    threshold: float | None = None
    threshold_max: float = math.inf

    def __post_init__(self) -> None:
        choice("prediction", self.type, PREDICTIONS)
        for name, allowed, holds in (
            ("clip", "a number above 0, or None for no clipping", lambda clip: clip > 0),
            ("threshold", "a quantile in (0, 1], 0.995 say, or None", lambda quantile: 0 < quantile <= 1),
            ("threshold_max", "at least the bound that x̂_0 is clipped to", lambda most: most >= self.bound),
        ):
            if name == "threshold_max" or getattr(self, name) is not None:
                object.__setattr__(self, name, real(name, getattr(self, name), allowed, holds))

    @staticmethod
    def of(value: str | Prediction) -> Prediction:
        """`value` itself, or the prediction of that name."""
        value = Prediction(value) if isinstance(value, str) else value
        if not isinstance(value, Prediction):
            raise TypeError(f"prediction is {value!r}; it is a name such as 'epsilon', or a Prediction")
        return value

    def check(self, rows: Iterable[tuple[Level, str]]) -> None:
        """ValueError unless an answer determines what each of the `rows`, a level and a space, combines."""
        for level, space in rows:
            try:
                conversion(self.type, space, level.alpha, level.sigma)
            except ValueError as error:
                raise ValueError(f"at t = {level.t:g}: {error}") from error

    def conversions(self, wanted: str, alpha: float, sigma: float) -> tuple[tuple[float, float], ...]:
        """(p, q) of each sum p·x + q·answer that leads to the prediction named `wanted`.

        There is none for an answer of that kind. A picture that is kept in range comes first, and then what follows
        from it. Raises ValueError as `conversion` does.
        """
        if self.clip is None and self.threshold is None:
            return () if wanted == self.type else (conversion(self.type, wanted, alpha, sigma),)
        first = conversion(self.type, "sample", alpha, sigma)
        return (first,) if wanted == "sample" else (first, conversion("sample", wanted, alpha, sigma))

    @property
    def bound(self) -> float:
        """The bound to which clipping and thresholding hold |x̂_0|."""
        return 1.0 if self.clip is None else self.clip

    def thresholded(self, ours: Any, picture: Any) -> Any:
        """x̂_0, dynamically thresholded."""
        return ours.dynamic_threshold(picture, self.threshold, self.bound, self.threshold_max)
