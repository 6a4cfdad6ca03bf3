"""diffusers' scheduler interface to a solver: times and levels, and steps that are rows of a plan."""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from pndm_solvers.adapters.diffusers import config as options
from pndm_solvers.adapters.diffusers.runs import Position, Runs, Timetable, with_last_look
from pndm_solvers.arguments import reals, shown, whole
from pndm_solvers.arrays import check_floating, check_state, check_together, combine, library
from pndm_solvers.grid import GridOptions
from pndm_solvers.latents import converted
from pndm_solvers.noise import NoiseSource
from pndm_solvers.plan import Plan, State
from pndm_solvers.prediction import Prediction
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = ["Generators", "GivenNoise", "PlanScheduler", "SchedulerOutput"]

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class SchedulerOutput(BaseOutput):
    """The result of a step.

    Attributes
    ----------
    prev_sample:
        `(B, …)`, the sample for the next model call.
    pred_original_sample:
        `(B, …)`, the picture x̂_0 that the network sees in this step's sample, clipped where the options say so.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class PlanScheduler(SchedulerMixin, ConfigMixin):
    """diffusers' interface to a solver. A subclass provides the solver, and `step` with its own arguments."""

    # Those with betas. A list, not a ClassVar, since diffusers declares it so.
    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers if kind.name != "EDMEulerScheduler"]  # noqa: RUF012
    # Model calls per step, in diffusers' sense: image-to-image counts with it. It is not the method's order.
    order = 1
    init_noise_sigma = 1.0
    config: Any  # type: ignore[assignment] — a dict with attributes, which diffusers declares as a plain one

    def _solver(self) -> Solver:
        """The method of a run that begins at the first time."""
        raise NotImplementedError

    def _solver_for(self, steps: int) -> Solver:
        """The method of a run with so many steps."""
        return self._solver()

    def _continuation(self, solver: Solver) -> Solver:
        """The method of a run that begins further down, with one model call for each time that is left."""
        return solver

    def _end(self) -> Literal["clean", "first"]:
        """Where a run ends: at no noise, or at the lowest trained level."""
        return "clean" if self.config.set_alpha_to_one else "first"

    def _grid(self) -> GridOptions:
        """The options of the configured spacing."""
        exponential = "log_snr" if self.config.use_exponential_sigmas else self.config.timestep_spacing
        spacing = "karras" if self.config.use_karras_sigmas else exponential
        return {
            "spacing": spacing,
            "steps_offset": self.config.steps_offset if spacing == "leading" else 0,
            "prediction": self.prediction,
            "data_range": self.config.get("data_range", 1.0),
        }

    @classmethod
    def _understood(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A config of any class as this class reads it."""
        return config

    def _prepare(self) -> None:
        """Reads the configuration and refuses what is wrong with it: the body of each `__init__`."""
        config = self.config
        # What describes the network is passed on to other classes even where it is our default: theirs may differ.
        if defaults := config.get("_use_default_values"):
            self.register_to_config(_use_default_values=sorted(set(defaults) - set(options.NETWORK_OPTIONS)))
        options.check_options(config, inspect.signature(type(self).__init__).parameters)
        options.prediction_of(config)
        self.schedule = NoiseSchedule.from_config(config)
        self._solver()  # refuses a wrong option now, not in set_timesteps
        alphas_cumprod = self.schedule.alpha(np.arange(len(self))) ** 2
        # For pipelines that read them. The solvers use the schedule.
        self.alphas_cumprod = torch.from_numpy(alphas_cumprod).float()
        self.alphas = torch.from_numpy(alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])).float()
        self.betas = 1 - self.alphas
        self.final_alpha_cumprod = torch.tensor(1.0) if self._end() == "clean" else self.alphas_cumprod[0]
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(len(self) - 1, -1, -1)
        self._runs = Runs()

    @property
    def prediction(self) -> Prediction:
        """What the network's answers mean, and how the picture is kept in range."""
        # Read at each step, since pipelines rewrite clip_sample in the configuration of their scheduler.
        return options.prediction_of(self.config)

    @property
    def _clips(self) -> bool:
        return self.config.get("clip_sample") or self.config.thresholding

    def __len__(self) -> int:
        assert self.schedule.num_train_timesteps is not None  # a config makes a table
        return self.schedule.num_train_timesteps

    # ------------------------------------------------------------------ configuration

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler for a config of diffusers' schedulers or of ours; `kwargs` take precedence over the config.

        A warning names the options that belong to another scheduler's method and differ from its defaults. They
        stay in `config`, for the way back.

        Raises
        ------
        TypeError:
            For a keyword that is no option.
        ValueError:
            For a config whose network has no betas or another kind of times, as in flow matching.
        """
        own = inspect.signature(cls.__init__).parameters
        if isinstance(config, (str, os.PathLike)):
            config, kwargs = cls.load_config(config, return_unused_kwargs=True, **kwargs)  # type: ignore[misc] — two
        options.check_network(config, own)
        config, network = options.completed(cls._understood(config), own)
        if unknown := [] if return_unused_kwargs else [key for key in kwargs if key not in own]:
            known = ", ".join(name for name in own if name != "self")
            raise TypeError(f"{cls.__name__} has no option {', '.join(unknown)}; it has {known}")
        origin = str(config.get("_class_name"))
        ours = {kind.__name__: kind for kind in PlanScheduler.__subclasses__()}
        options.warn_of_foreign_options(cls.__name__, config, own, ours.get(origin) or getattr(diffusers, origin, None))
        return super().from_config(config, return_unused_kwargs, **(network | kwargs))

    def to_json_string(self) -> str:
        """The configuration as JSON, without a spacing that is our default and that diffusers' classes lack."""
        text = super().to_json_string()
        spacing, defaults = self.config.get("timestep_spacing"), self.config.get("_use_default_values", ())
        if spacing in ("leading", "trailing", "linspace") or "timestep_spacing" not in defaults:
            return text
        return json.dumps({k: v for k, v in json.loads(text).items() if k != "timestep_spacing"}, indent=2) + "\n"

    # The runs are kept with the caller's own tensors, which do not go into a copy or a pickle.
    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_runs": self._runs.table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table: Timetable | None = state["_runs"]
        vars(self).update(state, _runs=Runs())
        if table is not None:
            self._runs.lay_down(self.timesteps, table.copied())

    # ------------------------------------------------------------------ times

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
    ) -> None:
        """Compiles the plan of a run and lays down `timesteps`, one for each model call.

        Parameters
        ----------
        num_inference_steps:
            Steps of the configured spacing.
        device:
            Where `timesteps` lies. No step reads a number from there, so the host does not wait for an accelerator.
        timesteps:
            The times at which steps begin, falling.
        sigmas:
            The σ/α at which steps begin, falling; the last is where the run ends, 0 for no noise.

        Raises
        ------
        ValueError:
            Unless exactly one of the three is given; for times out of order or out of range; and for a time at
            which the prediction does not determine the picture, as ε at zero terminal SNR.
        """
        given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {' and '.join(named) or 'none'}")
        end: dict[str, Any] = {"final": self._end()}
        if num_inference_steps is not None:
            steps = whole("num_inference_steps", num_inference_steps)
            solver = self._solver_for(steps)
            plan = solver.plan(steps, **self._grid(), **end)
        else:
            if sigmas is not None:
                times, end = self._times_at(np.atleast_1d(reals("sigmas", _on_host(sigmas)).astype(np.float64)))
            else:
                times = reals("timesteps", _on_host(timesteps))
            steps = np.size(times)
            solver = self._solver_for(steps)
            plan = solver.plan(timesteps=times, **end)
        plan = with_last_look(plan, steps) if self._clips else plan
        self.prediction.check((row.level, row.space) for row in plan.rows)  # refuses now what a step would refuse
        dtype = torch.int64 if plan.integer_times else torch.float32
        with torch.inference_mode(False):  # there, a view would not keep its tensor alive, nor what belongs to it
            laid_down = torch.tensor(plan.times, dtype=torch.float64).to(device, dtype)
        self._runs.lay_down(laid_down, Timetable(solver, self._continuation(solver), plan, end))
        self.timesteps, self.num_inference_steps = laid_down, steps

    def _times_at(self, sigmas: np.ndarray) -> tuple[list[float], dict[str, Any]]:
        """The times at σ/α, and the options that end a plan at the last one."""
        lowest, highest = (self.schedule.level(t).ratio for t in (self.schedule.t_min, self.schedule.t_max))
        slack = 1 + 1e-3  # for numbers that were rounded on the way
        clean = np.all(sigmas[-1:] == 0)
        levels = sigmas[:-1] if clean else sigmas
        trained = np.all((lowest / slack <= levels) & (levels <= highest * slack))
        if sigmas.ndim != 1 or len(sigmas) < 2 or not trained or np.any(np.diff(sigmas) >= 0):
            raise ValueError(
                f"sigmas must be two or more falling σ/α, from {highest:g} to {lowest:g} as the network was trained, "
                f"or at last to 0; not {sigmas}"
            )
        times = [self.schedule.level_at(ratio).t for ratio in levels.tolist()]
        return (times, {"final": "clean"}) if clean else (times[:-1], {"stop": times[-1]})

    @property
    def plan(self) -> Plan:
        """The plan of a run that begins at the first time. Raises ValueError before `set_timesteps`."""
        return self._runs.current.plan

    @property
    def begin_index(self) -> int | None:
        """The index in `timesteps` at which the next run begins, where `set_begin_index` set it."""
        return self._runs.table and self._runs.table.begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Sets the index in `timesteps` at which the next run begins. ValueError outside `timesteps`."""
        if not 0 <= begin_index < len(self.timesteps):
            raise ValueError(f"begin_index is {begin_index}; it must be from 0 to {len(self.timesteps) - 1}")
        table = self._runs.current
        table.begin_index, table.newest = begin_index, None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """`sample` as it is: networks on these schedules take it so."""
        return sample

    # ------------------------------------------------------------------ levels

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """α(t)·x_0 + σ(t)·noise, of x_0's shape `(B, …)` and dtype; `timesteps` is one, or one for each sample."""
        check_floating("original_samples", original_samples)
        check_together("noise", noise, "original_samples", original_samples)
        alpha, sigma = self._levels(timesteps, original_samples)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity α(t)·noise − σ(t)·x_0, of x_0's shape `(B, …)` and dtype: Salimans and Ho (2022), section 4."""
        check_floating("sample", sample)
        check_together("noise", noise, "sample", sample)
        alpha, sigma = self._levels(timesteps, sample)
        return (alpha * noise - sigma * sample).to(sample.dtype)

    def _levels(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """α and σ at the times, as `(2, B, 1, …)` on like's device, float32 at least."""
        if not isinstance(timesteps, Tensor):
            raise TypeError(f"timesteps is {shown(timesteps)}; it must be a tensor of one time, or of one each sample")
        times = timesteps.flatten()
        if len(times) not in (1, len(like)):
            raise ValueError(f"timesteps are {len(times)} for a batch of {len(like)}; pass one, or one for each sample")
        if times.device.type != "cpu" and not times.is_floating_point():
            every = self._every_level.to(times.device, non_blocking=True)
            table = every[:, times]  # looked up there, so the host need not wait
        else:
            t = times.double().cpu().numpy()
            if t.size and not self.schedule.t_min <= t.min() <= t.max() <= self.schedule.t_max:
                raise ValueError(f"timesteps must lie in 0 to {self.schedule.t_max:g}, not {timesteps}")
            table = self._levels_at(t)
        wide = torch.float32 if like.dtype.itemsize < 4 else like.dtype
        return table.to(like.device, wide).reshape(2, -1, *[1] * (like.ndim - 1))

    def _levels_at(self, times: Any) -> Tensor:
        return torch.from_numpy(np.stack([self.schedule.alpha(times), self.schedule.sigma(times)]))

    @cached_property
    def _every_level(self) -> Tensor:
        return self._levels_at(np.arange(len(self)))

    # ------------------------------------------------------------------ steps

    def _step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool,
        noise: NoiseSource | None = None,
        solver: Solver | None = None,
        epsilon_as_answered: bool = False,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """One row of the plan of `solver`, by default the scheduler's own.

        With `epsilon_as_answered` a clipped picture is combined with the network's own ε, not with one derived anew.
        """
        check_state("sample", sample)
        at = self._runs.position(timestep, sample, solver)
        time = at.table.plan.times[at.entry]
        plan, rows = at.table.plan_from(at.begin, at.solver)
        row = rows[at.entry - at.begin]
        output = self._epsilon_channels(model_output, sample)
        check_together(f"model_output at t = {time:g}", output, "sample", sample)
        if any(other.shape != sample.shape for other in (*at.states.values(), *at.answers.values())):
            raise ValueError(f"the sample is of shape {tuple(sample.shape)}, its run so far was not; keep to one batch")
        number = plan.times.index(time) if row is None else row
        here, space = plan.levels[number], plan.rows[number].space
        prediction, clips, ours = self.prediction, self._clips, library(sample)
        x0 = converted(ours, prediction, "sample", sample, output, here)
        noise = self._noise(at, model_output, sample, noise or NoiseSource())
        noise.check(sample)
        states, answers = at.states, at.answers
        if row is None:
            following = sample.clone()
        elif clips and epsilon_as_answered:
            epsilon = converted(ours, Prediction(prediction.type), "epsilon", sample, output, here)
            following = _ddim_step(plan, row, sample, x0, epsilon, noise)
        else:
            # A clipped picture counts as the network's prediction.
            prediction, output = (Prediction("sample"), x0) if clips else (prediction, output)
            answer = converted(ours, prediction, space, sample, output, here)
            # Copies of what later rows need, since the caller may write into its own tensors.
            dead_states, dead_answers = plan.last_uses[row]
            answer = answer if row in dead_answers else answer.clone()
            kept = sample if row in dead_states else sample.clone()
            before = State(plan, row, {**states, row: kept}, answers, prediction, noise, sample.dtype, ours)
            after = before.combined(answer)
            following = after.states[after.row]
            states, answers = {i: x for i, x in after.states.items() if i != after.row}, after.answers
        self._runs.remember(following, replace(at, entry=at.entry + 1, states=states, answers=answers))
        return SchedulerOutput(following, x0) if return_dict else (following, x0)

    def _noise(self, at: Position, model_output: Tensor, sample: Tensor, noise: NoiseSource) -> NoiseSource:
        """The noise of the step at `at`, made from the caller's `noise`."""
        return noise

    def _epsilon_channels(self, model_output: Tensor, sample: Tensor) -> Tensor:
        """The answer without the channels of a learned variance, which DDPM alone uses."""
        learned = str(self.config.get("variance_type")).startswith("learned")
        # Not a view, which would keep the others in memory.
        return model_output[:, : sample.shape[1]].clone() if learned else model_output


@dataclass(frozen=True)
class GivenNoise(NoiseSource):
    """Noise that the caller drew."""

    values: Any = None

    def check(self, like: Any) -> None:
        """Refuses noise that is no tensor of the sample's shape."""
        check_together("variance_noise", self.values, "sample", like)

    def draw(self, row: int, like: Any) -> Any:
        """The noise, whatever the row."""
        return self.values


def _on_host(numbers: Any) -> Any:
    return numbers.detach().cpu() if isinstance(numbers, Tensor) and not numbers.is_meta else numbers


def _ddim_step(plan: Plan, row: int, sample: Tensor, x0: Tensor, epsilon: Tensor, noise: NoiseSource) -> Tensor:
    """DDIM's eq. (12) for a picture and an ε that do not make up `sample`: two answers, where a row has one."""
    there, deviation = plan.levels[row + 1], plan.rows[row].noise
    parts, weights = [x0, epsilon], [there.alpha, math.sqrt(there.sigma**2 - deviation**2)]
    if deviation:
        parts, weights = [*parts, noise.draw(row, sample)], [*weights, deviation]
    return combine(parts, weights, dtype=sample.dtype)
