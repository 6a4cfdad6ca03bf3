"""Noise levels: how much signal and how much noise a state holds at each time.

A schedule is the pair of functions in `x_t = α(t)·x_0 + σ(t)·ε`, in float64, with times in the units in which the
network was trained. It holds no grid and no method, and touches no array of the caller's. The kinds of schedule are
in `schedules.py`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import real, reals

__all__ = ["Float64", "Level", "Schedule", "bisected"]

Float64 = NDArray[np.float64]


class Level(NamedTuple):
    """One noise level: the time `t`, and α and σ there."""

    t: float
    alpha: float
    sigma: float

    @property
    def ratio(self) -> float:
        """ρ = σ/α, the coordinate in which a transfer is a straight line: x/α moves by (ρ_s − ρ_t)·ε; ∞ where α = 0."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def space(self) -> str:
        """The prediction that a row stores for a method that averages ε: "epsilon", or "sample" where α = 0.

        At α = 0 the state is pure noise, so ε does not determine the picture; x̂_0 and the state determine ε.
        """
        return "epsilon" if self.alpha else "sample"


def bisected(of: Callable[[Any], Any], value: Any, low: Any, high: Any, halvings: int = 80) -> Any:
    """The lowest times in `[low, high]` at which a strictly falling function is at most `value`, to the last bit.

    Arrays of one shape, or numbers.
    """
    one = np.ndim(value) == 0
    pick: Any = (lambda condition, yes, no: yes if condition else no) if one else np.where
    high = pick(of(low) <= value, low, high)
    for _ in range(halvings):
        middle = (low + high) / 2
        done = (middle == low) | (middle == high)  # the two are neighbours in float64
        if done if one else done.all():
            break
        above = of(middle) > value
        low, high = pick(above, middle, low), pick(above, high, middle)
    return high


