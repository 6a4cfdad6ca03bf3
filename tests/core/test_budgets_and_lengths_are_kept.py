"""`Solver.plan`: how long a plan is, how a budget of model calls is used, and which grids give a warning."""

import warnings

import numpy as np
import pytest
from conftest import SCHEDULES, all_solvers, assert_refused, spacings_of

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, PNDMSolver, PRKSolver
from pndm_solvers.spacings import INTEGRAL_SPACINGS

LINEAR = SCHEDULES["linear"]


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_a_budget_is_never_exceeded():
    for solver in all_solvers(LINEAR):
        for calls in (1, 2, 3, 4, 5, 8, 12, 13, 14, 40):
            plan = solver.plan(max_model_calls=calls, spacing="trailing")
            assert 1 <= plan.model_calls <= calls, solver.name


def test_a_budget_beyond_the_table_is_used_as_far_as_it_goes():
    """A table of 100 levels has no more than 100 steps, and the last step of Runge–Kutta, to σ = 0, is one call."""
    table = NoiseSchedule.linear(100)
    for solver in (DDIMSolver(table), PNDMSolver(table)):
        plan = solver.plan(max_model_calls=150, spacing="trailing")
        assert plan == solver.plan(100, spacing="trailing")
        assert sum(not row.stage for row in plan.rows) == 100
    assert PRKSolver(table).plan(max_model_calls=150, spacing="trailing").model_calls == 4 * 37 + 1


@pytest.mark.parametrize("spacing", spacings_of(LINEAR))
def test_a_budget_is_used_on_every_grid(spacing, no_warning):
    """No warning is given for the short grids that are tried on the way."""
    for cut in ({}, {"start": 500}, {"start": 500, "stop": 100}, {"start": 7}):
        for final, calls in (("clean", 4), ("clean", 20), ("first", 20)):
            plan = DDIMSolver(LINEAR).plan(max_model_calls=calls, spacing=spacing, final=final, **cut)
            # Few integers lie below a start of 7.
            least = 1 if cut == {"start": 7} and spacing in INTEGRAL_SPACINGS else 0.8 * calls - 1
            assert least <= plan.model_calls <= calls, (cut, final)


def test_a_budget_that_no_plan_fits_is_refused_and_one_too_large_is_not():
    solver = DDIMSolver(LINEAR)
    assert solver.plan(max_model_calls=5, start=0).model_calls == 1
    assert solver.plan(max_model_calls=9, spacing=lambda *_: [900, 400]).model_calls == 2
    assert_refused(
        [
            (lambda: solver.plan(max_model_calls=5, start=500, stop=500), ValueError, "no plan of 1 to 5"),
            (
                lambda: solver.plan(max_model_calls=5, spacing=lambda *_: [0], final="first"),
                ValueError,
                "no plan of 1 to 5",
            ),
            (
                lambda: PRKSolver(LINEAR).plan(max_model_calls=3, spacing="leading", final="first"),
                ValueError,
                r"PRK \(rk4\) has no plan of 1 to 3",
            ),
        ]
    )


def test_exactly_one_length_is_given():
    solver = DDIMSolver(LINEAR)
    lengths = ({}, {"num_inference_steps": 3, "max_model_calls": 3}, {"max_model_calls": 3, "timesteps": [1]})
    assert_refused((lambda given=given: solver.plan(**given), ValueError, "exactly one") for given in lengths)
    assert_refused(
        (lambda calls=calls: solver.plan(max_model_calls=calls), ValueError, "max_model_calls")
        for calls in (0, -1, 1.5)
    )


# ------------------------------------------------------------------ warnings


def test_a_grid_that_begins_near_the_data_is_warned_of():
    """The warning names the caller's own line, by whichever method it called."""
    solver, x = DDIMSolver(LINEAR), np.ones((1, 1))
    for call in (
        lambda: solver.plan(1, spacing="leading"),
        lambda: solver.sample(lambda x, t: x, x, 1, spacing="leading"),
    ):
        with pytest.warns(UserWarning, match="mostly picture") as told:
            call()
        assert [warning.filename for warning in told] == [__file__]


@pytest.mark.parametrize("options", [{"timesteps": [0.9, 0.5, 0.1]}, {"num_inference_steps": 10, "start": 0.6}])
def test_fractions_of_one_as_times_of_a_table_are_warned_of(options):
    with pytest.warns(UserWarning, match="between the two lowest levels of a table; times of a table are 0 to 999"):
        DDIMSolver(LINEAR).plan(**options)


def test_the_last_few_times_of_a_run_are_not_warned_of(no_warning):
    DDIMSolver(LINEAR).plan(timesteps=[1, 0])
    DDIMSolver(LINEAR).plan(5, start=0, stop=999)
    DDIMSolver(LINEAR).plan(timesteps=[0.6], stop=0.2)
    DDIMSolver(LINEAR).plan(timesteps=[0.6, 0.1])
    DDIMSolver(SCHEDULES["rectified_flow"]).plan(timesteps=[0.9, 0.5, 0.1])


@pytest.mark.parametrize("spacing", INTEGRAL_SPACINGS)
def test_a_grid_that_leaps_over_the_decisive_levels_is_warned_of(spacing):
    """On a variance-exploding schedule time is σ, so that even steps go from 8 to 0, where noise becomes a picture."""
    for solver in (PLMSSolver, PNDMSolver):
        exploding = solver(NoiseSchedule.ve(0.01, 80.0))
        for options in (
            {"num_inference_steps": 10},
            {"max_model_calls": 20},
            {"num_inference_steps": 10, "start": 80.0},
        ):
            with pytest.warns(UserWarning, match="at a level between σ/α = 2 and 0.1, .* use spacing='default'"):
                exploding.plan(spacing=spacing, **options)


@pytest.mark.parametrize(("data_range", "levels"), [(0.01, "2 and 0.001"), (1.0, "2 and 0.1"), (4.0, "8 and 0.4")])
def test_the_decisive_levels_are_those_of_the_data(data_range, levels):
    """On small data the default itself visits lower levels alone, and must not be warned of for it."""
    exploding = PLMSSolver(NoiseSchedule.ve(1e-4, 80.0))
    with pytest.warns(UserWarning, match=f"at a level between σ/α = {levels},"):
        exploding.plan(5, spacing="linspace", data_range=data_range)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in (4, 5, 6, 7, 8, 12):
            exploding.plan(steps, data_range=data_range, sample_shape=(2,))


def test_a_grid_that_visits_the_decisive_levels_is_not_warned_of(no_warning):
    for solver in (PLMSSolver, PNDMSolver):
        exploding = solver(NoiseSchedule.ve(0.01, 80.0))
        for spacing in INTEGRAL_SPACINGS:
            exploding.plan(4, spacing=spacing)  # fewer than five steps are coarse on any grid
            exploding.plan(10, spacing=spacing, stop=5)  # a part of the way
            exploding.plan(10, spacing=spacing, start=0.01, stop=80)  # upwards
            for name in ("linear", "scaled_linear", "cosine", "vp", "rectified_flow", "zero_terminal_snr"):
                solver(SCHEDULES[name]).plan(10, spacing=spacing)
        for spacing in ("balanced", "quadratic", "log_snr", "karras"):
            exploding.plan(10, spacing=spacing)
