"""Nodes and samplers for ComfyUI.

ComfyUI imports this from the `__init__.py` of a folder in `custom_nodes`: a clone of the repository, or a folder that
`pndm-solvers comfyui` writes. Importing it puts our samplers into every list of samplers, and the library's default
grid into every list of schedulers as "pndm". Names that ComfyUI has already stay its own.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from comfy import samplers  # type: ignore[import-not-found] — ComfyUI's own, present in its process alone
from comfy.k_diffusion import sampling  # type: ignore[import-not-found]

from pndm_solvers.adapters.comfyui.nodes import SamplerPlan, SamplerPLMS
from pndm_solvers.adapters.k_diffusion import SAMPLERS, get_sigmas_pndm
from pndm_solvers.version import __version__

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "announce"]

log = logging.getLogger(__name__)
PACKAGE = Path(__file__).parents[2]

# What ComfyUI looks for in a folder of nodes.
NODE_CLASS_MAPPINGS = {"SamplerPLMS": SamplerPLMS, "SamplerPlan": SamplerPlan}
NODE_DISPLAY_NAME_MAPPINGS = {"SamplerPLMS": "SamplerPLMS (pndm_solvers)", "SamplerPlan": "SamplerPlan (pndm_solvers)"}


def announce(folder: str) -> None:
    """A line in ComfyUI's log, on behalf of the extension in `folder`."""
    if PACKAGE.parent == Path(folder):
        log.info("pndm_solvers %s: %s; scheduler pndm", __version__, ", ".join(ENTERED))
    else:
        log.warning("pndm_solvers is loaded from %s; the copy in %s is not used: keep one of them", PACKAGE, folder)


# The samplers that ComfyUI did not have.
ENTERED: list[str] = []
for _name, _function in SAMPLERS.items():
    if _name not in samplers.KSampler.SAMPLERS and not hasattr(sampling, f"sample_{_name}"):
        setattr(sampling, f"sample_{_name}", _function)  # where ComfyUI looks a name up
        samplers.KSampler.SAMPLERS.append(_name)
        samplers.KSAMPLER_NAMES.append(_name)
        ENTERED.append(_name)


def _scheduler(model_sampling: Any, steps: int) -> Any:
    """The library's default grid for the model, with 0 last."""
    forms = {kind.__name__ for kind in type(model_sampling).__mro__}
    # ComfyUI's class for v is one of ε's kinds, and those for EDM and x_0 are kinds of v's or ε's.
    prediction = "flow" if "CONST" in forms else "v_prediction" if forms & {"V_PREDICTION", "EDM", "X0"} else "epsilon"
    return get_sigmas_pndm(steps, model_sampling.sigmas.cpu(), prediction)


if "pndm" not in samplers.SCHEDULER_HANDLERS:
    samplers.SCHEDULER_HANDLERS["pndm"] = samplers.SchedulerHandler(_scheduler)
    samplers.SCHEDULER_NAMES.append("pndm")
