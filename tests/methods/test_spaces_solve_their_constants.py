"""A method that averages a prediction solves a constant one exactly, on any grid, whatever the network predicts."""

import math
from functools import partial
from itertools import product
from typing import get_args

import numpy as np
import pytest
from conftest import SCHEDULES, relative_error

from pndm_solvers import (
    DPMMultistepSolver,
    DPMSinglestepSolver,
    ErrorEstimate,
    PLMSSolver,
    PRKSolver,
    UniPCSolver,
    initial_noise,
)
from pndm_solvers.coordinates import COORDINATES
from pndm_solvers.methods.multistep import STARTERS, Average, Interpolation
from pndm_solvers.prediction import PREDICTIONS, conversion
from pndm_solvers.table import SYMBOLS
from pndm_solvers.transfer import SPACES

START, CONSTANT = initial_noise((4, 3), seed=1), initial_noise((4, 3), seed=2)
PURE_NOISE = {name: schedule for name, schedule in SCHEDULES.items() if schedule.alpha(schedule.t_max) == 0}
EXACT_COORDINATES = ("balanced", "log_ratio", "ratio")


def averaging(space):
    """Methods that average the prediction `space`, with every starter and with a corrector."""
    yield from (
        partial(PLMSSolver, order=order, starter=starter, space=space, coordinate=coordinate)
        for order, starter, coordinate in product((1, 3), STARTERS, EXACT_COORDINATES)
    )
    yield partial(PLMSSolver, order=3, space=space, corrector=True)
    yield partial(PLMSSolver, order=4, starter="heun", weights="classical", space=space)
    if space in ("epsilon", "sample"):
        yield from (partial(DPMMultistepSolver, order=order, space=space) for order in (1, 2, 3))
        yield from (partial(DPMSinglestepSolver, order=order, space=space) for order in (2, 3))
        yield from (
            partial(UniPCSolver, order=order, variant=variant, space=space)
            for order, variant in product((1, 2, 3), ("bh1", "bh2"))
        )


def flow_of(space, x, here, there):
    """The end of the flow along CONSTANT, in closed form."""
    if space == "sample":  # the noise stays in its direction: x − α·x_0 scales with σ
        return there.alpha * CONSTANT + there.sigma / here.sigma * (x - here.alpha * CONSTANT)
    if space == "epsilon":
        return there.alpha / here.alpha * (x - here.sigma * CONSTANT) + there.sigma * CONSTANT
    if space == "flow":  # dx/dt of the straight path, in t = σ where α + σ = 1
        return x + (there.sigma - here.sigma) * CONSTANT
    return x + (np.arctan2(*there[:0:-1]) - np.arctan2(*here[:0:-1])) * CONSTANT  # x turns with the angle


# Where the closed form holds: α + σ = 1 for flow, α² + σ² = 1 for v.
PLACES = {
    "epsilon": ("linear", "vp", "ve", "rectified_flow"),
    "sample": ("linear", "cosine", "ve", "rectified_flow", "zero_terminal_snr"),
    "v_prediction": ("linear", "cosine", "vp", "zero_terminal_snr"),
    "flow": ("rectified_flow",),
}


@pytest.mark.parametrize("space", SPACES)
def test_a_constant_prediction_is_solved_exactly(space):
    """From any start to either end, over even and random times."""
    rng = np.random.default_rng(3)
    for name in PLACES[space]:
        schedule = SCHEDULES[name]
        low, high = schedule.t_min, schedule.t_max
        top = high if space != "epsilon" or name not in PURE_NOISE else 0.9 * high
        for make in averaging(space):
            for begin, steps in ((top, 7), (0.6 * high, 4)):
                times = np.sort(np.append(begin, rng.uniform(low + 0.05 * (begin - low), begin, steps)))[::-1]
                plan = make(schedule).plan(timesteps=times, stop=low)
                x = START * plan.levels[0].sigma
                found = plan.run(lambda x, t: CONSTANT, x, prediction=space)
                exact = flow_of(space, x, plan.levels[0], plan.end)
                assert relative_error(found, exact) < 1e-10, (plan, name)


@pytest.mark.parametrize("space", SPACES)
def test_at_the_clean_end_too(space):
    for name in PLACES[space]:
        schedule = SCHEDULES[name]
        start = 0.9 * schedule.t_max
        for make in averaging(space):
            plan = make(schedule).plan(6, spacing="quadratic", start=start)
            x = START * plan.levels[0].sigma
            exact = flow_of(space, x, plan.levels[0], plan.end)
            assert relative_error(plan.run(lambda x, t: CONSTANT, x, prediction=space), exact) < 1e-10, (plan, name)


