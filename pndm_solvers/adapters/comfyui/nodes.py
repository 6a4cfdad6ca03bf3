"""ComfyUI's nodes for the node "SamplerCustom": PLMS with its options, and a plan from a file.

The attributes and methods in capitals are those that ComfyUI reads of a node.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import folder_paths  # type: ignore[import-not-found] — ComfyUI's own
from comfy import samplers  # type: ignore[import-not-found]

from pndm_solvers.adapters.k_diffusion import EVERY_SIGMA, FittedSampler, sampler_of
from pndm_solvers.methods import PLMSSolver
from pndm_solvers.methods.multistep import Starter

__all__ = ["PLANS", "SamplerPLMS", "SamplerPlan"]

# The folder of plans, below ComfyUI's models; extra_model_paths.yaml may name others.
PLANS = "pndm_plans"
folder_paths.folder_names_and_paths.setdefault(PLANS, ([os.path.join(folder_paths.models_dir, PLANS)], {".json"}))

# Not v: it turns where the picture stays, so that what a mask keeps would move, by 0.002 of the data's deviation.
SPACES = ("epsilon", "sample", "flow")


def one_of(names: tuple[str, ...], tooltip: str) -> tuple[Any, dict[str, Any]]:
    """An input that is one of the names; the first unless chosen."""
    return list(names), {"default": names[0], "tooltip": tooltip}


class SamplerPLMS:
    """A sampler for SamplerCustom: pseudo linear multistep. See `PLMSSolver`."""

    DESCRIPTION = (
        "Pseudo linear multistep (PLMS), one model call a step: a polynomial through the last answers, integrated over "
        "the step. For any sigmas; those of the schedulers pndm, karras and exponential suit it best."
    )
    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Its options."""
        return {
            "required": {
                "order": (
                    "INT",
                    {"default": 4, "min": 1, "max": 8, "tooltip": "How many answers a step combines; 1 is DDIM."},
                ),
                "space": one_of(
                    SPACES,
                    "What is averaged, whatever the model predicts: epsilon (for flow models the flow), sample (the "
                    "picture, as DPM-Solver++ does) or flow.",
                ),
                "starter": one_of(
                    get_args(Starter),
                    "The first steps, which lack a history: ramp takes orders 1, 2, 3, … at no extra call; heun makes "
                    "one step with 2 calls; rk4 makes order - 1 steps with 4.",
                ),
                "weights": one_of(
                    ("exact", "classical"),
                    "exact: right on any sigmas. classical: Adams-Bashforth's, for even steps, as in latent "
                    "diffusion's PLMS and in iPNDM.",
                ),
            }
        }

    def sampler(self, order: int, space: str, starter: str, weights: str) -> tuple[Any]:
        """The SAMPLER. ValueError for options that contradict each other."""
        solver = PLMSSolver(EVERY_SIGMA, order, starter=starter, weights=weights, space=space)  # type: ignore[arg-type]
        return (samplers.KSAMPLER(sampler_of("plms", solver, solver.name)),)


class SamplerPlan:
    """A plan from a file as sampler and sigmas for SamplerCustom: mostly one that was fitted to the model."""

    DESCRIPTION = (
        f"A plan from models/{PLANS}, made by `pndm-solvers fit` or Plan.to_json(). It visits its own levels, so "
        f"connect both outputs. It must have been fitted to this model, with this guidance."
    )
    CATEGORY = "sampling/custom_sampling/samplers"
    RETURN_TYPES = ("SAMPLER", "SIGMAS")
    FUNCTION = "sampler"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The plans that there are."""
        tooltip = f"A .json file in ComfyUI's models/{PLANS}; make that folder, and press R."
        return {"required": {"plan": (folder_paths.get_filename_list(PLANS), {"tooltip": tooltip})}}

    @classmethod
    def IS_CHANGED(cls, plan: str) -> str:
        """Another text where the file was changed."""
        return sha256(Path(folder_paths.get_full_path_or_raise(PLANS, plan)).read_bytes()).hexdigest()

    def sampler(self, plan: str) -> tuple[Any, Any]:
        """The SAMPLER and its SIGMAS. ValueError for a file that holds no plan, or one that has no sigmas."""
        sampler = FittedSampler(folder_paths.get_full_path_or_raise(PLANS, plan))
        return samplers.KSAMPLER(sampler), sampler.sigmas
