"""The methods, one room a family: its formula, its tables and its solver classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pndm_solvers.methods.classical import FONSolver
from pndm_solvers.methods.ddim import DDIMSolver
from pndm_solvers.methods.ddpm import DDPMSolver
from pndm_solvers.methods.multistep import PLMSSolver, PNDMSolver
from pndm_solvers.methods.runge_kutta import PRKSolver
from pndm_solvers.solver import Solver

__all__ = ["SOLVERS", "DDIMSolver", "DDPMSolver", "FONSolver", "PLMSSolver", "PNDMSolver", "PRKSolver"]

# Every method by the name that the command line uses. The tests run over them.
SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddim": DDIMSolver,
    "ddpm": DDPMSolver,
    "prk-heun": partial(PRKSolver, tableau="heun"),
    "prk-rk4": partial(PRKSolver, tableau="rk4"),
    "plms": PLMSSolver,
    "plms-classical": partial(PLMSSolver, weights="classical"),
    "pndm": PNDMSolver,
    "fon": FONSolver,
}
