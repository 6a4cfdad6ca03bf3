"""DDIM: one transfer a step, φ along ε alone. The paper's pseudo Euler method."""

from __future__ import annotations

from dataclasses import dataclass

from pndm_solvers.arguments import real
from pndm_solvers.program import Form, Program
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import posterior_deviation, remaining
from pndm_solvers.solver import Solver

__all__ = ["DDIMSolver"]


@dataclass(frozen=True)
class DDIMSolver(Solver):
    """DDIM: pseudo Euler, `x_s = φ(x_t, ε, t, s)`.

    Also known as: denoising diffusion implicit models; PNDM of order 1; Euler's method in σ/α.
    Order: 1; with noise weak 1 and strong 1. Model calls: N for N steps.
    Reference: Song, Meng and Ermon (2021), eq. (12) and (16).

    `eta` in [0, 1] replaces part of the predicted noise by fresh noise: 0 is deterministic, 1 is DDPM.
    """

    schedule: NoiseSchedule
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eta", real("eta", self.eta, "a number in [0, 1]", lambda eta: 0 <= eta <= 1))

    @property
    def name(self) -> str:
        return "DDIM" if self.eta == 0 else f"DDIM (η = {self.eta:g})"

    @property
    def convergence_order(self) -> int | None:
        return 1 if self.eta == 0 else None

    @property
    def weak_order(self) -> int:
        return 1

    def write(self, program: Program, x: Form) -> Form:
        space = self.schedule.space  # any gives the same step; this one without rounding errors
        for here, there in program.grid.steps:
            e = program.ask(x)
            noise = self.eta * posterior_deviation(here, there) if self.eta else 0.0
            x = program.transfer(x, e, there, space=space, sigma=remaining(there.sigma, noise), noise=noise)
        return x
