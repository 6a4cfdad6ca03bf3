"""`plan_within` chooses the number of model calls that a tolerance takes, by a pilot on a few samples."""

import warnings

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, deterministic_solvers, named
from exact_problems import PAIRS, exact
from runs import LINEAR

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver
from pndm_solvers.analytic import Gaussian
from pndm_solvers.latents import around
from pndm_solvers.problems import exact_problem

RING = exact_problem("ring", LINEAR, 16)


@pytest.mark.parametrize(("problem", "name"), PAIRS)
def test_a_tolerance_is_met_within_a_factor_of_three(problem, name):
    """It is measured on samples that the pilot has not seen. The calls are narrowed down to within an eighth."""
    problem, solver = exact(problem, name), PLMSSolver(SCHEDULES[name])

    def error(plan):
        start = plan.levels[0].t
        samples = plan.run(problem.model, problem.starts(start))
        return np.median(problem.reference(start).errors(samples)[16:])

    for tolerance in (1e-2, 1e-3):
        plan = solver.plan_within(tolerance, problem.model, problem.x[:16])
        fewer = solver.plan(plan.model_calls * 7 // 8, sample_shape=problem.x.shape[1:])
        assert error(plan) < 3 * tolerance
        assert tolerance / 3 < max(error(plan), error(fewer))
        assert "error about" in plan.name


def test_pilots_are_not_warned_of_one_by_one():
    """The grid of a pilot of few calls may have faults that the plan that is found has not."""
    schedule = SCHEDULES["ve"]
    problem = exact_problem("gaussian", schedule, 8)
    for spacing, told in (("quadratic", False), ("trailing", True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plan = PLMSSolver(schedule).plan_within(0.05, problem.model, problem.x, spacing=spacing)
        assert [warning.filename for warning in caught] == [__file__] * told, plan


def test_sample_takes_a_tolerance_in_the_place_of_a_length():
    solver = PLMSSolver(LINEAR)
    plan = solver.plan_within(0.02, RING.model, RING.x[:8])
    assert np.array_equal(solver.sample(RING.model, RING.x, tolerance=0.02), plan.run(RING.model, RING.x))
    assert solver.sample(RING.model, RING.x, tolerance=1.0, max_model_calls=None).shape == RING.x.shape
    with pytest.raises(ValueError, match="tolerance and max_model_calls"):
        solver.sample(RING.model, RING.x, tolerance=0.1, max_model_calls=5)


def test_the_shortest_plan_has_four_calls():
    solver = DDIMSolver(LINEAR)
    assert solver.plan_within(1e9, RING.model, RING.x).model_calls == 4
    assert solver.plan_within(0.1, lambda x, t: np.ones_like(x), RING.x).model_calls == 4


def test_what_is_no_tolerance_is_refused():
    for wrong in (0, -1, float("nan"), "0.1"):
        with pytest.raises((ValueError, TypeError), match="above 0"):
            DDIMSolver(LINEAR).plan_within(wrong, RING.model, RING.x)


def test_a_tolerance_that_cannot_be_met_is_refused():
    solver = DDIMSolver(LINEAR)
    for options, message in (
        ({"max_model_calls": 40}, "not known to come within 1e-06"),
        ({"max_model_calls": 7}, "at least 4 and 8"),
        ({"spacing": lambda *_: [999, 500, 100]}, "no more than 3 model calls"),
    ):
        with pytest.raises(ValueError, match=message):
            solver.plan_within(1e-6, RING.model, RING.x[:2], **options)
    with pytest.raises(ValueError, match="draws noise"):
        DDPMSolver(LINEAR).plan_within(0.1, RING.model, RING.x)


@pytest.mark.parametrize("solver", deterministic_solvers(RING.schedule), ids=named)
def test_every_deterministic_solver_finds_a_plan(solver):
    """Also those whose starter spends several calls on the first step, so that budgets of 4 and 6 make few plans."""
    plan = solver.plan_within(0.05, RING.model, RING.x[:8], spacing="quadratic")
    assert np.median(RING.reference().errors(plan.run(RING.model, RING.x))) < 0.15


def test_a_pilot_that_shows_nothing_is_refused():
    for model, x, message in (
        (lambda x, t: x * np.nan, RING.x, "not finite"),
        (RING.model, RING.x[:0], "x, which is empty"),
        (RING.model, torch.empty(2, 2, device="meta"), "on the meta device"),
    ):
        with pytest.raises(ValueError, match=message):
            DDIMSolver(LINEAR).plan_within(0.1, model, x)
    for unknown in ({"num_inference_steps": 5}, {"spcing": "trailing"}):
        with pytest.raises(TypeError, match=r"plan_within\(\) got .*" + next(iter(unknown))):
            DDIMSolver(LINEAR).plan_within(0.1, RING.model, RING.x, **unknown)


def test_a_pilot_begins_around_the_mean_of_the_data():
    """`plan_within` with the mean is `plan_within` from the states around it; `sample` makes its pilot so too."""
    far = Gaussian([6.0, -4.0], [0.25, 0.25])
    solver, noise = PLMSSolver(LINEAR), np.random.default_rng(0).standard_normal((8, 2))
    model, seen = far.model(LINEAR), []
    plan = solver.plan_within(0.01, model, noise, data_mean=far.mean)
    assert plan.model_calls < 20

    def watched(x, t):
        seen.append((t[0], x))
        return model(x, t)

    means = np.broadcast_to(far.mean, noise.shape)  # one for each sample; the pilot takes those of its own samples
    x0 = solver.sample(watched, noise, tolerance=0.01, data_mean=means)
    first = PLMSSolver(LINEAR).plan(4, sample_shape=(2,)).levels[0]
    assert seen[0][0] == first.t
    np.testing.assert_allclose(seen[0][1], around(far.mean, noise, first))
    np.testing.assert_allclose(x0, plan.run(model, around(far.mean, noise, plan.levels[0])), atol=1e-12)
    with pytest.raises(TypeError, match=r"run\(\) got an unexpected keyword argument 'data_mean'; pass the state"):
        plan.run(model, noise, data_mean=far.mean)
    with pytest.raises(ValueError, match="start is 300, so x_T counts as a state of that level, which has its mean"):
        solver.sample(model, noise, 10, start=300, data_mean=far.mean)
