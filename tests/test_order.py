"""Every deterministic solver converges to the exact flow, with the order that it declares."""

from functools import partial

import numpy as np
import pytest
from conftest import BOGACKI_SHAMPINE, SCHEDULES, named, pseudo_solvers, relative_error

from pndm_solvers import TABLEAUX, DDIMSolver, FONSolver, PLMSSolver, PNDMSolver, PRKSolver
from pndm_solvers.measure import GRIDS, deterministic_solvers, observed_order
from pndm_solvers.problems import random_gaussian, random_mixture
from pndm_solvers.solvers import STARTERS

LINEAR, VE = SCHEDULES["linear"], SCHEDULES["ve"]
START = np.random.default_rng(1).standard_normal((16, 4))
GAUSSIAN, MIXTURE = random_gaussian(4), random_mixture(4)


def is_exact(solver):
    return isinstance(solver, PLMSSolver) and solver.weights == "exact"


def starts_well(solver):
    """Whether the first steps are of the order of the rest, so that it is seen at any number of steps."""
    tableau, _ = STARTERS[solver.starter]
    return solver.order <= max(2, TABLEAUX[tableau].order)


def measured(solver, distribution=MIXTURE, **options):
    # Where the error of order 4 is still above what rounding and the table's joints leave.
    steps = (160, 320) if isinstance(solver, FONSolver) and solver.schedule != VE else (226, 452)
    return observed_order(solver, distribution, steps=steps, **options)


# Of solvers with one plan the first alone is measured; that two have it on any grid is seen in test_plan.py.
DISTINCT = {
    solver.plan(timesteps=[900.0, 700.0, 500.0, 450.0, 300.0, 250.0], stop=200.0): solver
    for solver in reversed(deterministic_solvers(LINEAR))
}.values()


def kinds(schedule):
    """One of each way to the order: exact weights, those for even steps in t, the raw ODE, Runge–Kutta alone."""
    return [PLMSSolver(schedule, 4, "rk4"), PNDMSolver(schedule), FONSolver(schedule), PRKSolver(schedule, "heun")]


def on_its_schedule(solver):
    """For pytest's ids."""
    schedule = next(name for name, schedule in SCHEDULES.items() if schedule == solver.schedule)
    return f"{schedule}-{solver.name}"


@pytest.mark.parametrize(
    "solver",
    # Those that start worse than they go on: test_a_cheaper_starter_permits_what_is_declared.
    [solver for solver in DISTINCT if not is_exact(solver) or starts_well(solver)]
    + [solver for name in ("scaled_linear", "cosine", "vp", "rectified_flow") for solver in kinds(SCHEDULES[name])],
    ids=on_its_schedule,
)
def test_observed_order(solver):
    found = measured(solver)
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize("solver", kinds(LINEAR), ids=named)
def test_observed_order_against_the_closed_form(solver):
    """A Gaussian's flow, which no quadrature has to find."""
    found = measured(solver, GAUSSIAN)
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize(
    "solver",
    [
        PRKSolver(LINEAR),
        *(PLMSSolver(LINEAR, order, "rk4") for order in (2, 3)),
        # Without FON: its constant weights are of order 2 where steps change.
        *(solver for name in ("linear", "cosine") for solver in kinds(SCHEDULES[name]) if solver.name != "FON"),
    ],
    ids=on_its_schedule,
)
def test_observed_order_on_smoothly_graded_grids(solver):
    found = measured(solver, grid=GRIDS["graded"])
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize(
    "solver",
    [*(PLMSSolver(LINEAR, order, "rk4") for order in (2, 3, 4)), PLMSSolver(SCHEDULES["cosine"], 4, "rk4")],
    ids=on_its_schedule,
)
def test_exact_weights_keep_their_order_on_random_grids(solver):
    """The mean slope of four draws, each step between 0.3 and 1.7 of the mean one."""
    grids = [partial(GRIDS["perturbed"], seed=seed) for seed in range(4)]
    slopes = [observed_order(solver, MIXTURE, grid=grid, steps=(113, 226, 452)).observed for grid in grids]
    assert np.mean(slopes) == pytest.approx(solver.convergence_order, abs=0.3)


