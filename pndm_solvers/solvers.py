"""The methods: one small frozen class each, which writes its rows.

A solver is a schedule and a method's options. It holds no state and sees no array: `plan` compiles
it, for the times of one run, to a `Plan`. Row k asks the network at state k, and ε_k is its answer;
a method says from which state, along which mean of ε, to which level the next state is moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from pndm_solvers.arguments import choice, real, whole
from pndm_solvers.base import Solver
from pndm_solvers.program import Program
from pndm_solvers.schedule import Level, NoiseSchedule
from pndm_solvers.tableaux import ADAMS_BASHFORTH, TABLEAUX, ButcherTableau, coordinate, exact_weights

__all__ = ["SOLVERS", "DDIMSolver", "DDPMSolver", "FONSolver", "PLMSSolver", "PNDMSolver", "PRKSolver"]


@dataclass(frozen=True)
class DDIMSolver(Solver):
    """DDIM: pseudo Euler, one transfer a step.

    Also known as: denoising diffusion implicit models; PNDM of order 1; Euler's method in σ/α.
    Orders: formula 1, convergence 1. Model calls: N for N steps.
    Reference: Song, Meng and Ermon (2021), eq. (12) and (16).

    `eta` in [0, 1] replaces part of the predicted noise by fresh noise: 0 is deterministic, 1 is DDPM.
    """

    schedule: NoiseSchedule
    eta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eta", real("eta", self.eta, "a number in [0, 1]"))
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta:g}; it must be a number in [0, 1]")

    @property
    def name(self) -> str:
        return "DDIM" if self.eta == 0 else f"DDIM (η = {self.eta:g})"

    @property
    def order(self) -> int | None:
        """The order of its formula; None where it is stochastic."""
        return 1 if self.eta == 0 else None

    @property
    def convergence_order(self) -> int | None:
        return self.order

    def write(self, program: Program) -> None:
        for here, there in program.grid.steps:
            k = program.newest
            noise = self.eta * posterior_deviation(here, there) if self.eta else 0.0
            program.transfer(k, {k: 1.0}, there, sigma=math.sqrt(there.sigma**2 - noise**2), noise=noise)


@dataclass(frozen=True)
class DDPMSolver(Solver):
    """DDPM: ancestral sampling, each step a draw from the posterior q(x_s | x_t, x̂_0).

    Orders: none, the method is stochastic. Model calls: N for N steps.
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
    def order(self) -> None:
        """None: the method is stochastic."""
        return None

    @property
    def convergence_order(self) -> None:
        return None

    def write(self, program: Program) -> None:
        for here, there in program.grid.steps:
            k = program.newest
            small = posterior_deviation(here, there)
            noise = small if self.variance == "fixed_small" or there.sigma == 0 else forward_deviation(here, there)
            program.transfer(k, {k: 1.0}, there, sigma=math.sqrt(there.sigma**2 - small**2), noise=noise)


@dataclass(frozen=True)
class PRKSolver(Solver):
    """Pseudo Runge–Kutta: any explicit tableau, with the transfer in the place of addition.

    Also known as: pseudo Heun, pseudo RK4. `tableau` is "heun", "rk4", "euler", or a `ButcherTableau`.
    Orders: formula as the tableau; convergence at most 2, since its weights are right for steps in
    t while φ steps in σ/α. Model calls: stages · N; a step that ends at σ = 0 takes only one.
    Reference: Liu et al. (2022), eq. (9), (12) and (13).
    """

    schedule: NoiseSchedule
    tableau: str | ButcherTableau = "rk4"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tableau, ButcherTableau):
            object.__setattr__(self, "tableau", TABLEAUX[choice("tableau", self.tableau, TABLEAUX)])

    @property
    def _tableau(self) -> ButcherTableau:
        assert isinstance(self.tableau, ButcherTableau)  # a name was looked up when the solver was made
        return self.tableau

    @property
    def name(self) -> str:
        return f"PRK ({self._tableau.name})"

    @property
    def order(self) -> int:
        """The order of the tableau as a classical method."""
        return self._tableau.order

    @property
    def convergence_order(self) -> int:
        return min(self.order, 2)

    def write(self, program: Program) -> None:
        for _, there in program.grid.steps:
            # No network knows σ = 0, where the last stages would ask it; one Euler step into it has a
            # local error of second order, as the whole has.
            runge_kutta_step(program, self._tableau if there.sigma > 0 else TABLEAUX["euler"], there, program.transfer)


