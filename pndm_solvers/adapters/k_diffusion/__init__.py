"""Samplers with k-diffusion's signature, for ComfyUI, for A1111's web UI, and for loops in their style.

In k-diffusion a `model(x, sigma)` answers the denoised picture D at x = x_0 + σ·ε, and a sampler solves
dx/dσ = (x − D)/σ: Karras et al. (2022), eq. (1) and (3) with σ(t) = t. This is the library's variance-exploding
schedule, whose time is σ. Flow models work too: in ComfyUI they answer D at x = (1 − σ)·x_0 + σ·ε, where (x − D)/σ is
ε − x_0, again dx/dσ. So each sampler is the same method on flow models, with the same order.

For ComfyUI and A1111 `pndm-solvers comfyui` and `pndm-solvers a1111` write folders that register them.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401 — only for the error below
except ImportError as error:
    raise ImportError("k-diffusion's samplers need torch: pip install torch") from error

from pndm_solvers.adapters.k_diffusion.plans import FittedSampler, get_sigmas_pndm
from pndm_solvers.adapters.k_diffusion.run import EVERY_SIGMA, Sampler, sampler_of
from pndm_solvers.adapters.k_diffusion.samplers import (
    SAMPLERS,
    sample_ddim,
    sample_deis,
    sample_dpm_2,
    sample_dpm_2_ancestral,
    sample_dpmpp_2m,
    sample_dpmpp_2m_sde,
    sample_dpmpp_2s,
    sample_dpmpp_2s_ancestral,
    sample_dpmpp_3m,
    sample_dpmpp_3m_sde,
    sample_dpmpp_sde,
    sample_er_sde,
    sample_euler,
    sample_euler_ancestral,
    sample_heun,
    sample_lms,
    sample_plms,
    sample_plms_classical,
    sample_plms_sde,
    sample_pndm,
    sample_sa_solver,
    sample_uni_pc,
    sample_uni_pc_bh2,
)

__all__ = [
    "EVERY_SIGMA",
    "SAMPLERS",
    "FittedSampler",
    "Sampler",
    "get_sigmas_pndm",
    "sample_ddim",
    "sample_deis",
    "sample_dpm_2",
    "sample_dpm_2_ancestral",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_dpmpp_2s",
    "sample_dpmpp_2s_ancestral",
    "sample_dpmpp_3m",
    "sample_dpmpp_3m_sde",
    "sample_dpmpp_sde",
    "sample_er_sde",
    "sample_euler",
    "sample_euler_ancestral",
    "sample_heun",
    "sample_lms",
    "sample_plms",
    "sample_plms_classical",
    "sample_plms_sde",
    "sample_pndm",
    "sample_sa_solver",
    "sample_uni_pc",
    "sample_uni_pc_bh2",
    "sampler_of",
]
