"""Near data that have a density the flow is even in σ/α, and ε odd: the last step of a long run is made for that."""

import numpy as np
import pytest
from conftest import SCHEDULES, where_steps_begin

from pndm_solvers import PLMSSolver
from pndm_solvers.methods.ruled import mirrored
from pndm_solvers.rule import OVER_30
from pndm_solvers.transfer import transfer_weights


def mean(chosen, nodes, epsilon):
    return sum(weight * epsilon(nodes[i]) for i, weight in chosen.items())


@pytest.mark.parametrize("answers", [1, 2, 3, 4, 5])
def test_its_weights_are_exact_for_a_constant_and_odd_powers(answers):
    nodes = np.array([0.01, 0.013, 0.021, 0.034, 0.06])
    chosen = mirrored(nodes, answers, np.inf)
    assert list(chosen) == list(range(answers))
    for power in [0, 1, 3, 5, 7][:answers]:
        exact = nodes[0] ** power / (power + 1)  # the mean of ρ^power over the step to 0
        assert mean(chosen, nodes, lambda rho, power=power: rho**power) == pytest.approx(exact, rel=1e-9)


def test_its_error_on_a_gaussian_falls_with_the_eighth_power_of_the_lowest_level():
    """ε = ρ/√(s² + ρ²) along the path: four answers leave a term of ρ^7, whose integral goes as ρ^8."""

    def error(rho):
        nodes = rho * np.arange(1.0, 5.0)
        exact = np.hypot(1, rho) - 1  # the change of x/α, from s = 1
        return abs(rho * mean(mirrored(nodes, 4, np.inf), nodes, lambda r: r / np.hypot(1, r)) - exact)

    assert np.log2(error(0.02) / error(0.01)) == pytest.approx(8, abs=0.05)


@pytest.mark.parametrize(("bound", "apart"), [(1e4, 1), (50.0, 4), (7.0, 8)])
def test_answers_are_taken_farther_apart_until_their_weights_keep_within_the_bound(bound, apart):
    nodes = 0.01 * 1.05 ** np.arange(40)
    chosen = mirrored(nodes, 4, bound)
    assert list(chosen) == [0, apart, 2 * apart, 3 * apart]
    assert sum(map(abs, chosen.values())) <= bound
    if apart > 1:
        closer = mirrored(nodes[:: apart - 1], 4, np.inf)
        assert sum(map(abs, closer.values())) > bound


@pytest.mark.parametrize("nodes", [[0.1], [0.1, 0.1], [0.1, 0.11], [0.1 * (1 + k * 1e-9) for k in range(60)]])
def test_an_answer_stands_alone_where_no_other_helps(nodes):
    assert mirrored(nodes, 4, 2.0) == {0: 1.0}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [31, 60, 300])
def test_the_default_takes_it_from_31_steps_on(name, steps):
    schedule = SCHEDULES[name]
    plan = PLMSSolver(schedule).plan(timesteps=where_steps_begin(schedule, steps, spacing="default"))
    ratios = [level.ratio for level in plan.levels]
    _, share = transfer_weights(*plan.levels[-2:])
    chosen = {steps - 1 - answer: float(weight / share) for answer, weight in plan.rows[-1].answers}
    nodes = ratios[-2::-1]
    most = min(OVER_30.bound, max(OVER_30.last_bound, OVER_30.last_noise / nodes[0]))
    expected = mirrored(nodes, OVER_30.limits(nodes, 4)[0], most)
    assert chosen == pytest.approx(expected, rel=1e-9)
