"""Every deterministic solver converges to the exact flow, with the order that it declares."""

import numpy as np
import pytest
from conftest import (
    BOGACKI_SHAMPINE,
    SCHEDULES,
    deterministic_solvers,
    named,
    pseudo_solvers,
    random_gaussian,
    random_mixture,
    relative_error,
)

from pndm_solvers import FONSolver, PLMSSolver, PNDMSolver, PRKSolver

VE = SCHEDULES["ve"]

STEPS = (113, 160, 226, 320, 452)
START = np.random.default_rng(1).standard_normal((16, 4))
PROBLEMS = {"gaussian": random_gaussian(4), "mixture": random_mixture(4)}
CASES = [
    pytest.param(name, solver, id=f"{name}-{solver.name}")
    for name in ("linear", "scaled_linear", "cosine", "vp", "rectified_flow")
    for solver in deterministic_solvers(SCHEDULES[name])
]


def smoothly_graded(first, last, steps):
    s = np.linspace(0, 1, steps + 1)
    return first + (last - first) * (s + 0.3 * s * (1 - s))


def errors(solver, problem, spacing):
    """Root mean square against the exact flow, away from t → 0, for each number of steps."""
    schedule = solver.schedule
    first, last = 0.9 * schedule.t_max, 0.2 * schedule.t_max
    exact = problem.flow(START, schedule.level(first), schedule.level(last))
    model = problem.model(schedule)
    found = []
    for steps in STEPS:
        *visited, stop = spacing(first, last, steps)
        sample = solver.plan(timesteps=visited, stop=stop).run(model, START)
        found.append(np.sqrt(np.mean((sample - exact) ** 2)))
    return np.array(found)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(("name", "solver"), CASES)
def test_observed_order(name, solver, problem):
    found = errors(solver, PROBLEMS[problem], np.linspace)
    slope = -np.polyfit(np.log(STEPS), np.log(found), 1)[0]
    assert slope == pytest.approx(solver.convergence_order, abs=0.15)


@pytest.mark.parametrize("solver", deterministic_solvers(SCHEDULES["vp"]), ids=named)
def test_at_least_first_order_on_graded_grids(solver):
    """Constant weights are made for even grids: on others a multistep method still converges."""
    found = errors(solver, PROBLEMS["gaussian"], smoothly_graded)
    slope = -np.polyfit(np.log(STEPS), np.log(found), 1)[0]
    assert slope > 0.85


@pytest.mark.parametrize(("name", "first"), [("linear", 999), ("scaled_linear", 999), ("cosine", 950)])
def test_a_named_grid_reaches_the_gaussian(name, first):
    """From the noisy end to the lowest level of a table, against the closed form.

    On the cosine table from below its capped end: there one step in t spans four decades of σ/α,
    which is more than weights for even steps in t can bear.
    """
    schedule, gaussian = SCHEDULES[name], PROBLEMS["gaussian"]
    exact = gaussian.flow(START, schedule.level(first), schedule.level(0))
    for solver in pseudo_solvers(schedule):
        coarse, fine = (
            relative_error(
                solver.plan(steps, spacing="quadratic", start=first, final="first").run(
                    gaussian.model(schedule), START
                ),
                exact,
            )
            for steps in (100, 400)
        )
        assert fine < coarse / 3, solver.name
        assert fine < 0.004, solver.name


def test_rounded_stages_do_not_shift_the_solution():
    """On odd integer steps the middle of a step is rounded, and to either side in turn."""
    schedule, gaussian = SCHEDULES["linear"], PROBLEMS["gaussian"]
    exact = gaussian.flow(START, schedule.level(999), schedule.level(204))
    for step in (15, 5, 3):
        times = np.arange(999, 204, -step)
        found = [
            relative_error(PRKSolver(schedule).plan(timesteps=t, stop=204).run(gaussian.model(schedule), START), exact)
            for t in (times, times.astype(float))
        ]
        assert found[0] < max(2 * found[1], 2e-5), step


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    "solver",
    [
        PRKSolver(VE, "heun"),
        PRKSolver(VE, BOGACKI_SHAMPINE),
        PRKSolver(VE),
        PNDMSolver(VE, 2),
        PNDMSolver(VE),
        FONSolver(VE),
    ]
    + [PLMSSolver(VE, order, "rk4") for order in (1, 2, 3, 4)],
    ids=named,
)
def test_the_full_order_where_time_is_the_noise(solver, problem):
    """The paper's theorem has one cause: where t itself is σ/α, weights for steps in t are the right ones."""
    found = errors(solver, PROBLEMS[problem], np.linspace)
    slope = -np.polyfit(np.log(STEPS), np.log(found), 1)[0]
    assert slope == pytest.approx(solver.order, abs=0.15)


def test_a_third_order_tableau_is_of_order_two_when_pseudo():
    """The paper's theorem: weights for steps in t leave second order where φ steps in σ/α."""
    solver = PRKSolver(SCHEDULES["vp"], BOGACKI_SHAMPINE)
    assert (solver.order, solver.convergence_order) == (3, 2)
