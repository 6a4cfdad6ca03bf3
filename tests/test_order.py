"""Every deterministic solver converges to the exact flow, with the order that it declares."""

from functools import partial

import numpy as np
import pytest
from conftest import BOGACKI_SHAMPINE, SCHEDULES, named, pseudo_solvers, relative_error

from pndm_solvers import TABLEAUX, FONSolver, PLMSSolver, PNDMSolver, PRKSolver
from pndm_solvers.analysis import GRIDS, deterministic_solvers, observed_order, random_gaussian, random_mixture
from pndm_solvers.solvers import STARTERS

VE = SCHEDULES["ve"]
START = np.random.default_rng(1).standard_normal((16, 4))
PROBLEMS = {"gaussian": random_gaussian(4), "mixture": random_mixture(4)}
DISCRETE, CONTINUOUS = ("linear", "scaled_linear", "cosine"), ("vp", "rectified_flow")


def is_exact(solver):
    return isinstance(solver, PLMSSolver) and solver.weights == "exact"


def starts_well(solver):
    """Whether the first steps are of the order of the rest, so that it is seen at any number of steps."""
    tableau, _ = STARTERS[solver.starter]
    return solver.order <= max(2, TABLEAUX[tableau].order)


def measured(solver, problem, **options):
    # Where the error of order 4 is still above what rounding and the table's joints leave.
    steps = (
        (80, 113, 160, 226, 320)
        if isinstance(solver, FONSolver) and solver.schedule != VE
        else (160, 226, 320, 452, 640)
    )
    return observed_order(solver, PROBLEMS[problem], steps=steps, **options)


def cases(schedules, problems=PROBLEMS, only=lambda solver: True):
    return [
        pytest.param(solver, problem, id=f"{name}-{problem}-{solver.name}")
        for name in schedules
        for problem in problems
        for solver in deterministic_solvers(SCHEDULES[name])
        if only(solver)
    ]


def one_of_a_kind(solver):
    """One of each method with its own way to the order, and exact weights of each order."""
    if isinstance(solver, PLMSSolver):
        return solver.starter == "rk4" and solver.order > 1 and (is_exact(solver) or solver.order == 4)
    return True


@pytest.mark.parametrize(
    ("solver", "problem"),
    [
        *cases(["linear"], ["mixture"], lambda solver: not is_exact(solver) or starts_well(solver)),
        *cases(DISCRETE, only=lambda solver: one_of_a_kind(solver) and solver.schedule != SCHEDULES["linear"]),
        *cases(["linear"], ["gaussian"], one_of_a_kind),
        *cases(CONTINUOUS, ["mixture"], one_of_a_kind),
    ],
)
def test_observed_order(solver, problem):
    found = measured(solver, problem)
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize(
    ("solver", "problem"),
    # FON's constant weights are of order 2 where steps change.
    cases(DISCRETE, only=lambda solver: one_of_a_kind(solver) and not isinstance(solver, FONSolver)),
)
def test_observed_order_on_smoothly_graded_grids(solver, problem):
    found = measured(solver, problem, grid=GRIDS["graded"])
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize(
    ("solver", "problem"), cases(DISCRETE, only=lambda solver: is_exact(solver) and one_of_a_kind(solver))
)
def test_exact_weights_keep_their_order_on_random_grids(solver, problem):
    """The mean slope of four draws, each step between 0.3 and 1.7 of the mean one."""
    grids = [partial(GRIDS["perturbed"], seed=seed) for seed in range(4)]
    slopes = [observed_order(solver, PROBLEMS[problem], grid=grid).observed for grid in grids]
    assert np.mean(slopes) == pytest.approx(solver.convergence_order, abs=0.3)


@pytest.mark.parametrize("solver", [PLMSSolver(VE, 4, "rk4", "classical"), PNDMSolver(VE), FONSolver(VE)], ids=named)
def test_constant_weights_lose_theirs(solver):
    """The full order on even steps in σ/α, and 1 on random ones: what exact weights are for."""
    perturbed = observed_order(solver, PROBLEMS["mixture"], grid=GRIDS["perturbed"])
    assert solver.order == 4
    assert perturbed.observed < 1.5


@pytest.mark.parametrize(("solver", "problem"), cases(["linear", "cosine"], ["mixture"], is_exact))
def test_a_cheaper_starter_permits_what_is_declared(solver, problem):
    """Orders 2 and 3 for ramp and Heun; more is seen where the first step happens to err little."""
    found = measured(solver, problem)
    tableau, _ = STARTERS[solver.starter]
    assert found.declared == min(solver.order, {"euler": 2, "heun": 3, "rk4": 4}[tableau])
    assert found.observed > found.declared - 0.15


@pytest.mark.parametrize(("name", "first"), [("linear", 999), ("scaled_linear", 999), ("cosine", 950)])
def test_a_named_grid_reaches_the_gaussian(name, first):
    """From the noisy end to the lowest level of a table, against the closed form.

    On the cosine table from below its capped end: there one step in t spans four decades of σ/α,
    which is more than weights for even steps in t can bear. The cut makes a tiny first step, so that the second
    is far longer than it and has order 1.
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
            for steps in (100, 800)
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
    + [PLMSSolver(VE, order, "rk4", "classical") for order in (1, 2, 3, 4)],
    ids=named,
)
def test_the_full_order_where_time_is_the_noise(solver, problem):
    """The paper's theorem has one cause: where t itself is σ/α, weights for steps in t are the right ones."""
    found = measured(solver, problem)
    assert found.observed == pytest.approx(solver.order, abs=0.15)


def test_a_third_order_tableau_is_of_order_two_when_pseudo():
    """The paper's theorem: weights for steps in t leave second order where φ steps in σ/α."""
    solver = PRKSolver(SCHEDULES["vp"], BOGACKI_SHAMPINE)
    assert (solver.order, solver.convergence_order) == (3, 2)
