"""Observers see a run at its beginning, at each answer, after each row and at its end; callbacks are the simplest."""

import numpy as np
import pytest
from conftest import SCHEDULES

from pndm_solvers import DDIMSolver, Observer, PNDMSolver, initial_noise

PLAN = DDIMSolver(SCHEDULES["linear"]).plan(4)
START = initial_noise((3, 2), seed=0)


def model(x, t):
    return np.tanh(x)


class Diary(Observer):
    def __init__(self):
        self.events = []

    def begin(self, state):
        self.events.append(("begin", state.row))
        return state

    def answered(self, state, answer):
        assert np.array_equal(answer, np.tanh(state.x))
        self.events.append(("answered", state.row))

    def __call__(self, step):
        assert step.state.row == step.before.row + 1
        self.events.append(("step", step.row))

    def end(self):
        self.events.append(("end",))


def test_an_observer_is_called_at_each_moment():
    diary = Diary()
    PLAN.run(model, START, callback=diary)
    rows = [event for k in range(4) for event in (("answered", k), ("step", k))]
    assert diary.events == [("begin", 0), *rows, ("end",)]


def test_an_observer_ends_where_the_run_breaks_off():
    diary = Diary()

    def broken(x, t):
        if t[0] < 400:
            raise RuntimeError("broken")
        return model(x, t)

    with pytest.raises(RuntimeError, match="broken"):
        PLAN.run(broken, START, callback=[diary])
    assert diary.events[-1] == ("end",)
    assert ("step", 0) in diary.events


def test_observers_that_began_end_where_a_later_one_cannot_begin():
    class Unready(Observer):
        def begin(self, state):
            raise RuntimeError("unready")

    diary, later = Diary(), Diary()
    with pytest.raises(RuntimeError, match="unready"):
        PLAN.run(model, START, callback=[diary, Unready(), later])
    assert diary.events == [("begin", 0), ("end",)]
    assert later.events == []


def test_a_step_that_is_kept_holds_its_own_answer():
    """Also where the network answers in one buffer and no later row needs the answer."""
    buffer, steps, expected = START.copy(), [], []

    def one_buffer(x, t):
        buffer[:] = model(x, t)
        expected.append(buffer.copy())
        return buffer

    PLAN.run(one_buffer, START, callback=steps.append)
    for step, answer in zip(steps, expected, strict=True):
        assert np.array_equal(step.answer, answer)


def test_an_observer_may_begin_a_run_further_on():
    state = PLAN.start(START)
    for _ in range(2):
        state = PLAN.advance(state, model(state.x, state.t))

    class Later(Observer):
        def begin(self, first):
            return state

    rows = []
    result = PLAN.run(model, START, callback=[Later(), lambda step: rows.append(step.row)])
    assert rows == [2, 3]
    assert np.array_equal(result, PLAN.run(model, START))


def test_several_callbacks_are_called_in_turn():
    seen = []
    PLAN.run(model, START, callback=(lambda step: seen.append("a"), lambda step: seen.append("b")))
    assert seen == ["a", "b"] * 4
    for none in (None, [], ()):
        assert np.array_equal(PLAN.run(model, START, callback=none), PLAN.run(model, START))


def test_what_a_step_holds():
    steps = []
    plan = PNDMSolver(SCHEDULES["linear"]).plan(5)
    plan.run(model, START, callback=steps.append)
    for k, step in enumerate(steps):
        assert (step.row, step.t) == (k, plan.times[k])
        assert np.array_equal(step.answer, np.tanh(step.x))
        assert step.x is not step.x
        assert step.answer is not step.answer
        row = plan.rows[k]
        np.testing.assert_allclose(step.x0, (step.x - row.sigma * step.answer) / row.alpha, rtol=1e-12, atol=1e-13)
        assert repr(step) == f"<Step of F-PNDM, row {k}, t = {step.t:g}>"
    assert [step.state for step in steps[:-1]] == [step.before for step in steps[1:]]


@pytest.mark.parametrize(
    ("callback", "message"), [(5, "callback is 5"), ([print, 5], "callback is 5"), (Diary, "class Diary")]
)
def test_what_cannot_be_called_is_refused(callback, message):
    with pytest.raises(TypeError, match=message):
        PLAN.run(model, START, callback=callback)
