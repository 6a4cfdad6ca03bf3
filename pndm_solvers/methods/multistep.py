"""Pseudo linear multistep: a mean of the last steps' answers, then one transfer along it.

The paper's eq. (12): e = (55·e_t − 59·e_{t+δ} + 37·e_{t+2δ} − 9·e_{t+3δ})/24 and x_{t−δ} = φ(x_t, e, t, t − δ). After
three pseudo Runge–Kutta steps that is F-PNDM, algorithm 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, get_args

import numpy as np

from pndm_solvers.arguments import boolean, choice, whole
from pndm_solvers.coordinates import COORDINATES, Coordinate
from pndm_solvers.methods.adams import Interpolate, Weighing, adams_bashforth, polynomial_mean, weighed_ahead
from pndm_solvers.methods.ruled import ruled_ahead, ruled_correction, ruled_mean
from pndm_solvers.methods.runge_kutta import EULER, HEUN, RK4, ButcherTableau, Move, runge_kutta_step
from pndm_solvers.program import Answer, Form, Mean, Program
from pndm_solvers.rule import NOISY_RULE, RULE, Rule
from pndm_solvers.schedule import Level, Schedule
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import TauLike, checked_tau, show_tau
from pndm_solvers.solver import Solver
from pndm_solvers.transfer import SPACES

__all__ = [
    "STARTERS",
    "PLMSSolver",
    "PNDMSolver",
    "Starter",
    "classical_mean",
    "has_no_length",
    "highest_orders",
    "interpolation",
    "multistep",
    "stochastic_move",
]

Starter = Literal["ramp", "heun", "rk4"]
Average = Literal["epsilon", "sample", "v_prediction", "flow"]
Interpolation = Literal["balanced", "time", "ratio", "log_ratio", "inverse_ratio", "angle", "noise_share"]

# How a multistep method makes its first steps, which lack a history: the tableau, and how many steps it makes at most.
STARTERS: dict[Starter, tuple[ButcherTableau, float]] = {"ramp": (EULER, 0), "heun": (HEUN, 1), "rk4": (RK4, math.inf)}

# (the answers so far, the newest first; where the step leads) -> the mean of them to move along
MeanOf = Callable[[Sequence[Answer], Level], Mapping[Answer, float]]

# (the answer at the step's end and those that made the step; where it began and ended) -> the mean to repeat it along
Corrector = Callable[[Sequence[Answer], Level, Level], Mapping[Answer, float]]


def multistep(
    program: Program,
    x: Form,
    mean: MeanOf,
    move: Move,
    *,
    tableau: ButcherTableau = EULER,
    starts: float = 0,
    fractions: Coordinate | None = None,
    corrector: Corrector | None = None,
) -> Form:
    """The end of the run: at most `starts` steps of the tableau, then a move along the `mean` in each step.

    A `corrector` repeats a multistep move with the answer at its end. The next step needs that answer in any case, so a
    corrector costs no model call. Where its mean is empty the step stays as it is.
    """
    history: list[Answer] = []  # each step's first answer, the newest first
    last: tuple[Form, Sequence[Answer]] | None = None  # the last multistep move: from which state, along which answers
    for _, there in program.grid.steps:
        if len(history) < starts and there.sigma > 0:
            x, e = runge_kutta_step(program, tableau, x, there, move, fractions)
            history.insert(0, e)
            continue
        e = program.ask(x)
        if history and has_no_length(history[0].level, x.level):
            history.pop(0)  # no polynomial goes through two answers at one place
        elif corrector and last:
            before, combined = last
            if weights := corrector([e, *combined], before.level, x.level):
                x = program.rebase(move(before, weights, x.level), on=x)
        history.insert(0, e)
        weights = mean(history, there)
        last = x, list(weights)
        x = move(x, weights, there)
    return x


def stochastic_move(program: Program, space: str, tau: TauLike) -> Move:
    """The transfer along a mean of the prediction `space`, with the noise that `tau` asks for.

    A step to σ = 0 draws none, since nothing would take it away again.
    """

    def move(x: Form, mean: Mean, to: Level, *, stage: bool = False) -> Form:
        return program.transfer(x, mean, to, space=space, tau=tau if to.sigma else 0.0, stage=stage)

    return move


def has_no_length(here: Level, there: Level) -> bool:
    """Whether a step is too short for float64 to tell its ends apart."""
    return math.isclose(here.ratio, there.ratio, rel_tol=1e-12)


def highest_orders(program: Program, order: int, lower_order_final: bool) -> Mapping[Level, int]:
    """How many answers the step to each level may combine: `order`, or …, 2, 1 for the last ones."""
    falling = reversed(program.grid.levels[1:])
    return {level: min(order, left) if lower_order_final else order for left, level in enumerate(falling, 1)}


def windows(
    levels: Sequence[Level], orders: Sequence[int], tau: TauLike = 0.0, *, corrected: bool = False
) -> list[Weighing]:
    """Each step over the levels, with the answers that it combines: the last ones, as many as `orders` say.

    With `corrected`, the answer at the step's end comes first; the run's last step has none.
    """
    ratios = [level.ratio for level in levels]
    steps = list(enumerate(orders, 1))[: -1 if corrected else None]
    return [
        Weighing(tuple(ratios[max(0, end - order) : end + corrected][::-1]), ratios[end - 1], ratios[end], tau)
        for end, order in steps
    ]


def interpolation(coordinate: str, schedule: Schedule) -> Interpolate:
    """v(ρ) of a coordinate by its name: "time", or one of `COORDINATES`."""
    if coordinate == "time":
        return lambda ratio: schedule.time_at(-2 * np.log(ratio))
    return COORDINATES[coordinate].of


def classical_mean(history: Sequence[Answer], there: Level, order: int) -> Mapping[Answer, float]:
    """Adams–Bashforth's mean of the last `order` answers, or of as many as there are: the paper's eq. (12)."""
    last = history[:order]
    return dict(zip(last, map(float, adams_bashforth(len(last))), strict=True))


@dataclass(frozen=True)
class PLMSSolver(Solver):
    """Pseudo linear multistep: a mean of the answers of the last steps, then one transfer along it.

    `order`, at least 1, is how many steps' answers are averaged. `weights` chooses how: "exact" integrates the
    polynomial through them over the step, on any grid; "classical" are those of Adams–Bashforth for even steps.
    `starter` makes the first steps, which lack a history: "ramp" takes orders 1, 2, 3, … first; "heun" makes the first
    step by improved Euler; "rk4" makes the first order − 1 steps by Runge–Kutta.

    `space` is the prediction that is averaged, whatever the network predicts: "epsilon", "sample" (the data space of
    DPM-Solver++), "v_prediction" or "flow". Each solves its own constants exactly. `coordinate` is what the
    polynomial is one in: "balanced", the library's own; "time"; or a function of ρ = σ/α: "ratio" (ρ), "log_ratio",
    "inverse_ratio", "angle" (arctan ρ), "noise_share" (ρ/(1 + ρ)). With `corrector` each multistep step is repeated
    along the polynomial through the next answer too, which costs no call. `rule` holds the numbers of the library's own
    rule, which "balanced" brings along: its coordinate, the bound of the weights, and with "ramp" the order of long
    steps, a share for an older answer in runs of 3 to 7 steps, and a correction of the first steps. The other
    coordinates take the polynomial as it is.

    `tau` makes the method stochastic: 0 follows the probability flow, 1 the reverse SDE, with the linear part and the
    noise exact (`sde.py`). It may be a function τ(ρ) of an array, or "er_sde". A step to σ = 0 draws no noise. `space`
    is "epsilon" unless said, and "sample" with noise: only data space damps what noise was added. "balanced" then is
    ρ/(1 + ρ), with two answers at most, and the default grid another one. DDIM's η is another measure of the same
    family: η² = (1 − r^(2τ²))/(1 − r²) for a step that shrinks ρ by r, so η → τ.

    Also known as: PLMS (latent diffusion, with `weights="classical", starter="heun"`), iPNDM
    (`weights="classical"`), F-PNDM (`weights="classical", starter="rk4"`, see `PNDMSolver`); LMS (k-diffusion, with
    `coordinate="ratio"`); DEIS (`coordinate="log_ratio"`, or "time" for tAB-DEIS); exponential Adams–Bashforth;
    DPM-Solver++(2M) of type "heun" (`order=2, space="sample", coordinate="log_ratio"`); ER-SDE-Solver-2 (`order=2,
    coordinate="ratio", tau="er_sde"`).
    Orders: formula `order`; convergence with exact weights `order`, and at most what the starter permits: ramp 2,
    heun 3, rk4 5. With classical weights at most 2, since they are right for steps in t while φ steps in σ/α. A
    corrector adds 1 to the formula's order and to what the ramp permits. "balanced" corrects the ramp's first step,
    or two, and the ramp permits 3; its bound on the weights lowers that to about 2 on rough grids. With noise: weak
    at most 2, strong 1, since the path within a step is not seen.
    Model calls for N steps: N with "ramp", N + 1 with "heun", N + 3·(order − 1) with "rk4". A step
    to σ = 0 is always multistep, so runs with fewer steps than the starter has cost less.
    On integer times the stages of a starter are rounded to trained times, so its order shows only on longer steps.
    Reference: Liu et al. (2022), eq. (9), (12) and (13); exact weights: docs/explanation/exact-weights.md.
    """

    schedule: NoiseSchedule
    order: int = 4
    starter: Starter = "ramp"
    weights: Literal["classical", "exact"] = "exact"
    space: Average | None = None
    coordinate: Interpolation = "balanced"
    corrector: bool = False
    rule: Rule = field(default=RULE, repr=False)
    tau: TauLike = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order))
        choice("starter", self.starter, STARTERS)
        choice("weights", self.weights, ("classical", "exact"))
        object.__setattr__(self, "tau", checked_tau(self.tau))
        if self.tau != 0 and self.rule == RULE:
            object.__setattr__(self, "rule", NOISY_RULE)
        if self.space is None:
            object.__setattr__(self, "space", "epsilon" if self.tau == 0 else "sample")
        choice("space", self.space, SPACES)
        choice("coordinate", self.coordinate, get_args(Interpolation))
        boolean("corrector", self.corrector)
        if self.weights == "classical" and self.coordinate != "balanced" and not self.corrector:
            raise ValueError(
                f"coordinate is {self.coordinate!r}, but classical weights are those of even steps; pass "
                f"weights='exact', or a corrector, which integrates a polynomial"
            )
        if not isinstance(self.rule, Rule):
            raise TypeError(f"rule is {self.rule!r}; it must be a Rule")
        if self.tau != 0 and self.starter != "ramp":
            raise ValueError(
                f"starter is {self.starter!r}, whose steps are deterministic; a stochastic method, with tau, starts "
                f"with 'ramp'"
            )

    @property
    def name(self) -> str:
        places = self.coordinate if self.weights == "exact" or self.corrector else "balanced"
        usual = "epsilon" if self.tau == 0 else "sample"
        extras = [self._average if self._average != usual else "", places if places != "balanced" else ""]
        extras += ["corrector" if self.corrector else "", show_tau(self.tau)]
        return f"PLMS {self.order} ({', '.join(filter(None, [self.weights, self.starter, *extras]))})"

    @property
    def _rule(self) -> Rule:
        return self.rule

    @property
    def convergence_order(self) -> int | None:
        return self._flow_order if self.tau == 0 else None

    @property
    def weak_order(self) -> int:
        return self._flow_order if self.tau == 0 else min(self._flow_order, 2)

    @property
    def _average(self) -> Average:
        assert self.space is not None  # chosen when the solver was made
        return self.space

    @property
    def _flow_order(self) -> int:
        # A first step by a tableau of order p leaves an error of order p + 1, however good the other steps are.
        # Corrected, the ramp's leaves one of the next order.
        tableau, most = STARTERS[self.starter]
        formula = min(self.order, 2) if self.weights == "classical" else self.order
        corrected = self.corrector or self._corrects_its_start
        return min(formula + self.corrector, 1 + tableau.order + (corrected and not most))

    def write(self, program: Program, x: Form) -> Form:
        tableau, most = STARTERS[self.starter]
        levels = program.grid.levels
        place = {level: number for number, level in enumerate(levels)}
        own, exact = self.coordinate == "balanced", self.weights == "exact"
        space = self._average
        careful = self.starter == "ramp"
        ratios = [level.ratio for level in levels]
        rule = self.rule.of_range(program.grid.data_range).of_levels(ratios)
        places = rule.coordinate if own else interpolation(self.coordinate, self.schedule)
        even = own and exact and careful and rule.even_on(ratios)
        ahead = ruled_ahead(levels, self.order, rule, careful, space, even, self.tau) if own and exact else {}
        orders = [self.order] * (len(levels) - 1)
        steps = windows(levels, orders, self.tau) if exact and not own else []
        steps += windows(levels, orders, self.tau, corrected=True) if self.corrector else []
        known = weighed_ahead(steps, places, space)

        def mean(history: Sequence[Answer], there: Level) -> Mapping[Answer, float]:
            if self.tau != 0 and there.sigma == 0:  # extrapolated answers would leave a part of their noise
                return {history[0]: 1.0}
            if not exact:
                return classical_mean(history, there, self.order)
            if own:
                return ruled_mean(history, there, self.order, rule, careful, space, even, self.tau, ahead)
            answers = history[: self.order]
            return polynomial_mean(answers, history[0].level, there, places, space, self.tau, known)

        def corrector(answers: Sequence[Answer], here: Level, there: Level) -> Mapping[Answer, float]:
            if self.corrector:
                return polynomial_mean(answers, here, there, places, space, self.tau, known)
            steps = here, there, levels[place[there] + 1]
            return ruled_correction(answers, place[here], steps, rule, space, even, self.tau)

        return multistep(
            program,
            x,
            mean,
            stochastic_move(program, space, self.tau),
            tableau=tableau,
            starts=min(most, self.order - 1),
            fractions=SPACES[space].coordinate if exact else None,
            corrector=corrector if self.corrector or self._corrects_its_start else None,
        )

    @property
    def _corrects_its_start(self) -> bool:
        """Whether the library's own rule corrects the first step, or the first few."""
        return self.order > 1 and self.starter == "ramp" and self.weights == "exact" and self.coordinate == "balanced"


@dataclass(frozen=True)
class PNDMSolver(Solver):
    """PNDM, the paper's own two: F-PNDM (`order=4`) and S-PNDM (`order=2`).

    F-PNDM starts with three steps of pseudo RK4, S-PNDM with one of improved Euler, and both go on
    with linear multistep.
    Orders: formula 4 and 2, convergence 2. Model calls: N + 9 for N ≥ 4 steps, and N + 1 for N ≥ 2.
    Reference: Liu et al. (2022), eq. (9), (12), (13) and algorithm 2.
    """

    schedule: NoiseSchedule
    order: Literal[2, 4] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order))
        if self.order not in (2, 4):
            raise ValueError(f"order is {self.order!r}; it is 4 (F-PNDM) or 2 (S-PNDM)")

    @property
    def name(self) -> str:
        return "F-PNDM" if self.order == 4 else "S-PNDM"

    @property
    def convergence_order(self) -> int:
        return 2

    def write(self, program: Program, x: Form) -> Form:
        tableau, mean = RK4 if self.order == 4 else HEUN, partial(classical_mean, order=self.order)
        return multistep(program, x, mean, program.transfer, tableau=tableau, starts=self.order - 1)
