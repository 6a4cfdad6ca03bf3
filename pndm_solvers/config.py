"""A foreign scheduler config, read as the kind of schedule that it describes."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pndm_solvers.arguments import boolean, choice, real

__all__ = ["read_config"]

# diffusers' name of a table of betas: the constructor of `NoiseSchedule` that makes it.
BETA_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


def read_config(config: Mapping[str, Any] | str | os.PathLike[str]) -> tuple[str, dict[str, Any], bool]:
    """The constructor of `NoiseSchedule` that a config means, its arguments, and whether to rescale to zero SNR.

    `config` is a dict, a JSON file, or a folder with a `scheduler_config.json`. Raises TypeError for anything else,
    FileNotFoundError for a path without a file, and ValueError for a config that names no betas.
    """
    config = _loaded(config)
    keys = {"beta_schedule", "beta_start", "beta_end", "trained_betas"}
    if "_class_name" in config and not keys & config.keys():
        raise ValueError(
            f"the config of a {config['_class_name']} names no betas ({', '.join(sorted(keys))}); "
            f"make its schedule by name, NoiseSchedule.rectified_flow() or NoiseSchedule.ve() say"
        )
    rescaled = config.get("rescale_betas_zero_snr")
    rescaled = rescaled is not None and boolean("rescale_betas_zero_snr", rescaled)
    for key in ("num_train_timesteps", "beta_start", "beta_end"):
        if config.get(key) is not None:  # checked even where a table makes it idle
            real(key, config[key])
    if config.get("trained_betas") is not None:
        return "from_betas", {"betas": config["trained_betas"]}, rescaled
    kind = BETA_SCHEDULES[choice("beta_schedule", config.get("beta_schedule", "linear"), BETA_SCHEDULES)]
    options = {"num_train_timesteps": config.get("num_train_timesteps", 1000)}
    if kind != "cosine":
        options |= {"beta_start": config.get("beta_start", 1e-4), "beta_end": config.get("beta_end", 0.02)}
    return kind, options, rescaled


def _loaded(config: Mapping[str, Any] | str | os.PathLike[str]) -> Mapping[str, Any]:
    if isinstance(config, Mapping):
        return config
    if not isinstance(config, (str, os.PathLike)):
        raise TypeError(f"config is a {type(config).__name__}; it must be a dict, a JSON file or a folder")
    path = Path(config)
    path = path / "scheduler_config.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"config names {path}, where there is no file; pass a dict or a config's path")
    try:
        loaded = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds a {type(loaded).__name__}; a scheduler config is a JSON object")
    return loaded
