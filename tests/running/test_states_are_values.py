"""A state is a value: runs are forked, undone, interleaved, pickled and saved in any order, and disturb nobody."""

import pickle
import random
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from array_libraries import LIBRARIES, same
from conftest import named
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule
from runs import LINEAR, ONE_OF_EACH_KIND, START, finish, smooth, states_of, step

from pndm_solvers import DDIMSolver, DDPMSolver, State, advance_together, initial_noise


def test_2000_runs_interleaved_in_random_order_end_as_each_alone():
    """The runs are of three plans, each with a start and a seed of its own."""
    solver, chance = DDPMSolver(LINEAR), random.Random(0)
    plans = [solver.plan(steps) for steps in (2, 3, 5)]
    runs = {n: plans[n % 3].start(START[:1] + n / 1000, seed=n) for n in range(2000)}
    going, samples = list(runs), {}
    while going:
        i = chance.randrange(len(going))
        state = runs[going[i]] = step(runs[going[i]])
        if state.done:
            samples[going[i]] = state.x
            going[i] = going[-1]
            going.pop()
    for n, sample in samples.items():
        assert np.array_equal(sample, plans[n % 3].run(smooth, START[:1] + n / 1000, seed=n))


@pytest.mark.parametrize("solver", ONE_OF_EACH_KIND, ids=named)
def test_a_detour_from_an_earlier_state_leaves_the_first_way_open(solver):
    plan = solver.plan(max_model_calls=14)
    *states, last = states_of(plan, START, seed=1)
    for state in states:
        detour = plan.advance(state, -smooth(state.x, state.t))
        assert not np.array_equal(finish(detour), last.x)
        assert np.array_equal(finish(state), last.x)


@pytest.mark.parametrize("library", LIBRARIES, ids=named)
def test_a_run_survives_being_pickled_at_every_row(library):
    start = library.array(START)
    for solver in ONE_OF_EACH_KIND:
        *states, last = states_of(solver.plan(5), start, seed=3)
        for state in states:
            assert same(finish(pickle.loads(pickle.dumps(state))), last.x)


PLANS = [
    plan
    for solver in (DDIMSolver(LINEAR), *ONE_OF_EACH_KIND)
    for plan in (solver.plan(max_model_calls=3), solver.plan(max_model_calls=13))
]


class PushMode(RuleBasedStateMachine):
    """Every run stands, whatever happened to it and to others, where a straight run of its plan stands."""

    runs = Bundle(
        "runs"
    )  # each a history of states, its last the current one, and the bytes that a straight run visits

    def __init__(self):
        super().__init__()
        self.histories = []

    def keep(self, history, straight):
        self.histories.append((history, straight))
        return history, straight

    @initialize(target=runs, seed=st.integers(0, 3))
    def first(self, seed):
        return self.start(PLANS[0], seed)

    @rule(target=runs, plan=st.sampled_from(PLANS), seed=st.integers(0, 3))
    def begin(self, plan, seed):
        return self.start(plan, seed)

    def start(self, plan, seed):
        x = initial_noise((2, 2), seed)
        straight = [state.x.tobytes() for state in states_of(plan, x, seed=seed)]
        return self.keep([plan.start(x, seed=seed)], straight)

    @rule(run=runs, rows=st.integers(1, 5))
    def advance(self, run, rows):
        for _ in range(rows):
            if not run[0][-1].done:
                run[0].append(step(run[0][-1]))

    @rule(several=st.lists(runs, min_size=1, max_size=4))
    def advance_several(self, several):
        several = list({id(history): history for history, _ in several}.values())
        after = advance_together(smooth, [history[-1] for history in several])
        for history, state in zip(several, after, strict=True):
            history.append(state)

    @rule(target=runs, run=runs)
    def fork(self, run):
        return self.keep(list(run[0]), run[1])

    @rule(run=runs, back=st.integers(1, 20))
    def undo(self, run, back):
        del run[0][max(1, len(run[0]) - back) :]

    @rule(run=runs)
    def pickle_and_back(self, run):
        run[0][-1] = pickle.loads(pickle.dumps(run[0][-1]))

    @rule(run=runs)
    def save_and_load(self, run):
        with TemporaryDirectory() as folder:
            run[0][-1].save(f"{folder}/state")
            run[0][-1] = State.load(f"{folder}/state", like=START)

    @rule(run=consumes(runs))
    def drop(self, run):
        self.histories = [pair for pair in self.histories if pair[0] is not run[0]]

    @invariant()
    def each_stands_where_a_straight_run_stands(self):
        for history, straight in self.histories:
            for state in history[-2:]:
                assert state.x.tobytes() == straight[state.row]
                assert len(state.states) + len(state.answers) <= state.plan.max_stored


TestPushMode = PushMode.TestCase
TestPushMode.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
