"""ComfyUI's schedulers, three of its samplers, and its forms of a model, as small functions.

Every fact is from the repository Comfy-Org/ComfyUI at commit a125cd84 (version 0.3.64): `comfy/samplers.py` for the
schedulers and the denoise rule (`KSampler.set_steps`), `comfy/model_sampling.py` for the tables of sigmas and the
models' forms, `comfy/k_diffusion/sampling.py` for the samplers and for the grids "karras" and "exponential".

In ComfyUI a `model(x, sigma)` answers the denoised picture D. Diffusion models (ε and v) are called at
x = x_0 + σ·ε, flow models at x = (1 − σ)·x_0 + σ·ε. In both cases (x − D)/σ is dx/dσ, and every sampler here runs
unchanged on both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from pndm_solvers import NoiseSchedule

__all__ = ["SAMPLERS", "SCHEDULERS", "Sampling", "discrete", "discrete_flow", "flux", "given_sigmas", "noised"]

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """What the schedulers read of a model.

    Attributes
    ----------
    sigmas:
        The table of sigmas, which rises.
    sigma, timestep:
        The functions from a time to its sigma and back. They are not always inverse to each other.
    flow:
        Whether the model's state is (1 − σ)·x_0 + σ·ε.
    """

    sigmas: Float64
    sigma: Callable[[Any], Any]
    timestep: Callable[[float], float]
    flow: bool = False


def discrete(schedule: NoiseSchedule) -> Sampling:
    """`ModelSamplingDiscrete`, for ε and v: the times are places in the table, and log σ is linear between them.

    `timestep` is the place of the nearest log σ.
    """
    table = np.exp(-schedule.log_snr(np.arange(schedule.num_train_timesteps)) / 2)
    logs, places = np.log(table), np.arange(len(table))
    return Sampling(
        sigmas=table,
        sigma=lambda t: np.exp(np.interp(t, places, logs)),
        timestep=lambda sigma: float(np.abs(math.log(sigma) - logs).argmin()),
    )


def discrete_flow(shift: float = 3.0, size: int = 1000) -> Sampling:
    """`ModelSamplingDiscreteFlow`: σ = s·u/(1 + (s − 1)·u) at u = t/1000. Stable Diffusion 3 has the shift s = 3.

    `timestep` is 1000·σ, so `sigma` shifts a second time what was shifted already.
    """

    def sigma(t: Any) -> Any:
        u = np.asarray(t, np.float64) / size
        return shift * u / (1 + (shift - 1) * u)

    return Sampling(sigma(np.arange(1, size + 1)), sigma, lambda sigma: sigma * size, flow=True)


def flux(mu: float = 1.15, size: int = 10_000) -> Sampling:
    """`ModelSamplingFlux`: σ = e^μ/(e^μ + 1/t − 1), 10,000 levels. `timestep` is σ, so it shifts twice too."""

    def sigma(t: Any) -> Any:
        return math.exp(mu) / (math.exp(mu) + 1 / np.asarray(t, np.float64) - 1)

    return Sampling(sigma(np.arange(1, size + 1) / size), sigma, lambda sigma: sigma, flow=True)


# ------------------------------------------------------------------ schedulers: (sampling, steps) -> sigmas, 0 the last


def simple(sampling: Sampling, steps: int) -> Float64:
    """Even places of the table from its top; fractions are cut off."""
    places = 1 + (np.arange(steps) * (len(sampling.sigmas) / steps)).astype(np.int64)
    return np.append(sampling.sigmas[-places], 0)


def normal(sampling: Sampling, steps: int) -> Float64:
    """Even times from the highest sigma to the lowest."""
    first, last = (sampling.timestep(sampling.sigmas[place]) for place in (-1, 0))
    if math.isclose(sampling.sigma(last), 0, abs_tol=1e-5):  # the lowest sigma stands for 0
        return sampling.sigma(np.linspace(first, last, steps + 1))
    return np.append(sampling.sigma(np.linspace(first, last, steps)), 0)


def sgm_uniform(sampling: Sampling, steps: int) -> Float64:
    """Even times from the highest sigma to just above the lowest."""
    first, last = (sampling.timestep(sampling.sigmas[place]) for place in (-1, 0))
    return np.append(sampling.sigma(np.linspace(first, last, steps + 1)[:-1]), 0)


def karras(sampling: Sampling, steps: int, rho: float = 7.0) -> Float64:
    """Even in σ^(1/7): Karras et al. (2022), eq. (5)."""
    roots = np.linspace(sampling.sigmas[-1] ** (1 / rho), sampling.sigmas[0] ** (1 / rho), steps)
    return np.append(roots**rho, 0)


def exponential(sampling: Sampling, steps: int) -> Float64:
    """Even in log σ."""
    return np.append(np.geomspace(sampling.sigmas[-1], sampling.sigmas[0], steps), 0)


def ddim_uniform(sampling: Sampling, steps: int) -> Float64:
    """Every ⌊T/n⌋-th place of the table from place 1 on, as many as there are: it neither begins nor ends at an end."""
    zero = math.isclose(sampling.sigmas[1], 0, abs_tol=1e-5)
    stride = max(len(sampling.sigmas) // (steps + zero), 1)
    rising = sampling.sigmas[1::stride]
    return rising[::-1] if zero else np.append(rising[::-1], 0)


def beta(sampling: Sampling, steps: int, alpha: float = 0.6, beta: float = 0.6) -> Float64:
    """Quantiles of the beta distribution as places of the table: dense at both ends (Lee et al. 2024, 2407.12173)."""
    quantiles = scipy.stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta)
    places = np.rint(quantiles * (len(sampling.sigmas) - 1)).astype(np.int64)
    return np.append(sampling.sigmas[places[np.append(True, np.diff(places) != 0)]], 0)


def linear_quadratic(sampling: Sampling, steps: int, threshold: float = 0.025) -> Float64:
    """σ/σ_max falls from 1 evenly to 1 − 0.025 in the first half of the steps, and quadratically to 0 in the rest.

    The parabola meets the line with its value and its slope.
    """
    if steps == 1:
        return np.array([1.0, 0.0]) * sampling.sigmas[-1]
    half = steps // 2
    slope, rest = threshold / half, steps - half
    curve = (1 - threshold - slope * rest) / rest**2
    i = np.arange(steps + 1)
    past = np.maximum(i - half, 0)
    fallen = slope * i + curve * past**2
    return np.append((1 - fallen[:-1]) * sampling.sigmas[-1], 0)


def kl_optimal(sampling: Sampling, steps: int) -> Float64:
    """Even in arctan σ: Sabour et al. (2024), Align Your Steps, eq. (10)."""
    angles = np.arctan(sampling.sigmas[[-1, 0]])
    return np.append(np.tan(np.linspace(*angles, steps)), 0)


SCHEDULERS: dict[str, Callable[[Sampling, int], Float64]] = {
    "simple": simple,
    "sgm_uniform": sgm_uniform,
    "karras": karras,
    "exponential": exponential,
    "ddim_uniform": ddim_uniform,
    "beta": beta,
    "normal": normal,
    "linear_quadratic": linear_quadratic,
    "kl_optimal": kl_optimal,
}


def given_sigmas(sampling: Sampling, scheduler: str, steps: int, denoise: float = 1.0) -> Float64:
    """The sigmas of a KSampler node: with `denoise` < 1 the last `steps` + 1 of ⌊steps/denoise⌋ steps."""
    if denoise > 0.9999:
        return SCHEDULERS[scheduler](sampling, steps)
    return SCHEDULERS[scheduler](sampling, int(steps / denoise))[-(steps + 1) :]


def noised(sampling: Sampling, picture: Any, noise: Any, sigma: float) -> Any:
    """The state at `sigma`, from a picture (0 for an empty one) and noise: `noise_scaling`."""
    if sampling.flow:
        return sigma * noise + (1 - sigma) * picture
    # At the highest level an empty picture has the deviation of the training data's states, √(1 + σ²).
    full = sigma >= sampling.sigmas[-1] * (1 - 1e-5)
    return picture + (math.hypot(1, sigma) if full else sigma) * noise


# ------------------------------------------------------------------ samplers: (model, x, sigmas) -> the sample


def euler(model: Callable, x: Any, sigmas: Any) -> Any:
    """Euler's method in σ: x + (σ' − σ)·d with d = (x − D)/σ."""
    for sigma, there in pairwise(sigmas):
        x = x + (there - sigma) * (x - model(x, sigma.expand(len(x)))) / sigma
    return x


# Adams–Bashforth weights for even steps, the newest slope first.
ADAMS = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(model: Callable, x: Any, sigmas: Any) -> Any:
    """Adams–Bashforth of orders 1, 2, 3, then 4, with the weights of even steps. The step into 0 gives D."""
    slopes: list[Any] = []
    for sigma, there in pairwise(sigmas):
        denoised = model(x, sigma.expand(len(x)))
        slopes = [(x - denoised) / sigma, *slopes[:3]]
        mean = sum(weight * slope for weight, slope in zip(ADAMS[len(slopes) - 1], slopes, strict=True))
        x = denoised if there == 0 else x + (there - sigma) * mean
    return x


def dpmpp_2m(model: Callable, x: Any, sigmas: Any) -> Any:
    """DPM-Solver++(2M): x·σ'/σ + (1 − σ'/σ)·D', with D' extrapolated in log σ. The step into 0 gives D.

    D' = D + (D − D_old)·h/(2·h_old), where h = log(σ/σ').
    """
    before = older = None
    for sigma, there in pairwise(sigmas):
        denoised = mean = model(x, sigma.expand(len(x)))
        if older is not None and there > 0:
            mean = denoised + (denoised - older) * (sigma / there).log() / (2 * (before / sigma).log())
        x = there / sigma * x + (1 - there / sigma) * mean
        before, older = sigma, denoised
    return x


SAMPLERS: dict[str, Callable[[Callable, Any, Any], Any]] = {"euler": euler, "ipndm": ipndm, "dpmpp_2m": dpmpp_2m}
