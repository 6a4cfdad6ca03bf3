"""The schedulers of the exponential integrators: DPM-Solver, DEIS, UniPC and SA-Solver with diffusers' interface."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pndm_solvers.adapters.diffusers.draws import Draw
from pndm_solvers.adapters.diffusers.options import THEIR_SPACINGS, Shared, scheduler_options
from pndm_solvers.adapters.diffusers.scheduler import PlanScheduler
from pndm_solvers.adapters.diffusers.steps import Generators, StepResult
from pndm_solvers.arguments import choice, from_zero, function, whole
from pndm_solvers.config import is_flow
from pndm_solvers.grid import GridOptions
from pndm_solvers.methods import DEISSolver, DPMMultistepSolver, SASolver, UniPCSolver
from pndm_solvers.older import Unpack
from pndm_solvers.schedule import Level, Schedule
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = [
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
    "default_tau",
]

STOCHASTIC = ("sde-dpmsolver++", "sde-dpmsolver")
# Names of the sister classes' methods. As in diffusers, a config of one class makes another with its own default.
SISTERS = (
    "deis", "dpmsolver", "dpmsolver++", "data_prediction", "noise_prediction", "logrho", "midpoint", "heun", "bh1",
    "bh2",
)  # fmt: skip

# With fewer steps than this, `lower_order_final` of DPM-Solver and DEIS lowers the order of the last two.
FEW_STEPS = 15


class _Exponential:
    """The time grids that diffusers gives these classes: N + 1 times from end to end, without the last one."""

    config: Any
    schedule: NoiseSchedule
    _flow_levels = "DPMSolver"
    # Options of the class in diffusers that change its method and are not offered here, with their neutral values.
    _not_offered: ClassVar[Mapping[str, Any]] = {}
    # The values of options that name a method, and those of sister classes that mean the own default.
    _methods: ClassVar[Mapping[str, Sequence[str]]]
    _sisters: ClassVar[Sequence[str]] = SISTERS

    @classmethod
    def _understood(cls, config: dict[str, Any]) -> dict[str, Any]:
        """The config without the methods of sister classes. ValueError for options that are not offered here."""
        for name, neutral in cls._not_offered.items():
            value = config.get(name, neutral)
            if value is not neutral and value is not None:
                shown = value if isinstance(value, (bool, int, float, str)) else f"a {type(value).__name__}"
                raise ValueError(
                    f"the config has {name}={shown}, which {cls.__name__} does not offer; leave it out. Times of your "
                    f"own are passed by set_timesteps(timesteps=...) or set_timesteps(sigmas=...)"
                )
        foreign = {
            name for name, own in cls._methods.items() if config.get(name) in cls._sisters and config[name] not in own
        }
        return {name: value for name, value in config.items() if name not in foreign}

    def _check_methods(self) -> None:
        for name, own in self._methods.items():
            if self.config[name] in STOCHASTIC and self.config[name] not in own:
                raise ValueError(
                    f"{name} is {self.config[name]!r}, a stochastic method of DPM-Solver; choose "
                    f"{', '.join(map(repr, own))} here, or take DPMSolverMultistepScheduler"
                )
            choice(name, self.config[name], own)

    def _solver(self) -> Solver:
        self._check_methods()
        return self._solver_for(FEW_STEPS)

    def _solver_for(self, steps: int) -> Solver:
        raise NotImplementedError

    def _option(self, name: str, default: Any) -> Any:
        """An option that not all of these classes have. A foreign config's option of that name does not count."""
        return self.config[name] if name in self._own() else default  # type: ignore[attr-defined] — of PlanScheduler

    def _end(self) -> Literal["clean", "first"]:
        kind = "zero" if is_flow(self.config) else self._option("final_sigmas_type", "sigma_min")
        return "clean" if choice("final_sigmas_type", kind, ("zero", "sigma_min")) == "zero" else "first"

    def _grid(self) -> GridOptions:
        named = super()._grid()  # type: ignore[misc] — of PlanScheduler
        if self._option("use_lu_lambdas", False) and not self.config.use_karras_sigmas:
            return {"spacing": "log_snr"}
        if named["spacing"] not in THEIR_SPACINGS or self.schedule.num_train_timesteps is None:
            return named
        return {"spacing": self._evenly}

    def _evenly(self, schedule: Schedule, steps: int, end: Level) -> NDArray[np.int64]:
        """Diffusers' linspace, leading and trailing, below the level to which `lambda_min_clipped` cuts the table."""
        size = schedule.num_train_timesteps
        assert size is not None  # `_grid` asks for a table
        lowest = self._option("lambda_min_clipped", -math.inf)
        last = int(np.sum(schedule.log_snr(np.arange(size)) / 2 >= lowest))
        if self.config.timestep_spacing != "trailing" and steps >= last:
            raise ValueError(
                f"num_inference_steps is {steps}; {self.config.timestep_spacing!r} spacing has {last - 1} distinct "
                f"times at most, and 'trailing' has {size}"
            )
        if self.config.timestep_spacing == "trailing":
            return np.arange(last, 0, -size / steps).round().astype(np.int64) - 1
        if self.config.timestep_spacing == "linspace":
            return np.linspace(0, last - 1, steps + 1).round().astype(np.int64)[:0:-1]
        return np.arange(steps, 0, -1) * (last // (steps + 1)) + self.config.steps_offset


class DPMSolverMultistepScheduler(_Exponential, PlanScheduler):
    """DPM-Solver++ and DPM-Solver in the place of diffusers' `DPMSolverMultistepScheduler`, orders 1 to 3.

    It has the options and defaults of that class. The network is called at the time of its level where diffusers rounds
    that to an integer, as with Karras' sigmas. The types "sde-dpmsolver++" and "sde-dpmsolver" draw fresh noise in each
    step but one to σ = 0, and have order 3 too: in diffusers the first has the wrong sign in its last term there, and
    the second breaks off.
    Model calls: N. Reference: Lu et al. (2022); `pndm_solvers.DPMMultistepSolver`, with `tau=1` for the two types.
    """

    _methods: ClassVar = {
        "algorithm_type": ("dpmsolver++", "dpmsolver", *STOCHASTIC),
        "solver_type": ("midpoint", "heun"),
    }

    @scheduler_options()
    def __init__(
        self,
        solver_order: int = 2,
        algorithm_type: Literal["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver"] = "dpmsolver++",
        solver_type: Literal["midpoint", "heun"] = "midpoint",
        lower_order_final: bool = True,
        euler_at_final: bool = False,
        use_lu_lambdas: bool = False,
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        lambda_min_clipped: float = -math.inf,
        variance_type: Literal["learned", "learned_range"] | None = None,
        timestep_spacing: str = "linspace",
        **shared: Unpack[Shared],
    ) -> None: ...

    def _solver_for(self, steps: int) -> Solver:
        config = self.config
        return DPMMultistepSolver(
            self.schedule,
            whole("solver_order", config.solver_order, most=3),
            "sample" if config.algorithm_type.endswith("++") else "epsilon",
            config.solver_type,
            config.lower_order_final and steps < FEW_STEPS,
            config.euler_at_final,
            1.0 if config.algorithm_type in STOCHASTIC else 0.0,
        )

    def step(  # type: ignore[override] — the order of diffusers' arguments
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        prev_sample: Tensor | None = None,
        log_prob: bool = False,
    ) -> StepResult:
        """The next sample, from the network's answer at `sample` `(B, …)` and `timestep`, the next of `timesteps`.

        The "sde-" types draw their noise from `generator`, one or one for each sample, or take `variance_noise`
        `(B, …)`. The other types draw none, whatever is passed. `prev_sample` and `log_prob` are as in
        `DDIMScheduler.step`; from order 2 on the log-probability holds the gradients of earlier answers too.

        Raises ValueError for another time than the run's next, naming it, for an answer of another shape, and for a
        log-probability of a step without noise.
        """
        draw = Draw.of(generator if variance_noise is None else None, variance_noise, prev_sample, log_prob)
        return self._step(model_output, timestep, sample, return_dict, draw)


class DEISMultistepScheduler(_Exponential, PlanScheduler):
    """DEIS in the place of diffusers' `DEISMultistepScheduler`, with its options and defaults.

    It has `rescale_betas_zero_snr` beside. A run ends at the lowest trained level, and that of a flow at the picture.
    Model calls: N. Reference: Zhang and Chen (2023); `pndm_solvers.DEISSolver`.
    """

    _methods: ClassVar = {"algorithm_type": ("deis",), "solver_type": ("logrho",)}

    @scheduler_options()
    def __init__(
        self,
        solver_order: int = 2,
        algorithm_type: Literal["deis"] = "deis",
        solver_type: Literal["logrho"] = "logrho",
        lower_order_final: bool = True,
        timestep_spacing: str = "linspace",
        **shared: Unpack[Shared],
    ) -> None: ...

    def _solver_for(self, steps: int) -> Solver:
        config = self.config
        return DEISSolver(
            self.schedule,
            config.solver_order,
            lower_order_final=config.lower_order_final and steps < FEW_STEPS,
        )


class UniPCMultistepScheduler(_Exponential, PlanScheduler):
    """UniPC in the place of diffusers' `UniPCMultistepScheduler`, orders 1, 2, 3, … with its options and defaults.

    It lacks a predictor from another scheduler. The corrector costs no model call.
    Model calls: N. Reference: Zhao et al. (2023); `pndm_solvers.UniPCSolver`.
    """

    _flow_levels = "UniPC"
    _methods: ClassVar = {"solver_type": ("bh2", "bh1")}
    _not_offered: ClassVar = {"solver_p": None}

    @scheduler_options()
    def __init__(
        self,
        solver_order: int = 2,
        predict_x0: bool = True,
        solver_type: Literal["bh1", "bh2"] = "bh2",
        lower_order_final: bool = True,
        disable_corrector: Sequence[int] = (),
        timestep_spacing: str = "linspace",
        final_sigmas_type: Literal["zero", "sigma_min"] = "zero",
        **shared: Unpack[Shared],
    ) -> None: ...

    def _solver_for(self, steps: int) -> Solver:
        config = self.config
        return UniPCSolver(
            self.schedule,
            config.solver_order,
            config.solver_type,
            "sample" if config.predict_x0 else "epsilon",
            config.lower_order_final,
            tuple(config.disable_corrector or ()),
        )


def default_tau(t: float) -> float:
    """τ at a time of training: 1 from 200 to 800 and 0 elsewhere, the default of diffusers' class."""
    return 1.0 if 200 <= t <= 800 else 0.0


@dataclass(frozen=True)
class _TimedSASolver(SASolver):
    """SA-Solver with a τ that is constant in each step: a function of the time at which the step begins."""

    tau_func: Callable[[float], float] = default_tau

    @property
    def name(self) -> str:
        return f"SA-Solver {self.predictor_order}-{self.corrector_order} (τ by steps)"

    def _tau(self, here: Level) -> float:
        return from_zero(f"tau_func({here.t:g})", self.tau_func(here.t))


class SASolverScheduler(_Exponential, PlanScheduler):
    """SA-Solver in the place of diffusers' `SASolverScheduler`, with its options and defaults.

    `tau_func` is a function of the time at which a step begins, and None is `default_tau`. Without a corrector,
    `corrector_order=0`, it is the predictor alone. Any order can be chosen, where diffusers has 1 to 4.

    A run ends at the lowest trained level, and that of a flow at the picture. With Karras', exponential and Beta
    sigmas, and with flows, diffusers repeats the last σ instead: its last call only corrects the step before.
    Model calls: N. Reference: Xue et al. (2023); `pndm_solvers.SASolver` of variant "bh1".
    """

    _methods: ClassVar = {"algorithm_type": ("data_prediction", "noise_prediction")}
    _sisters: ClassVar = (*SISTERS, *STOCHASTIC)

    @scheduler_options()
    def __init__(
        self,
        predictor_order: int = 2,
        corrector_order: int = 2,
        tau_func: Callable[[float], float] | None = None,
        algorithm_type: Literal["data_prediction", "noise_prediction"] = "data_prediction",
        lower_order_final: bool = True,
        lambda_min_clipped: float = -math.inf,
        variance_type: Literal["learned", "learned_range"] | None = None,
        timestep_spacing: str = "linspace",
        **shared: Unpack[Shared],
    ) -> None: ...

    def _solver_for(self, steps: int) -> Solver:
        config = self.config
        return _TimedSASolver(
            self.schedule,
            config.predictor_order,
            config.corrector_order,
            space="sample" if config.algorithm_type == "data_prediction" else "epsilon",
            variant="bh1",
            lower_order_final=config.lower_order_final,
            tau_func=default_tau if config.tau_func is None else function("tau_func", config.tau_func, "tau_func(t)"),
        )

    def step(  # type: ignore[override] — the order of diffusers' arguments
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        variance_noise: Tensor | None = None,
        prev_sample: Tensor | None = None,
        log_prob: bool = False,
    ) -> StepResult:
        """The next sample, from the network's answer at `sample` `(B, …)` and `timestep`, the next of `timesteps`.

        Noise is drawn where τ is above 0: from `generator`, one or one for each sample, or it is `variance_noise`
        `(B, …)`. `prev_sample` and `log_prob` are as in `DDIMScheduler.step`; the log-probability holds the gradients
        of earlier answers too.

        Raises ValueError for another time than the run's next, naming it, for an answer of another shape, and for a
        log-probability of a step without noise.
        """
        draw = Draw.of(generator, variance_noise, prev_sample, log_prob)
        return self._step(model_output, timestep, sample, return_dict, draw)
