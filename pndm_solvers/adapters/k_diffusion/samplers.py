"""The samplers, each a solver under the name and with the arguments of k-diffusion's function."""

from __future__ import annotations

import math

from pndm_solvers.adapters.k_diffusion.noise import Ancestral, SinglestepSDE
from pndm_solvers.adapters.k_diffusion.run import EVERY_SIGMA, Sampler, sampler_of
from pndm_solvers.arguments import from_zero
from pndm_solvers.methods import (
    DDIMSolver,
    DEISSolver,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    SASolver,
    UniPCSolver,
)
from pndm_solvers.solver import Solver

__all__ = ["SAMPLERS"]

sample_plms = sampler_of(
    "plms",
    PLMSSolver(EVERY_SIGMA),
    "PLMS with exact weights, the library's default: N model calls for N steps. See `PLMSSolver`.",
)
sample_plms_classical = sampler_of(
    "plms_classical",
    PLMSSolver(EVERY_SIGMA, weights="classical", starter="heun"),
    "Latent diffusion's PLMS: classical weights, after a step of improved Euler; N + 1 model calls. See `PLMSSolver`.",
)
sample_pndm = sampler_of(
    "pndm",
    PNDMSolver(EVERY_SIGMA),
    "F-PNDM, its stages halfway in σ: N + 9 model calls for N steps, from N = 4. See `PNDMSolver`.",
)
sample_ddim = sampler_of(
    "ddim",
    DDIMSolver(EVERY_SIGMA),
    "DDIM with η = 0, which k-diffusion calls Euler: N model calls for N steps. See `DDIMSolver`.",
)

CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
NOISE = {"eta": 1.0, "s_noise": 1.0, "noise_sampler": None}

sample_euler = sampler_of(
    "euler", DDIMSolver(EVERY_SIGMA), "Euler's method: N model calls for N steps. See `DDIMSolver`.", **CHURN
)
sample_heun = sampler_of(
    "heun",
    PRKSolver(EVERY_SIGMA, "heun"),
    "Heun's method in σ: 2·N − 1 model calls for N steps to 0. See `PRKSolver`.",
    **CHURN,
)
sample_dpm_2 = sampler_of(
    "dpm_2",
    DPMSinglestepSolver(EVERY_SIGMA, 2, "epsilon"),
    "DPM-Solver-2, its stage halfway in log σ: 2·N − 1 model calls for N steps to 0. See `DPMSinglestepSolver`.",
    **CHURN,
)
sample_dpmpp_2s = sampler_of(
    "dpmpp_2s",
    DPMSinglestepSolver(EVERY_SIGMA, 2),
    "DPM-Solver++(2S), k-diffusion's dpmpp_2s_ancestral without noise: 2·N − 1 model calls. See `DPMSinglestepSolver`.",
)
sample_lms = sampler_of(
    "lms",
    lambda order: PLMSSolver(EVERY_SIGMA, order, coordinate="ratio"),
    "Linear multistep of order 4, polynomials in σ: N model calls for N steps. See `PLMSSolver`.",
    order=4,
)
sample_deis = sampler_of(
    "deis",
    DEISSolver(EVERY_SIGMA, 3, lower_order_final=False),
    "DEIS of order 3, polynomials in log σ: N model calls for N steps. See `DEISSolver`.",
)
sample_dpmpp_2m = sampler_of(
    "dpmpp_2m",
    DPMMultistepSolver(EVERY_SIGMA, 2, lower_order_final=False),
    "DPM-Solver++(2M): N model calls for N steps. See `DPMMultistepSolver`.",
)
sample_dpmpp_3m = sampler_of(
    "dpmpp_3m",
    DPMMultistepSolver(EVERY_SIGMA, 3, lower_order_final=False),
    "DPM-Solver++(3M): N model calls for N steps. See `DPMMultistepSolver`.",
)
sample_uni_pc = sampler_of(
    "uni_pc",
    UniPCSolver(EVERY_SIGMA, 2, "bh1", lower_order_final=False),
    "UniPC-2 with B(h) = h: N model calls for N steps. See `UniPCSolver`.",
)
sample_uni_pc_bh2 = sampler_of(
    "uni_pc_bh2",
    UniPCSolver(EVERY_SIGMA, 2, lower_order_final=False),
    "UniPC-2 with B(h) = e^h − 1: N model calls for N steps. See `UniPCSolver`.",
)


