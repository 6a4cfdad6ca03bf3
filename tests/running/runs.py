"""Plans of each kind, one model for every array library, and what the tests of running do with a run."""

from array_libraries import cast
from conftest import SCHEDULES

from pndm_solvers import DDPMSolver, PLMSSolver, PNDMSolver, initial_noise

LINEAR = SCHEDULES["linear"]
START = initial_noise((4, 3), seed=0)

# Running is the same code for every solver: one solver with stages, one with past answers alone, one with noise.
ONE_OF_EACH_KIND = (PNDMSolver(LINEAR), PLMSSolver(LINEAR), DDPMSolver(LINEAR))


def smooth(x, t):
    """A smooth model of any array library, elementwise, in operations that IEEE 754 rounds alike everywhere."""
    return x / (1 + x * x) + x**0 * cast(t, x.dtype)[:, None] / 1000


def step(state):
    return state.plan.advance(state, smooth(state.x, state.t))


def states_of(plan, x, **options):
    """Every state of a run, from the one before the first model call to the one that is done."""
    states = [plan.start(x, **options)]
    while not states[-1].done:
        states.append(step(states[-1]))
    return states


def finish(state):
    """The sample of a run that stands at `state`."""
    while not state.done:
        state = step(state)
    return state.x


class Interrupted(BaseException):
    """What ends a run that must not end by itself."""


def interrupted_after(calls, error=Interrupted):
    """`smooth`, which raises `error` instead of answering once more than `calls` times."""
    left = [calls]

    def limited(x, t):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return smooth(x, t)

    return limited
