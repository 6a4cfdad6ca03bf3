"""The observed order: how fast a solver's error falls with the number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.flow import ExactFlow
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
from pndm_solvers.problem import Problem
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = [
    "GRIDS",
    "NETWORK_STEPS",
    "ORDER_STEPS",
    "ObservedOrder",
    "check_deterministic",
    "check_schedule",
    "deterministic_solvers",
    "observed_order",
]

Float64 = NDArray[np.float64]


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

ORDER_STEPS = (113, 160, 226, 320, 452)  # where the flow is exact
NETWORK_STEPS = (10, 14, 20, 28, 40)  # where it is a fine run: few, so that its own error stays far below


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
        The numbers of steps, and the root-mean-square distance to the flow for each.
    limit:
        The estimated error of the flow itself; errors that are not well above it show nothing. 0 for an exact flow.
    """

    name: str
    declared: int
    observed: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]
    limit: float = 0.0


def observed_order(
    solver: Solver,
    problem: Problem,
    *,
    grid: Callable[[float, float, int], Any] = uniform,
    steps: Sequence[int] | None = None,
    first: float | None = None,
    last: float | None = None,
) -> ObservedOrder:
    """Measure how fast a solver's error falls with the number of steps, between two times where ε is smooth.

    Parameters
    ----------
    solver, problem:
        The solver, and what it integrates, on the same schedule.
    grid:
        A function of `GRIDS` or of your own: (first, last, steps) to `steps` + 1 times.
    steps:
        Two or more numbers of steps: `ORDER_STEPS` by default where the flow is exact, else `NETWORK_STEPS`.
    first, last:
        The first and the last time. By default 0.9·t_max and 0.2·t_max, away from both ends of the schedule.

    Raises
    ------
    ValueError:
        For a stochastic solver, which has no order, and for fewer than two numbers of steps.
    """
    check_schedule(solver, problem)
    check_deterministic(solver)
    if steps is None:
        steps = ORDER_STEPS if isinstance(problem.flow, ExactFlow) else NETWORK_STEPS
    if len(set(steps)) < 2:
        raise ValueError(
            f"steps is {list(steps)}; pass two different numbers of steps or more, since an order is a slope"
        )
    first = 0.9 * solver.schedule.t_max if first is None else first
    last = 0.2 * solver.schedule.t_max if last is None else last
    reference, errors = problem.reference(first, last), []
    for count in steps:
        *visited, stop = grid(first, last, count)
        result = problem.run(solver.plan(timesteps=visited, stop=stop), reference.begin)
        errors.append(float(np.sqrt(np.mean(reference.errors(result) ** 2))))
    observed = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
    assert solver.convergence_order is not None
    return ObservedOrder(solver.name, solver.convergence_order, observed, tuple(steps), tuple(errors), reference.limit)


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


def check_schedule(solver: Solver, problem: Problem) -> None:
    """TypeError for anything but a solver, ValueError unless it was made on the problem's schedule."""
    if not isinstance(solver, Solver):
        raise TypeError(f"solver is a {type(solver).__name__}; it must be a solver, as PLMSSolver(problem.schedule)")
    if solver.schedule != problem.schedule:
        raise ValueError(
            f"{solver.name} has the schedule {solver.schedule!r}, but the problem has {problem.schedule!r}; "
            f"make the solver on problem.schedule"
        )


def check_deterministic(solver: Solver) -> None:
    """ValueError for a stochastic solver."""
    if solver.convergence_order is None:
        raise ValueError(
            f"{solver.name} is stochastic, so it has no order and no single right end; pass a solver without "
            f"noise, or to compare() a measure of distributions"
        )
