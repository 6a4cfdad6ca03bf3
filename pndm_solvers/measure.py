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
from pndm_solvers.solver import Solver
from pndm_solvers.grid import SPACINGS, Spacing
from pndm_solvers.problems import Problem
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.methods import SOLVERS, PLMSSolver, PNDMSolver, PRKSolver
from pndm_solvers.methods.multistep import Starter
from pndm_solvers.methods.runge_kutta import TABLEAUX

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
    """Even steps in t."""
    return np.linspace(first, last, steps + 1)


def graded(first: float, last: float, steps: int) -> Float64:
    """Steps whose size changes smoothly, from 1.3 to 0.7 of their mean."""
    s = np.linspace(0, 1, steps + 1)
    return np.linspace(first, last, steps + 1) + 0.3 * (last - first) * s * (1 - s)


def perturbed(first: float, last: float, steps: int, seed: int = 0) -> Float64:
    """Even steps whose inner times are each moved by up to 0.35 of a step, at random: from 0.3 to 1.7 of their mean."""
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
    """What `observed_order` found.

    Attributes
    ----------
    name:
        The solver's.
    declared, observed:
        Its `convergence_order`, and the slope p of log(error) = −p·log(steps) + c by least squares.
    steps, errors:
        The measured points: root-mean-square distances to the exact flow.
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
    """How fast a solver's error falls with the number of steps, between two times where ε is smooth.

    Parameters
    ----------
    solver, distribution:
        What is measured, and on which exact ε.
    grid:
        One of `GRIDS`' functions, or one like them: (first, last, steps) to `steps` + 1 times.
    steps:
        Two or more numbers of steps.
    first, last:
        Between which times; 0.9·t_max and 0.2·t_max unless said, away from both ends of the schedule.
    starts, seed:
        How many points of N(0, (α² + σ²)·I) are carried along, and which.

    Raises
    ------
    ValueError:
        For a stochastic solver, which has no such order.
    """
    _check_deterministic(solver)
    if len(set(steps)) < 2:
        raise ValueError(f"steps are {list(steps)}; a slope takes two different numbers of steps")
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
    """Every registered method with an order, and every option of those that have one, none twice."""
    solvers = [make(schedule) for make in SOLVERS.values()]
    solvers += [
        PLMSSolver(schedule, order, starter, weights)
        for weights in ("exact", "classical")
        for order in (1, 2, 3, 4)
        for starter in get_args(Starter)
    ]
    solvers += [PRKSolver(schedule, tableau) for tableau in TABLEAUX.values()]
    solvers += [PNDMSolver(schedule, order=2)]
    return [solver for solver in dict.fromkeys(solvers) if solver.convergence_order is not None]


def _check_deterministic(solver: Solver) -> None:
    if solver.convergence_order is None:
        raise ValueError(f"{solver.name} is stochastic: it has neither an order nor one right end to be compared with")


# ------------------------------------------------------------------ error against model calls


@dataclass(frozen=True)
class Curve:
    """The error of one solver on one time grid against its budget of model calls.

    Attributes
    ----------
    solver, spacing:
        The solver's name and the grid's.
    calls:
        The budgets.
    median, mean:
        Over the starts, for each budget; infinite where nothing fits the budget, or the run left the finite numbers.
    """

    solver: str
    spacing: str
    calls: tuple[int, ...]
    median: tuple[float, ...]
    mean: tuple[float, ...]

    @property
    def name(self) -> str:
        """Both, as in "DDIM, trailing"."""
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
    """The error of each solver on each spacing, at each budget of model calls, to one of the problem's ends.

    A solver with a budget is `solver.plan(max_model_calls=…)`. ValueError for a stochastic solver, for one of
    another schedule than the problem's, and for an unknown spacing.
    """
    pairs = list(product(solvers, spacings))
    for solver, spacing in pairs:
        _check_deterministic(solver)
        if solver.schedule != problem.schedule:
            raise ValueError(f"{solver.name} is on {solver.schedule!r}, the problem on {problem.schedule!r}")
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
        warnings.simplefilter("ignore")  # that a grid begins too low is what the table is to show
        try:
            plan = solver.plan(max_model_calls=budget, spacing=spacing, final=final)
        except ValueError:
            return np.array([math.inf])
        errors = problem.errors(
            plan.run(problem.model, problem.x, prediction=problem.prediction, check_finite=None), final
        )
    return np.where(np.isfinite(errors), errors, math.inf)
