"""A loop of the caller's own, `Plan.run` and `Solver.sample` give the same bits."""

import numpy as np
from conftest import all_solvers
from runs import LINEAR, START, smooth, states_of


def test_push_is_pull_to_the_last_bit():
    for solver in all_solvers(LINEAR):
        plan = solver.plan(9, sample_shape=(3,))
        pushed = states_of(plan, START, seed=7)[-1].x
        assert np.array_equal(pushed, plan.run(smooth, START, seed=7)), solver.name
        assert np.array_equal(pushed, solver.sample(smooth, START, 9, seed=7)), solver.name
