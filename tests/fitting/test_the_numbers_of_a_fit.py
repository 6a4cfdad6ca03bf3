"""The parts of a fit: drafts write multistep methods, and each step of the search does what it says."""

import math

import numpy as np
import pytest
from conftest import SCHEDULES
from problems import RING, noise, recorded, ring

from pndm_solvers import NoiseSchedule, PLMSSolver
from pndm_solvers.fit.draft import Draft
from pndm_solvers.fit.gauss_newton import gauss_newton, typical
from pndm_solvers.fit.least_squares import least_squares
from pndm_solvers.fit.runs import Runner, first_samples
from pndm_solvers.fit.search import grids

LINEAR = NoiseSchedule.linear()


@pytest.fixture(scope="module")
def pilot():
    return recorded(LINEAR, levels=192)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_draft_begins_as_the_classical_method_of_order_2(name):
    schedule = SCHEDULES[name]
    plan = PLMSSolver(schedule, order=2, weights="classical").plan(6, prediction="flow")
    assert Draft.on(schedule, plan.levels).plan() == plan


def test_a_draft_is_its_numbers():
    draft = Draft.on(LINEAR, PLMSSolver(LINEAR).plan(6, sample_shape=(2,)).levels)
    numbers = draft.numbers
    assert len(numbers) == 1 + 2 + 3 + 3 * 4 + 5 == len(draft.touched)
    assert draft.at(numbers) == draft
    for i, row in enumerate(draft.touched):
        moved = draft.at(numbers + 1e-3 * (np.arange(len(numbers)) == i))
        before, after = draft.plan().rows, moved.plan().rows
        assert before[:row] == after[:row]
        assert before[row] != after[row]
    crossed = numbers.copy()
    crossed[-1] = numbers[-2] + 1
    assert draft.at(crossed) is None
    assert len(Draft.on(LINEAR, draft.levels, integral=True).numbers) == len(numbers) - 5


def test_the_way_of_a_pilot_is_the_flow_at_every_level(pilot):
    start = pilot.plan.levels[0]
    for ratio in (8.0, 3.0, 0.7, 0.1, 0.03):
        level = LINEAR.level_at(ratio)
        exact = RING.flow(noise(LINEAR)[:16], start, level)
        assert np.abs(pilot.at(level, np.arange(16)) - exact).max() < 3e-3
    np.testing.assert_allclose(pilot.at(pilot.plan.end, np.arange(64)), pilot.ends, atol=1e-6)


def test_least_squares_leads_nearer_to_the_next_level(pilot):
    fitted, held_out = pilot.parts()
    draft = Draft.on(LINEAR, PLMSSolver(LINEAR).plan(6, sample_shape=(2,)).levels)
    runner = Runner(ring(LINEAR))
    better = least_squares(draft, pilot, fitted, runner)
    assert better.levels == draft.levels
    assert runner.calls == 6 * 32
    for parts in (fitted, held_out):
        assert typical(runner.errors(better.plan(), parts)) < typical(runner.errors(draft.plan(), parts)) - 0.5


def test_least_squares_keeps_weights_that_are_exact_already():
    """ε = 1 everywhere: any weights that sum to 1 are exact, and the ridge keeps the draft's own."""
    pilot_of_ones = recorded_ones()
    draft = Draft.on(LINEAR, PLMSSolver(LINEAR).plan(5, sample_shape=(2,)).levels)
    fitted, _ = pilot_of_ones.parts()
    better = least_squares(draft, pilot_of_ones, fitted, Runner(lambda x, t: 0 * x + 1))
    for mine, theirs in zip(better.weights, draft.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-3)


def recorded_ones():
    from pndm_solvers import Pilot

    return Pilot.record(lambda x, t: 0 * x + 1, LINEAR, noise(LINEAR), levels=32)


def test_every_round_of_gauss_newton_gains(pilot):
    fitted, _ = pilot.parts()
    few = first_samples(fitted, 20)
    assert sum(len(part.rows) for part in few) == 20
    draft = Draft.on(LINEAR, PLMSSolver(LINEAR).plan(5, sample_shape=(2,)).levels)
    runner = Runner(ring(LINEAR))
    errors = [typical(runner.errors(draft.plan(), few))]
    for _, better in zip(range(4), gauss_newton(draft, pilot, few, runner), strict=False):
        errors.append(typical(runner.errors(better.plan(), few)))
    assert len(errors) > 2
    assert errors[-1] < errors[0] - math.log(4)


def test_grids_lie_between_the_default_s_first_and_last_level():
    for name, schedule in SCHEDULES.items():
        default = PLMSSolver(schedule).plan(8, prediction="flow")
        found = list(grids(default, schedule))
        assert len(found) >= 5, name
        for levels in found:
            assert (levels[0], *levels[-2:]) == (default.levels[0], *default.levels[-2:])
            assert len(levels) == 9
            assert np.all(np.diff([level.t for level in levels]) < 0)