@pytest.mark.parametrize("solver", [PNDMSolver(VE), FONSolver(VE)], ids=named)
def test_constant_weights_lose_theirs(solver):
    """The full order on even steps in σ/α, and 1 on random ones: what exact weights are for."""
    perturbed = observed_order(solver, MIXTURE, grid=GRIDS["perturbed"])
    assert solver.order == 4
    assert perturbed.observed < 1.5


@pytest.mark.parametrize(
    "solver",
    [
        PLMSSolver(SCHEDULES[name], order, starter)
        for name in ("linear", "cosine")
        for order in (3, 4)
        for starter in ("ramp", "heun")
    ],
    ids=on_its_schedule,
)
def test_a_cheaper_starter_permits_what_is_declared(solver):
    """Orders 2 and 3 for ramp and Heun; more is seen where the first step happens to err little."""
    found = measured(solver)
    assert not starts_well(solver)
    assert found.declared == {"ramp": 2, "heun": 3}[solver.starter]
    assert found.observed > found.declared - 0.15


@pytest.mark.parametrize(("name", "first"), [("linear", 999), ("scaled_linear", 999), ("cosine", 950)])
def test_a_named_grid_reaches_the_gaussian(name, first):
    """From the noisy end to the lowest level of a table, against the closed form.

    On the cosine table from below its capped end: there one step in t spans four decades of σ/α,
    which is more than weights for even steps in t can bear. The cut makes a tiny first step, so that the second
    is far longer than it and has order 1.
    """
    schedule = SCHEDULES[name]
    exact = GAUSSIAN.flow(START, schedule.level(first), schedule.level(0))
    few = [DDIMSolver(schedule), PNDMSolver(schedule), PLMSSolver(schedule)]
    for solver in pseudo_solvers(schedule) if name == "linear" else few:
        coarse, fine = (
            relative_error(
                solver.plan(steps, spacing="quadratic", start=first, final="first").run(
                    GAUSSIAN.model(schedule), START
                ),
                exact,
            )
            for steps in (100, 800)
        )
        assert fine < coarse / 3, solver.name
        assert fine < 0.004, solver.name


def test_rounded_stages_do_not_shift_the_solution():
    """On odd integer steps the middle of a step is rounded, and to either side in turn."""
    exact = GAUSSIAN.flow(START, LINEAR.level(999), LINEAR.level(204))
    for step in (15, 5, 3):
        times = np.arange(999, 204, -step)
        found = [
            relative_error(PRKSolver(LINEAR).plan(timesteps=t, stop=204).run(GAUSSIAN.model(LINEAR), START), exact)
            for t in (times, times.astype(float))
        ]
        assert found[0] < max(2 * found[1], 2e-5), step


@pytest.mark.parametrize(
    "solver",
    [
        PRKSolver(VE, "heun"),
        PRKSolver(VE, BOGACKI_SHAMPINE),
        PRKSolver(VE),
        PNDMSolver(VE),
        FONSolver(VE),
        *(PLMSSolver(VE, order, "rk4", "classical") for order in (2, 3)),
    ],
    ids=named,
)
def test_the_full_order_where_time_is_the_noise(solver):
    """The paper's theorem has one cause: where t itself is σ/α, weights for steps in t are the right ones."""
    assert measured(solver).observed == pytest.approx(solver.order, abs=0.15)


def test_a_third_order_tableau_is_of_order_two_when_pseudo():
    """The paper's theorem: weights for steps in t leave second order where φ steps in σ/α."""
    solver = PRKSolver(SCHEDULES["vp"], BOGACKI_SHAMPINE)
    assert (solver.order, solver.convergence_order) == (3, 2)
