"""What a run tells of its own error, against the exact flow."""

import warnings

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, named

from pndm_solvers import DDIMSolver, DDPMSolver, ErrorEstimate, PLMSSolver, PNDMSolver, PRKSolver, initial_noise
from pndm_solvers.analytic import Gaussian
from pndm_solvers.problems import PROBLEMS, exact_problem

LINEAR = SCHEDULES["linear"]
# Every problem on one schedule, and two problems on the others. Not power-law on scaled_linear, whose lowest level
# lets a network see twice the deviation of 1/64 at which those data end.
PAIRS = [(problem, "linear") for problem in ("ring", "mixture", "digits-kernel", "power-law")]
PAIRS += [(problem, name) for problem in ("ring", "mixture") for name in ("scaled_linear", "cosine")]
RING = exact_problem("ring", LINEAR, 16)


def ratios(problem, solver, calls):
    """Estimated over true local error, (steps, samples)."""
    distribution, estimate = PROBLEMS[problem.name](), ErrorEstimate()
    points = solver.plan(max_model_calls=calls).run(problem.model, problem.x, callback=estimate, trajectory=True)
    found = []
    for step, before, after in zip(estimate.steps, points[:-1], points[1:], strict=True):
        exact = distribution.flow(before, step.here, step.there)
        found.append(step.error / np.sqrt(((after - exact) ** 2).mean(1)))
    return np.array(found)


@pytest.mark.parametrize(("problem", "name"), PAIRS)
def test_nine_steps_in_ten_are_told_within_a_factor_of_five(problem, name):
    schedule = SCHEDULES[name]
    exact = exact_problem(problem, schedule, 8)
    for solver in (PLMSSolver(schedule), DDIMSolver(schedule)):
        found = np.concatenate([ratios(exact, solver, calls).ravel() for calls in (10, 20)])
        assert np.mean((found > 0.2) & (found < 5)) >= 0.9, solver.name


@pytest.mark.parametrize(
    "solver", [DDIMSolver(LINEAR), PLMSSolver(LINEAR), PRKSolver(LINEAR), PNDMSolver(LINEAR)], ids=named
)
def test_one_error_a_step_and_stages_passed_over(solver):
    estimate = ErrorEstimate()
    plan = solver.plan(8)
    points = plan.run(RING.model, RING.x, callback=estimate, trajectory=True)
    assert len(estimate.steps) == len(points) - 1 == 8
    assert estimate.steps[-1].there == plan.end
    assert all(a.there == b.here for a, b in zip(estimate.steps[:-1], estimate.steps[1:], strict=True))
    assert estimate.total.shape == (16,)


def test_a_run_that_ends_within_runge_kutta_and_very_short_ones():
    for solver, steps in ((PRKSolver(LINEAR), 8), (PLMSSolver(LINEAR, starter="rk4"), 3)):
        estimate = ErrorEstimate()
        solver.plan(steps, final="first").run(RING.model, RING.x, callback=estimate)
        assert len(estimate.steps) == steps
        assert np.isfinite(estimate.total).all()
    for solver in (PLMSSolver(LINEAR), DDIMSolver(LINEAR)):
        for steps in (2, 3, 4):
            estimate = ErrorEstimate()
            solver.plan(steps).run(RING.model, RING.x, callback=estimate)
            assert (estimate.steps[-1].error > 1e-6).all()
        solver.plan(1).run(RING.model, RING.x, callback=estimate)
        assert np.isnan(estimate.total).all()  # one answer alone tells nothing


def test_where_epsilon_is_constant_nothing_is_wrong():
    estimate = ErrorEstimate()
    PLMSSolver(LINEAR).plan(12).run(lambda x, t: np.ones_like(x), RING.x, callback=estimate)
    assert max(step.error.max() for step in estimate.steps) < 1e-12 * np.abs(RING.x).max() / LINEAR.alpha(999)


