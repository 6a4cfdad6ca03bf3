"""A plan is an immutable table of numbers, whoever wrote them: it checks, prints, saves and restores itself."""

import dataclasses
import json
import math
from itertools import pairwise

import numpy as np
import pytest
from conftest import BOGACKI_SHAMPINE, SCHEDULES, all_solvers, assert_refused

from pndm_solvers import DDIMSolver, DDPMSolver, Level, Plan, PLMSSolver, PNDMSolver, PRKSolver, Row, Solver
from pndm_solvers.methods.multistep import STARTERS

LINEAR = SCHEDULES["linear"]


# ------------------------------------------------------------------ as JSON


@pytest.mark.parametrize("name", ["linear", "rectified_flow"])
def test_json_restores_every_bit(name):
    for solver in all_solvers(SCHEDULES[name]):
        plan = solver.plan(7)
        text = plan.to_json()
        assert Plan.from_json(text) == plan
        assert Plan.from_json(text).name == plan.name
        assert Plan.from_json(text).to_json() == text
        json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))


def test_a_text_that_is_no_plan_is_refused():
    assert_refused(
        (lambda text=text: Plan.from_json(text), ValueError, r"not the JSON of a plan|format is 'other'")
        for text in ("", "{}", "[]", "3", '{"format": "pndm_solvers.plan/2"}', '{"format": "other"}')
    )


def test_an_altered_plan_is_refused():
    document = json.loads(DDIMSolver(LINEAR).plan(2).to_json())
    first = document["rows"][0]
    altered = (
        (document | {"integer_times": "false"}, "^not the JSON of a plan: "),
        (document | {"end": {"t": 0, "alpha": math.nan, "sigma": 0}}, "^not the JSON of a plan: "),
        (document | {"end": {"t": 0}}, "^not the JSON of a plan: "),
        (document | {"rows": [{}]}, "^not the JSON of a plan: "),
        (document | {"rows": [first | {"stage": 0}]}, "row 0: stage is 0; it must be True or False"),
        (document | {"rows": [first | {"answers": [[0.7, 1.0]]}]}, "row 0: an index in answers is 0.7"),
        # The row that is wrong is named.
        (
            document | {"rows": [first, first | {"states": [[1, 1.0], [0, 1.0]]}]},
            r"row 1: states must .*, not \[1, 0\]",
        ),
        (document | {"rows": [first, first | {"answers": [[2, 1.0]]}]}, "row 1: answers must name rows 0 to 1, not 2"),
        (document | {"rows": [first, first | {"alpha": -0.1}]}, "row 1: alpha, sigma and noise must not be negative"),
        (document | {"rows": [first, first | {"t": None}]}, "row 1: t is None; it must be a finite number"),
    )
    assert_refused(
        (lambda part=part: Plan.from_json(json.dumps(part)), ValueError, message) for part, message in altered
    )


# ------------------------------------------------------------------ what solvers write


def test_a_plan_prints_as_a_table():
    text = str(PNDMSolver(LINEAR).plan(5))
    lines = text.splitlines()
    assert lines[0].startswith("F-PNDM: 14 model calls, at most ")
    assert [DDIMSolver(LINEAR).plan(steps).cost() for steps in (1, 2)] == ["1 model call", "2 model calls"]
    assert len(lines) == 2 + 14
    assert "x13 + " in lines[-1]
    assert text.count("(stage)") == 9
    assert "z0" in str(DDPMSolver(LINEAR).plan(2))
    assert "x̂0" in str(DDIMSolver(SCHEDULES["trigonometric"]).plan(2, start="top"))
    assert "u0" in str(DDIMSolver(SCHEDULES["rectified_flow"]).plan(2))


def test_pseudo_euler_has_three_names_and_one_plan():
    names = [DDIMSolver(LINEAR), PRKSolver(LINEAR, "euler")]
    names += [PLMSSolver(LINEAR, 1, starter, weights) for starter in STARTERS for weights in ("exact", "classical")]
    assert {solver.convergence_order for solver in names} == {1}
    for options in ({"num_inference_steps": 10}, {"timesteps": [900.5, 80.0]}):
        plans = [solver.plan(**options) for solver in names]
        assert all(plan == plans[0] for plan in plans)
        assert len({hash(plan) for plan in plans}) == 1


