import dataclasses
import math
import warnings

import numpy as np
import pytest
from conftest import SCHEDULES, all_solvers, named
from scipy import optimize

from pndm_solvers import SPACINGS, DDIMSolver, NoiseSchedule, PLMSSolver, PNDMSolver, PRKSolver, make_grid

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


def test_spacings_of_continuous_time():
    schedule = SCHEDULES["rectified_flow"]
    for spacing, expected in (
        ("leading", [0.75, 0.5, 0.25, 0.001, 0]),
        ("trailing", [1, 0.75, 0.5, 0.25, 0]),
        ("linspace", [1, 0.667, 0.334, 0.001, 0]),
    ):
        assert times(make_grid(schedule, 4, spacing=spacing)) == pytest.approx(expected)
    assert times(make_grid(schedule, 1, spacing="linspace")) == [1, 0]


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
        # These two visit the lowest level as one of their own, where with final="first" no step is left to begin.
        assert len(list(grid.steps)) == steps - (final == "first" and spacing in ("leading", "linspace"))


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
    for cut in ({"start": 437.5}, {"stop": 10.5}):
        assert not make_grid(LINEAR, 10, spacing="leading", **cut).integral


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
    assert grid.between(here, there, 0.2).t == 22
    assert not make_grid(SCHEDULES["ve"], timesteps=[8, 4, 1]).integral


@pytest.mark.parametrize(("first", "ratio"), [(0.8, 3.25), (1.0, 4)])
def test_a_fraction_of_a_step_in_the_ratio(first, ratio):
    """From σ/α = 4 to 1 it falls evenly; from ∞ its inverse rises evenly."""
    grid = make_grid(SCHEDULES["rectified_flow"], timesteps=[first], stop=0.5)
    assert grid.between(*grid.levels, 0.25, by="ratio").ratio == pytest.approx(ratio)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": 0}, "at least 1"),
        ({"num_inference_steps": -3}, "at least 1"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({"num_inference_steps": True}, "whole number"),
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
        ({"timesteps": [0, 500, 100], "stop": 999}, "rise strictly"),
        ({"timesteps": [500, 100], "start": 200}, "start cuts"),
    ],
)
def test_bad_grids_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_grid(LINEAR, **options)


@pytest.mark.parametrize("solver", all_solvers(LINEAR), ids=named)
def test_a_budget_is_never_exceeded(solver):
    for calls in (*range(1, 15), 60):
        plan = solver.plan(max_model_calls=calls, spacing="trailing")
        assert 1 <= plan.model_calls <= calls


def test_a_budget_beyond_the_table_is_used_as_far_as_it_goes():
    """No more steps than levels; the last step of Runge–Kutta, to σ = 0, is one call."""
    for solver, calls in ((DDIMSolver(LINEAR), 1000), (PNDMSolver(LINEAR), 1009), (PRKSolver(LINEAR), 4 * 374 + 1)):
        assert solver.plan(max_model_calls=1500, spacing="trailing").model_calls == calls


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("final", ["clean", "first"])
@pytest.mark.parametrize("cut", [{}, {"start": 500}, {"start": 500, "stop": 100}, {"start": 7}], ids=str)
def test_a_budget_is_used_on_every_grid(spacing, final, cut):
    """Without a warning for the short grids that were tried on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for calls in (4, 20):
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
    """At the caller's own line, by whichever way it was called."""
    solver, x = DDIMSolver(LINEAR), np.ones((1, 1))
    for call in (
        lambda: solver.plan(1, spacing="leading"),
        lambda: solver.sample(lambda x, t: x, x, 1, spacing="leading"),
    ):
        with pytest.warns(UserWarning, match="mostly picture") as told:
            call()
        assert [warning.filename for warning in told] == [__file__]