@pytest.mark.parametrize("calls", [10, 20])
def test_the_total_is_near_the_error_of_the_sample(calls):
    """On a Gaussian by a closed form; higher on a mixture, whose flow draws distances together."""
    for name, most in (("gaussian", 2), ("power-law", 3), ("ring", 6), ("mixture", 6)):
        problem, estimate = exact_problem(name, LINEAR, 32), ErrorEstimate()
        for solver in (PLMSSolver(LINEAR), DDIMSolver(LINEAR)):
            result = solver.plan(calls).run(problem.model, problem.x, callback=estimate)
            assert 0.5 < np.median(estimate.total / problem.errors(result)) < most, (name, solver.name)


@pytest.mark.parametrize("batch", [1, 2, 16])
@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 0.5), (-0.8, 0.3), (2.0, 0.1)])
def test_the_total_knows_the_data_by_their_spread_not_by_their_mean(mean, deviation, batch):
    gaussian = Gaussian([mean] * 8, deviation**2 * np.eye(8))
    x, estimate = initial_noise((batch, 8), seed=0), ErrorEstimate()
    for solver, most in ((PLMSSolver(LINEAR), 3.5), (DDIMSolver(LINEAR), 1.5)):
        for calls in (10, 20):
            plan = solver.plan(calls)
            result = plan.run(gaussian.model(LINEAR), x, callback=estimate)
            errors = np.sqrt(((result - gaussian.flow(x, plan.levels[0], plan.end)) ** 2).mean(1))
            assert 0.5 < np.median(estimate.total / errors) < most


def test_a_batch_of_copies_is_as_one():
    for shape in ((1, 8), (1, 1)):
        x, totals = initial_noise(shape, seed=0), []
        for copies in (1, 3):
            estimate = ErrorEstimate()
            PLMSSolver(LINEAR).plan(10).run(lambda x, t: x, np.repeat(x, copies, 0), callback=estimate)
            totals.append(estimate.total)
        np.testing.assert_allclose(totals[1], totals[0].repeat(3), rtol=1e-9)


def test_from_pure_noise_and_on_torch():
    schedule = SCHEDULES["rectified_flow"]
    problem = exact_problem("gaussian", schedule, 16)
    model = PROBLEMS["gaussian"]().model(schedule, "flow")
    plan = PLMSSolver(schedule).plan(10)
    ours, theirs = ErrorEstimate(), ErrorEstimate()
    plan.run(model, problem.x, prediction="flow", callback=ours)
    plan.run(
        lambda x, t: torch.from_numpy(model(x.numpy(), t.numpy())),
        torch.from_numpy(problem.x),
        prediction="flow",
        callback=theirs,
    )
    assert all(np.isfinite(step.error).all() for step in ours.steps)
    np.testing.assert_allclose(ours.total, theirs.total, rtol=1e-9)


def test_a_second_run_begins_anew_and_an_unfinished_one_has_no_total():
    estimate, plan = ErrorEstimate(), DDIMSolver(LINEAR).plan(5)
    for _ in range(2):
        plan.run(RING.model, RING.x, callback=estimate)
        assert len(estimate.steps) == 5

    def stop(step):
        estimate(step)
        if step.row == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(RING.model, RING.x, callback=stop)
    assert len(estimate.steps) == 2
    assert estimate.total is None
    assert repr(estimate) == "<ErrorEstimate, 2 steps so far>"


def test_of_a_run_that_it_did_not_see_from_the_start_it_has_no_total(tmp_path):
    """Its steps it has, from the second that it saw; one and the same estimate may see both parts of a run."""
    plan, path = PLMSSolver(LINEAR).plan(6), tmp_path / "run"
    whole, first, second = ErrorEstimate(), ErrorEstimate(), ErrorEstimate()
    plan.run(RING.model, RING.x, callback=whole)

    def until(step):
        first(step)
        if step.row == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(RING.model, RING.x, callback=until, checkpoint=path)

    def both(step):
        first(step)
        second(step)

    plan.run(RING.model, RING.x, callback=both, checkpoint=path)
    assert second.total is None
    assert [step.there for step in second.steps] == [step.there for step in whole.steps[3:]]
    np.testing.assert_array_equal(first.total, whole.total)


