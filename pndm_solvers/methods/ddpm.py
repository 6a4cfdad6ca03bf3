"""DDPM: ancestral sampling, each step a draw from the posterior q(x_s | x_t, x̂_0)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pndm_solvers.arguments import choice
from pndm_solvers.program import Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = ["DDPMSolver", "forward_deviation", "posterior_deviation", "remaining"]


def forward_deviation(here: Level, there: Level) -> float:
    """√(σ_t² − (α_t/α_s)²·σ_s²): the noise that the forward process adds between `there` (s) and `here` (t).

    Its square is β of the step, 1 − ᾱ_t/ᾱ_s, where α² + σ² = 1. Raises ValueError for s above t.
    """
    variance = here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2 if there.ratio < here.ratio else -1.0
    if variance < 0:
        raise ValueError(
            f"a stochastic solver runs from noise to data, not from t = {here.t:g} to {there.t:g}; start above stop"
        )
    return math.sqrt(variance)


def remaining(sigma: float, noise: float) -> float:
    """√(σ² − noise²): the weight of ε beside fresh noise. 0 where rounding has the noise exceed σ."""
    return math.sqrt(max(0.0, sigma**2 - noise**2))


def posterior_deviation(here: Level, there: Level) -> float:
    """√β̃ of the step: the deviation of q(x_s | x_t, x_0), Ho et al. (2020), eq. (7)."""
    return there.sigma / here.sigma * forward_deviation(here, there)


@dataclass(frozen=True)
class DDPMSolver(Solver):
    """DDPM: each step a draw from the posterior q(x_s | x_t, x̂_0).

    Order: none, the method is stochastic. Model calls: N for N steps.
    Reference: Ho, Jain and Abbeel (2020), eq. (6), (7) and section 3.2; fewer steps than the
    network was trained with as in Nichol and Dhariwal (2021), eq. (19).

    `variance` is "fixed_small", the posterior's own β̃, or "fixed_large", β of the step; the mean is
    the posterior's in both. The last step, to the clean picture, adds no noise.
    """

    schedule: NoiseSchedule
    variance: Literal["fixed_small", "fixed_large"] = "fixed_small"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("variance", self.variance, ("fixed_small", "fixed_large"))

    @property
    def name(self) -> str:
        return f"DDPM ({self.variance.replace('_', ' ')})"

    @property
    def convergence_order(self) -> None:
        return None

    def write(self, program: Program, x: Form) -> Form:
        for here, there in program.grid.steps:
            e = program.ask(x)
            small = posterior_deviation(here, there)
            noise = small if self.variance == "fixed_small" or there.sigma == 0 else forward_deviation(here, there)
            x = program.transfer(x, e, there, sigma=remaining(there.sigma, small), noise=noise)
        return x