def test_fractions_of_one_are_no_times_of_a_table():
    for options in ({"timesteps": [0.9, 0.5, 0.1]}, {"num_inference_steps": 10, "start": 0.6}):
        with pytest.warns(UserWarning, match="between the two lowest levels of a table; times of a table are 0 to 999"):
            DDIMSolver(LINEAR).plan(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DDIMSolver(LINEAR).plan(timesteps=[1, 0])
        DDIMSolver(LINEAR).plan(5, start=0, stop=999)
        DDIMSolver(LINEAR).plan(timesteps=[0.6], stop=0.2)
        DDIMSolver(LINEAR).plan(timesteps=[0.6, 0.1])
        DDIMSolver(SCHEDULES["rectified_flow"]).plan(timesteps=[0.9, 0.5, 0.1])


def test_times_and_a_spacing_are_two_grids():
    for spacing in ("trailing", "cubic", None, np.ones(2), lambda *_: [5, 3]):
        with pytest.raises(ValueError, match="spacing makes times, and timesteps are times of your own; pass one"):
            DDIMSolver(LINEAR).plan(timesteps=[900, 500], spacing=spacing)


def test_noise_beyond_what_the_default_grid_reaches():
    loud = NoiseSchedule.ve(0.002, 1e100)
    with pytest.raises(ValueError, match="spacing is 'balanced', which begins at σ/α = 1e40 at most"):
        DDIMSolver(loud).plan(5)
    assert DDIMSolver(loud).plan(timesteps=[1e100, 1e50, 1.0]).model_calls == 3
    assert DDIMSolver(NoiseSchedule.ve(0.002, 1e8)).plan(5).model_calls == 5


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("solver", [PLMSSolver, PNDMSolver])
def test_a_grid_that_leaps_over_the_levels_that_decide_is_warned_of(solver, spacing):
    """On a variance-exploding schedule time is σ: even steps leave off at 8 of 80, before there is a picture."""
    exploding = solver(NoiseSchedule.ve(0.01, 80.0))
    for options in ({"num_inference_steps": 10}, {"max_model_calls": 20}, {"num_inference_steps": 10, "start": 80.0}):
        with pytest.warns(UserWarning, match="at a level between σ/α = 2 and 0.1, .* use spacing='balanced'"):
            exploding.plan(spacing=spacing, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exploding.plan(4, spacing=spacing)  # coarse on any grid
        exploding.plan(10, spacing=spacing, stop=5)  # a part of the way
        exploding.plan(10, spacing=spacing, start=0.01, stop=80)  # upwards
        for name in ("balanced", "quadratic", "log_snr", "karras"):
            exploding.plan(10, spacing=name)
        for schedule in SCHEDULES.values():
            if schedule != SCHEDULES["ve"]:
                solver(schedule).plan(10, spacing=spacing)


SHOWN = r"\[0, 1, 2, 3, 4, 5, 6, 7\]$", r"\[0, 1, 2, ..., 6, 7, 8\]$"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, TypeError, "^num_inference_steps is None"),
        ({"schedule": "linear"}, TypeError, "^schedule is a str; make a NoiseSchedule"),
        ({"num_inference_steps": 5, "final": 0}, TypeError, "^final is 0"),
        ({"num_inference_steps": 5, "steps_offset": -1, "spacing": "leading"}, ValueError, "^steps_offset is -1"),
        ({"num_inference_steps": 5, "steps_offset": 1.5, "spacing": "leading"}, ValueError, "^steps_offset is 1.5"),
        ({"timesteps": [5, 3], "steps_offset": 1, "spacing": "leading"}, ValueError, "^steps_offset belongs to"),
        ({"num_inference_steps": 5, "stop": "9"}, TypeError, "^stop is '9'"),
        ({"num_inference_steps": 5, "start": math.nan}, ValueError, "^start is nan"),
        ({"num_inference_steps": 5, "spacing": "x"}, ValueError, "^spacing is 'x'; known are 'balanced', 'leading'"),
        (
            {"num_inference_steps": 5, "spacing": 3},
            TypeError,
            r"^spacing is 3; .* called as spacing\(schedule, steps, end\), or one of balanced, leading, ",
        ),
        ({"num_inference_steps": 5, "spacing": lambda *_: "x"}, TypeError, "^spacing is 'x'"),
        ({"num_inference_steps": 1, "spacing": lambda *_: [1200]}, ValueError, "^a time of spacing"),
        (
            {"num_inference_steps": 1, "spacing": lambda *_: [math.nan]},
            ValueError,
            "^spacing must give a non-empty 1-D",
        ),
        ({"timesteps": "x"}, TypeError, "^timesteps is 'x'"),
        ({"timesteps": [1200]}, ValueError, "^a time of timesteps"),
        ({"timesteps": 500}, ValueError, "^timesteps must give a non-empty 1-D"),
        ({"timesteps": [[900, 450]]}, ValueError, "^timesteps must give a non-empty 1-D"),
        ({"timesteps": [math.inf]}, ValueError, "^timesteps must give a non-empty 1-D"),
        ({"timesteps": [1, 3, 3], "stop": 9}, ValueError, "rise strictly"),
        ({"timesteps": [3, 3], "stop": 3}, ValueError, "rise strictly"),
        ({"timesteps": [5], "stop": 5, "start": 5}, ValueError, "start cuts"),
        ({"timesteps": range(8)}, ValueError, SHOWN[0]),
        ({"timesteps": range(9)}, ValueError, SHOWN[1]),
        ({"num_inference_steps": 1001, "spacing": "trailing"}, ValueError, "use at most 1000, or a spacing not bound"),
        ({"num_inference_steps": 1001, "spacing": "linspace"}, ValueError, "use at most 1000, or a spacing not bound"),
    ],
)
def test_what_is_wrong_with_a_grid_is_named(options, error, message):
    with pytest.raises(error, match=message):
        make_grid(**{"schedule": LINEAR} | options)


