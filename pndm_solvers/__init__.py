"""Numerical solvers for diffusion models, compiled to plans.

>>> from pndm_solvers import NoiseSchedule, PLMSSolver
>>> plan = PLMSSolver(NoiseSchedule.linear()).plan(num_inference_steps=20)
>>> plan.model_calls
20
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pndm_solvers.batching import advance_together
from pndm_solvers.forward import add_noise, alpha_sigma, training_target
from pndm_solvers.grid import Grid, Restart, make_grid
from pndm_solvers.guidance import classifier_free_guidance
from pndm_solvers.latents import convert, slerp, transfer
from pndm_solvers.methods import (
    DDIMSolver,
    DDPMSolver,
    DEISSolver,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    FONSolver,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    SASolver,
    UniPCSolver,
)
from pndm_solvers.methods.adams import adams_bashforth
from pndm_solvers.methods.runge_kutta import TABLEAUX, ButcherTableau
from pndm_solvers.noise import initial_noise
from pndm_solvers.observers import Observer, Step
from pndm_solvers.plan import Plan, State
from pndm_solvers.prediction import Prediction
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver
from pndm_solvers.spacings import SPACINGS
from pndm_solvers.table import Row
from pndm_solvers.transition import Transition
from pndm_solvers.version import __version__ as __version__

if TYPE_CHECKING:
    from pndm_solvers.batcher import Batcher
    from pndm_solvers.estimate import ErrorEstimate, StepError
    from pndm_solvers.fit import Fit, FittedSolver, Pilot, fit_plan
    from pndm_solvers.likelihood import log_likelihood
    from pndm_solvers.ode import FlowSolution, probability_flow
    from pndm_solvers.problem import Problem

__all__ = [
    "SPACINGS",
    "TABLEAUX",
    "Batcher",
    "ButcherTableau",
    "DDIMSolver",
    "DDPMSolver",
    "DEISSolver",
    "DPMMultistepSolver",
    "DPMSinglestepSolver",
    "ErrorEstimate",
    "FONSolver",
    "Fit",
    "FittedSolver",
    "FlowSolution",
    "Grid",
    "Level",
    "NoiseSchedule",
    "Observer",
    "PLMSSolver",
    "PNDMSolver",
    "PRKSolver",
    "Pilot",
    "Plan",
    "Prediction",
    "Problem",
    "Restart",
    "Row",
    "SASolver",
    "Solver",
    "State",
    "Step",
    "StepError",
    "Transition",
    "UniPCSolver",
    "adams_bashforth",
    "add_noise",
    "advance_together",
    "alpha_sigma",
    "classifier_free_guidance",
    "convert",
    "fit_plan",
    "initial_noise",
    "log_likelihood",
    "make_grid",
    "probability_flow",
    "slerp",
    "training_target",
    "transfer",
]

# The modules that no sampler needs, by their names above. They are imported at first use: a fifth of the whole import.
LATER = {
    "Batcher": "batcher",
    "ErrorEstimate": "estimate",
    "Fit": "fit",
    "FittedSolver": "fit",
    "FlowSolution": "ode",
    "Pilot": "fit",
    "Problem": "problem",
    "StepError": "estimate",
    "fit_plan": "fit",
    "log_likelihood": "likelihood",
    "probability_flow": "ode",
}


def __getattr__(name: str) -> Any:
    if name in LATER.values():
        return import_module(f"{__name__}.{name}")
    if name not in LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{LATER[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *LATER, *LATER.values()})
