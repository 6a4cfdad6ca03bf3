"""A run makes the plan's model calls, at the plan's times, and shows each of them to its callback."""

import numpy as np
import pytest
from conftest import all_solvers
from runs import LINEAR, START, smooth

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver
from pndm_solvers.problems import random_mixture


def test_calls_and_times_are_those_of_the_plan():
    for solver in all_solvers(LINEAR):
        for steps in (*range(1, 8), 20):
            plan, seen = solver.plan(steps), []

            def model(x, t, plan=plan, seen=seen):
                assert t.shape == (4,)
                assert t.dtype == (np.int64 if plan.integer_times else np.float64)
                assert np.all(t == t[0])
                seen.append(t[0])
                return smooth(x, t)

            result = plan.run(model, START, seed=1)
            assert len(seen) == plan.model_calls
            assert tuple(seen) == plan.times
            assert np.isfinite(result).all(), solver.name


def test_a_step_costs_one_call_and_starting_a_pseudo_method_its_stages():
    for solver, stages in ((DDIMSolver(LINEAR), 0), (DDPMSolver(LINEAR), 0), (PNDMSolver(LINEAR), 9)):
        for steps in (5, 6, 7, 8, 60):
            assert solver.plan(steps).model_calls == steps + stages
    assert PNDMSolver(LINEAR, 2).plan(5).model_calls == 6


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_a_callback_sees_every_call_and_the_picture_that_the_network_sees(prediction):
    mixture, plan, steps = random_mixture(3), PNDMSolver(LINEAR).plan(6), []
    plan.run(mixture.model(LINEAR, prediction), START, prediction=prediction, callback=steps.append)
    assert [step.row for step in steps] == list(range(plan.model_calls))
    assert tuple(step.t for step in steps) == plan.times
    for step in steps:
        level = LINEAR.level(step.t)
        np.testing.assert_allclose(step.x0, mixture.posterior(step.x, *level[1:])[0], atol=1e-8)
        assert step.state.row == step.row + 1


def test_a_trajectory_is_one_point_a_step_however_many_stages_it_took():
    plan = PNDMSolver(LINEAR).plan(6)
    points = plan.run(smooth, START, trajectory=True)
    assert len(points) == 7  # the first is x_T
    assert np.array_equal(points[0], START)
    assert not any(np.shares_memory(point, START) for point in points)
    assert np.array_equal(points[-1], plan.run(smooth, START))


def test_progress_counts_calls(capsys):
    DDIMSolver(LINEAR).sample(smooth, START, 3, progress=True)
    assert "3/3" in capsys.readouterr().err


def test_a_state_belongs_to_its_plan():
    plan, other = PLMSSolver(LINEAR).plan(4), PNDMSolver(LINEAR).plan(4)
    state = plan.start(START)
    assert repr(state) == f"<State of {plan.name}, row 0 of 4, t = 885.45, x (4, 3)>"
    with pytest.raises(ValueError, match=r"<Plan PLMS 4 .*, 4 model calls>, not of <Plan F-PNDM, 13"):
        other.advance(state, START)
    assert PLMSSolver(LINEAR).plan(4).advance(state, START).row == 1  # an equal plan is the same plan


def test_a_run_that_is_done_cannot_go_on():
    plan = DDIMSolver(LINEAR).plan(1)
    done = plan.advance(plan.start(START), START)
    assert repr(done) == f"<State of {plan.name}, done, x (4, 3)>"
    for further in (lambda: done.t, lambda: plan.advance(done, START)):
        with pytest.raises(ValueError, match="is done"):
            further()
