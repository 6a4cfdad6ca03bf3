"""Every deterministic solver converges to the exact flow, with the order that it declares."""

from dataclasses import replace
from functools import cache, partial
from itertools import product

import numpy as np
import pytest
from conftest import BOGACKI_SHAMPINE, SCHEDULES, named, pseudo_solvers, relative_error

from pndm_solvers import (
    TABLEAUX,
    DDIMSolver,
    DEISSolver,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    FONSolver,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    UniPCSolver,
)
from pndm_solvers.methods.multistep import STARTERS
from pndm_solvers.orders import GRIDS, deterministic_solvers, observed_order
from pndm_solvers.problem import Problem
from pndm_solvers.problems import random_gaussian, random_mixture

LINEAR, VE = SCHEDULES["linear"], SCHEDULES["ve"]
START = np.random.default_rng(1).standard_normal((16, 4))
GAUSSIAN, MIXTURE = random_gaussian(4), random_mixture(4)


def is_exact(solver):
    return isinstance(solver, PLMSSolver) and solver.weights == "exact"


def starts_well(solver):
    """Whether the first steps have the order of the rest, so that this order is seen at any number of steps."""
    tableau, _ = STARTERS[solver.starter]
    return solver.order <= max(2, tableau.order)


@cache
def _problem(schedule, distribution):
    top = schedule.level(schedule.t_max)
    return replace(Problem.exact(distribution, schedule), x=np.hypot(top.alpha, top.sigma) * START)


def problem(solver, distribution=MIXTURE):
    return _problem(solver.schedule, distribution)


def measured(solver, distribution=MIXTURE, order=None, high=(160, 320), **options):
    """The observed order, over the fewest steps that show an `order` as high as the one declared.

    An order of 4 shows over `high` steps. With more of them FON's error is as small as rounding and the table's joints.
    """
    steps = {1: (57, 113), 2: (57, 113), 3: (113, 226)}.get(order or solver.convergence_order, high)
    return observed_order(solver, problem(solver, distribution), steps=steps, **options)


# Solvers that write one plan on this grid write one on every grid, and only one of them is measured.
DISTINCT = {
    solver.plan(timesteps=[900.0, 700.0, 500.0, 450.0, 300.0, 250.0], stop=200.0): solver
    for solver in reversed(deterministic_solvers(LINEAR))
}.values()


def kinds(schedule):
    """One of each way to an order: exact weights, weights for even steps in t, the raw ODE, Runge–Kutta alone."""
    return [PLMSSolver(schedule, 4, "rk4"), PNDMSolver(schedule), FONSolver(schedule), PRKSolver(schedule, "heun")]


def on_its_schedule(solver):
    """For pytest's ids."""
    schedule = next(name for name, schedule in SCHEDULES.items() if schedule == solver.schedule)
    return f"{schedule}-{solver.name}"


# ------------------------------------------------------------------ the declared order


@pytest.mark.parametrize(
    "solver",
    # For those that start worse than they go on: test_a_cheaper_starter_permits_what_is_declared.
    [solver for solver in DISTINCT if not is_exact(solver) or starts_well(solver)]
    + [PRKSolver(LINEAR, BOGACKI_SHAMPINE)]
    + [solver for name in ("cosine", "vp", "rectified_flow") for solver in kinds(SCHEDULES[name])],
    ids=on_its_schedule,
)
def test_the_declared_order_is_observed(solver):
    found = measured(solver)
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize("solver", kinds(LINEAR), ids=named)
def test_the_declared_order_is_observed_against_a_closed_form(solver):
    """A Gaussian's flow needs no quadrature. The run goes down to the data, and up from them."""
    assert measured(solver, GAUSSIAN).observed == pytest.approx(solver.convergence_order, abs=0.15)
    inversion = measured(solver, GAUSSIAN, first=0.2 * LINEAR.t_max, last=0.9 * LINEAR.t_max)
    assert inversion.observed == pytest.approx(solver.convergence_order, abs=0.15)


