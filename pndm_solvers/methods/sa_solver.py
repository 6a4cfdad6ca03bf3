"""SA-Solver: stochastic Adams methods in λ = log(α/σ), a predictor and a corrector that share one noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pndm_solvers.arguments import boolean, choice, whole
from pndm_solvers.methods.adams import Known, polynomial_mean, weighed_ahead
from pndm_solvers.methods.dpm_solver import LOG_RATIO, half_slope_mean, takes_order_one
from pndm_solvers.methods.multistep import highest_orders, multistep, stochastic_move, windows
from pndm_solvers.program import Answer, Form, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import TauLike, checked_tau, show_tau
from pndm_solvers.solver import Solver

__all__ = ["SASolver"]


@dataclass(frozen=True)
class SASolver(Solver):
    """SA-Solver: a step of the SDE of `tau` along the polynomial in λ through past answers, then corrected.

    The predictor goes through `predictor_order` answers. The corrector goes through `corrector_order`, the next answer
    among them, with the same noise; 0 leaves it out. All integrals are exact. `variant` "bh1" is the authors' code,
    which in data space counts the slope of two answers otherwise: its mean over the step is h/2 times
    m·h/(1 − e^(−m·h)), with m = 1 + τ², in the place of the integral. On long steps that is far worse.

    `tau` is constant or a function τ(ρ), as in `PLMSSolver`. A step to σ = 0 takes order 1 and draws no noise. With
    `lower_order_final` the last steps take orders …, 2, 1.

    Also known as: stochastic Adams method; sa_solver.
    Orders: weak at most 2, and at most `corrector_order`, or without one `predictor_order`; strong 1. With τ = 0 also
    3, without `lower_order_final`. Model calls: N for N steps.
    Reference: Xue et al. (2023), algorithm 1, eq. (14) and (17).
    """

    schedule: NoiseSchedule
    predictor_order: int = 2
    corrector_order: int = 2
    tau: TauLike = 1.0
    space: Literal["sample", "epsilon"] = "sample"
    variant: Literal["exact", "bh1"] = "exact"
    lower_order_final: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "predictor_order", whole("predictor_order", self.predictor_order))
        object.__setattr__(self, "corrector_order", whole("corrector_order", self.corrector_order, least=0))
        object.__setattr__(self, "tau", checked_tau(self.tau))
        choice("space", self.space, ("sample", "epsilon"))
        choice("variant", self.variant, ("exact", "bh1"))
        boolean("lower_order_final", self.lower_order_final)

    @property
    def name(self) -> str:
        extras = [show_tau(self.tau), "noise space" if self.space == "epsilon" else ""]
        told = ", ".join(filter(None, extras))
        return f"SA-Solver {self.predictor_order}-{self.corrector_order}" + (f" ({told})" if told else "")

    @property
    def convergence_order(self) -> int | None:
        return self._flow_order if self.tau == 0 else None

    @property
    def weak_order(self) -> int:
        return min(self._flow_order, 2)

    @property
    def _flow_order(self) -> int:
        # The corrected state is built on, from answers at predicted ones. The first and the last step are Euler's; the
        # first is corrected.
        corrected = self.corrector_order > 1
        order = min(self.predictor_order + 1, self.corrector_order) if self.corrector_order else self.predictor_order
        return min(order, 3 if corrected and not self.lower_order_final else 2)

    def _tau(self, here: Level) -> TauLike:
        """The τ of a step that begins at the level `here`."""
        return self.tau

    def write(self, program: Program, x: Form) -> Form:
        most = highest_orders(program, self.predictor_order, self.lower_order_final)
        corrected = highest_orders(program, self.corrector_order - 1, self.lower_order_final)

        orders = [1 if takes_order_one(here, there) else most[there] for here, there in program.grid.steps]
        known = self._ahead(program.grid.levels, orders)
        if self.corrector_order:
            known |= self._ahead(program.grid.levels, [*corrected.values()][::-1], corrected=True)

        def predictor(history: Sequence[Answer], there: Level) -> Mapping[Answer, float]:
            here = history[0].level
            weights = self._mean(history[: 1 if takes_order_one(here, there) else most[there]], here, there, known)
            # The corrector may go further back than the predictor.
            further = dict.fromkeys(history[: max(0, self.corrector_order - 1)], 0.0)
            return {**further, **weights}

        def corrector(answers: Sequence[Answer], here: Level, there: Level) -> Mapping[Answer, float]:
            return {} if not self.corrector_order else self._mean(answers[: 1 + corrected[there]], here, there, known)

        def move(x: Form, mean: Any, to: Level) -> Form:
            return stochastic_move(program, self.space, self._tau(x.level))(x, mean, to)

        return multistep(program, x, predictor, move, corrector=corrector)

    def _mean(self, answers: Sequence[Answer], here: Level, there: Level, known: Known) -> Mapping[Answer, float]:
        tau = self._bh1(len(answers), here)
        if tau is None:
            return polynomial_mean(answers, here, there, LOG_RATIO, self.space, self._tau(here), known)
        base, other = answers if answers[0].level == here else reversed(answers)
        length = (1 + tau**2) * math.log(here.ratio / there.ratio)
        return half_slope_mean(base, other, here, there, length / -math.expm1(-length))

    def _bh1(self, count: int, here: Level) -> float | None:
        """The τ of a step from the level `here` along `count` answers that is the authors' own; None for others."""
        tau = self._tau(here)
        theirs = count == 2 and self.variant == "bh1" and self.space == "sample" and math.isfinite(here.ratio)
        return tau if theirs and isinstance(tau, (int, float)) else None

    def _ahead(self, levels: Sequence[Level], orders: Sequence[int], corrected: bool = False) -> Known:
        """The weights of all other steps."""
        steps = zip(windows(levels, orders, corrected=corrected), levels, strict=False)
        others = [(step, here) for step, here in steps if self._bh1(len(step.nodes), here) is None]
        stochastic = [step._replace(tau=self._tau(here)) for step, here in others]
        return weighed_ahead(stochastic, LOG_RATIO, self.space)