def test_where_a_grid_is_cut():
    assert times(make_grid(LINEAR, 10, spacing="leading", stop=850)) == [900, 850]
    assert times(make_grid(LINEAR, 10, spacing="leading", start=0)) == [0, -1]
    assert times(make_grid(LINEAR, timesteps=[9, 5, 1], stop=1)) == [9, 5, 1]
    assert times(make_grid(LINEAR, timesteps=[7, 8, 20], stop=21)) == [7, 8, 20, 21]
    unsigned = np.array([9, 5], np.uint8)
    assert times(make_grid(LINEAR, timesteps=unsigned)) == [9, 5, -1]
    assert times(make_grid(LINEAR, 2, spacing=lambda *_: unsigned)) == [9, 5, -1]
    assert times(make_grid(LINEAR, timesteps=[5], stop=5)) == [5]
    assert times(make_grid(LINEAR, 4, spacing="leading", start=300, stop=300)) == [300]
    assert times(make_grid(LINEAR, 4, spacing="leading", start=300, stop=600)) == [300, 500, 600]
    offset = make_grid(LINEAR, 4, spacing="leading", steps_offset=1, stop=1)
    assert (times(offset), offset.integral) == ([751, 501, 251, 1], True)


def test_a_grid_is_a_value():
    grid = make_grid(LINEAR, 3)
    assert (grid, hash(grid)) == (make_grid(LINEAR, 3), hash(make_grid(LINEAR, 3)))
    with pytest.raises(dataclasses.FrozenInstanceError):
        grid.integral = True


def test_the_ends_of_a_step_are_fractions_of_it():
    for first, second in ([25, 10], [25.5, 10.25]):
        grid = make_grid(LINEAR, timesteps=[first, second])
        here, there = grid.levels[:2]
        for by in ("time", "ratio"):
            assert grid.between(here, there, 0, by=by).t == pytest.approx(first)
            assert grid.between(here, there, 1, by=by) is there
    assert grid.between(here, there, 0.5) == LINEAR.level(17.875)


@pytest.mark.parametrize("name", ["linear", "vp"])
@pytest.mark.parametrize("end", ["clean", "first", 0.0, 0.5])
def test_spacings_without_rounding_are_their_formulas(name, end):
    """Even in some function of the level; the lowest is a step of its own unless the run ends there."""
    schedule = SCHEDULES[name]
    span = high, low = schedule.t_max, schedule.t_min
    options = {"final": end} if isinstance(end, str) else {"stop": low + end * (high - low)}

    def begins(spacing):
        """The levels where steps begin, of which a stop leaves the first ones alone."""
        *levels, _ = make_grid(schedule, 5, spacing=spacing, **options).levels
        assert len(levels) == 5 or (end == 0.5 and 2 <= len(levels) < 5)
        return levels

    def same(found, expected):
        np.testing.assert_allclose(found, expected[: len(found)], rtol=1e-9)

    for spacing, even in (("log_snr", schedule.log_snr), ("karras", lambda t: np.exp(-schedule.log_snr(t) / 14))):
        found = even([level.t for level in begins(spacing)])
        same(found, np.linspace(*even(span), 6 if end in ("first", 0.0) else 5))
    same([level.t for level in begins("quadratic")], low + (high - low) * np.linspace(1, 0, 6) ** 2)
    # σ/α = 0.2·s^1.5/(1 − s)³, with s even between the highest and the lowest level.
    ratios = [schedule.level(t).ratio for t in span]
    places = [optimize.brentq(lambda s, r=ratio: 0.2 * s**1.5 - r * (1 - s) ** 3, 0, 1) for ratio in ratios]
    s = np.linspace(*places, 6)
    same([level.ratio for level in begins("balanced")], 0.2 * s**1.5 / (1 - s) ** 3)
