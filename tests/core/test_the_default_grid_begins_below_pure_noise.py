"""The default grid begins where an ε-network is accurate and the data drown in noise, and nothing else does."""

import math
from dataclasses import replace

import numpy as np
import pytest
from conftest import spacings_of

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, initial_noise
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.grid import default_start, make_grid
from pndm_solvers.problems import exact_problem
from pndm_solvers.rule import OVER_30, RULE
from pndm_solvers.schedules import SCHEDULES
from pndm_solvers.spacings import ALIGN_YOUR_STEPS

COSINE, LINEAR = NoiseSchedule.cosine(), NoiseSchedule.linear()
HIGH = RULE.everywhere(start_most=math.inf)


@pytest.mark.parametrize("prediction", ["epsilon", "score"])
@pytest.mark.parametrize(("shape", "ratio"), [((2,), 10), ((36,), 10), ((1, 32, 32), 160 / 3), (None, 160 / 3)])
def test_networks_whose_error_grows_with_the_noise_begin_where_data_drown(prediction, shape, ratio):
    assert default_start(COSINE, prediction, 1.0, shape).ratio == pytest.approx(ratio)
    assert default_start(COSINE, prediction, 2.5, shape).ratio == pytest.approx(2.5 * ratio)
    plan = PLMSSolver(COSINE).plan(8, prediction=prediction, sample_shape=shape)
    assert plan.levels[0].ratio == pytest.approx(ratio)
    assert plan.model_calls == 8


@pytest.mark.parametrize(("steps", "ratio"), [(1, 85), (2, 85), (3, 85), (6, 85), (7, 10 * math.sqrt(12288) / 6)])
def test_short_runs_of_large_samples_begin_lower(steps, ratio):
    """There the errors of the first answers outweigh what a lower start leaves out. Few numbers begin lower anyway."""
    for data_range in (1.0, 3.0):
        facts = {"sample_shape": (3, 64, 64), "data_range": data_range}
        for solver in (PLMSSolver(COSINE), DDIMSolver(COSINE)):
            assert solver.plan(steps, **facts).levels[0].ratio == pytest.approx(data_range * ratio)
        assert PLMSSolver(COSINE).plan(steps, prediction="sample", **facts).levels[0].t == COSINE.t_max
        few = replace(RULE.of(steps), start_most=math.inf)
        one = make_grid(COSINE, steps, sample_shape=(1, 28, 28), data_range=data_range, rule=few)
        assert one == make_grid(COSINE, steps, sample_shape=(1, 28, 28), data_range=data_range)


@pytest.mark.parametrize("prediction", ["sample", "v_prediction", "flow"])
def test_networks_that_are_accurate_at_pure_noise_begin_there(prediction):
    assert DDIMSolver(COSINE).plan(8, prediction=prediction).levels[0].t == COSINE.t_max


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_start_is_never_above_the_schedule_and_keeps_the_size_of_noise(name):
    """A caller's x_T is the noise of the highest level. It must be that of the level where the run begins too."""
    schedule = SCHEDULES[name]()
    top = schedule.level(schedule.t_max)
    first = default_start(schedule, "epsilon", 1.0, (4,))
    assert first.ratio <= top.ratio
    assert math.hypot(first.alpha, first.sigma) == pytest.approx(math.hypot(top.alpha, top.sigma), rel=1e-6)
    if top.ratio < 10:
        assert first == top


@pytest.mark.parametrize(
    "name", [name for name in spacings_of(LINEAR) if name not in ("default", "leading", *ALIGN_YOUR_STEPS)]
)
def test_named_spacings_and_a_start_keep_their_levels(name):
    """Whatever the network predicts."""
    assert make_grid(LINEAR, 9, spacing=name).levels[0].t == LINEAR.t_max
    assert PLMSSolver(LINEAR).plan(9, spacing=name) == PLMSSolver(LINEAR).plan(9, spacing=name, prediction="sample")


@pytest.mark.parametrize("start", [None, "top"])
def test_short_runs_keep_their_grid_where_they_begin_at_the_highest_level(start):
    """It has no lower start to follow: where noise has another size below, and where a caller asks for the top."""
    facts = {"sample_shape": (3, 64, 64), "start": start}
    for schedule in (LINEAR,) if start else (SCHEDULES["edm"](), NoiseSchedule.scaled_linear()):
        plan, high = (PLMSSolver(schedule, rule=rule).plan(4, **facts) for rule in (RULE, HIGH))
        assert plan.levels == high.levels