@pytest.mark.parametrize("space", SPACES)
def test_a_method_depends_on_what_it_averages_and_not_on_what_the_network_predicts(space):
    """ε, x_0, v, score and flow networks of one model, in every space, to 1e-10."""
    for name in ("linear", "ve", "rectified_flow"):
        schedule = SCHEDULES[name]

        def network(x, t, kind, schedule=schedule):
            alpha, sigma = (float(of(t[0])) for of in (schedule.alpha, schedule.sigma))
            p, q = conversion("sample", kind, alpha, sigma)
            return p * x + q * np.tanh(x / np.hypot(alpha, sigma) + 0.3)

        for make in averaging(space):
            plan = make(schedule).plan(9, start=schedule.level_at(20.0).t)
            x = START * np.hypot(*plan.levels[0][1:])
            first, *others = (plan.run(partial(network, kind=kind), x, prediction=kind) for kind in PREDICTIONS)
            for other in others:
                assert relative_error(other, first) < 1e-10, (plan, name)


@pytest.mark.parametrize("space", SPACES)
def test_scaling_a_schedule_changes_nothing(space):
    """A space depends on σ/α alone: x/α and the answers of two schedules with the same σ/α are the same."""
    linear, exploding = SCHEDULES["linear"], SCHEDULES["ve"]
    times = [800.0, 600.0, 400.0, 250.0, 120.0, 50.0]
    levels = [linear.level(t) for t in times]
    ratios = [level.ratio for level in levels]

    def picture(y, ratio):
        return np.tanh(y / np.hypot(1, ratio))

    def on_linear(x, t):
        level = linear.level(t[0])
        return picture(x / level.alpha, level.ratio)

    for make in averaging(space):
        if make.keywords.get("weights") == "classical":
            continue  # its stages stand at fractions of t
        one = make(linear).plan(timesteps=times).run(on_linear, START, prediction="sample")
        other = (
            make(exploding)
            .plan(timesteps=ratios)
            .run(lambda x, t: picture(x, t[0]), START / levels[0].alpha, prediction="sample")
        )
        assert relative_error(other, one) < 1e-9, make


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("coordinate", get_args(Interpolation))
def test_weights_stay_bounded_at_both_ends(space, coordinate):
    """Where the mean of a polynomial is infinite, as of 1/ρ over dρ down to 0, one answer has all the weight."""
    for name in ("linear", "rectified_flow", "zero_terminal_snr"):
        schedule = SCHEDULES[name]
        solver = PLMSSolver(schedule, space=space, coordinate=coordinate)
        for options in ({}, {"final": "first"}, {"start": 0.05 * schedule.t_max, "stop": schedule.t_max}):
            plan = solver.plan(10, spacing="balanced", **options)
            weights = [abs(weight) for row in plan.rows for _, weight in row.answers]
            # A step from σ/α = 157 and one up to α = 0 have such weights by themselves.
            assert max(weights) < 1e5, (name, options, max(weights))
            last = plan.rows[-1]
            if plan.end.sigma == 0:
                assert sum(abs(weight) for _, weight in last.answers) < 50, (name, last)


def test_the_names_of_spaces_and_coordinates_are_those_of_the_registries():
    assert set(get_args(Average)) == set(SPACES) == set(SYMBOLS) <= set(PREDICTIONS)
    assert set(get_args(Interpolation)) == {*COORDINATES, "balanced", "time"}


def test_coordinates_are_precise_near_the_data():
    ratios = np.geomspace(1e-12, 1e12, 49)
    for name, coordinate in COORDINATES.items():
        np.testing.assert_allclose(coordinate.ratio(coordinate.of(ratios[:25])), ratios[:25], rtol=1e-13, err_msg=name)
    share = COORDINATES["noise_share"].of
    np.testing.assert_allclose(share(ratios), ratios / (1 + ratios), rtol=1e-15)
    assert share(math.inf) == 1.0


def test_a_coordinate_without_a_polynomial_is_refused():
    with pytest.raises(ValueError, match="coordinate is 'angle', but classical weights are those of even steps"):
        PLMSSolver(SCHEDULES["linear"], weights="classical", coordinate="angle")
    PLMSSolver(SCHEDULES["linear"], weights="classical", coordinate="angle", corrector=True)


def test_rounded_stages_are_no_points_of_the_solution():
    schedule = SCHEDULES["linear"]
    for order in (2, 3):
        plan = DPMSinglestepSolver(schedule, order).plan(timesteps=[12, 11, 9, 7, 5], final="first")
        assert sum(not row.stage for row in plan.rows) == 5
        estimate = ErrorEstimate()
        plan.run(lambda x, t: np.tanh(x), START, callback=estimate)
        assert len(estimate.steps) == 5


def test_fractions_place_the_stages():
    """Halfway in t, in σ/α and in log σ/α."""
    schedule = SCHEDULES["linear"]
    here, there = schedule.level(700.0), schedule.level(300.0)
    middles = {
        "time": schedule.level(500.0).ratio,
        "ratio": (here.ratio + there.ratio) / 2,
        "log_ratio": (here.ratio * there.ratio) ** 0.5,
    }
    for fractions, ratio in middles.items():
        plan = PRKSolver(schedule, "rk4", fractions).plan(timesteps=[700.0], stop=300.0)
        assert [row.level.ratio for row in plan.rows] == pytest.approx([here.ratio, ratio, ratio, there.ratio])
