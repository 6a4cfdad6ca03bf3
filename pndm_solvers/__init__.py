"""Numerical solvers for diffusion models, compiled to plans.

>>> from pndm_solvers import NoiseSchedule, PLMSSolver
>>> plan = PLMSSolver(NoiseSchedule.linear()).plan(num_inference_steps=20)
>>> plan.model_calls
20
"""

from pndm_solvers.base import Solver
from pndm_solvers.estimate import ErrorEstimate, StepError
from pndm_solvers.execute import State, Step
from pndm_solvers.grid import SPACINGS, Grid, make_grid
from pndm_solvers.noise import initial_noise
from pndm_solvers.plan import Plan, Row
from pndm_solvers.prediction import Prediction, classifier_free_guidance
from pndm_solvers.schedule import Level, NoiseSchedule
from pndm_solvers.solvers import DDIMSolver, DDPMSolver, FONSolver, PLMSSolver, PNDMSolver, PRKSolver
from pndm_solvers.tableaux import ADAMS_BASHFORTH, TABLEAUX, ButcherTableau
from pndm_solvers.together import advance_together, slerp
from pndm_solvers.transfer import transfer

__version__ = "0.1.0"

__all__ = [
    "ADAMS_BASHFORTH",
    "SPACINGS",
    "TABLEAUX",
    "ButcherTableau",
    "DDIMSolver",
    "DDPMSolver",
    "ErrorEstimate",
    "FONSolver",
    "Grid",
    "Level",
    "NoiseSchedule",
    "PLMSSolver",
    "PNDMSolver",
    "PRKSolver",
    "Plan",
    "Prediction",
    "Row",
    "Solver",
    "State",
    "Step",
    "StepError",
    "advance_together",
    "classifier_free_guidance",
    "initial_noise",
    "make_grid",
    "slerp",
    "transfer",
]
