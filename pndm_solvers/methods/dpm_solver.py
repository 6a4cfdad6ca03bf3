"""DPM-Solver and DPM-Solver++: polynomials in λ = log(α/σ), of ε or of x̂_0, multistep and singlestep.

With h = λ_s − λ_t a step along one x̂_0 is x_s = σ_s/σ_t·x_t − α_s·(e^{−h} − 1)·x̂_0, φ in data space, and along one ε
it is x_s = α_s/α_t·x_t − σ_s·(e^h − 1)·ε, the paper's φ. The methods differ in the mean that takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from pndm_solvers.arguments import boolean, choice, whole
from pndm_solvers.coordinates import COORDINATES
from pndm_solvers.methods.adams import polynomial_mean, quadratures, weighed_ahead
from pndm_solvers.methods.multistep import has_no_length, highest_orders, multistep, stochastic_move, windows
from pndm_solvers.methods.runge_kutta import Stages, exponential_step
from pndm_solvers.program import Answer, Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import TauLike, checked_tau, show_tau
from pndm_solvers.solver import Solver

__all__ = ["LOG_RATIO", "DPMMultistepSolver", "DPMSinglestepSolver", "half_slope_mean", "takes_order_one"]

LOG_RATIO = COORDINATES["log_ratio"].of


def takes_order_one(here: Level, there: Level) -> bool:
    """Whether a step ends where λ is infinite, or is too short to have a slope in λ."""
    return there.sigma == 0 or there.alpha == 0 or has_no_length(here, there)


def half_slope_mean(base: Answer, other: Answer, here: Level, there: Level, factor: float = 1.0) -> dict[Answer, float]:
    """m_0 + factor/2·D_1, with the slope D_1 = (m_1 − m_0)/r of two answers and r = (λ_1 − λ_0)/h.

    The step's middle stands for the exact integral of the straight line: "midpoint" in the field's code.
    """
    share = factor / 2
    if other.level != there:  # at λ = −∞ an answer is infinitely far away
        distance = math.log(other.level.ratio / here.ratio) if here.alpha and other.level.alpha else math.inf
        share *= math.log(there.ratio / here.ratio) / distance
    return {base: 1 - share, other: share}


@dataclass(frozen=True)
class DPMMultistepSolver(Solver):
    """DPM-Solver++ (`space="sample"`) and DPM-Solver (`space="epsilon"`), multistep of order 1 to 3.

    With the last answers m_0, m_1, m_2, the newest first, a step is φ along

        2M, "midpoint":   m_0 + D/2,   D = (m_0 − m_1)/r_0,   r_0 = (λ_t − λ_1)/h
        2M, "heun":       m_0 + c_1·D
        3M, both types:   m_0 + c_1·D_1 + c_2·D_2

    D_1 and D_2 are the coefficients of s = (λ − λ_t)/h and of s² in the parabola through the three answers. Over the
    step s has the mean c_1, and s² has 2·c_2. So "heun" integrates the straight line exactly. "midpoint" takes the line
    at s = 1/2, with the same order. 3M has half of the weight that the parabola's s² needs, as published, so its order
    is 2. `PLMSSolver(schedule, 3, space="sample", coordinate="log_ratio")` has the exact weights.

    A step to σ = 0 takes order 1, and with `euler_at_final` any last step does. With `lower_order_final` the last steps
    take orders …, 2, 1. `tau` makes it stochastic, as in `PLMSSolver`: 1 is SDE-DPM-Solver++ and SDE-DPM-Solver.

    Also known as: DPM++ 2M, DPM++ 3M, dpmpp_2m; dpmpp_2m_sde and dpmpp_3m_sde, whose eta is τ².
    Orders: formula `order`, but 2 for 3M; convergence at most 2, since the first step is Euler's. With noise: weak as
    these, strong 1. Model calls: N for N steps.
    Reference: Lu et al. (2022a), algorithm 2 of DPM-Solver++ (2M) and section 4.3; Lu et al. (2022b), DPM-Solver.
    """

    schedule: NoiseSchedule
    order: int = 2
    space: Literal["sample", "epsilon"] = "sample"
    solver_type: Literal["midpoint", "heun"] = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    tau: TauLike = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order, most=3))
        choice("space", self.space, ("sample", "epsilon"))
        choice("solver_type", self.solver_type, ("midpoint", "heun"))
        boolean("lower_order_final", self.lower_order_final)
        boolean("euler_at_final", self.euler_at_final)
        object.__setattr__(self, "tau", checked_tau(self.tau))

    @property
    def name(self) -> str:
        kind = "DPM-Solver++" if self.space == "sample" else "DPM-Solver"
        extras = ["heun" if self.solver_type == "heun" and self.order == 2 else "", show_tau(self.tau)]
        told = ", ".join(filter(None, extras))
        return f"{kind} {self.order}M" + (f" ({told})" if told else "")

    @property
    def convergence_order(self) -> int | None:
        return min(self.order, 2) if self.tau == 0 else None

    @property
    def weak_order(self) -> int:
        return min(self.order, 2)

    def write(self, program: Program, x: Form) -> Form:
        most, end = highest_orders(program, self.order, self.lower_order_final), program.grid.levels[-1]
        steps = [*program.grid.steps]
        third = [step for step in steps[2:] if most[step[1]] > 2 and not takes_order_one(*step)]
        means = self._means_of_parabolas(third)
        orders = [min(most[there], 2) if self.solver_type == "heun" else 1 for _, there in steps]
        known = weighed_ahead(windows(program.grid.levels, orders, self.tau), LOG_RATIO, self.space)

        def mean(history: Sequence[Answer], there: Level) -> Mapping[Answer, float]:
            here = history[0].level
            first_order = takes_order_one(here, there) or (self.euler_at_final and there == end)
            answers = history[: 1 if first_order else most[there]]
            if len(answers) == 3:
                return self._third_order(answers, *means[there])
            if len(answers) == 2 and self.solver_type == "midpoint":
                return half_slope_mean(answers[0], answers[1], here, there)
            return polynomial_mean(answers, here, there, LOG_RATIO, self.space, self.tau, known)

        return multistep(program, x, mean, stochastic_move(program, self.space, self.tau))

    def _means_of_parabolas(self, steps: Sequence[tuple[Level, Level]]) -> dict[Level, tuple[float, float]]:
        """c_1 and c_2 of each step, by its end, for h·s in the place of the docstring's s: h cancels."""
        means = {}
        by_end = {there: (here.ratio, there.ratio, self.tau) for here, there in steps}
        for ends, ratios, parts in quadratures(by_end, self.space):
            for there, places, own in zip(ends, ratios, parts, strict=True):
                s = LOG_RATIO(by_end[there][0] / places)
                means[there] = float(own @ s), float(own @ s**2 / 2)
        return means

    def _third_order(self, answers: Sequence[Answer], c1: float, c2: float) -> Mapping[Answer, float]:
        m0, m1, m2 = np.eye(3)
        r0, r1 = (LOG_RATIO(before.level.ratio / after.level.ratio) for after, before in pairwise(answers))
        d10, d11 = (m0 - m1) / r0, (m1 - m2) / r1
        d1, d2 = d10 + r0 / (r0 + r1) * (d10 - d11), (d10 - d11) / (r0 + r1)
        return dict(zip(answers, map(float, m0 + c1 * d1 + c2 * d2), strict=True))


