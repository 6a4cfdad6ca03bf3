"""On a grid that others chose, ε is interpolated where the grid's own steps are even, and weights stay small."""

import math

import numpy as np
import pytest
from conftest import spacings_of
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import NoiseSchedule, PLMSSolver
from pndm_solvers.methods.adams import Weighing, adams_bashforth, exact_weights
from pndm_solvers.methods.ruled import even_knee, last_weights, ruled_weights
from pndm_solvers.rule import RULE

LINEAR = NoiseSchedule.linear()
LEVELS = st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=8, unique=True).map(lambda r: sorted(r, reverse=True))


def evenly(ratios, there, order):
    """The weights of a step's answers on a grid that others chose."""
    step = Weighing(tuple(ratios), ratios[0], there)
    if there == 0:
        return last_weights(step, order, even=True)
    (weights,) = ruled_weights([step], order, even=True)
    return weights


@given(LEVELS)
def test_the_knee_makes_two_steps_equally_long(ratios):
    before, here, there = ratios[:3]
    knee = even_knee(before, here, there)
    if 0 < knee < math.inf:
        u = [ratio / (ratio + knee) for ratio in (before, here, there)]
        assert u[0] - u[1] == pytest.approx(u[1] - u[2], rel=1e-6, abs=1e-9)
    elif knee:
        assert before - here <= here - there  # even in ρ, or finer above
    else:
        assert 1 / here - 1 / before >= (1 / there - 1 / here) * (1 - 1e-9)  # even in 1/ρ, or finer below


@pytest.mark.parametrize(
    ("ratios", "knee"),
    [((3.0, 2.0, 1.0), math.inf), ((4.0, 2.0, 1.0), 2.0), ((1.0, 1 / 2, 1 / 3), 0.0), ((3.0, 1.0, 0.0), 3.0)],
)
def test_the_knee_of_known_grids(ratios, knee):
    """Even in ρ, in log ρ, in 1/ρ; and a last step to 0."""
    assert even_knee(*ratios) == pytest.approx(knee, abs=1e-12)


@given(LEVELS, st.integers(1, 4), st.booleans())
def test_weights_sum_to_one_and_stay_within_their_bounds(ratios, order, last):
    *past, there = ratios
    there = 0.0 if last else there
    weights = evenly(past[::-1], there, order)
    assert sum(weights.values()) == pytest.approx(1)
    far = there > 0 and math.log(past[-1] / there) > RULE.far
    assert sum(map(abs, weights.values())) <= (RULE.far_bound if far else RULE.even_bound) * (1 + 1e-9)
    assert len(weights) <= order
    assert len(weights) <= 2 or not (last or far)


@pytest.mark.parametrize(
    ("here", "before", "size"),
    [(0.31, 0.61, RULE.even_last_bound), (0.29, 0.57, 2.0), (0.31, 0.62, 2.0), (3.0, 5.5, RULE.even_last_bound)],
)
def test_a_longer_step_from_much_noise_to_the_picture_leans_little_on_the_past(here, before, size):
    """A quarter of the line through two answers: Euler's step is as often nearer there."""
    assert sum(map(abs, evenly([here, before], 0.0, 2).values())) == pytest.approx(size, rel=0.05)


def test_even_steps_in_the_ratio_have_nearly_the_weights_of_adams():
    """The largest knee is 300, beside which these ratios are small. The four of order 4 exceed the bound."""
    for order in (1, 2, 3):
        weights = evenly([0.7, 0.8, 0.9], 0.6, order)
        np.testing.assert_allclose(list(weights.values()), list(map(float, adams_bashforth(order))), atol=0.01)
    assert sum(map(abs, evenly([0.7, 0.8, 0.9, 1.0], 0.6, 4).values())) == pytest.approx(RULE.even_bound)


def test_within_the_bounds_they_are_the_exact_integrals_in_that_coordinate():
    ratios, there = [1.0, 2.0, 4.0], 0.5
    expected = exact_weights(ratios, 1.0, there, lambda ratio: ratio / (ratio + 1.0))
    np.testing.assert_allclose(list(evenly(ratios, there, 3).values()), expected, rtol=1e-12)


@pytest.mark.parametrize("name", [name for name in spacings_of(LINEAR) if name != "default"])
def test_only_the_rules_own_grid_is_weighed_by_the_rule(name):
    for count in (5, 9, 20):
        ratios = [level.ratio for level in PLMSSolver(LINEAR).plan(count, spacing=name).levels]
        assert RULE.of_levels(ratios).even_on(ratios)


@pytest.mark.parametrize("count", [4, 5, 6, 7, 12])
@pytest.mark.parametrize("cut", [{}, {"start": 700}, {"start": 300}, {"final": "first"}, {"sample_shape": (2,)}])
def test_the_rules_own_times_give_its_own_plan(cut, count):
    """A grid that is cut is still that of its rule, though a run of fewer steps has another."""
    plan = PLMSSolver(LINEAR).plan(count, **cut)
    ratios = [level.ratio for level in plan.levels]
    assert not RULE.of_levels(ratios).even_on(ratios)
    if len(ratios) > 4:
        assert RULE.of_levels(ratios) == RULE.of(count)
    final = {name: value for name, value in cut.items() if name == "final"}
    assert PLMSSolver(LINEAR).plan(timesteps=plan.times, **final) == plan