# How a multistep method gets its first history: a tableau, and how many steps it makes at most.
STARTERS = {"ramp": ("euler", 0), "heun": ("heun", 1), "rk4": ("rk4", 3)}
Starter = Literal["ramp", "heun", "rk4"]


@dataclass(frozen=True)
class PLMSSolver(Solver):
    """Pseudo linear multistep: a mean of the ε of the last steps, then one transfer along it.

    `order`, 1 to 4, is how many steps' answers are averaged. `weights` says how: "exact" integrates the
    polynomial through them over the step, in σ/α, on whatever grid; "classical" are those of
    Adams–Bashforth for even steps. `starter` is how the first steps go, which lack a history: "ramp"
    takes orders 1, 2, 3 first; "heun" makes the first step by improved Euler; "rk4" makes the first
    order − 1 steps by Runge–Kutta.

    Also known as: PLMS (latent diffusion, with `weights="classical", starter="heun"`), iPNDM
    (`weights="classical"`), F-PNDM (`weights="classical", starter="rk4"`, see `PNDMSolver`).
    Orders: formula `order`; convergence `order` with exact weights, where the starter permits it: ramp
    2, heun 3, rk4 4. With classical weights at most 2, since they are right for steps in t while φ
    steps in σ/α.
    Model calls for N steps: N with "ramp", N + 1 with "heun", N + 3·(order − 1) with "rk4". A step
    into σ = 0 is always multistep, so runs with fewer steps than the starter has cost less.
    On integer times the stages of a starter are rounded to trained times, so its order takes longer steps than one.
    Reference: Liu et al. (2022), eq. (9), (12) and (13); exact weights: docs/theory.md.
    """

    schedule: NoiseSchedule
    order: int = 4
    starter: Starter = "ramp"
    weights: Literal["classical", "exact"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "order", whole("order", self.order, most=max(ADAMS_BASHFORTH)))
        choice("starter", self.starter, STARTERS)
        choice("weights", self.weights, ("classical", "exact"))

    @property
    def name(self) -> str:
        return f"PLMS {self.order} ({self.weights}, {self.starter})"

    @property
    def convergence_order(self) -> int:
        # A first step of local error p + 1 leaves its mark on the whole, however good the rest is.
        tableau, _ = STARTERS[self.starter]
        return min(self.order, 2 if self.weights == "classical" else 1 + min(TABLEAUX[tableau].order, 3))

    def write(self, program: Program) -> None:
        linear_multistep(program, self.order, self.starter, program.transfer, exact=self.weights == "exact")


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
        object.__setattr__(self, "order", whole("order", self.order, most=4))
        if self.order not in (2, 4):
            raise ValueError(f"order is {self.order!r}; it is 4 (F-PNDM) or 2 (S-PNDM)")

    @property
    def name(self) -> str:
        return "F-PNDM" if self.order == 4 else "S-PNDM"

    @property
    def convergence_order(self) -> int:
        return 2

    def write(self, program: Program) -> None:
        linear_multistep(program, self.order, "rk4" if self.order == 4 else "heun", program.transfer)


@dataclass(frozen=True)
class FONSolver(Solver):
    """FON, the paper's baseline: classical Adams–Bashforth 4 on the raw ODE, after three RK4 steps.

    It adds dx/dt where PNDM transfers, so it leaves the data's manifold at large steps, and a
    constant ε is not solved exactly.
    Orders: formula 4, convergence 4. Model calls: N + 9 for N ≥ 4 steps.
    Reference: Liu et al. (2022), section 4, where FON stands for the fourth-order numerical method.
    """

    schedule: NoiseSchedule

    @property
    def name(self) -> str:
        return "FON"

    @property
    def order(self) -> int:
        """The order of its formula."""
        return 4

    @property
    def convergence_order(self) -> int:
        return 4

    def write(self, program: Program) -> None:
        linear_multistep(program, self.order, "rk4", program.classical)


# ------------------------------------------------------------------ what methods are made of

# A program's way to make the next state from a base state and a mean of ε: `transfer` or `classical`.
Move = Callable[..., None]


def runge_kutta_step(
    program: Program, tableau: ButcherTableau, there: Level, move: Move, by: Literal["time", "ratio"] = "time"
) -> int:
    """Writes one step of a tableau; returns the row of its first evaluation.

    Stage i is a move through the fraction c_i of the step, along the mean `Σ_j (a_ij/c_i)·ε_j`. With
    fractions of σ/α, in which φ steps, the tableau keeps its classical order.
    """
    first = program.newest
    here = program.levels[first]

    def mean(weights: Sequence[Any], total: Any) -> Mapping[int, float]:
        return {first + j: float(w / total) for j, w in enumerate(weights) if w}

    for c, a in zip(tableau.c[1:], tableau.a[1:], strict=True):
        move(first, mean(a, c), program.grid.between(here, there, float(c), by=by), stage=True)
    move(first, mean(tableau.b, 1), there)
    return first


