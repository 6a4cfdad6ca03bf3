"""A grid falls strictly from its first level to its end, and each named spacing is its formula."""

import dataclasses
import math

import numpy as np
import pytest
from conftest import SCHEDULES, assert_refused, spacings_of
from scipy import optimize, stats

from pndm_solvers import SPACINGS, NoiseSchedule, make_grid
from pndm_solvers.coordinates import COORDINATES
from pndm_solvers.spacings import ALIGN_YOUR_STEPS, INTEGRAL_SPACINGS

LINEAR = SCHEDULES["linear"]


def times(grid):
    return [level.t for level in grid.levels]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_every_spacing_falls_on_every_schedule(spacing):
    for schedule in SCHEDULES.values():
        for final, end in (("clean", schedule.clean), ("first", schedule.level(schedule.t_min))):
            for steps in (2, 3, 10, 100) if spacing in spacings_of(schedule) else ():
                grid = make_grid(schedule, steps, spacing=spacing, final=final)
                assert np.all(np.diff(times(grid)) < 0)
                assert grid.levels[-1] == end
                # A step that would begin at the very end of the run is left out.
                *_, last = SPACINGS[spacing](schedule, steps, end)
                assert len(list(grid.steps)) == steps - (last == end.t), (schedule, final, steps)


@pytest.mark.parametrize("spacing", ["log_snr", "karras"])
def test_spacings_in_log_snr_are_refused_where_it_is_infinite(spacing):
    for name in ("zero_terminal_snr", "trigonometric"):
        with pytest.raises(ValueError, match="log-SNR −∞"):
            make_grid(SCHEDULES[name], 5, spacing=spacing)


@pytest.mark.parametrize("name", ["ays_sd15", "ays_sdxl", "ays_svd"])
def test_a_published_list_is_its_own_ten_steps(name):
    """A schedule that lacks its levels refuses it. The last digit of the list counts as none."""
    network = {"ays_svd": NoiseSchedule.edm(0.002, 700, 1)}.get(name, NoiseSchedule.scaled_linear())
    grid = make_grid(network, 10, spacing=name)
    ratios = [level.ratio for level in grid.levels]
    assert ratios == pytest.approx([*ALIGN_YOUR_STEPS[name][:-1], 0.0], rel=2e-4)
    twenty = [level.ratio for level in make_grid(network, 20, spacing=name).levels]
    assert twenty[::2] == pytest.approx(ratios)
    assert twenty[1] == pytest.approx((ratios[0] * ratios[1]) ** 0.5, rel=2e-4)
    with pytest.raises(ValueError, match="use the list of a network like yours"):
        make_grid(SCHEDULES["rectified_flow"], 10, spacing=name)


