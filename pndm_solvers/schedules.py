"""The kinds of noise schedule: tables of betas, and the continuous schedules."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pndm_solvers import betas
from pndm_solvers.arguments import real
from pndm_solvers.betas import table_of, table_of_betas
from pndm_solvers.config import constructor, read_config
from pndm_solvers.cubic import FallingCubic
from pndm_solvers.schedule import Float64, Level, Schedule

__all__ = ["KINDS", "SCHEDULES", "NoiseSchedule"]


class NoiseSchedule(Schedule):
    """α(t) and σ(t) of `x_t = α(t)·x_0 + σ(t)·ε`, made by one of the functions below.

    A schedule is immutable, hashable and compared by value. A new kind of schedule is one subclass with `t_min`,
    `t_max`, `_alpha`, `_sigma` and `_rates`, which are called only within `[t_min, t_max]`.
    """

    # ------------------------------------------------------------------ tables

    @staticmethod
    def linear(num_train_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> NoiseSchedule:
        """β rises linearly: Ho et al. (2020), section 4; the schedule of DDPM and of PNDM."""
        return NoiseSchedule.from_betas(betas.linear(num_train_timesteps, beta_start, beta_end))

    @staticmethod
    def scaled_linear(
        num_train_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
    ) -> NoiseSchedule:
        """√β rises linearly, as in latent diffusion; "quad" in the code of DDIM and PNDM."""
        return NoiseSchedule.from_betas(betas.scaled_linear(num_train_timesteps, beta_start, beta_end))

    @staticmethod
    def cosine(num_train_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> NoiseSchedule:
        """√ᾱ follows a cosine: Nichol and Dhariwal (2021), eq. (17); β is capped at `max_beta`."""
        return NoiseSchedule.from_betas(betas.cosine(num_train_timesteps, offset, max_beta))

    @staticmethod
    def from_betas(betas: ArrayLike) -> NoiseSchedule:
        """From the variances β_0 … β_{T−1} of the forward steps: ᾱ_t = Π (1 − β_i), i ≤ t.

        The last one may be 1 (zero terminal SNR). ValueError unless `betas` is a non-empty 1-D table inside (0, 1).
        """
        table = table_of_betas(betas)
        # A sum of logarithms keeps 1 − ᾱ exact near t = 0, where ᾱ itself rounds to almost 1.
        with np.errstate(divide="ignore"):
            log_alphas_cumprod = np.cumsum(np.log1p(-table))
        return LevelTable(tuple((log_alphas_cumprod - np.log(-np.expm1(log_alphas_cumprod))).tolist()))

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: ArrayLike) -> NoiseSchedule:
        """From the table ᾱ_0 … ᾱ_{T−1}. The last one may be 0 (zero terminal SNR).

        Raises ValueError unless `alphas_cumprod` is a non-empty 1-D table inside (0, 1), strictly falling.
        """
        table = table_of("alphas_cumprod", alphas_cumprod, last=0)
        if not np.all(np.diff(table) < 0):
            worst = int(np.argmax(np.diff(table) >= 0))
            raise ValueError(
                f"alphas_cumprod must fall strictly; [{worst}] is {table[worst]:g} and [{worst + 1}] is "
                f"{table[worst + 1]:g}. If these are betas, pass them to from_betas; if the table leads from noise to "
                f"data, reverse it"
            )
        with np.errstate(divide="ignore"):
            return LevelTable(tuple((np.log(table) - np.log1p(-table)).tolist()))

    @staticmethod
    def from_config(config: Mapping[str, Any] | str | os.PathLike[str]) -> NoiseSchedule:
        """From a diffusers scheduler config: a dict, a JSON file, or a folder that holds one.

        Tables of betas, flows, SNR-shifted tables and networks on continuous times are read as the class that the
        config names means them. `prediction_type` describes the network, not the schedule: pass it as `prediction=`
        when sampling. Raises ValueError for networks that no solver here can call, naming the remedy.
        """
        options = read_config(config)
        name, arguments = constructor(options)
        schedule = getattr(NoiseSchedule, name)(**arguments)
        return schedule.rescale_zero_terminal_snr() if options["rescale_betas_zero_snr"] else schedule

    def rescale_zero_terminal_snr(self) -> NoiseSchedule:
        """A new table whose last level is pure noise: Lin et al. (2024), algorithm 1.

        √ᾱ is shifted to end at 0 and scaled to keep its first value. Raises TypeError for a
        continuous schedule, which has no table.
        """
        raise TypeError(f"only a table of levels can be rescaled to zero terminal SNR, and {self!r} is continuous")

    # -------------------------------------------------------------- continuous

    @staticmethod
    def vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> NoiseSchedule:
        """The variance-preserving SDE of Song et al. (2021), eq. (32), times from `t_min` to 1.

        log α(t) = −t²·(β_max − β_min)/4 − t·β_min/2, σ² = 1 − α².
        """
        return VariancePreserving(real("beta_min", beta_min), real("beta_max", beta_max), _lowest(t_min))

    @staticmethod
    def ve(sigma_min: float = 0.002, sigma_max: float = 80.0) -> NoiseSchedule:
        """Variance exploding as in Karras et al. (2022): α = 1, and the time is σ itself."""
        return VarianceExploding(*_sigmas(sigma_min, sigma_max))

    @staticmethod
    def rectified_flow(t_min: float = 1e-3, shift: float = 1.0, num_train_timesteps: float = 1.0) -> NoiseSchedule:
        """The straight path of Liu et al. (2023): α = 1 − σ, and the time is σ·num_train_timesteps.

        Spacings end at σ = `t_min`; times of your own may lie anywhere above 0. With a `shift` (Esser et al. 2024, eq.
        23) the levels of a spacing are where those without it have a σ/α that many times smaller.
        """
        top = real("num_train_timesteps", num_train_timesteps, "a number above 0", lambda top: 0 < top < math.inf)
        shift = real("shift", shift, "a number above 0, 3 say", lambda shift: 0 < shift < math.inf)
        return RectifiedFlow(_lowest(t_min) * top, top, shift)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0, sigma_data: float = 0.5) -> NoiseSchedule:
        """The network inside EDM's: Karras et al. (2022), table 1, last column. The time is ¼·log σ, of x = x_0 + σ·ε.

        Its input is x/√(σ² + σ_data²), so α = 1/√(σ² + σ_data²). Of its answer F the picture is σ_data²·α·input +
        σ_data·σ·F, for `prediction="sample"`. Stable Video Diffusion has this schedule with σ_data = 1, and predicts v.
        """
        data = real("sigma_data", sigma_data, "a number above 0", lambda data: 0 < data < math.inf)
        low, high = _sigmas(sigma_min, sigma_max)
        return ScaledInput(math.log(low) / 4, math.log(high) / 4, data, "log")

    @staticmethod
    def trigonometric(sigma_min: float = 0.002, sigma_max: float | None = None) -> NoiseSchedule:
        """α = cos(πt/2), σ = sin(πt/2), times from where tan(πt/2) is `sigma_min` to `sigma_max`, or to 1."""
        low, high = _sigmas(sigma_min, 1e100 if sigma_max is None else sigma_max)
        return ScaledInput(math.atan(low) * 2 / math.pi, math.atan(high) * 2 / math.pi, 1.0, "angle")


def _lowest(t_min: float) -> float:
    return real("t_min", t_min, "in (0, 1), the lowest time the network was trained for", lambda t: 0 < t < 1)


def _sigmas(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    ends = real("sigma_min", sigma_min), real("sigma_max", sigma_max)
    # Above 1e100 squares overflow.
    if not 0 < ends[0] < ends[1] <= 1e100:
        raise ValueError(f"need 0 < sigma_min < sigma_max ≤ 1e100, not {ends[0]:g} and {ends[1]:g}")
    return ends


@dataclass(frozen=True)
class LevelTable(NoiseSchedule):
    """Variance-preserving levels at the integers 0 … T − 1, given by their log-SNR (nats).

    Between the integers log-SNR is a `FallingCubic`. A terminal level with α = 0 has no finite log-SNR; towards it α
    falls linearly.
    """

    log_snrs: tuple[float, ...]

    t_min = 0.0
    # The level before the first of the table, where the product that defines ᾱ is still empty.
    clean = Level(-1.0, 1.0, 0.0)

    def __hash__(self) -> int:
        return hash((len(self.log_snrs), *self.log_snrs[:: max(1, len(self.log_snrs) // 8)]))  # some numbers are enough

    def __repr__(self) -> str:
        ends = ", ".join(f"{v:.4g}" for v in (self.log_snrs[0], self.log_snrs[-1]))
        return f"<NoiseSchedule of {len(self.log_snrs)} levels, log-SNR {ends}>"

    @property
    def num_train_timesteps(self) -> int:  # type: ignore[override] — follows from the table's length
        return len(self.log_snrs)

    @property
    def t_max(self) -> float:  # type: ignore[override] — likewise
        return float(len(self.log_snrs) - 1)

    @cached_property
    def every_level(self) -> tuple[Float64, ...]:  # type: ignore[override] — made once
        times = np.arange(len(self.log_snrs))
        return self.alpha(times), self.sigma(times)

    @cached_property
    def _curve(self) -> FallingCubic:
        """Log-SNR as far as it is finite."""
        values = np.array(self.log_snrs)
        return FallingCubic(values[np.isfinite(values)])

    def _time_at(self, log_snr: Float64) -> Float64:
        values = self._curve.values
        if len(values) < 2 or np.any(log_snr < values[-1]):
            return super()._time_at(log_snr)
        return self._curve.place(log_snr)

    @property
    def _ends_in_noise(self) -> bool:
        """Whether α is 0 at the last level."""
        return len(self._curve.values) < len(self.log_snrs)

    def _beyond(self, t: Any, xp: Any = np) -> Any:
        """How far `t` lies past the last finite level, 0 to 1."""
        return xp.clip(t - (len(self._curve.values) - 1.0), 0, 1)

    def _alpha(self, t: Any, xp: Any = np) -> Any:
        log_snr, _ = self._curve(t, xp)
        share = _root_of_share(log_snr, xp)
        return (1 - self._beyond(t, xp)) * share if self._ends_in_noise else share

    def _sigma(self, t: Any, xp: Any = np) -> Any:
        log_snr, _ = self._curve(t, xp)
        if not self._ends_in_noise:
            return _root_of_share(-log_snr, xp)
        past = xp.sqrt(1 - self._alpha(t, xp) ** 2)
        return xp.where(self._beyond(t, xp) > 0, past, _root_of_share(-log_snr, xp))

    def _log_snr(self, t: Float64) -> Float64:
        return np.where(self._beyond(t) > 0, super()._log_snr(t), self._curve(t)[0])

    def _rates(self, t: float) -> tuple[float, float]:
        alpha, sigma = float(self._alpha(t)), float(self._sigma(t))
        if self._beyond(t) > 0:
            slope = -float(self._alpha(np.asarray(len(self._curve.values) - 1.0)))
            return slope, -alpha * slope / sigma
        half = float(self._curve(t)[1]) / 2
        return half * alpha * sigma**2, -half * sigma * alpha**2

    def rescale_zero_terminal_snr(self) -> NoiseSchedule:
        alphas = self.alpha(np.arange(len(self.log_snrs)))
        if len(alphas) < 2:
            raise ValueError("a table of one level cannot both keep its first level and end at zero SNR")
        return NoiseSchedule.from_alphas_cumprod(((alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))) ** 2)


def _root_of_share(log_snr: Any, xp: Any) -> Any:
    """√(e^λ/(1 + e^λ)), which is α of log-SNR λ, and σ of −λ."""
    return xp.exp(-xp.logaddexp(0.0 if xp is np else xp.zeros_like(log_snr), -log_snr) / 2)


@dataclass(frozen=True)
class VariancePreserving(NoiseSchedule):
    """See `NoiseSchedule.vp`."""

    beta_min: float
    beta_max: float
    t_min: float
    t_max = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(f"need 0 < beta_min ≤ beta_max, not {self.beta_min:g} and {self.beta_max:g}")

    def _log_alpha(self, t: Any) -> Any:
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def _alpha(self, t: Any, xp: Any = np) -> Any:
        return xp.exp(self._log_alpha(t))

    def _sigma(self, t: Any, xp: Any = np) -> Any:
        return xp.sqrt(-xp.expm1(2 * self._log_alpha(t)))

    def _rates(self, t: float) -> tuple[float, float]:
        alpha, sigma = math.exp(self._log_alpha(t)), math.sqrt(-math.expm1(2 * self._log_alpha(t)))
        beta = self.beta_min + t * (self.beta_max - self.beta_min)
        return -beta / 2 * alpha, beta / 2 * alpha**2 / sigma

    def _time_at(self, log_snr: Float64) -> Float64:
        half = self.beta_min / 2
        fall = np.minimum(np.logaddexp(0.0, -log_snr) / 2, -self._log_alpha(self.t_max))  # −log α
        times = 2 * fall / (half + np.sqrt(half**2 + (self.beta_max - self.beta_min) * fall))
        return np.clip(times, self.t_min, self.t_max)


@dataclass(frozen=True)
class VarianceExploding(NoiseSchedule):
    """See `NoiseSchedule.ve`."""

    t_min: float
    t_max: float

    def _alpha(self, t: Any, xp: Any = np) -> Any:
        return xp.ones_like(t)

    def _sigma(self, t: Any, xp: Any = np) -> Any:
        return t

    def _rates(self, t: float) -> tuple[float, float]:
        return 0.0, 1.0

    def _time_at(self, log_snr: Float64) -> Float64:
        # Bisection would not end on the two hundred decades that σ may span.
        return np.exp(np.clip(-log_snr / 2, math.log(self.t_min), math.log(self.t_max))).clip(self.t_min, self.t_max)


@dataclass(frozen=True)
class RectifiedFlow(NoiseSchedule):
    """See `NoiseSchedule.rectified_flow`."""

    t_min: float
    t_max: float = 1.0
    shift: float = 1.0

    space = "flow"
    t_floor = 0.0  # flows are trained on all times above 0

    def _alpha(self, t: Any, xp: Any = np) -> Any:
        return 1 - t / self.t_max

    def _sigma(self, t: Any, xp: Any = np) -> Any:
        return t / self.t_max

    def _rates(self, t: float) -> tuple[float, float]:
        return -1 / self.t_max, 1 / self.t_max

    def _time_at(self, log_snr: Float64) -> Float64:
        with np.errstate(over="ignore"):
            return np.clip(self.t_max / (1 + np.exp(log_snr / 2)), self.t_min, self.t_max)

    def time_of_share(self, share: ArrayLike) -> Float64:
        return self.t_max * shifted(np.asarray(share, np.float64), self.shift)

    def k_sigma(self, t: ArrayLike) -> Float64:
        return self.sigma(t)

    def time_of_k_sigma(self, sigma: ArrayLike) -> Float64:
        return np.clip(self.t_max * np.asarray(sigma, np.float64), self.t_min, self.t_max)

    def share_of_time(self, t: float) -> float:
        return float(shifted(t / self.t_max, 1 / self.shift))


def shifted(sigma: Any, shift: float) -> Any:
    """The σ of a flow at which σ/α is `shift` times larger: Esser et al. (2024), eq. (23)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