def test_f_pndm_is_plms_started_by_runge_kutta():
    for pndm, plms in (
        (PNDMSolver(LINEAR, 4), PLMSSolver(LINEAR, 4, "rk4", "classical")),
        (PNDMSolver(LINEAR, 2), PLMSSolver(LINEAR, 2, "heun", "classical")),
    ):
        assert pndm.plan(9) == plms.plan(9)
        assert pndm.convergence_order == plms.convergence_order


@pytest.mark.filterwarnings("ignore:none of this plan's:UserWarning")  # even times are coarse where time is σ
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_call_has_an_effect(name):
    for solver in all_solvers(SCHEDULES[name]):
        for final in ("clean", "first"):
            plan = solver.plan(6, spacing="linspace", final=final)
            used = {j for row in plan.rows for j, _ in row.answers}
            assert used == set(range(plan.model_calls)), solver.name


def test_first_same_as_last_is_found_in_the_table():
    """Bogacki and Shampine's fourth stage is the next step's first, so a step takes 3 calls instead of 4."""
    plan = PRKSolver(LINEAR, BOGACKI_SHAMPINE).plan(7, spacing="linspace", final="first")
    assert plan.model_calls == 3 * 6

    def model(x, t):
        return np.tanh(x) + t[:, None] / 1000

    x = start = np.random.default_rng(0).standard_normal((3, 2))
    for here, there in pairwise([*plan.times[::3], 0]):
        x = PRKSolver(LINEAR, BOGACKI_SHAMPINE).plan(timesteps=[int(here)], stop=int(there)).run(model, x)
    np.testing.assert_allclose(plan.run(model, start), x, rtol=1e-12)


class TwoHalves(Solver):
    """DDIM in two moves along the ε of the first, each with its noise, and a third move that nothing uses."""

    name, convergence_order = "two halves", 1

    def __init__(self, schedule, *noises):
        self.schedule, self.noises = schedule, noises

    def write(self, program, x):
        for here, there in program.grid.steps:
            e = program.ask(x)
            middle = program.transfer(x, e, program.grid.between(here, there, 0.5), noise=self.noises[0], stage=True)
            program.ask(program.transfer(middle, e, here, stage=True))
            x = program.transfer(middle, e, there, noise=self.noises[1])
        return x


def test_moves_without_a_call_between_them_are_one_row():
    """φ(φ(x, ε), ε) = φ(x, ε); their two noises are one, of their variances' sum."""
    times = {"timesteps": [900.5, 450.5, 20.5], "stop": 10.5}
    merged, once = (solver.plan(**times) for solver in (TwoHalves(LINEAR, 0.0, 0.2), DDIMSolver(LINEAR)))
    for ours, ddim in zip(merged.rows, once.rows, strict=True):
        assert dict(ours.states) == pytest.approx(dict(ddim.states))
        assert dict(ours.answers) == pytest.approx(dict(ddim.answers))
        assert (ours.noise, ours.stage) == (0.2, False)
    for row, there in zip(TwoHalves(LINEAR, 0.1, 0.2).plan(**times).rows, once.levels[1:], strict=True):
        middle = LINEAR.level((row.t + there.t) / 2)
        assert row.noise == pytest.approx(math.hypot(0.1 * there.alpha / middle.alpha, 0.2))


def test_whole_times_are_integers_on_a_table_alone():
    times = {"timesteps": [8, 4, 2], "stop": 1}
    assert DDIMSolver(LINEAR).plan(**times).integer_times
    assert not DDIMSolver(SCHEDULES["ve"]).plan(**times).integer_times
    assert not DDIMSolver(LINEAR).plan(timesteps=[8, 4.5], stop=1).integer_times


def test_a_run_that_begins_at_its_end_does_nothing():
    with pytest.warns(UserWarning, match="mostly picture"):
        plan = DDIMSolver(LINEAR).plan(1, spacing="leading", final="first")
    x = np.ones((2, 2))
    assert plan.model_calls == 0
    assert np.array_equal(plan.run(lambda x, t: pytest.fail("no call is due"), x), x)
    assert Plan.from_json(plan.to_json()) == plan


# ------------------------------------------------------------------ written by hand


def row(**changes):
    values = {"t": 5.0, "alpha": 0.5, "sigma": 0.5, "states": ((0, 1.0),), "answers": ((0, 1.0),)}
    return Row(**{**values, **changes})


