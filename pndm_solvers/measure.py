"""Measuring solvers against a known flow: the observed order, and the error at each budget of model calls."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.analytic import Distribution
from pndm_solvers.grid import SPACINGS, Spacing
from pndm_solvers.methods import (
    SOLVERS,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    UniPCSolver,
)
from pndm_solvers.methods.multistep import Average, Starter
from pndm_solvers.methods.runge_kutta import TABLEAUX
from pndm_solvers.problems import Problem
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = [
    "GRIDS",
    "ORDER_STEPS",
    "Curve",
    "ObservedOrder",
    "compare",
    "deterministic_solvers",
    "observed_order",
]

Float64 = NDArray[np.float64]


# ------------------------------------------------------------------ observed order


def uniform(first: float, last: float, steps: int) -> Float64:
    """Equal steps in t."""
    return np.linspace(first, last, steps + 1)


def graded(first: float, last: float, steps: int) -> Float64:
    """Steps whose size falls smoothly from 1.3 to 0.7 of their mean."""
    s = np.linspace(0, 1, steps + 1)
    return np.linspace(first, last, steps + 1) + 0.3 * (last - first) * s * (1 - s)


def perturbed(first: float, last: float, steps: int, seed: int = 0) -> Float64:
    """Steps from 0.3 to 1.7 of their mean: each inner time moves at random by up to 0.35 of a step."""
    times = np.linspace(first, last, steps + 1)
    times[1:-1] += (last - first) / steps * np.random.default_rng([seed, steps]).uniform(-0.35, 0.35, steps - 1)
    return times


# (first time, last time, number of steps n) -> the n + 1 times
GRIDS: dict[str, Callable[[float, float, int], Float64]] = {
    "uniform": uniform,
    "graded": graded,
    "perturbed": perturbed,
}

ORDER_STEPS = (113, 160, 226, 320, 452)


@dataclass(frozen=True)
class ObservedOrder:
    """The result of `observed_order`.

    Attributes
    ----------
    name:
        The solver's name.
    declared, observed:
        The solver's `convergence_order`, and p of the least-squares fit log(error) = −p·log(steps) + c.
    steps, errors:
        The numbers of steps, and the root-mean-square distance to the exact flow for each.
    """

    name: str
    declared: int
    observed: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]


def observed_order(
    solver: Solver,
    distribution: Distribution,
    *,
    grid: Callable[[float, float, int], Any] = uniform,
    steps: Sequence[int] = ORDER_STEPS,
    first: float | None = None,
    last: float | None = None,
    starts: int = 16,
    seed: int = 1,
) -> ObservedOrder:
    """Measure how fast a solver's error falls with the number of steps, between two times where ε is smooth.

    Parameters
    ----------
    solver, distribution:
        The solver, and the distribution whose exact ε it integrates.
    grid:
        A function of `GRIDS` or of your own: (first, last, steps) to `steps` + 1 times.
    steps:
        Two or more numbers of steps.
    first, last:
        The first and the last time. By default 0.9·t_max and 0.2·t_max, away from both ends of the schedule.
    starts, seed:
        The number of starting points of N(0, (α² + σ²)·I), and the seed that draws them.

    Raises
    ------
    ValueError:
        For a stochastic solver, which has no order, and for fewer than two numbers of steps.
    """
    _check_deterministic(solver)
    if len(set(steps)) < 2:
        raise ValueError(
            f"steps is {list(steps)}; pass two different numbers of steps or more, since an order is a slope"
        )
    schedule = solver.schedule
    first = 0.9 * schedule.t_max if first is None else first
    last = 0.2 * schedule.t_max if last is None else last
    top = schedule.level(first)
    x = np.random.default_rng(seed).standard_normal((starts, distribution.sample(1).shape[1]))
    x *= math.hypot(top.alpha, top.sigma)
    exact = distribution.flow(x, top, schedule.level(last))
    model = distribution.model(schedule)
    errors = []
    for count in steps:
        *visited, stop = grid(first, last, count)
        result = solver.plan(timesteps=visited, stop=stop).run(model, x, check_finite=None)
        errors.append(float(np.sqrt(np.mean((result - exact) ** 2))))
    observed = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
    assert solver.convergence_order is not None
    return ObservedOrder(solver.name, solver.convergence_order, observed, tuple(steps), tuple(errors))


def deterministic_solvers(schedule: NoiseSchedule) -> list[Solver]:
    """Every registered method with an order, in each of its options, without duplicates."""
    solvers = [make(schedule) for make in SOLVERS.values()]
    solvers += [
        PLMSSolver(schedule, order, starter, weights)
        for weights in ("exact", "classical")
        for order in (1, 2, 3, 4)
        for starter in get_args(Starter)
    ]
    solvers += [PRKSolver(schedule, tableau) for tableau in TABLEAUX.values()]
    solvers += [PNDMSolver(schedule, order=2)]
    solvers += [PLMSSolver(schedule, space=space) for space in get_args(Average)]
    solvers += [PLMSSolver(schedule, coordinate="time"), PLMSSolver(schedule, corrector=True)]
    solvers += [DPMMultistepSolver(schedule, order, "epsilon", "heun") for order in (1, 2, 3)]
    solvers += [DPMSinglestepSolver(schedule, order, solver_type="heun") for order in (2, 3)]
    solvers += [UniPCSolver(schedule, 1, "bh1"), UniPCSolver(schedule, 3, space="epsilon")]
    return [solver for solver in dict.fromkeys(solvers) if solver.convergence_order is not None]


def _check_deterministic(solver: Solver) -> None:
    if solver.convergence_order is None:
        raise ValueError(
            f"{solver.name} is stochastic, so it has no order and no single right end; pass a solver without noise"
        )


# ------------------------------------------------------------------ error against model calls


@dataclass(frozen=True)
class Curve:
    """The error of one solver on one time grid, for each budget of model calls.

    Attributes
    ----------
    solver, spacing:
        The names of the solver and of the grid.
    calls:
        The budgets.
    median, mean:
        The error over the starts, for each budget; infinite if no plan fits the budget or the run overflows.
    """

    solver: str
    spacing: str
    calls: tuple[int, ...]
    median: tuple[float, ...]
    mean: tuple[float, ...]

    @property
    def name(self) -> str:
        """The solver and the grid, such as "DDIM, trailing"."""
        return f"{self.solver}, {self.spacing}"


def compare(
    problem: Problem,
    solvers: Iterable[Solver],
    spacings: Iterable[str | Spacing],
    calls: Sequence[int],
    *,
    final: str = "clean",
    progress: bool = False,
) -> list[Curve]:
    """Measure each solver on each spacing, at each budget of model calls, against one of the problem's ends.

    Each run is `solver.plan(max_model_calls=budget, spacing=spacing, final=final)`. Raises ValueError for a stochastic
    solver, for a solver whose schedule is not the problem's, and for an unknown spacing.
    """
    pairs = list(product(solvers, spacings))
    for solver, spacing in pairs:
        _check_deterministic(solver)
        if solver.schedule != problem.schedule:
            raise ValueError(
                f"{solver.name} has the schedule {solver.schedule!r}, but the problem has {problem.schedule!r}; "
                f"make the solver on problem.schedule"
            )
        if isinstance(spacing, str) and spacing not in SPACINGS:
            raise ValueError(f"spacing is {spacing!r}; known are {', '.join(SPACINGS)}")
    from tqdm.auto import tqdm

    curves = []
    with tqdm(total=len(pairs) * len(calls), unit="run", desc=problem.name, disable=not progress) as bar:
        for solver, spacing in pairs:
            errors = []
            for budget in calls:
                errors.append(_errors(problem, solver, spacing, budget, final))
                bar.update()
            label = spacing if isinstance(spacing, str) else getattr(spacing, "__name__", "own spacing")
            median, mean = (tuple(float(of(e)) for e in errors) for of in (np.median, np.mean))
            curves.append(Curve(solver.name, label, tuple(calls), median, mean))
    return curves


def _errors(problem: Problem, solver: Solver, spacing: str | Spacing, budget: int, final: str) -> Float64:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a grid that begins too low is a result here, not a mistake
        try:
            plan = solver.plan(max_model_calls=budget, spacing=spacing, final=final)
        except ValueError:
            return np.array([math.inf])
        errors = problem.errors(
            plan.run(problem.model, problem.x, prediction=problem.prediction, check_finite=None), final
        )
    return np.where(np.isfinite(errors), errors, math.inf)
