"""FON, the paper's baseline: the same multistep formula on the raw ODE, by addition where PNDM transfers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pndm_solvers.methods.multistep import classical_mean, multistep
from pndm_solvers.methods.runge_kutta import RK4
from pndm_solvers.program import Answer, Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = ["FONSolver", "classical_move"]


def classical_move(program: Program, x: Form, mean: Mapping[Answer, float], to: Level, *, stage: bool = False) -> Form:
    """The classical step x + (s − t)·Σ weight·dx/dt, where dx/dt = α'(t)·x̂_0 + σ'(t)·ε at each answer's own time.

    That derivative is the probability-flow ODE, eq. (13) of Song et al. (2021).
    """
    parts = {}
    for answer, weight in mean.items():
        step = weight * (to.t - x.level.t)
        alpha_rate, sigma_rate = program.grid.schedule.rates(answer.level.t)
        parts[answer] = {"sample": step * alpha_rate, "epsilon": step * sigma_rate}
    return program.combine(x, 1.0, parts, to, stage=stage)


@dataclass(frozen=True)
class FONSolver(Solver):
    """FON: classical Adams–Bashforth 4 on the raw ODE, after three RK4 steps.

    It adds dx/dt where PNDM transfers, so it leaves the data's manifold at large steps, and a
    constant ε is not solved exactly.
    Order: 4. Model calls: N + 9 for N ≥ 4 steps.
    Reference: Liu et al. (2022), section 4, where FON stands for the fourth-order numerical method.
    """

    schedule: NoiseSchedule

    @property
    def name(self) -> str:
        return "FON"

    @property
    def convergence_order(self) -> int:
        return 4

    def write(self, program: Program, x: Form) -> Form:
        move = partial(classical_move, program)
        return multistep(program, x, partial(classical_mean, order=4), move, tableau=RK4, starts=3)
