"""What tests run over: every registered schedule and method, and problems with a known answer."""

import numpy as np

from pndm_solvers import ADAMS_BASHFORTH, TABLEAUX, ButcherTableau, NoiseSchedule, PLMSSolver, PNDMSolver, PRKSolver
from pndm_solvers.analytic import Gaussian, GaussianMixture
from pndm_solvers.schedule import SCHEDULES as REGISTERED_SCHEDULES
from pndm_solvers.solvers import SOLVERS, STARTERS

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
    """Every registered method, and every option of those that have one."""
    solvers = [make(schedule) for make in SOLVERS.values()]
    solvers += [PLMSSolver(schedule, order, starter) for order in ADAMS_BASHFORTH for starter in STARTERS]
    solvers += [PRKSolver(schedule, tableau) for tableau in (*TABLEAUX.values(), BOGACKI_SHAMPINE)]
    solvers += [PNDMSolver(schedule, order=2)]
    return list(dict.fromkeys(solvers))


def deterministic_solvers(schedule):
    return [solver for solver in all_solvers(schedule) if solver.convergence_order is not None]


def pseudo_solvers(schedule):
    """Those whose steps are transfers: all deterministic ones but FON."""
    return [solver for solver in deterministic_solvers(schedule) if solver.name != "FON"]


def named(value):
    """For pytest's ids."""
    return getattr(value, "name", str(value))


def random_gaussian(dimension=4, seed=0):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((dimension, dimension))
    return Gaussian(generator.standard_normal(dimension), root @ root.T / dimension)


def random_mixture(dimension=3, seed=0):
    generator = np.random.default_rng(seed)
    roots = generator.standard_normal((4, dimension, dimension)) / 2
    return GaussianMixture([0.1, 0.2, 0.3, 0.4], generator.standard_normal((4, dimension)), roots @ roots.mT)


def relative_error(value, exact):
    return np.abs(value - exact).max() / np.abs(exact).max()