NUMBERS = ("t", "alpha", "sigma", "noise")
CLEAN = Level(0, 1, 0)


def plan_of(*rows, end=CLEAN, integer_times=True, name="own"):
    return Plan(rows, end, integer_times, name)


WRONG_NUMBERS = {
    "indices": [
        ({"states": ((1, 1.0),)}, "row 0: states must name rows 0 to 0, not 1"),
        ({"answers": ((0, 1.0), (1, 1.0))}, "row 0: answers must name rows 0 to 0, not 1"),
        ({"answers": ((-1, 1.0),)}, "an index in answers is -1; it must be a whole number of at least 0"),
        ({"states": ((0.5, 1.0),)}, "an index in states is 0.5"),
        ({"answers": ((0, 1.0), (0, 2.0))}, "answers must name each row once and rising, not .0, 0"),
        ({"states": ((1, 1.0), (0, 2.0))}, "states must name each row once and rising, not .1, 0"),
        ({"states": (), "answers": ()}, "so the row makes no state"),
    ],
    "weights and levels": [
        ({"answers": ((0, math.nan),)}, "a weight in answers is nan"),
        *(({name: math.inf}, f"^{name} is inf; it must be a finite number") for name in NUMBERS),
        *(({name: -0.1}, "alpha, sigma and noise must not be negative") for name in ("alpha", "sigma", "noise")),
    ],
    "integer times": [
        ({"t": 5.5}, "row 0: t = 5.5 in a plan of integer times"),
        ({"t": 2.0**31}, "row 0: t = 2147483648.0 in a plan"),
        ({"t": -(2.0**31)}, "row 0: t = -2147483648.0 in a plan"),
    ],
}


@pytest.mark.parametrize("what", WRONG_NUMBERS)
def test_a_plan_checks_its_numbers(what):
    assert_refused(
        (lambda changes=changes: plan_of(row(**changes)), ValueError, message)
        for changes, message in WRONG_NUMBERS[what]
    )


def test_a_plan_allows_numbers_up_to_their_bounds():
    for allowed in (
        {},
        {"t": 2.0**31 - 1},
        {"alpha": 0.0, "sigma": 0.0, "noise": 0.0},
        {"states": ()},
        {"answers": ()},
    ):
        assert plan_of(row(**allowed)).model_calls == 1


WRONG_TYPES = {
    "of a row": [
        *((lambda name=name: row(**{name: "1"}), f"^{name} is '1'") for name in (*NUMBERS, "stage")),
        (lambda: row(stage=1), "^stage is 1; it must be True or False"),
        (lambda: row(stage=None), "^stage is None"),
        (lambda: row(states=(("0", 1.0),)), "^an index in states is '0'"),
        (lambda: row(states=((0, True),)), "^a weight in states is True"),
    ],
    "of terms": [
        (lambda name=name, terms=terms: row(**{name: terms}), f"^{name} is .*; it must be pairs of")
        for name in ("states", "answers")
        for terms in (None, 5, "ab", {0: 1.0}, (0, 1.0), ((0, 1.0, 2.0),), ((0,),), ["ab"], [{0: 1, 1: 2}])
    ],
    "of a plan": [
        (lambda: plan_of(row(), end=(0, 1, 0)), "^end is a tuple; it must be a Level"),
        (lambda: plan_of(row(), end=Level(0, "1", 0)), "^alpha of end is '1'"),
        (lambda: plan_of(row(), end=Level(0, 1, None)), "^sigma of end is None"),
        (lambda: plan_of(row(), integer_times=1), "^integer_times is 1"),
    ],
}


@pytest.mark.parametrize("what", WRONG_TYPES)
def test_a_plan_refuses_what_is_no_number(what):
    assert_refused((make, TypeError, message) for make, message in WRONG_TYPES[what])


def test_the_end_of_a_plan_is_a_level_that_may_hold_no_noise():
    assert plan_of(row(), end=Level(0, 0, 0)).end == (0, 0, 0)
    for end in (Level(0, -1, 0), Level(0, 1, -0.1)):
        with pytest.raises(ValueError, match="alpha and sigma of end must not be negative"):
            plan_of(row(), end=end)
    with pytest.raises(ValueError, match="t of end is nan"):
        plan_of(row(), end=Level(math.nan, 1, 0))


