"""The methods, one room a family: its formula, its tables and its solver classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pndm_solvers.methods.classical import FONSolver
from pndm_solvers.methods.ddim import DDIMSolver
from pndm_solvers.methods.ddpm import DDPMSolver
from pndm_solvers.methods.deis import DEISSolver
from pndm_solvers.methods.dpm_solver import DPMMultistepSolver, DPMSinglestepSolver
from pndm_solvers.methods.multistep import PLMSSolver, PNDMSolver
from pndm_solvers.methods.runge_kutta import TABLEAUX, PRKSolver
from pndm_solvers.methods.sa_solver import SASolver
from pndm_solvers.methods.unipc import UniPCSolver
from pndm_solvers.solver import Solver

__all__ = [
    "SOLVERS",
    "DDIMSolver",
    "DDPMSolver",
    "DEISSolver",
    "DPMMultistepSolver",
    "DPMSinglestepSolver",
    "FONSolver",
    "PLMSSolver",
    "PNDMSolver",
    "PRKSolver",
    "SASolver",
    "UniPCSolver",
]

# Every method by the name that the command line uses. The tests run over them.
SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddim": DDIMSolver,
    "ddpm": DDPMSolver,
    **{f"prk-{name}": partial(PRKSolver, tableau=name) for name in TABLEAUX if name != "euler"},
    "plms": PLMSSolver,
    "plms-classical": partial(PLMSSolver, weights="classical"),
    "pndm": PNDMSolver,
    "fon": FONSolver,
    "lms": partial(PLMSSolver, coordinate="ratio"),
    "deis": DEISSolver,
    "dpm-2": partial(DPMSinglestepSolver, order=2, space="epsilon"),
    "dpm-3": partial(DPMSinglestepSolver, order=3, space="epsilon"),
    "dpmpp-2s": partial(DPMSinglestepSolver, order=2),
    "dpmpp-3s": partial(DPMSinglestepSolver, order=3),
    "dpmpp-2m": DPMMultistepSolver,
    "dpmpp-3m": partial(DPMMultistepSolver, order=3),
    "unipc": UniPCSolver,
    "plms-sde": partial(PLMSSolver, tau=1.0),
    "dpmpp-2m-sde": partial(DPMMultistepSolver, tau=1.0),
    "dpmpp-3m-sde": partial(DPMMultistepSolver, order=3, tau=1.0),
    "sa": SASolver,
    "er-sde": partial(PLMSSolver, order=3, coordinate="ratio", tau="er_sde"),
}
