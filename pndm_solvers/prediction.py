"""What networks predict, and what is done to it before a plan combines it.

Every prediction in use is a mean of the picture and the noise, `a·x_0 + b·ε`, with two numbers
that depend on the level. Together with `x_t = α·x_0 + σ·ε` that is two equations for two unknowns,
so one formula turns any prediction into ε or x̂_0. A new kind of prediction is one entry below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pndm_solvers import arrays
from pndm_solvers.arguments import alike, choice, floating, function, real

__all__ = ["PREDICTIONS", "Prediction", "classifier_free_guidance"]

# name: (a, b) at the level (α, σ)
PREDICTIONS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "epsilon": lambda alpha, sigma: (0.0, 1.0),
    "sample": lambda alpha, sigma: (1.0, 0.0),
    "v_prediction": lambda alpha, sigma: (-sigma, alpha),  # Salimans and Ho (2022), section 4
    "score": lambda alpha, sigma: (0.0, -1.0 / sigma),  # ∇ log p_t(x) = −ε/σ
    "flow": lambda alpha, sigma: (-1.0, 1.0),  # dx/dt of the straight path, Liu et al. (2023)
}


@dataclass(frozen=True)
class Prediction:
    """What a network's answer means, and how its implied picture x̂_0 is kept in range.

    Parameters
    ----------
    type:
        "epsilon", "sample" (x_0), "v_prediction" (α·ε − σ·x_0), "score" (−ε/σ) or "flow" (ε − x_0).
    clip:
        x̂_0 is clipped to [−clip, clip]; None leaves it. ε is then derived from what remains.
    threshold:
        Dynamic thresholding (Saharia et al. 2022, section 2.3): the quantile, in (0, 1], of |x̂_0|
        over each sample, to which that sample is clipped and by which it is then divided, where it
        exceeds 1. With `clip` that quotient's bound is `clip` in the place of 1.
    threshold_max:
        The most that this quantile counts for; at the bound itself, thresholding is clipping.

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
        if (
            self.clip is not None
            and not real("clip", self.clip, "a number above 0, or None for no clipping", finite=False) > 0
        ):
            raise ValueError(f"clip is {self.clip:g}; it must be above 0, or None for no clipping")
        quantile = "a quantile in (0, 1], 0.995 say, or None"
        if self.threshold is not None and not 0 < real("threshold", self.threshold, quantile) <= 1:
            raise ValueError(f"threshold is {self.threshold:g}; it must be {quantile}")
        if not real("threshold_max", self.threshold_max, "a number", finite=False) >= self.bound:
            raise ValueError(f"threshold_max is {self.threshold_max:g}; it must be at least the bound {self.bound:g}")

    @property
    def bound(self) -> float:
        """What |x̂_0| is held to, where it is held at all."""
        return 1.0 if self.clip is None else self.clip

    def weights(self, wanted: str, alpha: float, sigma: float) -> tuple[float, float]:
        """(p, q) such that the wanted one ("epsilon" or "sample") is `p·x + q·answer` at the level (α, σ).

        Raises ValueError where the answer does not determine it, as ε does not determine x̂_0 at α = 0.
        """
        choice("wanted", wanted, ("epsilon", "sample"))
        return weights(self, wanted, real("alpha", alpha), real("sigma", sigma))

    def convert(self, wanted: str, x: Any, answer: Any, alpha: float, sigma: float) -> Any:
        """The wanted one ("epsilon" or "sample") at the state `x`, of x's shape.

        `x` and `answer` are floating `(B, …)` arrays of one library and shape; TypeError or ValueError for others. An
        answer that is the wanted one already is returned as it is.
        """
        alike("answer", answer, "x", x)
        choice("wanted", wanted, ("epsilon", "sample"))
        return convert(self, wanted, x, answer, real("alpha", alpha), real("sigma", sigma))


_PICTURE = Prediction("sample")


def weights(prediction: Prediction, wanted: str, alpha: float, sigma: float) -> tuple[float, float]:
    """As `Prediction.weights`, of numbers that were checked."""
    if sigma > 0 or prediction.type != "score":
        a, b = PREDICTIONS[prediction.type](alpha, sigma)
        determinant = alpha * b - sigma * a
        if determinant and wanted == "epsilon":
            return -a / determinant, alpha / determinant
        if determinant:
            return b / determinant, -sigma / determinant
    raise ValueError(
        f"prediction is {prediction.type!r}, which does not determine {wanted!r} at α = {alpha:g}, σ = {sigma:g}; use "
        f"a network that predicts 'v_prediction', 'sample' or 'flow', or times away from that end"
    )


def convert(prediction: Prediction, wanted: str, x: Any, answer: Any, alpha: float, sigma: float) -> Any:
    """As `Prediction.convert`, of arrays that were checked: what a run does to each answer."""
    if prediction.clip is None and prediction.threshold is None:
        if wanted == prediction.type:
            return answer
        return arrays.combine([x, answer], weights(prediction, wanted, alpha, sigma))
    sample = arrays.combine([x, answer], weights(prediction, "sample", alpha, sigma))
    ours = arrays.library(sample)
    if prediction.threshold is not None:
        sample = ours.dynamic_threshold(sample, prediction.threshold, prediction.bound, prediction.threshold_max)
    else:
        sample = ours.clip(sample, prediction.bound)
    return convert(_PICTURE, wanted, x, sample, alpha, sigma)


def classifier_free_guidance(
    conditional: Callable[[Any, Any], Any], unconditional: Callable[[Any, Any], Any], scale: float
) -> Callable[[Any, Any], Any]:
    """A model that answers `unconditional + scale·(conditional − unconditional)`: Ho and Salimans (2022).

    Both are models `(x, t)` of the same kind of prediction. Each call of the result calls both once;
    with `scale=1` only the conditional one, with `scale=0` only the other. Raises TypeError or ValueError for what is
    no model, a scale that is no finite number, and, when called, answers that differ in kind or shape.
    """
    function("conditional", conditional, "model(x, t)")
    function("unconditional", unconditional, "model(x, t)")
    scale = real("scale", scale)
    if scale == 1:
        return conditional
    if scale == 0:
        return unconditional

    def guided(x: Any, t: Any) -> Any:
        # Copies, since either may work in place on what it is handed, and both may answer in one buffer.
        first = conditional(*(arrays.library(a).copy(a) if arrays.is_array(a) else a for a in (x, t)))
        first = arrays.library(floating("conditional's answer", first)).copy(first)
        second = unconditional(x, t)
        alike("unconditional's answer", second, "conditional's answer", first)
        return arrays.combine([first, second], [scale, 1 - scale])

    return guided