def test_numbers_of_arrays_become_numbers_of_python():
    """Only then can the plan be hashed and written as JSON."""
    number, one = np.float32(0.5), np.int64(0)
    odd = row(t=np.array(5), alpha=number, sigma=number, states=[[one, number]], answers=[(0, 1)], stage=np.True_)
    plan = plan_of(odd, end=Level(one, 1, number), integer_times=np.False_)
    ours = plan_of(row(states=((0, 0.5),), stage=True), end=Level(0.0, 1.0, 0.5), integer_times=False)
    assert plan == Plan.from_json(plan.to_json()) == ours
    assert hash(plan) == hash(ours)
    values = [*dataclasses.astuple(plan.rows[0]), *plan.end, plan.integer_times]
    assert {type(value) for value in values} == {float, tuple, bool, str}
    assert {type(value) for terms in (plan.rows[0].states, plan.rows[0].answers) for value in terms[0]} == {int, float}
    assert type(Plan([odd], plan.end).rows) is tuple


def test_a_plan_from_anywhere_runs():
    """No solver has to have written the numbers."""
    rows = (row(t=9.0, answers=((0, -0.3),)), row(t=4.0, states=((0, 0.2), (1, 0.5)), answers=((0, 0.7), (1, 0.1))))
    x = np.array([[2.0]])
    x1 = x - 0.3 * (x + 9)
    x2 = 0.2 * x + 0.5 * x1 + 0.7 * (x + 9) + 0.1 * (x1 + 4)
    result = Plan(rows, Level(0, 1, 0)).run(lambda x, t: x + t[:, None], x)
    np.testing.assert_allclose(result, x2, rtol=1e-15)


def test_an_object_that_is_no_state_is_not_advanced():
    plan, x = DDIMSolver(LINEAR).plan(3), np.ones((1, 1))
    message = r"state is a .*; it must be what plan.start\(x\) or plan.advance gave"
    assert_refused((lambda state=state: plan.advance(state, x), TypeError, message) for state in (None, 5, x, CLEAN))


