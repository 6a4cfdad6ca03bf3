"""Scheduler configs: the options that a foreign config passes on, and the networks that no scheduler here can call."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from pndm_solvers.advice import warn
from pndm_solvers.arguments import boolean, choice
from pndm_solvers.grid import SPACINGS
from pndm_solvers.prediction import Prediction

__all__ = [
    "NETWORK_OPTIONS",
    "BetaSchedule",
    "PredictionType",
    "check_network",
    "check_options",
    "completed",
    "prediction_of",
    "warn_of_foreign_options",
]

# What describes the network, not the method.
NETWORK_OPTIONS = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "prediction_type",
    "rescale_betas_zero_snr",
)
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]


def check_options(config: Any, own: Mapping[str, inspect.Parameter]) -> None:
    """ValueError or TypeError for options that no schedule, prediction or solver refuses when it is made."""
    for name, parameter in own.items():
        if isinstance(parameter.default, bool):  # a "false" in a config would count as True
            boolean(name, config[name])
    choice("prediction_type", config.prediction_type, get_args(PredictionType))
    if "timestep_spacing" in own:
        choice("timestep_spacing", config.timestep_spacing, SPACINGS)
    if config.get("use_karras_sigmas") and config.get("use_exponential_sigmas"):
        raise ValueError("use_karras_sigmas and use_exponential_sigmas are two spacings; pass one of them")


def prediction_of(config: Any) -> Prediction:
    """What the network's answers mean, and how the picture is kept in range. ValueError for a bound that is none."""
    thresholds = config.thresholding
    return Prediction(
        config.prediction_type,
        clip=config.clip_sample_range if config.get("clip_sample") and not thresholds else None,
        threshold=config.dynamic_thresholding_ratio if thresholds else None,
        threshold_max=config.sample_max_value if thresholds else math.inf,
    )


def check_network(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """ValueError for a config whose network cannot be called by a scheduler with the options `own`."""
    elsewhere = "use the solvers on NoiseSchedule.rectified_flow() or .ve() instead, as docs/diffusers.md shows"
    foreign = [key for key in config if key not in own and not key.startswith("_")]
    betas = {"beta_schedule", "beta_start", "beta_end"} & config.keys() or config.get("trained_betas") is not None
    if not betas and (foreign or "trained_betas" in config):
        named = f" but {', '.join(foreign)}" if foreign else ""
        raise ValueError(f"the config names no betas{named}, as those of flow matching, EDM and iPNDM do; {elsewhere}")
    for key, usual in {"use_flow_sigmas": False, "timestep_type": "discrete", "snr_shift_scale": 1.0}.items():
        if config.get(key, usual) not in (usual, None):
            raise ValueError(
                f"the config has {key}={config[key]!r}, so its network has other times or levels than a table of "
                f"betas gives; {elsewhere}"
            )


def completed(config: Mapping[str, Any], own: Mapping[str, inspect.Parameter]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config without options that are None where `own` has another default; and the options of its network.

    diffusers' `from_config` drops options that are a class's own defaults. Those of the network's class describe the
    network all the same, so they are passed on as keywords.
    """
    network = {key: config[key] for key in NETWORK_OPTIONS if config.get(key) is not None}
    needed = {key for key, parameter in own.items() if parameter.default is not None}
    return {key: value for key, value in config.items() if value is not None or key not in needed}, network


def warn_of_foreign_options(scheduler: str, config: Mapping[str, Any], own: Mapping[str, Any], origin: Any) -> None:
    """Warns of the options in `config` that change another scheduler's method and that `scheduler` does not have.

    `origin` is the class that the config names, or None; an option that has the default of that class is left out.
    """
    parameters = inspect.signature(origin.__init__).parameters if origin else {}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    silent = {*own, *config.get("_use_default_values", ()), "skip_prk_steps"}
    foreign = {
        key: value
        for key, value in config.items()
        if not key.startswith("_")
        and key not in silent
        and value is not None
        and value != []  # an empty list, such as `disable_corrector`, changes nothing
        and value != defaults.get(key)
        and not str(value).startswith("learned")  # a learned variance: its channels are dropped, which is enough
    }
    if foreign:
        named = ", ".join(f"{key}={value!r}" for key, value in foreign.items())
        warn(f"{scheduler} has no such options and ignores them: {named}")