class Schedule(ABC):
    """What every noise schedule can do, given α(t), σ(t) and their derivatives.

    Attributes
    ----------
    t_min, t_max:
        The lowest and the highest time that the network was trained for.
    t_floor:
        Times above it are allowed too, where a network has seen more than spacings visit; None where it has not.
    space:
        The prediction that is straight in the schedule's own terms, and whose transfer keeps all digits.
    shift:
        How many times larger the σ/α of a spacing are than without it.
    clean:
        The level without noise (α = 1, σ = 0), where `final="clean"` ends, and the time that stands for it.
    num_train_timesteps:
        How many levels a table has; None for a continuous schedule.
    """

    t_min: float
    t_max: float
    t_floor: float | None = None
    space: str = "epsilon"
    shift: float = 1.0
    clean: Level = Level(0.0, 1.0, 0.0)
    num_train_timesteps: int | None = None

    @property
    def every_level(self) -> tuple[Float64, ...]:
        """(α, σ) at the times 0, 1, 2, … of a table; () for a continuous schedule."""
        return ()

    @abstractmethod
    def _alpha(self, t: Any, xp: Any = np) -> Any:
        """α at times within `[t_min, t_max]`, an array of the library whose module is `xp`."""

    @abstractmethod
    def _sigma(self, t: Any, xp: Any = np) -> Any:
        """σ at times within `[t_min, t_max]`, an array of the library whose module is `xp`."""

    @abstractmethod
    def _rates(self, t: float) -> tuple[float, float]:
        """(dα/dt, dσ/dt) at a time within `[t_min, t_max]`."""

    def _log_snr(self, t: Float64) -> Float64:
        with np.errstate(divide="ignore"):
            return 2 * (np.log(self._alpha(t)) - np.log(self._sigma(t)))

    def alpha(self, t: ArrayLike) -> Float64:
        """α at the times `t` (any shape), float64 of t's shape. ValueError outside the range, but for rounding.

        For arrays of other libraries, on their device, there is `alpha_sigma`.
        """
        times, clean = self.checked_times(t)
        return np.where(clean, self.clean.alpha, self._alpha(times))

    def sigma(self, t: ArrayLike) -> Float64:
        """σ at the times `t` (any shape), float64 of t's shape. ValueError outside the range, but for rounding."""
        times, clean = self.checked_times(t)
        return np.where(clean, self.clean.sigma, self._sigma(times))

    def log_snr(self, t: ArrayLike) -> Float64:
        """log(α²/σ²) at the times `t` (any shape), in nats; −∞ where α = 0, +∞ where σ = 0. Errors as in `alpha`."""
        times, clean = self.checked_times(t)
        return np.where(clean, math.inf, self._log_snr(times))

    def rates(self, t: float) -> tuple[float, float]:
        """(dα/dt, dσ/dt) at one time, per unit of time, for the raw probability-flow ODE.

        Raises ValueError outside `[t_min, t_max]`.
        """
        t = real("t", t)
        if not self.t_min <= t <= self.t_max:
            raise self._outside("t", t)
        return self._rates(t)

    def level(self, t: float, name: str = "t") -> Level:
        """The level at time `t`; errors call the time `name`.

        Raises ValueError outside `[t_min, t_max]`, except at the clean time.
        """
        t = real(name, t, "a finite time")
        if t == self.clean.t:
            return self.clean
        if not (self.t_min <= t <= self.t_max or self._below(t)):
            raise self._outside(name, t)
        at = np.asarray(t)
        return Level(t, float(self._alpha(at)), float(self._sigma(at)))

    def levels(self, times: Sequence[float], name: str = "t") -> list[Level]:
        """`level` at each of the times; where none is special, by one call of `_alpha` and of `_sigma`."""
        at = np.array([real(name, t, "a finite time") for t in times])
        inside = ((self.t_min <= at) & (at <= self.t_max) | self._below(at)) & (at != self.clean.t)
        if inside.all() and type(self).level is Schedule.level:
            try:
                alpha, sigma = (np.broadcast_to(of(at), at.shape) for of in (self._alpha, self._sigma))
            except (TypeError, ValueError):  # a schedule of the caller's own may take single numbers alone
                pass
            else:
                return list(map(Level, at.tolist(), alpha.tolist(), sigma.tolist()))
        return [self.level(t, name) for t in times]

    def level_at(self, ratio: float) -> Level:
        """The level at which σ/α is `ratio`, above 0, clamped to `[t_min, t_max]`."""
        ratio = real("ratio", ratio, "a σ/α above 0, since only the clean level has 0", lambda ratio: ratio > 0)
        return self.level(float(self.time_at(-2 * math.log(ratio))))

    def time_at(self, log_snr: ArrayLike) -> Float64:
        """The times at which log-SNR takes the given values (nats, any shape), clamped to `[t_min, t_max]`.

        Raises ValueError for NaN.
        """
        target = reals("log_snr", log_snr).astype(np.float64)
        if np.isnan(target).any():
            raise ValueError("log_snr holds NaN; its entries must be numbers, −∞ and ∞ included")
        return self._time_at(target)

    def _time_at(self, log_snr: Float64) -> Float64:
        low, high = (np.full(log_snr.shape, t) for t in (self.t_min, self.t_max))
        return np.asarray(bisected(self._log_snr, log_snr, low, high))

    def checked_times(self, t: ArrayLike, name: str = "t") -> tuple[Float64, NDArray[np.bool_]]:
        """(`t` clipped to `[t_min, t_max]`, whether `t` is the clean time); ValueError for other times."""
        try:
            times = reals(name, t).astype(np.float64)
        except TypeError as error:
            hint = "; for arrays on a device, or within jax.jit, there is alpha_sigma" if hasattr(t, "ndim") else ""
            raise TypeError(f"{error}{hint}") from error
        inside = np.where(self._below(times), times, np.clip(times, self.t_min, self.t_max))
        clean = times == self.clean.t
        # A float32 time, as networks receive it, may lie past an end by its own rounding.
        outside = ~(clean | (np.abs(times - inside) <= 1e-6 * np.abs(inside)))
        if outside.any():
            raise self._outside(name, times[outside].flat[0])
        return inside, clean

    def k_sigma(self, t: ArrayLike) -> Float64:
        """What k-diffusion, ComfyUI and diffusers call sigma: σ/α at the times `t`, or for a flow σ itself."""
        return np.exp(-self.log_snr(t) / 2)

    def time_of_k_sigma(self, sigma: ArrayLike) -> Float64:
        """The times at which `k_sigma` has the values, above 0, clamped to `[t_min, t_max]`."""
        return self.time_at(-2 * np.log(np.asarray(sigma, np.float64)))

    def _below(self, t: ArrayLike) -> NDArray[np.bool_]:
        """Whether times lie below those of spacings and are allowed."""
        t = np.asarray(t)
        return (self.t_floor < t) & (t < self.t_min) if self.t_floor is not None else np.zeros(t.shape, bool)

    def time_of_share(self, share: ArrayLike) -> Float64:
        """The time at a share, up to 1 for `t_max`, of the times in which spacings are even."""
        return self.t_max * np.asarray(share, np.float64)

    def share_of_time(self, t: float) -> float:
        """The share at which `time_of_share` has the time `t`."""
        return t / self.t_max

    def _outside(self, name: str, t: float) -> ValueError:
        return ValueError(
            f"{name} is {t:g}, outside the trained range [{self.t_min:g}, {self.t_max:g}] of {self!r}; "
            f"pass times inside it, or final='clean' for the noise-free end"
        )
