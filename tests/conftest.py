"""What tests run over: every registered schedule and method, and problems with a known answer."""

import os

# Small arrays gain nothing from more threads, and lose much on a busy machine. NumPy and torch read it when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from pndm_solvers import ButcherTableau, NoiseSchedule, PLMSSolver, PRKSolver, measure
from pndm_solvers.schedule import SCHEDULES as REGISTERED_SCHEDULES
from pndm_solvers.solvers import SOLVERS

SCHEDULES = {name: make() for name, make in REGISTERED_SCHEDULES.items()}
SCHEDULES["zero_terminal_snr"] = NoiseSchedule.linear().rescale_zero_terminal_snr()

# First-same-as-last: its fourth stage is the next step's first (Bogacki and Shampine, 1989).
BOGACKI_SHAMPINE = ButcherTableau(
    "bogacki-shampine",
    c=[0, "1/2", "3/4", 1],
    a=[[], ["1/2"], [0, "3/4"], ["2/9", "1/3", "4/9"]],
    b=["2/9", "1/3", "4/9", 0],
)


def all_solvers(schedule):
    """Every registered method, and every option of those that have one.

    Of PLMS each starter with each kind of weights, at order 4: the lower orders are the same lines of code, and
    test_order.py measures each.
    """
    registered = [make(schedule) for make in SOLVERS.values()]
    return list(dict.fromkeys(registered + deterministic_solvers(schedule)))


def deterministic_solvers(schedule):
    solvers = [*measure.deterministic_solvers(schedule), PRKSolver(schedule, BOGACKI_SHAMPINE)]
    return [solver for solver in solvers if not isinstance(solver, PLMSSolver) or solver.order == 4]


def pseudo_solvers(schedule):
    """Those whose steps are transfers: all deterministic ones but FON."""
    return [solver for solver in deterministic_solvers(schedule) if solver.name != "FON"]


def named(value):
    """For pytest's ids."""
    return getattr(value, "name", str(value))


def relative_error(value, exact):
    return np.abs(value - exact).max() / np.abs(exact).max()
