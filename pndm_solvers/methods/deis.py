"""DEIS: ε as a polynomial in log(σ/α), in t or in σ/α, integrated exactly over the step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pndm_solvers.arguments import boolean, choice, whole
from pndm_solvers.methods.adams import polynomial_mean, weighed_ahead
from pndm_solvers.methods.multistep import highest_orders, interpolation, multistep, windows
from pndm_solvers.program import Answer, Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = ["DEISSolver"]


@dataclass(frozen=True)
class DEISSolver(Solver):
    """DEIS: `x_s = α_s·(x_t/α_t + Σ_j ε_j·∫ L_j dρ)`, with Lagrange's L_j through the last `order` answers.

    `coordinate` is what L_j is a polynomial in: "log_ratio" is diffusers' "logrho"; "time" is the paper's tAB-DEIS and
    "ratio" its ρAB-DEIS. The published weights are the exact integrals, so this is `PLMSSolver` with that `coordinate`,
    which also has the starters that keep order 3. With `lower_order_final` the last steps take orders …, 2, 1.

    Also known as: diffusion exponential integrator sampler, exponential Adams–Bashforth in noise space.
    Orders: formula `order`; convergence at most 2, since the first step is Euler's. Model calls: N for N steps.
    Reference: Zhang and Chen (2023), eq. (14) and (15).
    """

    schedule: NoiseSchedule
    order: int = 3
    coordinate: Literal["log_ratio", "time", "ratio"] = "log_ratio"
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order))
        choice("coordinate", self.coordinate, ("log_ratio", "time", "ratio"))
        boolean("lower_order_final", self.lower_order_final)

    @property
    def name(self) -> str:
        return f"DEIS {self.order}" if self.coordinate == "log_ratio" else f"DEIS {self.order} ({self.coordinate})"

    @property
    def convergence_order(self) -> int:
        return min(self.order, 2)

    def write(self, program: Program, x: Form) -> Form:
        most = highest_orders(program, self.order, self.lower_order_final)
        places = interpolation(self.coordinate, self.schedule)

        known = weighed_ahead(windows(program.grid.levels, [*most.values()][::-1]), places, "epsilon")

        def mean(history: Sequence[Answer], there: Level) -> Mapping[Answer, float]:
            return polynomial_mean(history[: most[there]], history[0].level, there, places, "epsilon", known=known)

        return multistep(program, x, mean, program.transfer)