def test_noise_has_no_right_end():
    with pytest.raises(ValueError, match="draws noise"):
        DDPMSolver(LINEAR).sample(RING.model, RING.x, 5, seed=0, callback=ErrorEstimate())
    with pytest.raises(ValueError, match="draws noise"):
        DDPMSolver(LINEAR).plan_within(0.1, RING.model, RING.x)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
@pytest.mark.parametrize(("problem", "name"), PAIRS)
def test_a_tolerance_is_met_within_a_factor_of_three(problem, name, tolerance):
    """By samples that the pilot has not seen."""
    schedule = SCHEDULES[name]
    exact = exact_problem(problem, schedule, 48)
    plan = PLMSSolver(schedule).plan_within(tolerance, exact.model, exact.x[:16])
    error = np.median(exact.errors(plan.run(exact.model, exact.x))[16:])
    assert tolerance / 3 < error < 3 * tolerance
    assert "error about" in plan.name


def test_pilots_are_not_warned_of_one_by_one():
    """What is wrong with the grid of a pilot of few calls need not be with that of the plan that is found."""
    schedule = SCHEDULES["ve"]
    problem = exact_problem("gaussian", schedule, 8)
    for spacing, told in (("quadratic", False), ("trailing", True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            plan = PLMSSolver(schedule).plan_within(0.05, problem.model, problem.x, spacing=spacing)
        assert [warning.filename for warning in caught] == [__file__] * told, plan


def test_a_tolerance_in_the_place_of_a_length():
    solver = DDIMSolver(LINEAR)
    plan = solver.plan_within(0.02, RING.model, RING.x[:8])
    assert np.array_equal(solver.sample(RING.model, RING.x, tolerance=0.02), plan.run(RING.model, RING.x))
    assert solver.plan_within(1e9, RING.model, RING.x).model_calls == 4
    with pytest.raises(ValueError, match="tolerance and max_model_calls"):
        solver.sample(RING.model, RING.x, tolerance=0.1, max_model_calls=5)
    with pytest.raises(ValueError, match="not known to come within 1e-06"):
        solver.plan_within(1e-6, RING.model, RING.x[:2], max_model_calls=40)
    for wrong in (0, -1, float("nan"), "0.1"):
        with pytest.raises((ValueError, TypeError), match="above 0"):
            solver.plan_within(wrong, RING.model, RING.x)
    with pytest.raises(ValueError, match="at least 4 and 8"):
        solver.plan_within(0.1, RING.model, RING.x, max_model_calls=7)
    with pytest.raises(ValueError, match="not finite"):
        solver.plan_within(0.1, lambda x, t: x * np.nan, RING.x)
    with pytest.raises(TypeError, match=r"num_inference_steps, spcing is no option here.* spacing, start, stop"):
        solver.plan_within(0.1, RING.model, RING.x, num_inference_steps=5, spcing="trailing")
    assert solver.sample(RING.model, RING.x, tolerance=1.0, max_model_calls=None).shape == RING.x.shape
    with pytest.raises(ValueError, match="x is empty"):
        solver.plan_within(0.1, RING.model, RING.x[:0])
    with pytest.raises(ValueError, match="x, which has no numbers"):
        solver.plan_within(0.1, RING.model, torch.empty(2, 2, device="meta"))
    with pytest.raises(ValueError, match="no more than 3 model calls"):
        solver.plan_within(1e-9, RING.model, RING.x, spacing=lambda *_: [999, 500, 100])
    assert solver.plan_within(0.1, lambda x, t: np.ones_like(x), RING.x).model_calls == 4