def test_integral_spacings_are_those_of_diffusers():
    for steps in (1, 2, 3, 7, 10, 27, 50, 333, 999, 1000):
        leading = (np.arange(steps) * (1000 // steps))[::-1]
        trailing = np.round(np.arange(1000, 0, -1000 / steps))[:steps] - 1
        linspace = np.linspace(0, 999, steps).round()[::-1] if steps > 1 else [999]
        for spacing, expected in (("leading", leading), ("trailing", trailing), ("linspace", linspace)):
            grid = make_grid(LINEAR, steps, spacing=spacing)
            assert times(grid) == [*expected, -1], (spacing, steps)
            assert grid.integral
        # With final="first", leading and linspace visit the lowest level as their last one.
        first = make_grid(LINEAR, steps, spacing="leading", final="first")
        assert times(first) == [*leading]


def test_the_same_spacings_in_continuous_time_are_not_rounded():
    schedule = SCHEDULES["rectified_flow"]
    for spacing, expected in (
        ("leading", [0.75, 0.5, 0.25, 0.001, 0]),
        ("trailing", [1, 0.75, 0.5, 0.25, 0]),
        ("linspace", [1, 0.667, 0.334, 0.001, 0]),
    ):
        assert times(make_grid(schedule, 4, spacing=spacing)) == pytest.approx(expected)
    assert times(make_grid(schedule, 1, spacing="linspace")) == [1, 0]


def test_steps_offset_shifts_leading_spacing():
    assert times(make_grid(LINEAR, 4, spacing="leading", steps_offset=1)) == [751, 501, 251, 1, -1]


def test_a_grid_visits_the_times_of_the_caller():
    assert times(make_grid(LINEAR, timesteps=[900, 450, 30])) == [900, 450, 30, -1]
    assert make_grid(LINEAR, timesteps=[900, 450, 30]).integral
    floats = make_grid(LINEAR, timesteps=[900.5, 450.25, 30.0], stop=10)
    assert times(floats) == [900.5, 450.25, 30, 10]
    assert not floats.integral
    assert times(make_grid(LINEAR, 3, spacing=lambda schedule, steps, end: [800, 20, 10])) == [800, 20, 10, -1]


def test_start_and_stop_cut_a_named_spacing():
    assert times(make_grid(LINEAR, 10, spacing="leading", start=437)) == [437, 400, 300, 200, 100, 0, -1]
    assert times(make_grid(LINEAR, 10, spacing="leading", start=400, stop=100)) == [400, 300, 200, 100]
    for cut in ({"start": 437.5}, {"stop": 10.5}):
        assert not make_grid(LINEAR, 10, spacing="leading", **cut).integral


def test_a_grid_may_rise():
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


def test_a_fraction_of_a_step_may_be_one_of_the_ratio():
    """From σ/α = 4 to 1 the ratio falls evenly. From ∞ to 1 its inverse rises evenly."""
    for first, ratio in ((0.8, 3.25), (1.0, 4)):
        grid = make_grid(SCHEDULES["rectified_flow"], timesteps=[first], stop=0.5)
        assert grid.between(*grid.levels, 0.25, by=COORDINATES["ratio"]).ratio == pytest.approx(ratio)


def test_a_grid_may_be_cut_at_its_own_times():
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
        for by in (None, *COORDINATES.values()):
            assert grid.between(here, there, 0, by=by).t == pytest.approx(first)
            assert grid.between(here, there, 1, by=by) is there
    assert grid.between(here, there, 0.5) == LINEAR.level(17.875)


@pytest.mark.parametrize("name", ["linear", "vp"])
@pytest.mark.parametrize("end", ["clean", "first", 0.0, 0.5])
def test_spacings_without_rounding_are_their_formulas(name, end):
    """Each is even in its own function of the level. A step begins at the lowest level unless the run ends there."""
    schedule = SCHEDULES[name]
    span = high, low = schedule.t_max, schedule.t_min
    options = {"final": end} if isinstance(end, str) else {"stop": low + end * (high - low)}

    def begins(spacing):
        """The levels where steps begin; a stop keeps only the first of them."""
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


def test_the_balanced_spacing_is_refused_where_its_formula_loses_its_digits():
    with pytest.raises(ValueError, match="spacing is 'balanced', which begins at σ/α = 1e40 at most"):
        make_grid(NoiseSchedule.ve(0.002, 1e100), 5, spacing="balanced")
    with pytest.raises(ValueError, match="spacing is 'default', which begins at σ/α = 1e40 at most"):
        make_grid(NoiseSchedule.ve(0.002, 1e100), 5)
    assert times(make_grid(NoiseSchedule.ve(0.002, 1e100), timesteps=[1e100, 1e50, 1.0])) == [1e100, 1e50, 1, 0]
    assert len(list(make_grid(NoiseSchedule.ve(0.002, 1e8), 5).steps)) == 5


REFUSED = {
    "num_inference_steps": [
        ({}, TypeError, "^num_inference_steps is None"),
        ({"num_inference_steps": 0}, ValueError, "at least 1"),
        ({"num_inference_steps": -3}, ValueError, "at least 1"),
        ({"num_inference_steps": 2.5}, ValueError, "whole number"),
        ({"num_inference_steps": True}, ValueError, "whole number"),
        ({"num_inference_steps": math.inf}, ValueError, "whole number"),
        *(
            ({"num_inference_steps": 1001, "spacing": spacing}, ValueError, "1000 integer levels; use at most 1000, or")
            for spacing in ("leading", "trailing", "linspace")
        ),
    ],
    "schedule, final and steps_offset": [
        ({"schedule": "linear"}, TypeError, "^schedule is a str; make a NoiseSchedule"),
        ({"num_inference_steps": 5, "final": "end"}, ValueError, "^final is 'end'"),
        ({"num_inference_steps": 5, "final": 0}, TypeError, "^final is 0"),
        ({"num_inference_steps": 5, "steps_offset": -1, "spacing": "leading"}, ValueError, "^steps_offset is -1"),
        ({"num_inference_steps": 5, "steps_offset": 1.5, "spacing": "leading"}, ValueError, "^steps_offset is 1.5"),
        ({"num_inference_steps": 5, "steps_offset": 1, "spacing": "trailing"}, ValueError, "^steps_offset belongs to"),
        ({"timesteps": [5, 3], "steps_offset": 1, "spacing": "leading"}, ValueError, "^steps_offset belongs to"),
    ],
    "start and stop": [
        ({"num_inference_steps": 10, "start": 1200}, ValueError, "outside the trained range"),
        ({"num_inference_steps": 5, "start": math.nan}, ValueError, "^start is nan"),
        ({"num_inference_steps": 10, "start": -1, "stop": 999}, ValueError, "the clean level"),
        ({"num_inference_steps": 5, "stop": "9"}, TypeError, "^stop is '9'"),
        ({"num_inference_steps": 10, "stop": 999}, ValueError, "pass start= too"),
        ({"timesteps": [500, 100], "start": 200}, ValueError, "start cuts"),
        ({"timesteps": [5], "stop": 5, "start": 5}, ValueError, "start cuts"),
    ],
    "spacing": [
        (
            {"num_inference_steps": 5, "spacing": "x"},
            ValueError,
            "^spacing is 'x'; known are 'default', 'balanced', 'leading'",
        ),
        (
            {"num_inference_steps": 5, "spacing": 3},
            TypeError,
            r"^spacing is 3; .* called as spacing\(schedule, steps, end\), or one of default, balanced, leading, ",
        ),
        ({"num_inference_steps": 3, "spacing": lambda *_: [10, 500, 999]}, ValueError, "fall strictly"),
        ({"num_inference_steps": 3, "spacing": lambda *_: [999, 500, 500]}, ValueError, "fall strictly"),
        ({"num_inference_steps": 5, "spacing": lambda *_: "x"}, TypeError, "^spacing is 'x'"),
        ({"num_inference_steps": 1, "spacing": lambda *_: [1200]}, ValueError, "^a time of spacing"),
        ({"num_inference_steps": 1, "spacing": lambda *_: [math.nan]}, ValueError, "^spacing must give a non-empty"),
    ],
    "timesteps": [
        ({"timesteps": "x"}, TypeError, "^timesteps is 'x'"),
        ({"timesteps": []}, ValueError, "^timesteps must give a non-empty 1-D"),
        ({"timesteps": 500}, ValueError, "^timesteps must give a non-empty 1-D"),
        ({"timesteps": [[900, 450]]}, ValueError, "^timesteps must give a non-empty 1-D"),
        ({"timesteps": [900, math.nan]}, ValueError, "finite"),
        ({"timesteps": [math.inf]}, ValueError, "finite"),
        ({"timesteps": [1200]}, ValueError, "^a time of timesteps"),
        ({"timesteps": [1000, 500]}, ValueError, "outside the trained range"),
        ({"timesteps": [500, 100, -1]}, ValueError, "the clean level"),
        ({"timesteps": [3, 3, 1]}, ValueError, "fall strictly"),
        ({"timesteps": [500, 100], "stop": 200}, ValueError, "fall strictly"),
        ({"timesteps": [0, 500, 100], "stop": 999}, ValueError, "rise strictly"),
        ({"timesteps": [1, 3, 3], "stop": 9}, ValueError, "rise strictly"),
        ({"timesteps": [3, 3], "stop": 3}, ValueError, "rise strictly"),
        # A long list of times is abridged.
        ({"timesteps": range(8)}, ValueError, r"\[0, 1, 2, 3, 4, 5, 6, 7\]$"),
        ({"timesteps": range(9)}, ValueError, r"\[0, 1, 2, ..., 6, 7, 8\]$"),
        *(
            ({"timesteps": [900, 500], "spacing": spacing}, ValueError, "spacing makes times, and timesteps are times")
            for spacing in ("trailing", "cubic", None, np.ones(2), lambda *_: [5, 3])
        ),
    ],
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_with_a_grid_is_named(what):
    assert_refused(
        (lambda options=options: make_grid(**{"schedule": LINEAR} | options), error, message)
        for options, error, message in REFUSED[what]
    )


def test_more_steps_than_a_table_has_levels_name_the_spacings_that_have_more():
    others = ", ".join(repr(name) for name in SPACINGS if name not in INTEGRAL_SPACINGS)
    for spacing in INTEGRAL_SPACINGS:
        with pytest.raises(ValueError, match=f"use at most 1000, or a spacing not bound to integers: {others}$"):
            make_grid(SCHEDULES["linear"], 1001, spacing=spacing)


def test_an_offset_belongs_to_the_name_of_one_spacing():
    """Not to a function or an array in its place, even one that compares with the name entry by entry."""
    for spacing in ("trailing", SPACINGS["leading"], np.array(["leading", "leading"])):
        with pytest.raises(ValueError, match="steps_offset belongs to spacing='leading' alone"):
            make_grid(SCHEDULES["linear"], 5, spacing=spacing, steps_offset=1)


@pytest.mark.parametrize("name", ["zero_terminal_snr", "rectified_flow"])
def test_the_balanced_grid_begins_at_pure_noise_too(name):
    levels = make_grid(SCHEDULES[name], 6, spacing="balanced").levels
    assert (levels[0].alpha, levels[0].t) == (0, SCHEDULES[name].t_max)
    assert all(level.alpha > 0 for level in levels[1:])


def test_spacings_are_comfyui_s_of_that_name():
    """Their formulas, on the levels of a table from highest to lowest; σ of one end to the other."""
    steps = 7
    sigmas = LINEAR.k_sigma(np.arange(1000))
    simple = [sigmas[-(1 + int(i * 1000 / steps))] for i in range(steps)]
    normal = LINEAR.k_sigma(np.linspace(999, 0, steps))
    sgm = LINEAR.k_sigma(np.linspace(999, 0, steps + 1)[:-1])
    quantiles = stats.beta.ppf(1 - np.linspace(0, 1, steps, endpoint=False), 0.6, 0.6)
    kl = np.tan(np.linspace(np.arctan(sigmas[-1]), np.arctan(sigmas[0]), steps))
    for name, expected in (
        ("simple", simple),
        ("normal", normal),
        ("sgm_uniform", sgm),
        ("beta", LINEAR.k_sigma(999 * quantiles)),
        ("kl_optimal", kl),
    ):
        ratios = [level.ratio for level in make_grid(LINEAR, steps, spacing=name).levels[:-1]]
        np.testing.assert_allclose(ratios, expected, rtol=1e-8, err_msg=name)
    # Mochi's: half of eight steps to 1 − 0.025, then a parabola to 0.
    flow = make_grid(NoiseSchedule.rectified_flow(), 8, spacing="linear_quadratic")
    levels = np.array([level.sigma for level in flow.levels])
    np.testing.assert_allclose(levels[:5], 1 - 0.025 * np.arange(5) / 4)
    np.testing.assert_allclose(np.diff(levels[4:], 2), np.diff(levels[4:], 2)[0])
    np.testing.assert_allclose(levels[-1], 0, atol=1e-12)