@pytest.mark.parametrize(
    "solver",
    [
        PRKSolver(LINEAR),
        *(PLMSSolver(LINEAR, order, "rk4") for order in (2, 3)),
        # FON's constant weights have order 2 where steps change.
        *(solver for name in ("linear", "cosine") for solver in kinds(SCHEDULES[name]) if solver.name != "FON"),
    ],
    ids=on_its_schedule,
)
def test_the_declared_order_is_observed_on_smoothly_graded_grids(solver):
    found = measured(solver, grid=GRIDS["graded"], high=(226, 452))
    assert found.observed == pytest.approx(found.declared, abs=0.15)


@pytest.mark.parametrize(
    "solver",
    [*(PLMSSolver(LINEAR, order, "rk4") for order in (2, 3, 4)), PLMSSolver(SCHEDULES["cosine"], 4, "rk4")],
    ids=on_its_schedule,
)
def test_exact_weights_keep_their_order_on_random_grids(solver):
    """The mean slope over four grids with steps between 0.3 and 1.7 of the mean step."""
    grids = [partial(GRIDS["perturbed"], seed=seed) for seed in range(4)]
    slopes = [observed_order(solver, problem(solver), grid=grid, steps=(113, 226)).observed for grid in grids]
    assert np.mean(slopes) == pytest.approx(solver.convergence_order, abs=0.3)


@pytest.mark.parametrize(
    "solver",
    [solver for solver in DISTINCT if is_exact(solver) and not starts_well(solver)]
    + [PLMSSolver(SCHEDULES["cosine"], order, starter) for order in (3, 4) for starter in ("ramp", "heun")],
    ids=on_its_schedule,
)
def test_a_cheaper_starter_permits_what_is_declared(solver):
    """A first step of order p permits the order p + 1, and one more where the rule corrects Euler's.

    More is seen where the first step happens to err little.
    """
    tableau, _ = STARTERS[solver.starter]
    corrected = solver.starter == "ramp" and solver.coordinate == "balanced" and not solver.corrector
    found = measured(solver, order=4, high=(226, 452))
    assert found.declared == min(solver.order, tableau.order + 1 + corrected) + solver.corrector
    assert found.observed > found.declared - 0.15


# ------------------------------------------------------------------ in any space and coordinate

# Each space in its own coordinate and in the library's; and the coordinate of DPM-Solver, DEIS and UniPC.
PLACES = [
    *(("sample", coordinate) for coordinate in ("log_ratio", "inverse_ratio", "balanced")),
    *(("v_prediction", coordinate) for coordinate in ("angle", "balanced")),
    *(("flow", coordinate) for coordinate in ("noise_share", "balanced")),
    *(("epsilon", coordinate) for coordinate in ("log_ratio", "ratio")),
]


def in_space(schedule, order, space, coordinate, corrector=False):
    """With a starter that permits the full order."""
    starter = "ramp" if order + corrector <= 2 + corrector else "rk4"
    return PLMSSolver(schedule, order, starter, space=space, coordinate=coordinate, corrector=corrector)


# Published methods, without lower orders at the end: there the last step's would be seen.
PUBLISHED = [
    *(partial(DPMMultistepSolver, order=order, lower_order_final=False) for order in (1, 2, 3)),
    *(partial(DPMMultistepSolver, order=order, space="epsilon", lower_order_final=False) for order in (2, 3)),
    *(partial(DPMMultistepSolver, solver_type="heun", space=space) for space in ("sample", "epsilon")),
    *(
        partial(DPMSinglestepSolver, order=order, space=space, solver_type=kind)
        for order, space, kind in product((2, 3), ("sample", "epsilon"), ("midpoint", "heun"))
    ),
    *(partial(DEISSolver, order=2, coordinate=coordinate) for coordinate in ("log_ratio", "ratio")),
    *(
        partial(UniPCSolver, order=order, variant=variant, space=space, lower_order_final=False)
        for order, variant, space in product((1, 2), ("bh1", "bh2"), ("sample", "epsilon"))
    ),
    UniPCSolver,
]


