import warnings

import numpy as np
import pytest
from conftest import SCHEDULES, all_solvers, named

from pndm_solvers import SPACINGS, DDIMSolver, PRKSolver, make_grid

LINEAR = SCHEDULES["linear"]


def times(grid):
    return [level.t for level in grid.levels]


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 27, 50, 333, 999, 1000])
def test_integral_spacings_as_diffusers_users_know_them(steps):
    leading = (np.arange(steps) * (1000 // steps))[::-1]
    trailing = np.round(np.arange(1000, 0, -1000 / steps))[:steps] - 1
    grid = make_grid(LINEAR, steps, spacing="leading")
    assert times(grid) == [*leading, -1]
    assert grid.integral
    assert times(make_grid(LINEAR, steps, spacing="trailing")) == [*trailing, -1]
    linspace = np.linspace(0, 999, steps).round()[::-1] if steps > 1 else [999]
    assert times(make_grid(LINEAR, steps, spacing="linspace")) == [*linspace, -1]


def test_steps_offset_shifts_leading():
    assert times(make_grid(LINEAR, 4, spacing="leading", steps_offset=1)) == [751, 501, 251, 1, -1]
    with pytest.raises(ValueError, match="steps_offset"):
        make_grid(LINEAR, 4, spacing="trailing", steps_offset=1)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("final", ["clean", "first"])
def test_every_spacing_falls_on_every_schedule(name, spacing, final):
    schedule = SCHEDULES[name]
    for steps in (2, 3, 10, 100):
        if spacing in ("log_snr", "karras") and schedule.alpha(schedule.t_max) == 0:
            with pytest.raises(ValueError, match="log-SNR −∞"):
                make_grid(schedule, steps, spacing=spacing, final=final)
            continue
        grid = make_grid(schedule, steps, spacing=spacing, final=final)
        assert np.all(np.diff(times(grid)) < 0)
        assert grid.levels[-1] == (schedule.clean if final == "clean" else schedule.level(schedule.t_min))
        assert len(list(grid.steps)) in (steps, steps - 1)


def test_even_where_the_name_says_so():
    grid = make_grid(LINEAR, 10, spacing="log_snr", final="first")
    np.testing.assert_allclose(np.diff(LINEAR.log_snr(times(grid)), 2), 0, atol=1e-8)
    grid = make_grid(LINEAR, 10, spacing="karras", final="first")
    roots = np.exp(-LINEAR.log_snr(times(grid)) / 14)
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-8)
    grid = make_grid(LINEAR, 10, spacing="quadratic", final="first")
    np.testing.assert_allclose(np.sqrt(times(grid)), np.sqrt(999) * np.arange(10, -1, -1) / 10)


def test_ones_own_times():
    assert times(make_grid(LINEAR, timesteps=[900, 450, 30])) == [900, 450, 30, -1]
    assert make_grid(LINEAR, timesteps=[900, 450, 30]).integral
    floats = make_grid(LINEAR, timesteps=[900.5, 450.25, 30.0], stop=10)
    assert times(floats) == [900.5, 450.25, 30, 10]
    assert not floats.integral
    assert times(make_grid(LINEAR, 3, spacing=lambda schedule, steps, end: [800, 20, 10])) == [800, 20, 10, -1]


def test_start_cuts_a_named_spacing():
    assert times(make_grid(LINEAR, 10, spacing="leading", start=437)) == [437, 400, 300, 200, 100, 0, -1]
    assert times(make_grid(LINEAR, 10, spacing="leading", start=400, stop=100)) == [400, 300, 200, 100]


def test_upwards():
    assert times(make_grid(LINEAR, timesteps=[0, 100, 500], stop=999)) == [0, 100, 500, 999]
    assert times(make_grid(LINEAR, 4, spacing="trailing", start=0, stop=999)) == [0, 249, 499, 749, 999]


def test_stages_of_integral_grids_are_integers():
    grid = make_grid(LINEAR, timesteps=[25, 10])
    here, there = next(grid.steps)
    assert grid.between(here, there, 0.5).t == 18
    assert grid.between(here._replace(t=27), there, 0.5).t == 18
    grid = make_grid(LINEAR, timesteps=[25.0, 10.0])
    assert grid.between(here, there, 0.5).t == 17.5
    assert not make_grid(SCHEDULES["ve"], timesteps=[8, 4, 1]).integral


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": -3}, "at least 1"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({"num_inference_steps": 1001, "spacing": "leading"}, "1000 integer levels"),
        ({"num_inference_steps": 10, "spacing": "cubic"}, "spacing is 'cubic'"),
        ({"num_inference_steps": 10, "final": "end"}, "final is 'end'"),
        ({"num_inference_steps": 10, "start": 1200}, "outside the trained range"),
        ({"num_inference_steps": float("inf")}, "whole number"),
        ({"num_inference_steps": 10, "stop": 999}, "pass start= too"),
        ({"num_inference_steps": 3, "spacing": lambda *_: [10, 500, 999]}, "fall strictly"),
        ({"num_inference_steps": 3, "spacing": lambda *_: [999, 500, 500]}, "fall strictly"),
        ({"timesteps": []}, "non-empty"),
        ({"timesteps": [1, 2, 3]}, "fall strictly"),
        ({"timesteps": [3, 3, 1]}, "fall strictly"),
        ({"timesteps": [900, float("nan")]}, "finite"),
        ({"timesteps": [1000, 500]}, "outside the trained range"),
        ({"timesteps": [500, 100, -1]}, "the clean level"),
        ({"num_inference_steps": 10, "start": -1, "stop": 999}, "the clean level"),
        ({"timesteps": [500, 100], "stop": 200}, "fall strictly"),
        ({"timesteps": [500, 100], "start": 200}, "start cuts"),
    ],
)
def test_bad_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_grid(LINEAR, **options)


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_a_budget_is_never_exceeded(solver):
    for calls in range(1, 61):
        plan = solver.plan(max_model_calls=calls, spacing="trailing")
        assert 1 <= plan.model_calls <= calls
    whole = solver.plan(max_model_calls=1500, spacing="trailing")
    assert 999 <= whole.model_calls <= 1500


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("final", ["clean", "first"])
@pytest.mark.parametrize("cut", [{}, {"start": 500}, {"start": 500, "stop": 100}, {"start": 7}], ids=str)
def test_a_budget_is_used_on_every_grid(spacing, final, cut):
    """Without a warning for the short grids that were tried on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for calls in (4, 20, 60):
            plan = DDIMSolver(LINEAR).plan(max_model_calls=calls, spacing=spacing, final=final, **cut)
            least = 1 if cut == {"start": 7} and spacing in ("leading", "trailing", "linspace") else 0.8 * calls - 1
            assert least <= plan.model_calls <= calls


@pytest.mark.parametrize("options", [{"start": 500, "stop": 500}, {"spacing": lambda *_: [0], "final": "first"}])
def test_a_budget_for_a_run_of_nothing_is_refused(options):
    with pytest.raises(ValueError, match="no plan of 1 to 5"):
        DDIMSolver(LINEAR).plan(max_model_calls=5, **options)


def test_a_budget_larger_than_what_a_grid_can_use():
    solver = DDIMSolver(LINEAR)
    assert solver.plan(max_model_calls=5, start=0).model_calls == 1
    assert solver.plan(max_model_calls=9, spacing=lambda *_: [900, 400]).model_calls == 2
    with pytest.raises(ValueError, match="PRK \\(rk4\\) has no plan of 1 to 3"):
        PRKSolver(LINEAR).plan(max_model_calls=3, spacing="leading", final="first")


def test_exactly_one_length():
    solver = DDIMSolver(LINEAR)
    for options in ({}, {"num_inference_steps": 3, "max_model_calls": 3}, {"max_model_calls": 3, "timesteps": [1]}):
        with pytest.raises(ValueError, match="exactly one"):
            solver.plan(**options)
    for calls in (0, -1, 1.5):
        with pytest.raises(ValueError, match="max_model_calls"):
            solver.plan(max_model_calls=calls)


def test_a_grid_that_begins_near_the_data_is_warned_of():
    with pytest.warns(UserWarning, match="mostly picture"):
        DDIMSolver(LINEAR).plan(1, spacing="leading")
