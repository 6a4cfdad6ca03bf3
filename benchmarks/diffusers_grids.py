"""diffusers' spacings as functions `(schedule, steps) -> times`, which fall.

Read from diffusers 0.42.1, `set_timesteps` and `_convert_to_…` of the schedulers. Rules of integer times differ between
them: DDIM, PNDM and Euler divide T by n, DPM-Solver, UniPC and DEIS by n + 1, so that their last step is not of no
length. Rules of sigmas choose σ/α, here with the real time that belongs to it. `check` compares every rule with
diffusers' own schedulers.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from pndm_solvers import SPACINGS, NoiseSchedule

__all__ = ["GRIDS", "check"]

Float64 = NDArray[np.float64]
Rule = Callable[[NoiseSchedule, int], NDArray]


def of_ddim(name: str) -> Rule:
    """The library's spacing of that name is DDIM's."""
    return lambda schedule, steps: SPACINGS[name](schedule, steps, schedule.clean)


def leading_of_dpm(schedule: NoiseSchedule, steps: int) -> NDArray[np.int64]:
    """Multiples of ⌊T/(n + 1)⌋, without 0."""
    return np.arange(steps, 0, -1) * (schedule.num_train_timesteps // (steps + 1))


def linspace_of_dpm(schedule: NoiseSchedule, steps: int) -> NDArray[np.int64]:
    """n + 1 even times from T − 1 to 0, rounded, without 0."""
    return np.linspace(0, schedule.t_max, steps + 1).round()[:0:-1].astype(np.int64)


def karras(low: float, high: float, steps: int) -> Float64:
    """Even in σ^(1/7): Karras et al. (2022), eq. (5)."""
    return np.linspace(high ** (1 / 7), low ** (1 / 7), steps) ** 7


def exponential(low: float, high: float, steps: int) -> Float64:
    """Even in log σ. The "lu" of DPM-Solver++, which reckons in λ = −log σ with ρ = 1, is the same."""
    return np.geomspace(high, low, steps)


def beta(low: float, high: float, steps: int) -> Float64:
    """Quantiles of the beta distribution with α = β = 0.6, between the ends in σ itself."""
    return low + (high - low) * scipy.stats.beta.ppf(np.linspace(1, 0, steps), 0.6, 0.6)


SIGMAS = {"karras": karras, "exponential": exponential, "beta": beta, "lu": exponential}


def of_sigmas(name: str) -> Rule:
    """The times of a rule of sigmas, from the highest σ/α of the table to the lowest."""

    def times(schedule: NoiseSchedule, steps: int) -> Float64:
        low, high = (math.exp(-schedule.log_snr(t) / 2) for t in (schedule.t_min, schedule.t_max))
        inner = SIGMAS[name](low, high, steps)[1:-1]
        return np.array([schedule.t_max, *schedule.time_at(-2 * np.log(inner)), schedule.t_min])

    return times


GRIDS: dict[str, Rule] = {
    **{name: of_ddim(name) for name in ("leading", "trailing", "linspace")},
    "leading of DPM-Solver": leading_of_dpm,
    "linspace of DPM-Solver": linspace_of_dpm,
    **{name: of_sigmas(name) for name in SIGMAS},
}


def check(schedule: NoiseSchedule, steps: int) -> None:
    """AssertionError unless every rule agrees with diffusers' scheduler; times exactly, sigmas to float32."""
    import diffusers

    alphas = schedule.alpha(np.arange(schedule.num_train_timesteps)) ** 2
    betas = (1 - alphas / np.append(1, alphas[:-1])).tolist()
    for name, rule in GRIDS.items():
        times = rule(schedule, steps)
        if name in SIGMAS:
            key = "use_lu_lambdas" if name == "lu" else f"use_{name}_sigmas"
            theirs = diffusers.DPMSolverMultistepScheduler(trained_betas=betas, **{key: True})
            theirs.set_timesteps(steps)
            ours = np.exp(-schedule.log_snr(times) / 2)
            # float32 keeps few digits of 1 − ᾱ at the low end of diffusers' table.
            assert np.allclose(ours, theirs.sigmas[:-1], rtol=2e-3), (name, ours, theirs.sigmas)
        else:
            kind = diffusers.DPMSolverMultistepScheduler if name.endswith("DPM-Solver") else diffusers.DDIMScheduler
            theirs = kind(trained_betas=betas, timestep_spacing=name.split()[0])
            theirs.set_timesteps(steps)
            assert np.array_equal(times, theirs.timesteps), (name, times, theirs.timesteps)