# On each schedule, on each of two data and on each of two grids, in turn.
CASES = [
    ("linear", GAUSSIAN, "uniform"),
    ("linear", MIXTURE, "graded"),
    ("cosine", MIXTURE, "uniform"),
    ("scaled_linear", GAUSSIAN, "graded"),
]


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make(LINEAR).name)
def test_published_methods_have_their_declared_order(make):
    for name, distribution, grid in CASES:
        solver = make(SCHEDULES[name])
        found = measured(solver, distribution, max(solver.order, solver.convergence_order), grid=GRIDS[grid])
        assert found.observed == pytest.approx(found.declared, abs=0.15), (name, grid)


@pytest.mark.parametrize(("space", "coordinate"), PLACES)
def test_exact_weights_have_their_order_in_every_space(space, coordinate):
    for order, (name, distribution, grid) in zip((4, 2, 3, 3), CASES, strict=True):
        solver = in_space(SCHEDULES[name], order, space, coordinate)
        found = measured(solver, distribution, order + 1, grid=GRIDS[grid])
        assert found.declared == order
        assert found.observed == pytest.approx(order, abs=0.15), (order, name)


@pytest.mark.parametrize("space", ["epsilon", "sample", "v_prediction", "flow"])
def test_orders_five_and_six_are_observed(space):
    """The starter permits 5."""
    for order in (5, 6):
        found = measured(in_space(SCHEDULES["vp"], order, space, "log_ratio"), GAUSSIAN, high=(80, 160))
        assert found.declared == 5
        assert found.observed > 5 - 0.15
        assert found.observed < 5 + 0.15 or order == 6


@pytest.mark.parametrize("space", ["epsilon", "sample"])
def test_the_fourth_order_is_observed_on_cosine_too(space):
    """There polynomials in log(σ/α) show it only over more steps."""
    found = measured(in_space(SCHEDULES["cosine"], 4, space, "log_ratio"), high=(320, 640))
    assert found.observed == pytest.approx(4, abs=0.15)


def test_the_fourth_order_of_a_flow_in_time_is_observed():
    """Adams–Bashforth 4 as in the book: on rectified flow the time is the flow's own coordinate."""
    found = measured(in_space(SCHEDULES["rectified_flow"], 4, "flow", "time"), GAUSSIAN)
    assert found.observed == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize(("space", "coordinate"), PLACES)
def test_exact_weights_have_their_order_in_every_space_on_random_grids(space, coordinate):
    grids = [partial(GRIDS["perturbed"], seed=seed) for seed in range(3)]
    solver = in_space(LINEAR, 3, space, coordinate)
    slopes = [observed_order(solver, problem(solver), grid=grid, steps=(57, 226)).observed for grid in grids]
    assert np.mean(slopes) == pytest.approx(3, abs=0.3)


@pytest.mark.parametrize(("space", "coordinate"), PLACES)
def test_a_corrector_raises_its_predictors_order_by_one(space, coordinate):
    """The predictors alone are measured above."""
    for order, (name, distribution, grid) in zip((3, 1, 2), CASES, strict=False):
        found = measured(in_space(SCHEDULES[name], order, space, coordinate, True), distribution, grid=GRIDS[grid])
        assert found.declared == order + 1
        assert found.observed == pytest.approx(order + 1, abs=0.15), (order, name)


def test_a_corrector_raises_the_order_of_classical_weights_too():
    for corrector in (False, True):
        found = measured(PLMSSolver(LINEAR, 4, "rk4", "classical", corrector=corrector))
        assert found.observed == pytest.approx(2 + corrector, abs=0.15)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2])
def test_unips_order_rises_by_one_with_unic(variant, order):
    """UniP is UniPC whose corrector is switched off in every step."""
    alone = UniPCSolver(LINEAR, order, variant, lower_order_final=False, disable_corrector=range(1000))
    both = UniPCSolver(LINEAR, order, variant, lower_order_final=False)
    for distribution in (GAUSSIAN, MIXTURE):
        found = [measured(solver, distribution, order=order + 1).observed for solver in (alone, both)]
        assert found == pytest.approx([order, order + 1], abs=0.15)


