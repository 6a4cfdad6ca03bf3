"""Foreign scheduler configs: what they say about a network. The only room that reads them.

diffusers keeps what describes a network (its betas, its times, its prediction) and what describes a method in one
config, and each of its classes has its own defaults. `read_config` gives the part about the network in one form,
whatever the class, or refuses a network that no solver here can call.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from pndm_solvers.arguments import boolean, choice, real, reals, whole
from pndm_solvers.betas import BETAS, WITH_ENDS
from pndm_solvers.prediction import Prediction

__all__ = [
    "NETWORK",
    "OWN_CLASSES",
    "PREDICTION_TYPES",
    "SPACING_OF_CLASS",
    "NetworkOptions",
    "class_of",
    "constructor",
    "is_flow",
    "prediction_of",
    "read_config",
    "shift_of",
]


class NetworkOptions(TypedDict, total=False):
    """What a config says about its network, in diffusers' names.

    Attributes
    ----------
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr:
        The table of betas. `num_train_timesteps` is also the highest time of a flow.
    snr_shift_scale:
        ᾱ/(1 − ᾱ) of the table is divided by it (CogVideoX).
    prediction_type:
        One of `PREDICTION_TYPES`.
    shift, use_flow_sigmas, flow_shift:
        A flow, x_t = (1 − σ)·x_0 + σ·ε asked at σ·num_train_timesteps, has a shift; or, in the words of classes that
        know betas too, uses flow sigmas and has a flow shift. Pipelines treat the two differently.
    timestep_type:
        At which times the network is asked: "discrete", those of the table; "continuous", ¼·log σ; "edm", the same with
        the answer of Karras et al. (2022), table 1; "trigonometric", (2/π)·arctan σ. In the last three the network's
        input is x/√(σ² + σ_data²) where x = x_0 + σ·ε.
    sigma_min, sigma_max, sigma_data:
        The range of σ there, and the deviation of the data.
    """

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: str
    trained_betas: Any
    rescale_betas_zero_snr: bool
    snr_shift_scale: float
    prediction_type: str
    shift: float | None
    use_flow_sigmas: bool
    flow_shift: float
    timestep_type: str
    sigma_min: float | None
    sigma_max: float | None
    sigma_data: float


# What an absent option means, unless the config names a class with another default.
NETWORK: NetworkOptions = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "snr_shift_scale": 1.0,
    "prediction_type": "epsilon",
    "shift": None,
    "use_flow_sigmas": False,
    "flow_shift": 1.0,
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "sigma_data": 1.0,
}

# A config's name of a prediction: ours.
PREDICTION_TYPES = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v_prediction",
    "flow_prediction": "flow",
}
FLOWING = "flow_prediction"
TIMESTEP_TYPES = ("discrete", "continuous", "edm", "trigonometric")

LATENT: NetworkOptions = {"beta_start": 0.00085, "beta_end": 0.012}
FLOW: NetworkOptions = {"shift": 1.0, "prediction_type": "flow_prediction"}
EDM: NetworkOptions = {"timestep_type": "edm", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}

# The classes of diffusers whose absent options mean something else than in `NETWORK`.
CLASSES: dict[str, NetworkOptions] = {
    "HeunDiscreteScheduler": LATENT,
    "KDPM2DiscreteScheduler": LATENT,
    "KDPM2AncestralDiscreteScheduler": LATENT,
    "DPMSolverSDEScheduler": LATENT,
    "LCMScheduler": {**LATENT, "beta_schedule": "scaled_linear"},
    "TCDScheduler": {**LATENT, "beta_schedule": "scaled_linear"},
    "CogVideoXDDIMScheduler": {**LATENT, "beta_schedule": "scaled_linear", "snr_shift_scale": 3.0},
    "CogVideoXDPMScheduler": {**LATENT, "beta_schedule": "scaled_linear", "snr_shift_scale": 3.0},
    "UnCLIPScheduler": {"beta_schedule": "squaredcos_cap_v2"},
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "LTXEulerAncestralRFScheduler": FLOW,
    "EDMEulerScheduler": EDM,
    "EDMDPMSolverMultistepScheduler": EDM,
    "CosineDPMSolverMultistepScheduler": {
        "timestep_type": "trigonometric",
        "sigma_min": 0.3,
        "sigma_max": 500.0,
        "prediction_type": "v_prediction",
    },
    "IPNDMScheduler": {"timestep_type": "trigonometric", "prediction_type": "v_prediction"},
}

# The classes of this library that diffusers lacks.
OWN_CLASSES = ("FittedScheduler", "PLMSScheduler")
# diffusers' other classes with a table of betas, and ours: an absent option means what `NETWORK` says.
TABLES = (
    "DDIMInverseScheduler", "DDIMParallelScheduler", "DDIMScheduler", "DDPMParallelScheduler", "DDPMScheduler",
    "DEISMultistepScheduler", "DPMSolverMultistepInverseScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "RePaintScheduler", "SASolverScheduler", "UniPCMultistepScheduler",
    *OWN_CLASSES,
)  # fmt: skip

# The spacing that the config of such a class means where it names none.
SPACING_OF_CLASS = {
    "EDMEulerScheduler": {"use_karras_sigmas": True},
    "EDMDPMSolverMultistepScheduler": {"use_karras_sigmas": True},
    "CosineDPMSolverMultistepScheduler": {"use_exponential_sigmas": True},
    "IPNDMScheduler": {"timestep_spacing": "trailing"},
}

OWN = "its network answers something else than a picture, a noise or a velocity; keep diffusers' own {} for it"
STAGES = "its runs change the picture's size on the way; keep diffusers' own {} for it"
# The classes whose networks no config describes well enough, and what to do instead.
REFUSED = {
    **dict.fromkeys(
        (
            "AmusedScheduler", "BlockRefinementScheduler", "CMStochasticIterativeScheduler",
            "ConsistencyDecoderScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler",
            "FlowMapEulerDiscreteScheduler", "PiflowScheduler", "RFD4ProteinaScheduler", "SCMScheduler",
            "VQDiffusionScheduler",
        ),
        OWN,
    ),
    "HeliosScheduler": STAGES,
    "HeliosDMDScheduler": STAGES,
    "DDPMWuerstchenScheduler": "its times run from 1 to 0 on a cosine; use the solvers on NoiseSchedule.cosine() with "
    "lambda x, t: network(x, (t + 1) / 1000)",
    "KarrasVeScheduler": "its network takes (x + 1)/2 at σ/2; use the solvers on NoiseSchedule.ve(0.02, 100.0) with "
    "lambda x, t: -network((x + 1) / 2, t / 2)",
    "MiniMaxH3Scheduler": "its velocity leads to the data and its times are 1 − σ; use the solvers on "
    "NoiseSchedule.rectified_flow() with lambda x, t: -network(x, 1 - t) and prediction='flow'",
    "ScoreSdeVeScheduler": "its states are not scaled to one deviation; use the solvers on "
    "NoiseSchedule.ve(0.01, 1348.0) with prediction='score'",
    "ScoreSdeVpScheduler": "its times run from 0 to 1; use the solvers on NoiseSchedule.vp(0.1, 20.0)",
}  # fmt: skip


AMBIGUOUS = "one of several classes"
# A config that names neither its class nor betas is known by its options. The first that fit count.
MARKS = (
    (("shift", "stages"), "HeliosScheduler"),
    (("shift", "n_grid"), "PiflowScheduler"),
    (("shift", "num_train_timesteps"), "FlowMatchEulerDiscreteScheduler"),
    (("shift", "use_dynamic_shifting"), "FlowMatchEulerDiscreteScheduler"),
    (("shift",), AMBIGUOUS),
    (("eta", "s_noise"), "LTXEulerAncestralRFScheduler"),
    (("s_churn",), "KarrasVeScheduler"),
    (("clip_denoised",), "CMStochasticIterativeScheduler"),
    (("sigma_data", "rho"), "EDMEulerScheduler"),
    (("sigma_data", "sigma_schedule"), "CosineDPMSolverMultistepScheduler"),
    (("sigma_data",), AMBIGUOUS),
    (("snr",), "ScoreSdeVeScheduler"),
    (("sampling_eps",), "ScoreSdeVpScheduler"),
    (("scaler",), "DDPMWuerstchenScheduler"),
    (("mask_token_id",), "AmusedScheduler"),
    (("num_vec_classes",), "VQDiffusionScheduler"),
    (("entropy_bound",), "EntropyBoundScheduler"),
    (("block_length",), "BlockRefinementScheduler"),
    (("corrector_steps",), "DiscreteDDIMScheduler"),
    (("noise_mode",), "RFD4ProteinaScheduler"),
)


def read_config(config: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """What a config says about its network: every option of `NetworkOptions`, as the config's class means it.

    `config` is a dict, a JSON file, or the folder of a saved scheduler or pipeline. Raises TypeError for anything else
    and for an option of the wrong type, FileNotFoundError for a path without a file, and ValueError for a network that
    no solver here can call, naming the remedy.
    """
    given = _loaded(config)
    name = class_of(given)
    if name == AMBIGUOUS:
        raise ValueError(
            f"the config has {', '.join(key for key in given if not key.startswith('_'))}, as those of several classes "
            f"have, and does not name its own; add '_class_name', 'FlowMatchEulerDiscreteScheduler' say"
        )
    if remedy := REFUSED.get(name):
        raise ValueError(f"the config is that of a {name}: {remedy.format(name)}")
    described = {key: value for key, value in given.items() if key in NETWORK and value is not None}
    betas = {"beta_schedule", "beta_start", "beta_end", "trained_betas"} & described.keys()
    known = name in CLASSES or name in TABLES or {"use_flow_sigmas", "timestep_type"} & described.keys()
    if name and not known and not betas:
        raise ValueError(
            f"the config of a {name} names no betas, and no class of that name is known; make its schedule by name, "
            f"NoiseSchedule.rectified_flow() or NoiseSchedule.ve() say"
        )
    if CLASSES.get(name) is not FLOW and name not in OWN_CLASSES and described.get("prediction_type") != FLOWING:
        described.pop("shift", None)  # left behind by another class
    if given.get("predict_epsilon") is False and "prediction_type" not in described:  # before diffusers 0.11
        described["prediction_type"] = "sample"
    options = {**NETWORK, **CLASSES.get(name, {}), **described}
    _check(options)
    # diffusers asks an ε-network at the table's times all the same.
    if options["timestep_type"] == "continuous" and options["prediction_type"] != "v_prediction":
        options["timestep_type"] = "discrete"
    return options


def _check(options: Mapping[str, Any]) -> None:
    """Refuses what no schedule or prediction refuses when it is made."""
    whole("num_train_timesteps", options["num_train_timesteps"])
    for key in ("beta_start", "beta_end"):  # checked even where a table makes them idle
        real(key, options[key])
    for key in ("snr_shift_scale", "shift", "flow_shift", "sigma_data"):
        if options[key] is not None:
            real(key, options[key], "a number above 0", lambda number: 0 < number < math.inf)
    for key in ("rescale_betas_zero_snr", "use_flow_sigmas"):
        boolean(key, options[key])
    choice("beta_schedule", options["beta_schedule"], BETAS)
    choice("timestep_type", options["timestep_type"], TIMESTEP_TYPES)
    kind = choice("prediction_type", options["prediction_type"], PREDICTION_TYPES)
    if kind == FLOWING and not is_flow(options):
        raise ValueError(
            "prediction_type is 'flow_prediction' on levels of betas, where no network answers a flow; pass "
            "use_flow_sigmas=True too, or the prediction_type that the network was trained with"
        )


def class_of(config: Mapping[str, Any]) -> str:
    """The class of diffusers whose config this is. One in memory does not say, but has all the options of its class."""
    if "_class_name" in config or {"beta_schedule", "beta_start", "beta_end"} & config.keys():
        return str(config.get("_class_name", "")).removeprefix("Flax")
    own = {key for key in config if not key.startswith("_")}
    if own == {"num_train_timesteps", "trained_betas"} and config["trained_betas"] is None:
        return "IPNDMScheduler"
    return next((name for marks, name in MARKS if set(marks) <= own), "")


def is_flow(options: Mapping[str, Any]) -> bool:
    """Whether the network is a flow."""
    return options["shift"] is not None or options["use_flow_sigmas"]


def shift_of(options: Mapping[str, Any]) -> float:
    """The shift of a flow."""
    return options["flow_shift"] if options["shift"] is None else options["shift"]


def constructor(options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The constructor of `NoiseSchedule` that the options of `read_config` mean, and its arguments.

    A table is still to be rescaled where they say so.
    """
    size = options["num_train_timesteps"]
    if is_flow(options):
        return "rectified_flow", {"shift": shift_of(options), "num_train_timesteps": size}
    ends = {end: options[end] for end in ("sigma_min", "sigma_max") if options[end] is not None}
    if options["timestep_type"] == "trigonometric":
        return "trigonometric", ends
    if options["timestep_type"] == "edm":
        return "edm", {**ends, "sigma_data": options["sigma_data"]}
    kind, betas = options["beta_schedule"], options["trained_betas"]
    if betas is None:
        betas = BETAS[kind](size, *((options["beta_start"], options["beta_end"]) if kind in WITH_ENDS else ()))
    betas, shift = reals("trained_betas", betas).astype(np.float64), options["snr_shift_scale"]
    if options["timestep_type"] == "discrete" and shift == 1:
        return "from_betas", {"betas": betas}
    alphas_cumprod = np.cumprod(1 - betas)
    if options["timestep_type"] == "continuous":
        low, high = np.sqrt(1 / alphas_cumprod[[0, -1]] - 1).tolist()
        return "edm", {"sigma_min": low, "sigma_max": high, **ends, "sigma_data": options["sigma_data"]}
    return "from_alphas_cumprod", {"alphas_cumprod": alphas_cumprod / (shift + (1 - shift) * alphas_cumprod)}


