"""Samplers for A1111's web UI and its forks, Forge among them, and the library's default grid as a scheduler.

The web UI runs a script of an extension's folder, which `pndm-solvers a1111` writes; the script calls `register`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

# The web UI's own, present in its process alone.
from modules import sd_samplers, sd_samplers_common, sd_samplers_kdiffusion  # type: ignore[import-not-found]

from pndm_solvers.adapters.k_diffusion import SAMPLERS, get_sigmas_pndm

try:
    from modules import sd_schedulers  # type: ignore[import-not-found]
except ImportError:  # before version 1.9, as in Forge classic
    sd_schedulers = None

__all__ = ["register"]


def _steps(steps: int) -> int:
    return steps


# By the name in `SAMPLERS`: the label, and the model calls of a run of so many steps. Of the others the web UI has
# equal ones.
LABELS: dict[str, tuple[str, Callable[[int], int]]] = {
    "plms": ("PLMS", _steps),
    "plms_classical": ("PLMS classical", lambda steps: steps + 1),
    "pndm": ("PNDM", lambda steps: steps + min(9, 3 * (steps - 1))),
    "deis": ("DEIS", _steps),
    "dpmpp_3m": ("DPM++ 3M", _steps),
    "dpmpp_2s": ("DPM++ 2S", lambda steps: 2 * steps - 1),
    "uni_pc_bh2": ("UniPC bh2", _steps),
    "plms_sde": ("PLMS SDE", _steps),
    "er_sde": ("ER SDE", _steps),
}


class Sampler(sd_samplers_common.SamplerData):
    """A sampler that tells its model calls. The web UI counts by them for prompt editing and the refiner."""

    def total_steps(self, steps: int) -> int:
        """The model calls of so many steps."""
        return next(calls(steps) for label, calls in LABELS.values() if _named(label) == self.name)


def _named(label: str) -> str:
    # The web UI takes the name of a scheduler at a label's end for that scheduler.
    return f"{label} (pndm_solvers)"


def register() -> None:
    """Enters the samplers and the scheduler into the web UI's lists; what an earlier call entered is replaced."""
    for name, (label, _) in LABELS.items():
        make = partial(sd_samplers_kdiffusion.KDiffusionSampler, SAMPLERS[name])
        options: dict[str, Any] = {"scheduler": "karras"}
        if "noise_sampler" in inspect.signature(SAMPLERS[name]).parameters:
            options["brownian_noise"] = True  # the web UI then passes one, with a seed for each picture
        ours = Sampler(_named(label), make, [f"pndm_solvers_{name}"], options)
        _replace(sd_samplers.all_samplers, ours)
        sd_samplers.all_samplers_map[ours.name] = ours
    sd_samplers.set_samplers()
    if sd_schedulers is not None:
        grid = sd_schedulers.Scheduler("pndm_solvers", "PNDM (pndm_solvers)", _sigmas, need_inner_model=True)
        _replace(sd_schedulers.schedulers, grid)
        sd_schedulers.schedulers_map |= {grid.name: grid, grid.label: grid}


def _replace(entries: list[Any], entry: Any) -> None:
    """Puts the entry in the place of its namesake, or at the end."""
    place = next((i for i, other in enumerate(entries) if other.name == entry.name), len(entries))
    entries[place : place + 1] = [entry]


def _sigmas(n: int, sigma_min: float, sigma_max: float, inner_model: Any, device: Any) -> Any:
    """The library's default grid for the model, between the sigmas that the web UI's options allow."""
    predicts = getattr(getattr(inner_model, "predictor", None), "prediction_type", "")  # Forge's
    kinds = {kind.__name__ for kind in type(inner_model).__mro__}
    if predicts == "const" or "SD3Denoiser" in kinds:
        prediction = "flow"
    else:
        prediction = "v_prediction" if predicts in ("v_prediction", "edm") or "CompVisVDenoiser" in kinds else "epsilon"
    table = inner_model.sigmas.detach().cpu()
    if prediction != "flow":  # whose shift is read from the whole table
        table = table[(table >= sigma_min * (1 - 1e-6)) & (table <= sigma_max * (1 + 1e-6))]
    return get_sigmas_pndm(n, table, prediction).to(device)