def test_a_whole_number_of_steps_may_be_a_float():
    for spacing in spacings_of(LINEAR):
        assert make_grid(LINEAR, 10.0, spacing=spacing) == make_grid(LINEAR, 10, spacing=spacing)


def test_top_begins_at_the_highest_level():
    for spacing in spacings_of(LINEAR):
        assert make_grid(LINEAR, 9, spacing=spacing, start="top").levels[0].t == LINEAR.t_max
    with pytest.raises(ValueError, match=r"^start is 'bottom'; known are 'top'"):
        make_grid(LINEAR, 9, start="bottom")


@pytest.mark.parametrize("count", [4, 6, 7, 8, 12, 30])
def test_the_default_grid_is_even_in_its_own_position_but_for_the_first_step(count):
    """In runs of few steps the even part begins below the first level, so that the first step is longer."""
    rule = RULE.of(count)
    ratios = [level.ratio for level in make_grid(LINEAR, count, sample_shape=(2,)).levels[:-1]]
    places = [rule.position(ratio) for ratio in ratios]
    steps = -np.diff(places)
    np.testing.assert_allclose(steps[1:], steps[1], rtol=1e-6)
    begin = rule.position(min(1.0, rule.grid_top * count) * ratios[0])
    assert (begin - places[1]) / steps[1] == pytest.approx(rule.grid_first)


@pytest.mark.parametrize("count", [4, 7, 12, 30])
@pytest.mark.parametrize(("shape", "drowned"), [((2,), 10), ((1, 32, 32), 160 / 3)])
def test_the_first_step_from_pure_noise_leads_to_where_the_data_show(count, shape, drowned):
    """The even part begins a step's first share above the second level, at the rule's ρ for so many steps."""
    rule, flow = RULE.of(count), NoiseSchedule.rectified_flow()
    levels = make_grid(flow, count, sample_shape=shape, prediction="flow").levels
    places = [rule.position(level.ratio) for level in levels[1:3]]
    begin = places[0] + rule.grid_first * (places[0] - places[1])
    assert begin == pytest.approx(rule.position(rule.grid_top * count * drowned), rel=1e-6)


def test_a_first_step_from_pure_noise_is_corrected_by_the_second_answer():
    flow = NoiseSchedule.rectified_flow()
    problem = exact_problem("gaussian", flow, starts=16)
    errors = []
    for rule in (OVER_30, replace(OVER_30, corrected=0.0)):
        plan = PLMSSolver(flow, rule=rule).plan(40, sample_shape=(4,), prediction="flow")
        errors.append(np.median(problem.reference().errors(problem.run(plan, problem.x))))
    assert errors[0] < errors[1]


def test_a_sample_says_what_it_knows():
    """Its own prediction, and the shape of its noise."""
    model = GaussianMixture.ring(modes=5).model(COSINE)
    x = initial_noise((7, 2), seed=0)
    sampled = PLMSSolver(COSINE).sample(model, x, 6)
    plan = PLMSSolver(COSINE).plan(6, sample_shape=(2,))
    np.testing.assert_array_equal(sampled, plan.run(model, x))
    assert plan != PLMSSolver(COSINE).plan(6)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_steps_and_every_end(steps):
    for final in ("clean", "first"):
        plan = PLMSSolver(COSINE).plan(steps, final=final, sample_shape=(2,))
        assert plan.model_calls == steps
        assert np.all(np.diff([level.ratio for level in plan.levels]) < 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data_range": 0}, ValueError, "^data_range is 0; it must be a number above 0"),
        ({"data_range": "1"}, TypeError, "^data_range is '1'; it must be a number above 0"),
        ({"sample_shape": (-1,)}, ValueError, "^sample_shape is -1; it must be a whole number"),
        ({"prediction": "noise"}, ValueError, "^prediction is 'noise'; known are"),
    ],
)
def test_what_the_data_are_is_checked(options, error, message):
    with pytest.raises(error, match=message):
        PLMSSolver(LINEAR).plan(5, **options)