def test_three_answers_of_dpm_solver_are_of_second_order_and_exact_weights_of_third():
    """3M has half of the weight that the parabola's curvature needs; doubled, it is the exact integral."""
    for space in ("sample", "epsilon"):
        published = DPMMultistepSolver(LINEAR, 3, space, lower_order_final=False)
        exact = PLMSSolver(LINEAR, 3, "rk4", space=space, coordinate="log_ratio")
        assert measured(published, order=3).observed == pytest.approx(2, abs=0.15)
        assert measured(exact).observed == pytest.approx(3, abs=0.15)


# ------------------------------------------------------------------ where t is σ/α

# On a variance-exploding schedule weights for steps in t are right for φ too: the cause of the paper's theorem.


@pytest.mark.parametrize("tableau", [*TABLEAUX.values(), BOGACKI_SHAMPINE], ids=named)
def test_a_tableau_has_its_full_order_where_time_is_the_noise(tableau):
    found = observed_order(PRKSolver(VE, tableau), _problem(VE, MIXTURE), steps=(28, 56)).observed
    assert found > tableau.order - 0.15
    # Orders above 4 are not derived.
    assert found < tableau.order + 0.15 or tableau.order == 4


@pytest.mark.parametrize(
    "solver",
    [PNDMSolver(VE), FONSolver(VE), *(PLMSSolver(VE, order, "rk4", "classical") for order in (2, 3))],
    ids=named,
)
def test_a_classical_multistep_method_has_its_full_order_where_time_is_the_noise(solver):
    order = getattr(solver, "order", 4)  # FON has no other
    assert measured(solver, order=order).observed == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", [PNDMSolver(VE), FONSolver(VE)], ids=named)
def test_classical_weights_lose_their_order_on_random_grids(solver):
    """They fall from order 4 to 1, while exact weights keep theirs."""
    perturbed = observed_order(solver, problem(solver), grid=GRIDS["perturbed"], steps=(113, 452))
    assert perturbed.observed < 1.5


# ------------------------------------------------------------------ from one end to the other


@pytest.mark.parametrize(("name", "first"), [("linear", 999), ("scaled_linear", 999), ("cosine", 950)])
def test_a_named_grid_reaches_the_gaussian(name, first):
    """From the noisy end to the lowest level of a table, against the closed form.

    On the cosine table the run begins below the capped end. There one step in t spans four decades of σ/α, more than
    weights for even steps in t can bear: the cut makes a tiny first step, so the second one is far longer and has
    order 1.
    """
    schedule = SCHEDULES[name]
    exact = GAUSSIAN.flow(START, schedule.level(first), schedule.level(0))
    few = [DDIMSolver(schedule), PNDMSolver(schedule), PLMSSolver(schedule)]
    for solver in pseudo_solvers(schedule) if name == "linear" else few:
        lengths = (50, 400) if solver.convergence_order == 1 else (30, 120)
        plans = (solver.plan(n, spacing="quadratic", start=first, final="first") for n in lengths)
        coarse, fine = (relative_error(plan.run(GAUSSIAN.model(schedule), START), exact) for plan in plans)
        assert fine < coarse / 3, solver.name
        assert fine < 0.004, solver.name


def test_rounded_stages_do_not_shift_the_solution():
    """On odd integer steps the middle of a step is rounded to either side in turn."""
    exact = GAUSSIAN.flow(START, LINEAR.level(999), LINEAR.level(204))
    for step in (15, 5):
        times = np.arange(999, 204, -step)
        found = [
            relative_error(PRKSolver(LINEAR).plan(timesteps=t, stop=204).run(GAUSSIAN.model(LINEAR), START), exact)
            for t in (times, times.astype(float))
        ]
        assert found[0] < max(2 * found[1], 2e-5), step
