"""A falling curve through a table at the integers: Hermite's cubic, smooth and nowhere rising.

Its slopes are central differences of fourth order, limited so that the curve falls everywhere (Fritsch and Carlson,
1980). It is exact at the integers, and so smooth that a method of order 4 does not see the joints.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pndm_solvers.schedule import Float64, bisected

__all__ = ["FallingCubic"]


class FallingCubic:
    """The curve through `values`, 1-D and falling, at 0, 1, 2, …; `slopes` are its own there."""

    def __init__(self, values: Float64) -> None:
        self.values, self.slopes, self.knots = values, np.zeros_like(values), np.arange(float(len(values)))
        rises = np.diff(values)
        if rises.size:
            slopes = np.gradient(values)
            slopes[2:-2] = (8 * (values[3:-1] - values[1:-3]) - (values[4:] - values[:-4])) / 12
            steepest = 3 * np.maximum(np.append(rises, rises[-1]), np.append(rises[0], rises))
            self.slopes = np.maximum(slopes, steepest).clip(max=0)

    def __call__(self, t: Any, xp: Any = np) -> tuple[Any, Any]:
        """The values and slopes at places within the table, an array of the library whose module is `xp`."""
        values, slopes, knots, last = self.values, self.slopes, self.knots, len(self.values) - 1
        if xp is np:  # in half the time
            t = np.minimum(np.maximum(np.asarray(t, np.float64), 0.0), last)
            i = np.minimum(t.astype(np.int64), max(last - 1, 0))
            j = np.minimum(i + 1, last)
        else:
            device = getattr(t, "device", None)
            values, slopes, knots = (xp.asarray(v, dtype=t.dtype, device=device) for v in (values, slopes, knots))
            t = xp.clip(t, 0, last)
            i = xp.clip(xp.searchsorted(knots, t, side="right") - 1, 0, max(last - 1, 0))
            j = xp.clip(i + 1, 0, last)
        s = t - knots[i]
        left, (curve, twist) = slopes[i], _coefficients(values[j] - values[i], slopes[i], slopes[j])
        return values[i] + s * (left + s * (curve + s * twist)), left + s * (2 * curve + s * 3 * twist)

    def place(self, value: Float64) -> Float64:
        """Where the curve takes the values, none of them below its last; clamped to 0."""
        values, slopes = self.values, self.slopes
        # Between two knots the curve is one cubic.
        i = (np.searchsorted(-values, -value) - 1).clip(0, len(values) - 2)
        start, left = values[i], slopes[i]
        curve, twist = _coefficients(values[i + 1] - values[i], slopes[i], slopes[i + 1])
        knot = i.astype(np.float64)
        if one := value.ndim == 0:  # Python's own numbers are faster one by one
            knot, start, left, curve, twist = (float(part) for part in (knot, start, left, curve, twist))

        def of(t: Any) -> Any:
            s = t - knot
            return start + s * (left + s * (curve + s * twist))

        if one:
            return np.asarray(bisected(of, float(value), knot, knot + 1.0))
        # Newton's method finds a part of the interval into which bisection would come, some 32 floats long.
        with np.errstate(divide="ignore", invalid="ignore"):
            s = ((value - start) / (values[i + 1] - start)).clip(0, 1)
            for _ in range(4):
                s = s - (of(knot + s) - value) / (left + s * (2 * curve + s * 3 * twist))
        parts = np.ldexp(1.0, 48 - np.frexp(knot)[1])
        part = np.floor(np.nan_to_num(s * parts)).clip(0, parts - 1)
        # Rounding may have it in a neighbouring one.
        part = (part + (of(knot + (part + 1) / parts) > value) - (of(knot + part / parts) <= value)).clip(0, parts - 1)
        low, high = knot + part / parts, knot + (part + 1) / parts
        found = ((of(low) > value) | (part == 0)) & (of(high) <= value)
        low, high = np.where(found, low, knot), np.where(found, high, knot + 1.0)
        return bisected(of, value, low, high, 32 if found.all() else 80)  # to 2^-80 of a table's step


def _coefficients(rise: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """The coefficients of s² and s³ in Hermite's cubic, from its rise and its slopes at 0 and 1."""
    return 3 * rise - 2 * left - right, left + right - 2 * rise
