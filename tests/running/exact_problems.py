"""Problems with an exact flow, on which estimates and tolerances are measured."""

from functools import cache

from conftest import SCHEDULES

from pndm_solvers.problems import exact_problem

# Every problem on one schedule, and two problems on the others. Not power-law on scaled_linear, whose lowest level
# lets a network see twice the deviation of 1/64 at which those data end.
PAIRS = [(problem, "linear") for problem in ("ring", "mixture", "digits-kernel", "power-law")]
PAIRS += [(problem, name) for problem in ("ring", "mixture") for name in ("scaled_linear", "cosine")]


@cache
def exact(problem, schedule):
    """The problem of that name, from 48 starts, on the schedule of that name."""
    return exact_problem(problem, SCHEDULES[schedule], 48)