def _ancestral(name: str, solver: Solver, summary: str) -> Sampler:
    return sampler_of(name, lambda eta: Ancestral(EVERY_SIGMA, solver, eta) if eta else solver, summary, **NOISE)


def _tau(eta: float) -> float:
    """τ of SDE samplers."""
    return math.sqrt(from_zero("eta", eta))


sample_euler_ancestral = _ancestral(
    "euler_ancestral",
    DDIMSolver(EVERY_SIGMA),
    "DDIM with noise of its η: N model calls for N steps. See `DDIMSolver`.",
)
sample_dpm_2_ancestral = _ancestral(
    "dpm_2_ancestral",
    DPMSinglestepSolver(EVERY_SIGMA, 2, "epsilon"),
    "DPM-Solver-2 down to σ_down, then noise: 2·N − 1 model calls for N steps to 0. See `Ancestral`.",
)
sample_dpmpp_2s_ancestral = _ancestral(
    "dpmpp_2s_ancestral",
    DPMSinglestepSolver(EVERY_SIGMA, 2),
    "DPM-Solver++(2S) down to σ_down, then noise: 2·N − 1 model calls for N steps to 0. See `Ancestral`.",
)
sample_dpmpp_sde = sampler_of(
    "dpmpp_sde",
    lambda eta, r: SinglestepSDE(EVERY_SIGMA, eta, r),
    "DPM-Solver++(2S) with noise in the stage too: 2·N − 1 model calls for N steps to 0. See `SinglestepSDE`.",
    **NOISE,
    r=1 / 2,
)
sample_dpmpp_2m_sde = sampler_of(
    "dpmpp_2m_sde",
    lambda eta, solver_type: DPMMultistepSolver(EVERY_SIGMA, 2, "sample", solver_type, False, tau=_tau(eta)),
    "SDE-DPM-Solver++(2M): N model calls for N steps. See `DPMMultistepSolver`.",
    **NOISE,
    solver_type="midpoint",
)
sample_dpmpp_3m_sde = sampler_of(
    "dpmpp_3m_sde",
    lambda eta: DPMMultistepSolver(EVERY_SIGMA, 3, "sample", "heun", False, tau=_tau(eta)),
    "SDE-DPM-Solver++(3M): N model calls for N steps. See `DPMMultistepSolver`.",
    **NOISE,
)
sample_sa_solver = sampler_of(
    "sa_solver",
    lambda eta: SASolver(EVERY_SIGMA, tau=_tau(eta)),
    "SA-Solver, predictor and corrector of 2 answers: N model calls for N steps. See `SASolver`.",
    **NOISE,
)
sample_er_sde = sampler_of(
    "er_sde",
    PLMSSolver(EVERY_SIGMA, 3, coordinate="ratio", tau="er_sde"),
    "ER-SDE-Solver-3, its noise scale of choice: N model calls for N steps. See `PLMSSolver`.",
    s_noise=1.0,
    noise_sampler=None,
)
sample_plms_sde = sampler_of(
    "plms_sde",
    lambda eta: PLMSSolver(EVERY_SIGMA, tau=_tau(eta)),
    "PLMS with noise: N model calls for N steps. See `PLMSSolver`.",
    **NOISE,
)

# By the name in a program's table of samplers.
SAMPLERS: dict[str, Sampler] = {
    name.removeprefix("sample_"): function for name, function in list(globals().items()) if name.startswith("sample_")
}
