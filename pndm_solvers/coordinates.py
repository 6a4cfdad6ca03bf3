"""Coordinates of noise levels: rising or falling functions of ρ = σ/α, with their inverses.

The stages of a step stand at fractions of one, and past answers are interpolated in one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

__all__ = ["COORDINATES", "Coordinate"]


class Coordinate(NamedTuple):
    """A function of ρ = σ/α and its inverse, on numbers and on arrays of any shape."""

    of: Callable[[Any], Any]
    ratio: Callable[[Any], Any]


COORDINATES = {
    "ratio": Coordinate(lambda ratio: ratio, lambda u: u),
    "log_ratio": Coordinate(np.log, np.exp),  # −λ, where λ = log(α/σ) is DPM-Solver's half log-SNR
    "inverse_ratio": Coordinate(lambda ratio: 1.0 / ratio, lambda u: 1.0 / u),
    "angle": Coordinate(np.arctan, np.tan),
    "noise_share": Coordinate(lambda ratio: 1.0 / (1.0 + 1.0 / ratio), lambda u: u / (1.0 - u)),  # σ/(α + σ)
}
