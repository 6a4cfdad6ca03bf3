"""DDPM: ancestral sampling, each step a draw from the posterior q(x_s | x_t, x̂_0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pndm_solvers.arguments import choice
from pndm_solvers.program import Form, Program
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import forward_deviation, posterior_deviation, remaining
from pndm_solvers.solver import Solver

__all__ = ["DDPMSolver"]


@dataclass(frozen=True)
class DDPMSolver(Solver):
    """DDPM: each step a draw from the posterior q(x_s | x_t, x̂_0).

    Orders: weak 1, strong 1. Model calls: N for N steps.
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

    @property
    def weak_order(self) -> int:
        return 1

    def write(self, program: Program, x: Form) -> Form:
        for here, there in program.grid.steps:
            e = program.ask(x)
            small = posterior_deviation(here, there)
            noise = small if self.variance == "fixed_small" or there.sigma == 0 else forward_deviation(here, there)
            x = program.transfer(x, e, there, sigma=remaining(there.sigma, small), noise=noise)
        return x