@dataclass(frozen=True)
class ScaledInput(NoiseSchedule):
    """See `NoiseSchedule.edm`, whose time is a "log", and `NoiseSchedule.trigonometric`, whose time is an "angle"."""

    t_min: float
    t_max: float
    sigma_data: float
    clock: str

    @property
    def clean(self) -> Level:  # type: ignore[override] — where the time is a logarithm, 0 is one like others
        return Level(0.0 if self.clock == "angle" else self.t_min - 1, 1.0, 0.0)

    def time_of_share(self, share: ArrayLike) -> Float64:
        return self.t_min + (self.t_max - self.t_min) * np.asarray(share, np.float64)

    def share_of_time(self, t: float) -> float:
        return (t - self.t_min) / (self.t_max - self.t_min)

    def _alpha(self, t: Any, xp: Any = np) -> Any:
        if self.clock == "angle":
            return xp.sin((1 - t) * math.pi / 2)  # exactly 0 at the top
        return 1 / xp.hypot(xp.exp(4 * t), xp.full_like(t, self.sigma_data))

    def _sigma(self, t: Any, xp: Any = np) -> Any:
        return xp.sin(t * math.pi / 2) if self.clock == "angle" else xp.exp(4 * t) * self._alpha(t, xp)

    def _rates(self, t: float) -> tuple[float, float]:
        alpha, sigma = float(self._alpha(np.asarray(t))), float(self._sigma(np.asarray(t)))
        if self.clock == "angle":
            return -sigma * math.pi / 2, alpha * math.pi / 2
        noise = sigma / alpha
        speed = 4 * noise * alpha**3
        return -noise * speed, self.sigma_data**2 * speed

    def _time_at(self, log_snr: Float64) -> Float64:
        with np.errstate(over="ignore"):
            times = -log_snr / 8 if self.clock == "log" else np.arctan(np.exp(-log_snr / 2)) * 2 / math.pi
        return np.clip(times, self.t_min, self.t_max)


# The kinds, by the names of their classes.
KINDS = {
    kind.__name__: kind for kind in (LevelTable, VariancePreserving, VarianceExploding, RectifiedFlow, ScaledInput)
}

# Every schedule that needs no table, by the name that the command line uses. The tests run over them.
SCHEDULES: dict[str, Callable[[], NoiseSchedule]] = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "vp": NoiseSchedule.vp,
    "ve": NoiseSchedule.ve,
    "rectified_flow": NoiseSchedule.rectified_flow,
    "edm": NoiseSchedule.edm,
    "trigonometric": NoiseSchedule.trigonometric,
}
