"""A scheduler's configuration: from foreign ones and back to them."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers

from pndm_solvers.adapters.diffusers.forward import ForwardProcess
from pndm_solvers.adapters.diffusers.options import THEIR_SPACINGS, completed, warn_of_foreign_options
from pndm_solvers.arguments import shown
from pndm_solvers.config import prediction_of
from pndm_solvers.prediction import Prediction

__all__ = ["Configured"]

# What decides how an answer becomes a picture.
PICTURE_OPTIONS = (
    "prediction_type", "timestep_type", "clip_sample", "clip_sample_range", "thresholding",
    "dynamic_thresholding_ratio", "sample_max_value", "invert_sigmas",
)  # fmt: skip


# The variances that are the network's second half of channels.
LEARNED = ("learned", "learned_range")


@lru_cache(maxsize=64)
def _prediction(options: tuple[tuple[str, Any], ...]) -> Prediction:
    """The prediction of a config's options. EDM's answer becomes a picture in the step."""
    given = dict(options)
    return prediction_of({**given, "prediction_type": "sample"} if given["timestep_type"] == "edm" else given)


class Configured(ForwardProcess):
    """A scheduler that is made from configs of diffusers' classes, and whose config makes those."""

    # A list, not a ClassVar, since diffusers declares it so.
    _compatibles = [  # noqa: RUF012
        *(kind.name for kind in KarrasDiffusionSchedulers if kind.name != "EDMEulerScheduler"),
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
    ]

    @classmethod
    @cache
    def _own(cls) -> dict[str, inspect.Parameter]:
        return dict(inspect.signature(cls.__init__).parameters)

    @classmethod
    def _understood(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A config of any class as this class reads it."""
        return config

    @property
    def prediction(self) -> Prediction:
        """What the network's answers mean, and how the picture is kept in range."""
        return self._reading()[0]

    def _reading(self) -> tuple[Prediction, bool]:
        """The prediction, and whether a step takes the network's answer and its picture as they are."""
        # Read at each step, since pipelines rewrite clip_sample in the configuration of their scheduler. By attribute,
        # since some assign it there; and only this class's options, since a config keeps those of others.
        config, known = self.config, self._known
        if known is not None and known[0](config) == known[1] and config.get("variance_type") == known[2]:
            return known[3]
        names, variance = self._picture_options(), config.get("variance_type")
        values = attrgetter(*names)
        prediction = _prediction(tuple([(name, getattr(config, name)) for name in names]))
        held = prediction.clip is not None or prediction.threshold is not None
        as_they_are = not (held or variance in LEARNED or config.timestep_type == "edm" or config.invert_sigmas)
        self._known = values, values(config), variance, (prediction, as_they_are)
        return prediction, as_they_are

    # The last reading: what reads the options, what it read, and what came of it.
    _known: tuple[Callable[[Any], Any], Any, Any, tuple[Prediction, bool]] | None = None

    @classmethod
    @cache
    def _picture_options(cls) -> tuple[str, ...]:
        return tuple(name for name in PICTURE_OPTIONS if name in cls._own())

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler for a config of diffusers' schedulers or of ours; `kwargs` take precedence over the config.

        A warning names the options that belong to another scheduler's method and differ from its defaults. They
        stay in `config`, for the way back.

        Raises
        ------
        TypeError:
            For a keyword that is no option, neither of this class nor of the config.
        ValueError:
            For a config whose network no scheduler here can call; the message says what to do instead.
        """
        own = cls._own()
        if isinstance(config, (str, os.PathLike)):
            config, kwargs = cls.load_config(config, return_unused_kwargs=True, **kwargs)  # type: ignore[misc] — two
        if not isinstance(config, Mapping):
            remedy = "pass its .config" if hasattr(config, "config") else "pass a dict, a folder or a file"
            raise TypeError(f"config is {shown(config)}, which is no scheduler config; {remedy}")
        if "flow_shift" in kwargs and "shift" in config:  # two names of one number
            kwargs.setdefault("shift", kwargs["flow_shift"])
        if unknown := [] if return_unused_kwargs else [key for key in kwargs if key not in own and key not in config]:
            known = ", ".join(name for name in own if name != "self")
            raise TypeError(f"{cls.__name__} has no option {', '.join(unknown)}; it has {known}")
        given, kept = config, ("base_image_seq_len", "base_shift", "max_image_seq_len", "max_shift")
        config, network = completed(cls._understood({**config, **kwargs}), own, kwargs)
        origin = str(config.get("_class_name"))
        ours = {kind.__name__: kind for base in Configured.__subclasses__() for kind in base.__subclasses__()}
        warn_of_foreign_options(cls.__name__, config, own, ours.get(origin) or getattr(diffusers, origin, None))
        network |= {key: value for key, value in kwargs.items() if key in own}
        made: Any = super().from_config(config, return_unused_kwargs, **network)
        # What pipelines read beside the options, even where it is the default of the class that had it.
        (made[0] if return_unused_kwargs else made).register_to_config(**{k: given[k] for k in kept if k in given})
        return made

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__} {dict(self.config)}"
            if any(map(callable, self.config.values()))
            else super().__repr__()
        )

    def to_json_string(self) -> str:
        """The configuration as JSON, without a spacing that is our default and that diffusers' classes lack.

        TypeError for an option that is a function, as a `tau_func` may be.
        """
        if functions := [name for name, value in self.config.items() if callable(value)]:
            raise TypeError(
                f"{', '.join(functions)} is a function, which no file can hold; save a scheduler without it, and pass "
                f"it to from_pretrained"
            )
        text = super().to_json_string()
        spacing, defaults = self.config.get("timestep_spacing"), self.config.get("_use_default_values", ())
        if spacing in THEIR_SPACINGS or "timestep_spacing" not in defaults:
            return text
        return json.dumps({k: v for k, v in json.loads(text).items() if k != "timestep_spacing"}, indent=2) + "\n"
