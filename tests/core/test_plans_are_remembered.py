"""A plan is a value, so equal arguments give the same plan again; what differs, or may change, is planned anew."""

import copy
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import SCHEDULES, all_solvers

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, Prediction, Restart
from pndm_solvers.remembered import Remembered
from pndm_solvers.solver import PLANS

LINEAR = SCHEDULES["linear"]
TIMES = [900, 500, 100]


@pytest.fixture(autouse=True)
def nothing_remembered():
    PLANS.clear()


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_equal_arguments_give_the_same_plan(name):
    for solver, twin in zip(all_solvers(SCHEDULES[name]), all_solvers(SCHEDULES[name]), strict=True):
        PLANS.clear()
        assert solver.plan(7) is twin.plan(7)
        assert solver.plan(max_model_calls=20) is twin.plan(max_model_calls=20)


@pytest.mark.parametrize(
    "options",
    [
        {"spacing": "trailing", "final": "first"},
        {"prediction": Prediction("sample", clip=1), "sample_shape": (3, 8, 8)},
        {"restarts": [Restart(200, 400, 3)]},
        {"start": np.float64(900.0), "stop": 10},
    ],
)
def test_equal_options_give_the_same_plan(options):
    solver = DDIMSolver(LINEAR)
    assert solver.plan(7, **options) is solver.plan(7, **dict(reversed(copy.deepcopy(options).items())))


def test_what_differs_is_planned_anew():
    solver = DDIMSolver(LINEAR)
    calls = [
        lambda: solver.plan(7),
        lambda: solver.plan(7.0),
        lambda: solver.plan(8),
        lambda: solver.plan(max_model_calls=7),
        lambda: solver.plan(7, spacing="trailing"),
        lambda: DDIMSolver(LINEAR, eta=1).plan(7),
        lambda: PLMSSolver(LINEAR).plan(7),
        lambda: DDIMSolver(SCHEDULES["scaled_linear"]).plan(7),
        lambda: solver.plan(timesteps=TIMES),
        lambda: solver.plan(timesteps=tuple(TIMES)),
        lambda: solver.plan(timesteps=np.array(TIMES)),
        lambda: solver.plan(timesteps=np.array(TIMES, np.float32)),
    ]
    plans = [call() for call in calls]
    assert len({id(plan) for plan in plans}) == len(plans)
    assert all(call() is plan for call, plan in zip(calls, plans, strict=True))
    # Whole times keep stages on whole times, and floats do not.
    assert plans[-1].integer_times == plans[-2].integer_times


@pytest.mark.parametrize("given", [True, "7", 0, -1])
def test_an_argument_that_is_refused_stays_refused_beside_its_equal(given):
    solver = DDIMSolver(LINEAR)
    solver.plan(1), solver.plan(7)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match="num_inference_steps"):
            solver.plan(given)


@pytest.mark.parametrize("times", [list(TIMES), np.array(TIMES)])
def test_times_that_change_later_change_no_plan(times):
    solver = DDIMSolver(LINEAR)
    plan = solver.plan(timesteps=times)
    times[0] = 800
    assert plan.times[0] == 900
    assert solver.plan(timesteps=times).times[0] == 800
    assert solver.plan(timesteps=TIMES).times[0] == 900


def test_a_plan_warns_each_time():
    solver = DDIMSolver(LINEAR)
    for _ in range(3):
        with pytest.warns(UserWarning, match="mostly picture") as caught:
            solver.plan(1, spacing="leading")
        assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver.plan(10)


def test_functions_and_solvers_of_the_callers_own_are_planned_anew():
    """They may change, or warn."""

    @dataclass(frozen=True)
    class Own(NoiseSchedule):
        slope: float = 1.0
        t_min: float = 1e-3
        t_max: float = 0.999

        def _alpha(self, t, xp=np):
            return 1 - t

        def _sigma(self, t, xp=np):
            return self.slope * t

        def _rates(self, t):
            return -1.0, self.slope

    class OwnSolver(DDIMSolver):
        __hash__ = None

    schedule = Own()
    before = DDIMSolver(schedule).plan(3, spacing="trailing")
    object.__setattr__(schedule, "slope", 2.0)
    assert DDIMSolver(schedule).plan(3, spacing="trailing") != before
    for solver, options in (
        (OwnSolver(LINEAR), {}),
        (DDIMSolver(LINEAR), {"spacing": lambda schedule, steps, end: [900, 500, 100]}),
        (PLMSSolver(LINEAR, tau=np.tanh), {}),
    ):
        first, second = solver.plan(3, **options), solver.plan(3, **options)
        assert first == second
        assert first is not second


def test_schedules_of_single_numbers_have_levels():
    """A function that takes no arrays serves wherever no inverse is needed."""

    class OneByOne(NoiseSchedule):
        t_min, t_max = 1e-3, 0.999

        def _alpha(self, t, xp=np):
            return 1 - float(t)

        def _sigma(self, t, xp=np):
            return float(t) if t > 0 else 0.0

        def _rates(self, t):
            return -1.0, 1.0

    times = [0.9, 0.5, 0.1]
    assert OneByOne().levels(times) == [OneByOne().level(t) for t in times]
    assert DDIMSolver(OneByOne()).plan(timesteps=times).times == tuple(times)


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_are_those_of_single_times(name):
    schedule = SCHEDULES[name]
    times = np.linspace(schedule.t_max, schedule.t_min, 37).tolist()
    for some in (times, [*times, schedule.clean.t]):
        assert schedule.levels(some) == [schedule.level(t) for t in some]


@pytest.mark.parametrize("steps", [10, 100])
def test_a_plan_evaluates_its_schedule_a_few_times_whatever_its_length(steps, monkeypatch):
    calls, alpha = [], type(LINEAR)._alpha
    monkeypatch.setattr(type(LINEAR), "_alpha", lambda self, t, xp=np: calls.append(t) or alpha(self, t, xp))
    PLMSSolver(LINEAR).plan(steps)
    assert len(calls) <= 8


def test_solvers_can_be_copied_and_pickled_after_a_plan():
    solver = PLMSSolver(LINEAR)
    plan = solver.plan(5)
    for again in (copy.copy(solver), copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))):
        assert again == solver
        assert again.plan(5) is plan


def test_threads_get_one_plan():
    with ThreadPoolExecutor(8) as pool:
        plans = list(pool.map(lambda _: PLMSSolver(LINEAR).plan(30), range(32)))
    assert all(plan is plans[0] for plan in plans)


def test_the_ones_unused_for_longest_are_forgotten():
    made, kept = [], Remembered(2)
    for key in (1, 2, 1, 3, 1, 2):
        assert kept.get(key, lambda key=key: made.append(key) or -key) == -key
    assert made == [1, 2, 3, 2]
    with pytest.raises(ZeroDivisionError):
        kept.get(4, lambda: 1 / 0)
    assert kept.get(4, lambda: 5) == 5