def linear_multistep(program: Program, order: int, starter: Starter, move: Move, *, exact: bool = False) -> None:
    """Writes Adams–Bashforth steps, as high as the history goes, after the starter's own steps."""
    tableau, single_steps = STARTERS[starter]
    history: list[int] = []  # each step's first evaluation, the newest first
    for here, there in program.grid.steps:
        if len(history) < min(single_steps, order - 1) and there.sigma > 0:
            by = "ratio" if exact else "time"
            history.insert(0, runge_kutta_step(program, TABLEAUX[tableau], there, move, by))
            continue
        history.insert(0, program.newest)
        if not exact:
            rows = history[:order]
            weights = map(float, ADAMS_BASHFORTH[len(rows)])
        else:
            ratios = [program.levels[row].ratio for row in history]
            careful = starter == "ramp"
            most = careful_order(ratios, order) if careful else order
            # The last step reaches below what a network was trained for, so there the others are careful too.
            chosen = well_apart(ratios, there.ratio, most, bound=8 if careful or there.sigma == 0 else 100)
            rows = [history[i] for i in chosen]
            weights = exact_weights([ratios[i] for i in chosen], here.ratio, there.ratio)
        move(program.newest, dict(zip(rows, weights, strict=True)), there)


def careful_order(ratios: Sequence[float], order: int) -> int:
    """How many of the past answers, at σ/α `ratios` from the newest, a step may be made of: `order` at most.

    All, once σ/α falls by less than a quarter a step. While steps are longer: two above σ/α = 20, where
    networks err most, three down to 0.03, and four near the data. Why: docs/theory.md.
    """
    if len(ratios) > 1 and abs(math.log(ratios[1] / ratios[0])) < 0.25:
        return order
    ratio = ratios[0] / (1 + 1e-6)  # so that what stands at a bound is on its lower side, whatever rounded it
    return min(order, 2 if ratio > 20 else 3 if ratio > 0.03 else 4)


def well_apart(ratios: Sequence[float], there: float, most: int, bound: float) -> Sequence[int]:
    """Which of the past answers, at σ/α `ratios` from the newest, a step to `there` is made of.

    The last `most` of them, unless the step reaches so far beyond them that the absolute weights sum to
    more than `bound` (those of Adams–Bashforth 4 sum to 6.7); then as many that are the step's own length apart.
    """
    # An answer at σ/α = ∞ has no weight, and is always the oldest.
    ratios = [ratio for ratio in ratios if math.isfinite(ratio)] or [math.inf]
    last = list(range(min(most, len(ratios))))
    if len(last) == 1 or math.isinf(there):
        return last[:1]
    u, reach = coordinate(ratios), abs(coordinate(there) - coordinate(ratios[0]))
    if np.all(np.diff(u[last])) and np.abs(exact_weights([ratios[i] for i in last], ratios[0], there)).sum() <= bound:
        return last
    apart = [0]
    for i in range(1, len(ratios)):
        if abs(u[i] - u[apart[-1]]) >= max(reach, 1e-12):
            apart.append(i)
    return apart[:most]


def forward_deviation(here: Level, there: Level) -> float:
    """√(σ_t² − (α_t/α_s)²·σ_s²): the noise that the forward process adds between `there` (s) and `here` (t).

    Its square is β of the step, 1 − ᾱ_t/ᾱ_s, where α² + σ² = 1. Raises ValueError for s above t.
    """
    variance = here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2 if there.alpha else -1.0
    if variance < 0:
        raise ValueError(
            f"a stochastic solver runs from noise to data, not from t = {here.t:g} to {there.t:g}; start above stop"
        )
    return math.sqrt(variance)


def posterior_deviation(here: Level, there: Level) -> float:
    """√β̃ of the step: the deviation of q(x_s | x_t, x_0), Ho et al. (2020), eq. (7)."""
    return there.sigma / here.sigma * forward_deviation(here, there)


# Every method by the name that the command line uses, and that tests run over.
SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddim": DDIMSolver,
    "ddpm": DDPMSolver,
    "prk-heun": partial(PRKSolver, tableau="heun"),
    "prk-rk4": partial(PRKSolver, tableau="rk4"),
    "plms": PLMSSolver,
    "plms-classical": partial(PLMSSolver, weights="classical"),
    "pndm": PNDMSolver,
    "fon": FONSolver,
}