# By order and type: each stage's fraction of the step in λ, and the answers whose polynomial it integrates.
SINGLESTEP: dict[tuple[int, str], Stages] = {
    (1, "midpoint"): [(1.0, (0,))],
    (1, "heun"): [(1.0, (0,))],
    (2, "midpoint"): [(1 / 2, (0,)), (1.0, (1,))],
    (2, "heun"): [(1 / 2, (0,)), (1.0, (0, 1))],
    (3, "midpoint"): [(1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 2))],
    (3, "heun"): [(1 / 3, (0,)), (2 / 3, (0, 1)), (1.0, (0, 1, 2))],
}


@dataclass(frozen=True)
class DPMSinglestepSolver(Solver):
    """DPM-Solver-2 and -3 (`space="epsilon"`), and DPM-Solver++(2S) and (3S) (`space="sample"`): Runge–Kutta in λ.

    The stages stand at 1/2, or at 1/3 and 2/3, of the step in λ = log(α/σ). Each integrates a polynomial in λ exactly.
    2S of type "midpoint" is φ along the middle's answer alone. 3S of that type takes the straight line through the
    answers at 0 and 2/3. "heun" goes through all answers. So all published weights are exact here.

    Also known as: DPM2 (k-diffusion's dpm_2), DPM++ 2S (dpmpp_2s_ancestral without noise), the steps of dpm_fast.
    Orders: formula and convergence `order`. Model calls: `order`·N for N steps. A step to σ = 0 is Euler's and takes
    only one. On integer times the stages are rounded to trained times.
    Reference: Lu et al. (2022b), algorithms 1 and 2 and eq. (B.4) of DPM-Solver; Lu et al. (2022a), algorithm 1.
    """

    schedule: NoiseSchedule
    order: int = 2
    space: Literal["sample", "epsilon"] = "sample"
    solver_type: Literal["midpoint", "heun"] = "midpoint"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order, most=3))
        choice("space", self.space, ("sample", "epsilon"))
        choice("solver_type", self.solver_type, ("midpoint", "heun"))

    @property
    def name(self) -> str:
        kind = f"DPM-Solver++ {self.order}S" if self.space == "sample" else f"DPM-Solver-{self.order}"
        return kind + (" (heun)" if self.solver_type == "heun" and self.order > 1 else "")

    @property
    def convergence_order(self) -> int:
        return self.order

    def write(self, program: Program, x: Form) -> Form:
        for _, there in program.grid.steps:
            order = 1 if takes_order_one(x.level, there) else self.order
            x = exponential_step(program, SINGLESTEP[order, self.solver_type], x, there, self.space)
        return x