def test_a_plan_is_immutable():
    plan = DDIMSolver(LINEAR).plan(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.rows = ()


BY_HAND = (
    row(t=1_234_567.0, answers=((0, -0.3),), stage=True),
    row(t=4.0, alpha=0.0, states=((0, 0.2), (1, -0.5)), answers=((0, 0.7), (1, 0.0)), noise=0.25),
    row(t=2.0, states=((2, 1.0),), answers=((1, 1 / 3), (2, 1.0))),
)
END = Level(0.5, 1.0, 0.0)


def test_a_plan_by_hand_prints_to_the_letter():
    plan = Plan(BY_HAND, END)
    assert repr(plan) == "<Plan plan, 3 model calls>"
    assert str(plan).splitlines() == [
        "plan: 3 model calls, at most 6 arrays stored, ends at t = 0.5",
        "row            t     alpha     sigma  next state",
        "  0  1.23457e+06  0.500000  0.500000  x1 = 1·x0 - 0.3·ε0  (stage)",
        "  1            4  0.000000  0.500000  x2 = 0.2·x0 - 0.5·x1 + 0.7·ε0 + 0·x̂1 + 0.25·z1",
        "  2            2  0.500000  0.500000  x3 = 1·x2 + 0.333333·x̂1 + 1·ε2",
    ]
    assert str(Plan(BY_HAND[:1], END, integer_times=True, name="own")).splitlines() == [
        "own: 1 model call, at most 3 arrays stored, ends at t = 0.5",
        "row        t     alpha     sigma  next state",
        "  0  1234567  0.500000  0.500000  x1 = 1·x0 - 0.3·ε0  (stage)",
    ]
    assert plan.from_json(plan.to_json()) == plan
    assert plan.to_json().count("\n") == 0
    assert plan.to_json(indent=2).startswith('{\n  "format"')


def test_a_plan_by_hand_has_its_times_levels_and_memory():
    plan = Plan(list(BY_HAND), END)
    assert plan.rows == BY_HAND
    assert (plan, hash(plan)) == (Plan(BY_HAND, END, name="own"), hash(Plan(BY_HAND, END)))
    assert (plan.integer_times, plan.name, row().noise, row().stage) == (False, "plan", 0.0, False)
    assert plan.times == (1_234_567.0, 4.0, 2.0)
    assert plan.levels == (Level(1_234_567.0, 0.5, 0.5), Level(4.0, 0.0, 0.5), Level(2.0, 0.5, 0.5), END)
    assert plan.levels is plan.levels
    assert plan.last_uses == ((set(), set()), ({0, 1}, {0}), ({2}, {1, 2}))
    assert isinstance(hash(plan.last_uses), int)
    assert [part.space for part in BY_HAND] == ["epsilon", "sample", "epsilon"]
    # Stored while x1 is made: x0, ε0, x1. While x2 is made: x0, x1, ε0, x̂1, z1, x2. While x3 is made: x2, x̂1, ε2, x3.
    assert [Plan(BY_HAND[:calls], END).max_stored for calls in range(4)] == [1, 3, 6, 6]
    without_noise = (BY_HAND[0], dataclasses.replace(BY_HAND[1], noise=0.0), BY_HAND[2])
    assert Plan(without_noise, END).max_stored == 5
    assert [Plan(BY_HAND[:calls], END).is_stochastic for calls in range(4)] == [False, False, True, True]


def test_a_state_is_advanced_by_its_own_plan_or_an_equal_one():
    plan, x = Plan(BY_HAND[:1], END), np.ones((1, 1))
    state = plan.start(x)
    for same in (plan, Plan.from_json(plan.to_json())):
        assert same.advance(state, x).x == pytest.approx(0.7)
    with pytest.raises(ValueError, match=r"^the state is of <Plan plan, 1 .*>, not of <Plan plan, 3 .*>"):
        Plan(BY_HAND, END).advance(state, x)


# ------------------------------------------------------------------ what a row combines


def test_a_row_names_what_it_combines():
    """ε by default, or x̂_0 where α = 0; any of the four may be named, is printed by its symbol, and is kept in JSON."""
    assert (row().space, row(alpha=0.0).space) == ("epsilon", "sample")
    for space, symbol in (("epsilon", "ε0"), ("sample", "x̂0"), ("v_prediction", "v0"), ("flow", "u0")):
        plan = Plan((row(space=space),), END)
        assert plan.rows[0].space == space
        assert f"·{symbol}" in str(plan).splitlines()[2]
        assert Plan.from_json(plan.to_json()) == plan
        assert (plan == Plan((row(),), END)) == (space == "epsilon")
        if space != "epsilon":
            assert row(alpha=0.0, space=space).space == space


def test_a_row_combines_no_other_prediction():
    for space in ("score", "data"):
        with pytest.raises(ValueError, match=f"^space is '{space}'; known are 'epsilon', 'sample'"):
            row(space=space)
        text = Plan((row(),), END).to_json().replace('"space": "epsilon"', f'"space": "{space}"')
        with pytest.raises(ValueError, match=f"row 0: space is '{space}'"):
            Plan.from_json(text)
    with pytest.raises(TypeError, match=r"^space is 3"):
        row(space=3)
    with pytest.raises(ValueError, match=r"^space is 'epsilon' at α = 0, where ε does not determine the picture"):
        row(alpha=0.0, space="epsilon")
    text = Plan((row(),), END).to_json().replace(', "space": "epsilon"', "")
    with pytest.raises(ValueError, match="not the JSON of a plan"):
        Plan.from_json(text)


@pytest.mark.parametrize("space", ["sample", "v_prediction", "flow"])
def test_an_answer_is_converted_to_what_its_row_combines(space):
    plan = Plan((row(alpha=0.6, sigma=0.8, space=space, states=((0, 0.5),), answers=((0, 2.0),)),), END)
    x, x0, noise = np.array([[0.7, -0.2]]), np.array([[0.3, 1.1]]), None
    noise = (x - 0.6 * x0) / 0.8
    values = {"sample": x0, "epsilon": noise, "v_prediction": 0.6 * noise - 0.8 * x0, "flow": noise - x0}
    for prediction, answer in values.items():
        steps = []
        found = plan.run(lambda x, t, a=answer: a, x, prediction=prediction, callback=steps.append)
        np.testing.assert_allclose(found, 0.5 * x + 2 * values[space], rtol=1e-12)
        np.testing.assert_allclose(steps[0].answer, values[space], rtol=1e-12)
        np.testing.assert_allclose(steps[0].x0, x0, rtol=1e-12)
