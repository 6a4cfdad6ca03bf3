"""The options of schedulers: those that all of them have, and those of foreign configs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffusers.configuration_utils import register_to_config

from pndm_solvers.advice import warn
from pndm_solvers.arguments import boolean, choice, real
from pndm_solvers.arguments import check_options as check_names
from pndm_solvers.config import NETWORK, OWN_CLASSES, SPACING_OF_CLASS, NetworkOptions, class_of, is_flow, read_config
from pndm_solvers.spacings import SPACINGS

__all__ = [
    "RESPACED",
    "TABLE",
    "NetworkAndPicture",
    "Shared",
    "check_options",
    "completed",
    "scheduler_options",
    "warn_of_foreign_options",
]


class NetworkAndPicture(NetworkOptions, total=False):
    """The options of every scheduler, in diffusers' names: what the network is, and how its picture is kept in range.

    Attributes
    ----------
    thresholding, dynamic_thresholding_ratio, sample_max_value:
        Dynamic thresholding, the quantile, and the largest bound; None is no largest.
    invert_sigmas:
        Whether a flow's network is asked at (1 − σ)·num_train_timesteps, and answers the flow to the picture (Mochi).
    """

    thresholding: bool
    dynamic_thresholding_ratio: float
    sample_max_value: float | None
    invert_sigmas: bool


class Shared(NetworkAndPicture, total=False):
    """The options of the schedulers that have a time grid.

    Attributes
    ----------
    steps_offset:
        Added to the times of "leading" spacing.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas:
        Spacings in the place of `timestep_spacing`. A `timestep_spacing` that is passed to `from_config` turns those of
        the config off; but DPM-Solver, DEIS and UniPC keep them within diffusers' own spacings, as diffusers does.
    flow_levels:
        Whose levels a flow's run of N steps has: those of diffusers' "FlowMatch", "UniPC" or "DPMSolver" classes, or of
        the named "spacing"; None for the class's own. `from_config` keeps those of the class that a config comes from.
    use_dynamic_shifting, time_shift_type, shift_terminal:
        Of flows: whether the shift is that of `set_timesteps(mu=…)`, e^mu if "exponential" or mu if "linear"; and the σ
        to which the last one is stretched.
    """

    steps_offset: int
    use_karras_sigmas: bool
    use_exponential_sigmas: bool
    use_beta_sigmas: bool
    flow_levels: str | None
    use_dynamic_shifting: bool
    time_shift_type: str
    shift_terminal: float | None


PICTURE = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "invert_sigmas": False,
}
TIMES = {
    "steps_offset": 0,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "flow_levels": None,
    "use_dynamic_shifting": False,
    "time_shift_type": "exponential",
    "shift_terminal": None,
}
# diffusers' own names of spacings.
THEIR_SPACINGS = ("linspace", "leading", "trailing")
# Spacings of σ in the place of `timestep_spacing`.
RESPACED = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
# Of the options of a network, those that a class may have with another default without another kind of network.
TABLE = (
    "num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "prediction_type",
    "rescale_betas_zero_snr",
)  # fmt: skip
# diffusers' classes have these first, and in this order.
FIRST = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")

Init = TypeVar("Init", bound=Callable[..., None])


def scheduler_options(*, times: bool = True) -> Callable[[Init], Init]:
    """A decorator that gives an `__init__` the options of `Shared` beside its own, and registers all in the config.

    `inspect.signature`, on which diffusers relies, help() and `from_config` then see one list. Without `times` the
    options are those of `NetworkAndPicture`.
    """
    common = {**NETWORK, **PICTURE, **(TIMES if times else {})}

    def decorated(init: Init) -> Init:
        own = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
        shared = {name: inspect.Parameter(name, own[0].kind, default=value) for name, value in common.items()}
        first = [shared.pop(name) for name in FIRST]
        names = {p.name for p in own}
        rest = [parameter for name, parameter in shared.items() if name not in names]
        signature = inspect.Signature([own[0], *first, *own[1:], *rest])

        @functools.wraps(init)
        def prepared(self: Any, *args: Any, **options: Any) -> None:
            check_names(type(self).__name__, options, signature.parameters)
            self._prepare()

        prepared.__signature__ = signature  # type: ignore[attr-defined]
        return register_to_config(prepared)  # type: ignore[return-value]

    return decorated


def check_options(config: Any, own: Mapping[str, inspect.Parameter]) -> None:
    """ValueError or TypeError for options that no schedule, prediction or solver refuses when it is made."""
    for name, parameter in own.items():
        if isinstance(parameter.default, bool):  # a "false" in a config would count as True
            boolean(name, config[name])
    if "timestep_spacing" in own:
        choice("timestep_spacing", config.timestep_spacing, SPACINGS)
    if "time_shift_type" in own:
        choice("time_shift_type", config.time_shift_type, ("exponential", "linear"))
    if config.get("flow_levels") is not None:
        choice("flow_levels", config.flow_levels, ("FlowMatch", "UniPC", "DPMSolver", "spacing"))
    if config.get("shift_terminal") is not None:
        real("shift_terminal", config.shift_terminal, "a σ in [0, 1), or None", lambda sigma: 0 <= sigma < 1)
    named = [key for key in RESPACED if config.get(key)]
    if len(named) > 1:
        raise ValueError(f"{' and '.join(named)} are {len(named)} spacings; pass one of them")


def completed(
    config: Mapping[str, Any], own: Mapping[str, inspect.Parameter], chosen: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config without options that are None where `own` has another default; and the options of its network.

    `chosen` are those that the caller passed beside the config. diffusers' `from_config` drops options that are a
    class's own defaults. Those of the network's class describe the network all the same, so they are passed on as
    keywords. ValueError for a network that cannot be called.
    """
    described = read_config(config)
    network = {
        key: value
        for key, value in described.items()
        if value is not None and ((key in TABLE and config.get(key) is not None) or value != NETWORK[key])
    }
    if "timestep_spacing" in own and "timestep_spacing" not in config:
        network |= SPACING_OF_CLASS.get(class_of(config), {})
        if config.get("sigma_schedule") == "exponential":  # EDM's
            network |= {"use_karras_sigmas": False, "use_exponential_sigmas": True}
    spacing = chosen.get("timestep_spacing")
    # The classes of exponential integrators have their levels between the ends of a spacing of diffusers, as theirs do.
    between = "use_lu_lambdas" in own and spacing in THEIR_SPACINGS
    if spacing is not None and not between and not any(name in chosen for name in RESPACED):
        network |= {name: False for name in (*RESPACED, "use_lu_lambdas") if name in own}
    foreign = config.get("flow_levels") is None and class_of(config) not in OWN_CLASSES
    if is_flow(described) and "flow_levels" in own and foreign:
        network["flow_levels"] = "spacing" if "timestep_spacing" in chosen else levels_of(config)
        network["timestep_spacing"] = config.get("timestep_spacing", "linspace")
    tabular = not is_flow(described) and described["timestep_type"] == "discrete"
    if not tabular and "clip_sample" in own and "clip_sample" not in config:
        network["clip_sample"] = False  # no class of such networks clips
    nullable = {"sample_max_value", *(key for key, parameter in own.items() if parameter.default is None)}
    kept = {key: value for key, value in config.items() if value is not None or key in nullable or key not in own}
    return kept, network


def levels_of(config: Mapping[str, Any]) -> str:
    """Whose levels the runs of a flow's config have."""
    name = class_of(config)
    if name.startswith("UniPC") or (not name and "predict_x0" in config):
        return "UniPC"
    theirs = name.startswith(("DPMSolver", "DEIS", "SASolver")) or (not name and "algorithm_type" in config)
    return "DPMSolver" if theirs else "FlowMatch"


def warn_of_foreign_options(scheduler: str, config: Mapping[str, Any], own: Mapping[str, Any], origin: Any) -> None:
    """Warns of the options in `config` that change another scheduler's method and that `scheduler` does not have.

    `origin` is the class that the config names, or None; an option that has the default of that class is left out.
    """
    parameters = inspect.signature(origin.__init__).parameters if origin else {}
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    silent = {*own, *config.get("_use_default_values", ()), *UNDERSTOOD}
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


# Read from a config under another name, or by pipelines; or without a meaning where a whole plan is made.
UNDERSTOOD = (
    "base_image_seq_len", "base_shift", "interpolation_type", "max_image_seq_len", "max_shift", "predict_epsilon",
    "sigma_schedule", "skip_prk_steps",
)  # fmt: skip
