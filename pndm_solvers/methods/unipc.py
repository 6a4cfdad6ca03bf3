"""UniPC: a predictor in λ = log(α/σ), and a corrector that reuses the answer of the next step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from pndm_solvers.arguments import boolean, choice, whole
from pndm_solvers.methods.adams import Known, polynomial_mean, weighed_ahead
from pndm_solvers.methods.dpm_solver import LOG_RATIO, half_slope_mean, takes_order_one
from pndm_solvers.methods.multistep import highest_orders, multistep, windows
from pndm_solvers.program import Answer, Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = ["UniPCSolver"]


@dataclass(frozen=True)
class UniPCSolver(Solver):
    """UniPC-p: the predictor UniP-p along p answers, and the corrector UniC-p along these and the next one.

    Each is φ, in data space or with `space="epsilon"` in noise space, along

        m_0 + B(h)/(e^k − 1)·Σ_i a_i·(m_i − m_0)/r_i,   r_i = (λ_i − λ_0)/h,   k = −h in data space, h in noise space

    where m_0 is the answer at the step's beginning. With three answers or more the a_i solve a linear system in which
    B(h) cancels. The weights are then those of the exact integral of the polynomial in λ. With two answers the
    published a_1 is 1/2, and `variant` matters: B(h) is k for "bh1", and e^k − 1 for "bh2". UniP-2 with "bh2" is
    DPM-Solver++(2M).

    The corrector makes no model call. In a plan each state is the predicted one, where the network is called, and its
    correction is part of the next row. `disable_corrector` holds the numbers, from 0, of the steps that it leaves
    alone: the first ones, for strong guidance. A step to σ = 0 takes order 1. With `lower_order_final` the last steps
    take orders …, 2, 1.

    Orders: formula p for the predictor and p + 1 with the corrector; convergence p + 1 and at most 3, since the first
    step is Euler's and corrected once. With `lower_order_final` at most 2: the last step is Euler's and not corrected.
    Model calls: N for N steps.
    Reference: Zhao et al. (2023), algorithms 1 and 2 and eq. (9) to (12).
    """

    schedule: NoiseSchedule
    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    space: Literal["sample", "epsilon"] = "sample"
    lower_order_final: bool = True
    disable_corrector: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order))
        choice("variant", self.variant, ("bh1", "bh2"))
        choice("space", self.space, ("sample", "epsilon"))
        boolean("lower_order_final", self.lower_order_final)
        steps = tuple(whole("a step of disable_corrector", step, least=0) for step in self.disable_corrector)
        object.__setattr__(self, "disable_corrector", steps)

    @property
    def name(self) -> str:
        noise = ", noise space" if self.space == "epsilon" else ""
        return f"UniPC-{self.order} ({self.variant}{noise})"

    @property
    def convergence_order(self) -> int:
        return min(self.order + 1, 2 if self.lower_order_final else 3)

    def from_step(self, begin: int) -> UniPCSolver:
        """As `Solver.from_step`: the numbers in `disable_corrector` go on counting from the first step."""
        return replace(self, disable_corrector=tuple(step - begin for step in self.disable_corrector if step >= begin))

    def write(self, program: Program, x: Form) -> Form:
        most = highest_orders(program, self.order, self.lower_order_final)
        plain = {program.grid.levels[step] for step in self.disable_corrector if step < len(most)}

        orders = [1 if takes_order_one(here, there) else most[there] for here, there in program.grid.steps]
        steps = windows(program.grid.levels, orders) + windows(program.grid.levels, orders, corrected=True)
        known = weighed_ahead([step for step in steps if len(step.nodes) > 2], LOG_RATIO, self.space)

        def predictor(history: Sequence[Answer], there: Level) -> Mapping[Answer, float]:
            here = history[0].level
            return self._mean(history[: 1 if takes_order_one(here, there) else most[there]], here, there, known)

        def corrector(answers: Sequence[Answer], here: Level, there: Level) -> Mapping[Answer, float]:
            return {} if here in plain else self._mean(answers, here, there, known)

        move = partial(program.transfer, space=self.space)
        return multistep(program, x, predictor, move, corrector=corrector)

    def _mean(self, answers: Sequence[Answer], here: Level, there: Level, known: Known) -> Mapping[Answer, float]:
        if len(answers) != 2:
            return polynomial_mean(answers, here, there, LOG_RATIO, self.space, known=known)
        base, other = answers if answers[0].level == here else reversed(answers)
        factor = 1.0
        if self.variant == "bh1" and math.isfinite(here.ratio):
            ratio = there.ratio / here.ratio if self.space == "sample" else here.ratio / there.ratio  # e^k
            factor = math.log(ratio) / (ratio - 1)
        return half_slope_mean(base, other, here, there, factor)