def prediction_of(config: Mapping[str, Any]) -> Prediction:
    """What the network's answers mean, and how the picture is kept in range. ValueError for a bound that is none.

    `config` has the options of diffusers' classes for it; an absent one leaves the picture as it is.
    """
    kind = choice("prediction_type", config.get("prediction_type", "epsilon"), PREDICTION_TYPES)
    thresholds = config.get("thresholding")
    most = config.get("sample_max_value", 1.0)
    return Prediction(
        PREDICTION_TYPES[kind],
        clip=config.get("clip_sample_range", 1.0) if config.get("clip_sample") and not thresholds else None,
        threshold=config.get("dynamic_thresholding_ratio", 0.995) if thresholds else None,
        threshold_max=math.inf if most is None or not thresholds else most,
    )


def _loaded(config: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, (str, os.PathLike)):
        raise TypeError(f"config is a {type(config).__name__}; it must be a dict, a JSON file or a folder")
    from pathlib import Path

    path = Path(config)
    if path.is_dir():  # a scheduler's, or a whole pipeline's
        name = Path("scheduler_config.json")
        path = path / ("scheduler" / name if (path / "scheduler" / name).is_file() else name)
    if not path.is_file():
        raise FileNotFoundError(f"config names {path}, where there is no file; pass a dict or a config's path")
    try:
        loaded = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}; a scheduler config is a JSON object")
    return loaded
