"""`ErrorEstimate` gives the error of each step and of the sample, measured against the exact flow."""

import numpy as np
import pytest
import torch
from conftest import SCHEDULES
from exact_problems import PAIRS, exact
from runs import LINEAR

from pndm_solvers import DDIMSolver, DDPMSolver, ErrorEstimate, PLMSSolver, PNDMSolver, PRKSolver, initial_noise
from pndm_solvers.analytic import Gaussian
from pndm_solvers.problems import PROBLEMS, exact_problem

RING = exact_problem("ring", LINEAR, 16)


def ratios(problem, solver, calls):
    """Estimated over true local error of 8 samples, (steps, samples)."""
    distribution, estimate = PROBLEMS[problem.name](), ErrorEstimate()
    points = solver.plan(max_model_calls=calls).run(problem.model, problem.x[:8], callback=estimate, trajectory=True)
    found = []
    for step, before, after in zip(estimate.steps, points[:-1], points[1:], strict=True):
        there = distribution.flow(before, step.here, step.there)
        found.append(step.error / np.sqrt(((after - there) ** 2).mean(1)))
    return np.array(found)


@pytest.mark.parametrize(("problem", "name"), PAIRS)
def test_nine_steps_in_ten_are_estimated_within_a_factor_of_five(problem, name):
    for solver in (PLMSSolver(SCHEDULES[name]), DDIMSolver(SCHEDULES[name])):
        found = np.concatenate([ratios(exact(problem, name), solver, calls).ravel() for calls in (10, 20)])
        assert np.mean((found > 0.2) & (found < 5)) >= 0.9, solver.name


def test_an_estimate_has_one_error_a_step_and_passes_over_stages():
    for solver in (DDIMSolver(LINEAR), PLMSSolver(LINEAR), PRKSolver(LINEAR), PNDMSolver(LINEAR)):
        plan, estimate = solver.plan(8), ErrorEstimate()
        points = plan.run(RING.model, RING.x, callback=estimate, trajectory=True)
        assert len(estimate.steps) == len(points) - 1 == 8
        assert estimate.steps[-1].there == plan.end
        assert all(a.there == b.here for a, b in zip(estimate.steps[:-1], estimate.steps[1:], strict=True))
        assert estimate.total.shape == (16,)


def test_a_run_that_ends_within_runge_kutta_has_every_step():
    for solver, steps in ((PRKSolver(LINEAR), 8), (PLMSSolver(LINEAR, starter="rk4"), 3)):
        estimate = ErrorEstimate()
        solver.plan(steps, final="first").run(RING.model, RING.x, callback=estimate)
        assert len(estimate.steps) == steps
        assert np.isfinite(estimate.total).all()


def test_two_steps_are_enough_for_an_estimate_and_one_is_not():
    for solver in (PLMSSolver(LINEAR), DDIMSolver(LINEAR)):
        for steps in (2, 3, 4):
            estimate = ErrorEstimate()
            solver.plan(steps).run(RING.model, RING.x, callback=estimate)
            assert (estimate.steps[-1].error > 1e-6).all()
        solver.plan(1).run(RING.model, RING.x, callback=estimate)
        assert np.isnan(estimate.total).all()


def test_a_constant_epsilon_is_solved_without_error():
    estimate = ErrorEstimate()
    PLMSSolver(LINEAR).plan(12).run(lambda x, t: np.ones_like(x), RING.x, callback=estimate)
    assert max(step.error.max() for step in estimate.steps) < 1e-12 * np.abs(RING.x).max() / LINEAR.alpha(999)


@pytest.mark.parametrize(("name", "most"), [("gaussian", 2), ("power-law", 2), ("ring", 4), ("mixture", 5)])
def test_the_total_is_near_the_error_of_the_sample(name, most):
    """On a Gaussian it scales in closed form. On a mixture, whose flow draws distances together, it is higher.

    With 10 calls errors of the default's steps cancel on a Gaussian by more than their estimates do.
    """
    problem, estimate = exact_problem(name, LINEAR, 32), ErrorEstimate()
    for solver in (PLMSSolver(LINEAR), DDIMSolver(LINEAR)):
        for calls in (10, 20):
            plan = solver.plan(calls)
            result = plan.run(problem.model, problem.starts(plan.levels[0].t), callback=estimate)
            errors = problem.reference(plan.levels[0].t).errors(result)
            cancelled = (name, solver.name, calls) == ("gaussian", PLMSSolver(LINEAR).name, 10)
            assert 0.5 < np.median(estimate.total / errors) < (5 if cancelled else most), (solver.name, calls)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (2.0, 0.5), (-0.8, 0.3), (2.0, 0.1)])
def test_the_total_follows_the_spread_of_the_data_and_not_their_mean(mean, deviation):
    gaussian, estimate = Gaussian([mean] * 8, deviation**2 * np.eye(8)), ErrorEstimate()
    for solver, most in ((PLMSSolver(LINEAR), 3.5), (DDIMSolver(LINEAR), 1.5)):
        for calls in (10, 20):
            plan = solver.plan(calls, spacing="balanced")
            for batch in (1, 2, 16):
                x = initial_noise((batch, 8), seed=0)
                result = plan.run(gaussian.model(LINEAR), x, callback=estimate)
                errors = np.sqrt(((result - gaussian.flow(x, plan.levels[0], plan.end)) ** 2).mean(1))
                assert 0.5 < np.median(estimate.total / errors) < most, (solver.name, calls, batch)


def test_a_batch_of_copies_has_the_error_of_one():
    for shape in ((1, 8), (1, 1)):
        x, totals = initial_noise(shape, seed=0), []
        for copies in (1, 3):
            estimate = ErrorEstimate()
            PLMSSolver(LINEAR).plan(10).run(lambda x, t: x, np.repeat(x, copies, 0), callback=estimate)
            totals.append(estimate.total)
        np.testing.assert_allclose(totals[1], totals[0].repeat(3), rtol=1e-9)


def test_a_run_from_pure_noise_has_an_estimate_and_on_torch_the_same():
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
        assert repr(estimate).startswith("<ErrorEstimate, 5 steps, error of the sample about ")

    def stop(step):
        estimate(step)
        if step.row == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan.run(RING.model, RING.x, callback=stop)
    assert len(estimate.steps) == 2
    assert estimate.total is None
    assert repr(estimate) == "<ErrorEstimate, 2 steps so far>"


def test_an_estimate_that_did_not_see_a_runs_beginning_has_no_total(tmp_path):
    """It has the steps from the second that it saw. One estimate may see both parts of a run."""
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


def test_steps_with_noise_have_no_error():
    with pytest.raises(ValueError, match="draws noise"):
        DDPMSolver(LINEAR).sample(RING.model, RING.x, 5, seed=0, callback=ErrorEstimate())
