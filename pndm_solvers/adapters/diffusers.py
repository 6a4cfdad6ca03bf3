"""Schedulers for diffusers' pipelines: each a solver behind diffusers' interface.

    pipe.scheduler = PLMSScheduler.from_config(pipe.scheduler.config)

`set_timesteps` compiles a plan, and `step` runs one row of it. What a run has behind it is kept with the
sample that `step` returned, not in the scheduler: so any number of runs may interleave on one scheduler,
and go on from an earlier sample again.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import zip_longest
from typing import Any, Literal, get_args

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils.outputs import BaseOutput
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pndm_solvers.arguments import alike, boolean, choice, real, reals, warn, whole
from pndm_solvers.arrays import combine, is_array
from pndm_solvers.solver import Solver
from pndm_solvers.execute import State, check_answer, check_levels, check_state, combine_row
from pndm_solvers.grid import DEFAULT_SPACING, SPACINGS
from pndm_solvers.noise import NoiseSource
from pndm_solvers.plan import Plan, Row
from pndm_solvers.prediction import Prediction, convert
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.methods import (
    DDIMSolver,
    DDPMSolver,
    PLMSSolver,
    PNDMSolver,
    Starter,
    forward_deviation,
)

__all__ = ["DDIMScheduler", "DDPMScheduler", "PLMSScheduler", "PNDMScheduler", "SchedulerOutput"]

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
VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class SchedulerOutput(BaseOutput):
    """What a step gives.

    Attributes
    ----------
    prev_sample:
        `(B, …)`, the sample for the next model call.
    pred_original_sample:
        `(B, …)`, the picture x̂_0 that the network sees in this step's sample, clipped where that is asked for.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class _PlanScheduler(SchedulerMixin, ConfigMixin):
    """diffusers' interface to a solver. A subclass says which, and what else its `step` takes."""

    # Those with betas. A list, not a ClassVar, since diffusers declares it so.
    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers if kind.name != "EDMEulerScheduler"]  # noqa: RUF012
    # diffusers' word for the model calls of one step, by which image-to-image counts; not the method's order.
    order = 1
    init_noise_sigma = 1.0
    config: Any  # type: ignore[assignment] — a dict with attributes, which diffusers declares as a plain one

    def _solver(self) -> Solver:
        """The method of a run from the first time on."""
        raise NotImplementedError

    def _continuation(self) -> Solver:
        """The method of a run that begins further down, where each time that is left is one model call."""
        return self._solver()

    def _prepare(self) -> None:
        """Reads the configuration and refuses what is wrong with it: the body of each `__init__`."""
        config = self.config
        # What describes the network goes along to other classes also where it is our default, which is not theirs.
        if defaults := config.get("_use_default_values"):
            self.register_to_config(_use_default_values=sorted(set(defaults) - set(NETWORK_OPTIONS)))
        choice("prediction_type", config.prediction_type, get_args(PredictionType))
        choice("timestep_spacing", config.timestep_spacing, SPACINGS)
        whole("steps_offset", config.steps_offset, least=0)
        for name, parameter in inspect.signature(type(self).__init__).parameters.items():
            if isinstance(parameter.default, bool):
                boolean(name, config[name])
        for name in ("clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value"):
            real(name, config[name])
        if config.use_karras_sigmas and config.use_exponential_sigmas:
            raise ValueError("use_karras_sigmas and use_exponential_sigmas are two spacings; pass one of them")
        if config.thresholding and not config.sample_max_value >= 1:
            raise ValueError(
                f"sample_max_value is {config.sample_max_value!r}; it must be at least 1, where to threshold is to clip"
            )
        self.prediction.weights("epsilon", 1.0, 1.0)  # raises now what else is wrong with clipping
        self.schedule = NoiseSchedule.from_config(config)
        alphas_cumprod = self.schedule.alpha(np.arange(len(self))) ** 2
        # For pipelines that read them; the solvers go by the schedule.
        self.alphas_cumprod = torch.from_numpy(alphas_cumprod).float()
        self.alphas = torch.from_numpy(alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])).float()
        self.betas = 1 - self.alphas
        self.final_alpha_cumprod = torch.tensor(1.0) if config.set_alpha_to_one else self.alphas_cumprod[0]
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(len(self) - 1, -1, -1)
        self._table: _Timetable | None = None
        self._begin_index: int | None = None
        self._forget()

    # Read when asked for, since pipelines rewrite clip_sample in the configuration of the scheduler they are given.
    @property
    def prediction(self) -> Prediction:
        """What the network's answers mean, and how the picture is kept in range."""
        config = self.config
        return Prediction(
            config.prediction_type,
            clip=config.clip_sample_range if config.clip_sample and not config.thresholding else None,
            threshold=config.dynamic_thresholding_ratio if config.thresholding else None,
            threshold_max=config.sample_max_value if config.thresholding else math.inf,
        )

    @property
    def _clips(self) -> bool:
        return self.config.clip_sample or self.config.thresholding

    def __len__(self) -> int:
        assert self.schedule.num_train_timesteps is not None  # a config makes a table
        return self.schedule.num_train_timesteps

    # ------------------------------------------------------------------ configuration

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """The scheduler for the config of one of diffusers' or of ours; `kwargs` take precedence over it.

        Options of another scheduler's method that differ from its defaults are named in a warning; they
        stay in `config`, for the way back.

        Raises
        ------
        TypeError:
            For a keyword that is no option.
        ValueError:
            For a config whose network has no betas or another kind of times, as those of flow matching.
        """
        parameters = inspect.signature(cls.__init__).parameters
        if isinstance(config, (str, os.PathLike)):
            config, kwargs = cls.load_config(config, return_unused_kwargs=True, **kwargs)  # type: ignore[misc] — two
        if isinstance(config, dict):
            _check_network(config, parameters)
            # diffusers passes on no defaults, but those of the network's own class describe the network.
            kwargs = {key: config[key] for key in NETWORK_OPTIONS if config.get(key) is not None} | kwargs
            # Nothing said of an option that must say something is its default.
            unsaid = [key for key, parameter in parameters.items() if parameter.default is not None]
            config = {key: value for key, value in config.items() if value is not None or key not in unsaid}
        strange = {} if return_unused_kwargs else {key: kwargs[key] for key in kwargs if key not in parameters}
        if strange:
            own = ", ".join(name for name in parameters if name != "self")
            raise TypeError(f"{cls.__name__} has no option {', '.join(strange)}; it has {own}")
        if foreign := _foreign_options(config, parameters) if isinstance(config, dict) else {}:
            named = ", ".join(f"{key}={value!r}" for key, value in foreign.items())
            warn(f"{cls.__name__} has no such options and ignores them: {named}")
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def to_json_string(self) -> str:
        """The configuration as JSON; without a spacing that is our default and that diffusers' classes lack."""
        text = super().to_json_string()
        spacing, defaults = self.config.timestep_spacing, self.config.get("_use_default_values", ())
        if spacing in ("leading", "trailing", "linspace") or "timestep_spacing" not in defaults:
            return text
        return json.dumps({k: v for k, v in json.loads(text).items() if k != "timestep_spacing"}, indent=2) + "\n"

    # What is kept with the caller's own tensors does not go along into a copy or a pickle.
    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_tables", "_positions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()
        if self._table is not None:
            self._tables[self.timesteps] = self._table = self._table.copied()

    def _forget(self) -> None:
        self._tables: Any = WeakTensorKeyDictionary()  # by the times that were handed out
        self._positions: Any = WeakTensorKeyDictionary()  # by the sample that was handed out

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
            Where `timesteps` lies. No step reads it from there again, so the host does not wait for an accelerator.
        timesteps:
            The times at which steps begin, falling.
        sigmas:
            The σ/α at which steps begin, falling, and last the one at which the run ends: 0 for no noise.

        Raises
        ------
        ValueError:
            Unless exactly one of the three is given; for times out of order or out of range; and for one at
            which what the network predicts does not tell the picture, as ε at zero terminal SNR.
        """
        try:
            device = None if device is None else torch.empty(0, device=device).device
        except Exception as error:  # torch has several for what it does not have here
            raise ValueError(f"device is {device!r}; it must be one of torch's, such as 'cpu' or 'cuda:0'") from error
        given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {' and '.join(named) or 'none'}")
        solver, config = self._solver(), self.config
        end: dict[str, Any] = {"final": "clean" if config.set_alpha_to_one else "first"}
        if num_inference_steps is not None:
            exponential = "log_snr" if config.use_exponential_sigmas else config.timestep_spacing
            spacing = "karras" if config.use_karras_sigmas else exponential
            offset = config.steps_offset if spacing == "leading" else 0
            plan = solver.plan(num_inference_steps, spacing=spacing, steps_offset=offset, **end)
            self.num_inference_steps = num_inference_steps
        else:
            times = timesteps if sigmas is None else sigmas
            named = "timesteps" if sigmas is None else "sigmas"
            times = _numbers(named, times)
            if sigmas is not None:
                times, end = self._times_at(times)
            plan = solver.plan(timesteps=times, **end)
            self.num_inference_steps = len(times)
        if self._clips:
            plan = _with_last_look(plan, self.num_inference_steps)
        check_levels(plan, self.prediction)  # refuses now what a step would refuse
        dtype = torch.int64 if plan.integer_times else torch.float32
        with torch.inference_mode(False):  # where views would not keep the tensor they are of, nor what hangs on it
            times = torch.tensor(plan.times, dtype=torch.float64).to(device, dtype)
        # Laid down before it is shown: another thread may show its own in between.
        self._tables[times] = table = _Timetable(solver, plan, end)
        self.timesteps, self._table = times, table
        self._begin_index = None

    def _times_at(self, sigmas: Any) -> tuple[list[float], dict[str, Any]]:
        """The times at σ/α, and the options that end a plan at the last one."""
        lowest, highest = (self.schedule.level(t).ratio for t in (self.schedule.t_min, self.schedule.t_max))
        slack = 1 + 1e-3  # of those that were rounded on the way
        levels = sigmas[:-1] if sigmas.ndim == 1 and len(sigmas) > 1 and sigmas[-1] == 0 else sigmas
        trained = np.all((lowest / slack <= levels) & (levels <= highest * slack))
        if sigmas.ndim != 1 or len(sigmas) < 2 or not trained or np.any(np.diff(sigmas) >= 0):
            raise ValueError(
                f"sigmas must be two or more falling σ/α, from {highest:g} to {lowest:g} as the network was trained, "
                f"or at last to 0; not {sigmas}"
            )
        times = [self.schedule.level_at(float(ratio)).t for ratio in sigmas if ratio]
        return (times, {"final": "clean"}) if sigmas[-1] == 0 else (times[:-1], {"stop": times[-1]})

    @property
    def plan(self) -> Plan:
        """The plan of a run from the first time on. Raises ValueError before `set_timesteps`."""
        return self._timetable().plan

    def _timetable(self) -> _Timetable:
        if self._table is None:
            raise ValueError("there are no times yet; call set_timesteps first")
        return self._table

    @property
    def begin_index(self) -> int | None:
        """Which of `timesteps` the next run begins at, where `set_begin_index` said it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Says which of `timesteps` the next run begins at."""
        if not 0 <= begin_index < len(self.timesteps):
            raise ValueError(f"begin_index is {begin_index}; it is one of the {len(self.timesteps)} times, from 0 on")
        self._begin_index = begin_index
        if self._table is not None:
            self._table.newest = None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """`sample`, as it is: networks on these schedules take it so."""
        return sample

    # ------------------------------------------------------------------ levels

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """α(t)·x_0 + σ(t)·noise, of x_0's shape `(B, …)` and dtype; `timesteps` is one, or one for each sample."""
        _check_tensors(original_samples=original_samples, noise=noise)
        alpha, sigma = self._levels(timesteps, original_samples)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def get_velocity(self, sample: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity α(t)·noise − σ(t)·x_0, of x_0's shape `(B, …)` and dtype: Salimans and Ho (2022), section 4."""
        _check_tensors(sample=sample, noise=noise)
        alpha, sigma = self._levels(timesteps, sample)
        return (alpha * noise - sigma * sample).to(sample.dtype)

    def _levels(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """α and σ at the times, as `(2, B, 1, …)` on like's device, float32 at least."""
        if not isinstance(timesteps, Tensor) or not (like.is_meta or _has_numbers(timesteps)):
            timesteps = torch.from_numpy(np.ascontiguousarray(_numbers("timesteps", timesteps), np.float64))
        if timesteps.is_complex() or timesteps.dtype == torch.bool:
            raise TypeError(f"timesteps are of dtype {timesteps.dtype}; they must be integers or floating")
        times = timesteps.flatten()
        if len(times) not in (1, len(like)):
            raise ValueError(f"timesteps are {len(times)} for a batch of {len(like)}; pass one, or one for each sample")
        if times.device.type != "cpu" and not times.is_floating_point():
            every = self._every_level.to(times.device, non_blocking=True)
            table = every[:, times]  # so that the host need not wait
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
        """One row of the plan of `solver`, or of the scheduler's own.

        With `epsilon_as_answered` a clipped picture goes with the network's own ε, not with one derived anew.
        """
        _check_tensors(sample=sample)
        boolean("return_dict", return_dict)
        at = self._position(timestep, sample, solver)
        time = at.table.plan.times[at.entry]
        plan, rows = at.table.plan_from(at.begin, at.solver)
        row = rows[at.entry - at.begin]
        output = self._epsilon_channels(model_output, sample)
        check_answer(sample, time, output)
        if any(other.shape != sample.shape for other in (*at.states.values(), *at.answers.values())):
            raise ValueError(f"the sample is of shape {tuple(sample.shape)}, its run so far was not; keep to one batch")
        here = plan.levels[plan.times.index(time) if row is None else row]
        prediction, clips = self.prediction, self._clips
        x0 = convert(prediction, "sample", sample, output, here.alpha, here.sigma)
        noise = self._noise(at, model_output, sample, noise or NoiseSource())
        noise.check(sample)
        states, answers = at.states, at.answers
        if row is None:
            following = sample.clone()
        elif clips and epsilon_as_answered:
            epsilon = convert(Prediction(prediction.type), "epsilon", sample, output, here.alpha, here.sigma)
            following = _ddim_step(plan, row, sample, x0, epsilon, noise)
        else:
            # A picture that was clipped is what the network is taken to have predicted.
            prediction, output = (Prediction("sample"), x0) if clips else (prediction, output)
            answer = convert(prediction, plan.rows[row].wanted, sample, output, here.alpha, here.sigma)
            # Copies of what later rows need and others may write into.
            dead_states, dead_answers = plan.last_uses[row]
            answer = answer if row in dead_answers else answer.clone()
            mine = sample if row in dead_states else sample.clone()
            after = combine_row(
                State(plan, row, {**states, row: mine}, answers, prediction, noise, sample.dtype), answer
            )
            following = after.states[after.row]
            states, answers = {i: x for i, x in after.states.items() if i != after.row}, after.answers
        if not at.table.memoryless:
            self._remember(following, replace(at, entry=at.entry + 1, states=states, answers=answers))
        return SchedulerOutput(following, x0) if return_dict else (following, x0)

    def _noise(self, at: _Position, model_output: Tensor, sample: Tensor, noise: NoiseSource) -> NoiseSource:
        """Where the noise of the step at `at` comes from, given what the caller said."""
        return noise

    def _epsilon_channels(self, model_output: Tensor, sample: Tensor) -> Tensor:
        """The answer without the channels of a learned variance, which only DDPM has a use for."""
        learned = str(self.config.get("variance_type")).startswith("learned")
        # Not a view, which would keep the others in memory.
        return model_output[:, : sample.shape[1]].clone() if learned else model_output

    def _position(self, timestep: Any, sample: Tensor, solver: Solver | None) -> _Position:
        """Where the run stands whose sample this is, or a new run. ValueError if it is none that can be asked now."""
        known = self._positions.get(sample)
        table, entries = self._asked(timestep, known)
        if not entries:
            raise ValueError(
                f"timestep is {float(timestep):.7g}, which is none of this run's: {_abridged(table.plan.times)}"
            )
        if table.memoryless:
            return _Position(table, solver or table.solver, 0, entries[0])
        at = known if known is not None and known.table is table else table.newest
        if at is not None and at.entry in entries:
            if at is not known and len(table.unfinished) > 1:
                raise ValueError(
                    f"{len(table.unfinished)} runs on this scheduler have not ended, and the sample for "
                    f"t = {table.plan.times[at.entry]:g} is none that step returned: whose is it? Call set_timesteps "
                    f"before each run, hand step the sample that it returned, or give each run a copy of the scheduler"
                )
            return at
        # The first run may begin anywhere; others where one began, or where they are said to.
        beginnings = {0, self._begin_index, *table.begun} & set(entries) if table.begun else set(entries)
        if not beginnings:
            expected = "" if at is None else f", but the run's next is {table.plan.times[at.entry]:.7g}"
            raise ValueError(
                f"timestep is {float(timestep):.7g}{expected}; a new run begins at {table.plan.times[0]:g}, where one "
                f"began before, where set_begin_index says, or after set_timesteps anywhere"
            )
        begin = self._begin_index if self._begin_index in beginnings else min(beginnings)
        assert begin is not None  # None is no entry
        table.begun.add(begin)
        return _Position(table, self._continuation() if begin else table.solver, begin, begin)

    def _asked(self, timestep: Any, known: _Position | None) -> tuple[_Timetable, list[int]]:
        """The times that `timestep` is one of, and which of them."""
        if isinstance(timestep, Tensor):
            # A time out of `timesteps` is known by its place in memory: no value is read from an accelerator, a time
            # that comes twice tells which it is, and a run goes on when its scheduler has been given other times,
            # which the times of the run outlive as long as a view of them is held.
            if timestep.numel() != 1 and any(timestep.stride()):  # but for one that was expanded
                raise ValueError(f"timestep has {timestep.numel()} entries; pass the one time of the whole batch")
            place = timestep.untyped_storage().data_ptr()
            for times in [reference() for reference in self._tables.keyrefs()]:  # a copy: other threads may add to it
                if times is None or times.untyped_storage().data_ptr() != place or times.device != timestep.device:
                    continue
                return self._tables[times], [int(timestep.storage_offset())]
        if isinstance(timestep, Tensor) and timestep.ndim and _has_numbers(timestep):
            timestep = timestep.flatten()[0]
        t = real("timestep", timestep, "the next of the scheduler's timesteps")
        if known is not None and known.entry in known.table.entries(t):
            return known.table, [known.entry]
        return self._timetable(), self._timetable().entries(t)

    def _remember(self, sample: Tensor, at: _Position) -> None:
        table = at.table
        if at.entry < len(table.plan.times):
            table.newest = self._positions[sample] = at
            table.unfinished.add(at.run)
        else:
            table.unfinished.discard(at.run)
            if table.newest is not None and table.newest.run is at.run:
                table.newest = None


@dataclass
class _Timetable:
    """What one `set_timesteps` laid down, and how the runs on it are getting on."""

    solver: Solver
    plan: Plan
    end: dict[str, Any]
    # The newest of the runs that have not ended, for a sample that was changed between two steps.
    newest: _Position | None = None
    unfinished: set[object] = field(default_factory=set)
    begun: set[int] = field(default_factory=set)  # where runs began
    _plans: dict[tuple[int, Solver], tuple[Plan, list[int | None]]] = field(default_factory=dict)

    @cached_property
    def memoryless(self) -> bool:
        """Whether each row needs no more than its own sample and answer."""
        return all({i for i, _ in row.states + row.answers} <= {k} for k, row in enumerate(self.plan.rows))

    def entries(self, t: float) -> list[int]:
        """Which of the model calls are at the time `t`, as a float or a float32."""
        return [i for i, time in enumerate(self.plan.times) if t in (time, float(np.float32(time)))]

    def copied(self) -> _Timetable:
        """For a copy of the scheduler, on which its runs go on by themselves."""
        table = replace(self, unfinished=set(self.unfinished), begun=set(self.begun), _plans={**self._plans})
        table.newest = self.newest and replace(self.newest, table=table)
        return table

    def plan_from(self, begin: int, solver: Solver) -> tuple[Plan, list[int | None]]:
        """The solver's plan for the times from `begin` on, and which of its rows each of them asks.

        Where `begin` lies within Runge–Kutta steps, times come twice, and the first answer has no use (None).
        """
        if begin == 0 and solver == self.solver:
            return self.plan, list(range(self.plan.model_calls))
        if (begin, solver) not in self._plans:
            times = self.plan.times[begin:]
            # As integers where they are, so that nothing is asked between two trained times.
            distinct = np.array(list(dict.fromkeys(times)), np.int64 if self.plan.integer_times else np.float64)
            rows = [None if t == after else distinct.tolist().index(t) for t, after in zip_longest(times, times[1:])]
            plan = solver.plan(timesteps=distinct, **self.end)
            self._plans[begin, solver] = _with_last_look(plan, len(distinct)), rows
        return self._plans[begin, solver]


@dataclass(frozen=True)
class _Position:
    """A run between two steps."""

    table: _Timetable
    solver: Solver
    begin: int  # which of the table's times the run began at
    entry: int  # which is next
    # What later rows need, but for the newest sample, which the caller holds.
    states: Mapping[int, Any] = field(default_factory=dict)
    answers: Mapping[int, Any] = field(default_factory=dict)
    run: object = field(default_factory=object)  # tells runs apart


@dataclass(frozen=True)
class _Given(NoiseSource):
    """Noise that the caller drew."""

    values: Any = None

    def check(self, like: Any) -> None:
        if getattr(self.values, "shape", None) != like.shape:
            raise ValueError(f"variance_noise must be a tensor of the sample's shape {tuple(like.shape)}")

    def draw(self, row: int, like: Any) -> Any:
        return self.values


def _has_numbers(x: Tensor) -> bool:
    return is_array(x) and not x.is_meta


def _numbers(name: str, values: Any) -> np.ndarray:
    """What a tensor or a sequence holds."""
    if isinstance(values, Tensor):
        if not _has_numbers(values):
            raise TypeError(f"{name} is a tensor that is sparse, or on the meta device; it must hold its numbers")
        values = values.detach().cpu()
    return reals(name, values)


def _check_tensors(**named: Any) -> None:
    """TypeError or ValueError unless they are floating tensors of one shape, the first of them `(B, …)`."""
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; it must be a floating torch.Tensor")
    (first, x), *others = named.items()
    check_state(x)
    for name, value in others:
        alike(name, value, first, x)


def _with_last_look(plan: Plan, steps: int) -> Plan:
    """A plan of `steps` calls. A step of no length, at the end's own level, does what clipping does there."""
    if plan.model_calls == steps - 1 and plan.end.sigma > 0:
        last = Row(*plan.end, states=((plan.model_calls, 1.0),), answers=())
        integer_times = plan.integer_times and float(plan.end.t).is_integer()
        plan = replace(plan, rows=(*plan.rows, last), integer_times=integer_times)
    return plan


def _ddim_step(plan: Plan, row: int, sample: Tensor, x0: Tensor, epsilon: Tensor, noise: NoiseSource) -> Tensor:
    """DDIM's eq. (12) for a picture and an ε that do not make up `sample`: two answers, where a row has one."""
    there, deviation = plan.levels[row + 1], plan.rows[row].noise
    parts, weights = [x0, epsilon], [there.alpha, math.sqrt(there.sigma**2 - deviation**2)]
    if deviation:
        parts, weights = [*parts, noise.draw(row, sample)], [*weights, deviation]
    return combine(parts, weights, dtype=sample.dtype)


def _abridged(times: Sequence[float]) -> str:
    return ", ".join(f"{t:g}" for t in times) if len(times) < 9 else f"{times[0]:g}, {times[1]:g}, … {times[-1]:g}"


def _check_network(config: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """ValueError for a config whose network these schedulers, with options `own`, cannot ask."""
    elsewhere = "use the solvers on NoiseSchedule.rectified_flow() or .ve() instead, as docs/diffusers.md shows"
    foreign = [key for key in config if key not in own and not key.startswith("_")]
    betas = {"beta_schedule", "beta_start", "beta_end"} & config.keys() or config.get("trained_betas") is not None
    if not betas and (foreign or "trained_betas" in config):
        named = f" but {', '.join(foreign)}" if foreign else ""
        raise ValueError(f"the config names no betas{named}, as those of flow matching, EDM and iPNDM do; {elsewhere}")
    for key, usual in {"use_flow_sigmas": False, "timestep_type": "discrete", "snr_shift_scale": 1.0}.items():
        if config.get(key, usual) not in (usual, None):
            raise ValueError(
                f"a config with {key}={config[key]!r} is of a network with other times or levels than a table of betas "
                f"gives; {elsewhere}"
            )


def _defaults(scheduler: str) -> dict[str, Any]:
    """The options of one of our schedulers or of diffusers', by its name."""
    kind = globals().get(scheduler) or getattr(diffusers, scheduler, None)
    parameters = inspect.signature(kind.__init__).parameters if kind else {}
    return {name: parameter.default for name, parameter in parameters.items()}


def _foreign_options(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Those of another scheduler's method that say something: what they are by default says nothing."""
    silent = {*own, *config.get("_use_default_values", ()), "skip_prk_steps"}
    defaults = _defaults(str(config.get("_class_name")))
    foreign = {k: v for k, v in config.items() if not k.startswith("_") and k not in silent and v is not None}
    # Of a variance that the network learned its channels are taken off; so much is honoured.
    return {k: v for k, v in foreign.items() if v != defaults.get(k) and not str(v).startswith("learned")}


class PNDMScheduler(_PlanScheduler):
    """PNDM in the place of diffusers' `PNDMScheduler`: F-PNDM, or with `skip_prk_steps` latent diffusion's PLMS.

    Options as there, with its defaults; and those of `DDIMScheduler` that it lacks: clipping, thresholding,
    sample prediction, zero terminal SNR, any spacing of `pndm_solvers.SPACINGS`, Karras' and exponential sigmas.

    N steps take N + 9 model calls, or N + 1: the times of the Runge–Kutta or Heun stages are in `timesteps`. A run
    that begins further down has one call for each time that is left, so it starts with orders 1, 2, 3.
    Reference: Liu et al. (2022), eq. (9), (12) and (13); `pndm_solvers.PNDMSolver`.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Any = None,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        prediction_type: PredictionType = "epsilon",
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        rescale_betas_zero_snr: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
    ) -> None:
        self._prepare()

    def _solver(self) -> Solver:
        if self.config.skip_prk_steps:
            return PLMSSolver(self.schedule, starter="heun", weights="classical")
        return PNDMSolver(self.schedule)

    def _continuation(self) -> Solver:
        return PLMSSolver(self.schedule, weights="classical")

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """The next sample, from the network's answer at `sample` `(B, …)` and `timestep`, the next of `timesteps`.

        Raises ValueError for another time than the run's next, naming it, and for an answer of another shape.
        """
        return self._step(model_output, timestep, sample, return_dict)

    # diffusers' names for the two parts of a run, of which `step` knows by itself which one it is in.
    step_prk = step_plms = step

    @property
    def prk_timesteps(self) -> Tensor:
        """Those of `timesteps` that the Runge–Kutta steps ask at: none with `skip_prk_steps`."""
        return self.timesteps[: 0 if self.config.skip_prk_steps else 12]

    @property
    def plms_timesteps(self) -> Tensor:
        """Those of `timesteps` that the multistep method asks at."""
        return self.timesteps[len(self.prk_timesteps) :]


class PLMSScheduler(_PlanScheduler):
    """The library's default method in diffusers' pipelines: exact linear multistep, N model calls for N steps.

    `multistep_order`, `starter` and `weights` are those of `pndm_solvers.PLMSSolver`; the others as in
    `PNDMScheduler`. The default spacing, "balanced", has times between the integers, which networks with a
    sinusoidal embedding of time take; a config that names a spacing of its own keeps it, unless
    `timestep_spacing="balanced"` goes with it.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Any = None,
        multistep_order: int = 4,
        starter: Starter = "ramp",
        weights: Literal["exact", "classical"] = "exact",
        set_alpha_to_one: bool = True,
        prediction_type: PredictionType = "epsilon",
        timestep_spacing: str = DEFAULT_SPACING,
        steps_offset: int = 0,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        rescale_betas_zero_snr: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
    ) -> None:
        self._prepare()
        whole("multistep_order", multistep_order, most=4)
        self._solver()  # refuses now what it would refuse later

    def _solver(self) -> Solver:
        config = self.config
        return PLMSSolver(self.schedule, config.multistep_order, config.starter, config.weights)

    def _continuation(self) -> Solver:
        return PLMSSolver(self.schedule, self.config.multistep_order, "ramp", self.config.weights)

    step = PNDMScheduler.step


class DDIMScheduler(_PlanScheduler):
    """DDIM in the place of diffusers' `DDIMScheduler`, with its options and defaults.

    A step needs no more than its own sample, so it may be taken at any of `timesteps`, in any order.
    Reference: Song, Meng and Ermon (2021), eq. (12) and (16); `pndm_solvers.DDIMSolver`.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Any = None,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        steps_offset: int = 0,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        rescale_betas_zero_snr: bool = False,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
    ) -> None:
        self._prepare()

    def _solver(self, eta: float = 0.0) -> Solver:
        return DDIMSolver(self.schedule, eta)

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """The next sample.

        Parameters
        ----------
        model_output, sample, timestep:
            The network's answer at `sample`, both `(B, …)`, and at `timestep`, any of `timesteps`.
        eta:
            How much of ε is replaced by fresh noise, 0 to 1.
        use_clipped_model_output:
            Where the picture is clipped, derive ε anew from it, as all our solvers do. Without, as in diffusers,
            the network's own ε is joined with the clipped picture.
        generator, variance_noise:
            What the noise is drawn from, one generator or one for each sample; or the noise itself, `(B, …)`.
        return_dict:
            Whether to return a `SchedulerOutput`, or its two entries.

        Raises
        ------
        ValueError:
            For a time that is none of `timesteps`, an answer of another shape, an eta outside [0, 1].
        """
        if variance_noise is not None and generator is not None:
            raise ValueError("pass generator or variance_noise, not both")
        noise = NoiseSource(generator=generator) if variance_noise is None else _Given(values=variance_noise)
        solver, as_answered = self._solver(eta), not boolean("use_clipped_model_output", use_clipped_model_output)
        return self._step(model_output, timestep, sample, return_dict, noise, solver, as_answered)


class DDPMScheduler(_PlanScheduler):
    """Ancestral sampling in the place of diffusers' `DDPMScheduler`, with its options and defaults.

    A step needs no more than its own sample, so it may be taken at any of `timesteps`, in any order; without
    `set_timesteps` those are all that the network was trained for. The last step, to the picture, adds no noise.
    The `_log` variances are the same numbers; "learned" and "learned_range" take them from the network's second half
    of channels. Reference: Ho, Jain and Abbeel (2020), eq. (6) and (7); Nichol and Dhariwal (2021), eq. (15);
    `pndm_solvers.DDPMSolver`.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: Any = None,
        variance_type: VarianceType = "fixed_small",
        clip_sample: bool = True,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: str = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        set_alpha_to_one: bool = True,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
    ) -> None:
        self._prepare()
        choice("variance_type", variance_type, get_args(VarianceType))

    def _solver(self) -> Solver:
        return DDPMSolver(self.schedule, "fixed_large" if "large" in self.config.variance_type else "fixed_small")

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """The next sample, from the network's answer at `sample` `(B, C, …)` and `timestep`, one of `timesteps`.

        With a learned variance the answer is `(B, 2C, …)`. `generator` is what the noise is drawn from, one or
        one for each sample.

        Raises ValueError for a time that is none of `timesteps`, and for an answer of another shape.
        """
        if self._table is None:
            self.set_timesteps(timesteps=self.timesteps)
        if self.config.variance_type.startswith("learned"):
            self._check_channels(model_output, sample)
        return self._step(model_output, timestep, sample, return_dict, NoiseSource(generator=generator))

    def previous_timestep(self, timestep: Any) -> int | Tensor:
        """Where the step from `timestep` ends: the next of `timesteps`, or −1 after the last."""
        at = (self.timesteps == timestep).nonzero()[:, 0]
        if not len(at):
            raise ValueError(f"timestep is {float(timestep):g}, which is none of {_abridged(self.timesteps.tolist())}")
        return self.timesteps[at[0] + 1] if at[0] + 1 < len(self.timesteps) else torch.tensor(-1)

    def _check_channels(self, model_output: Tensor, sample: Tensor) -> None:
        channels = sample.shape[1] if sample.ndim > 1 else 0
        if not isinstance(model_output, Tensor) or model_output.shape[1:2] != (2 * channels,):
            raise ValueError(
                f"variance_type is {self.config.variance_type!r}, for which the network answers twice the channels, "
                f"(B, {2 * channels}, …); with another network choose 'fixed_small' or 'fixed_large'"
            )

    def _noise(self, at: _Position, model_output: Tensor, sample: Tensor, noise: NoiseSource) -> NoiseSource:
        """With a learned variance, of the deviation that the network tells: Nichol and Dhariwal (2021), eq. (15)."""
        plan = at.table.plan
        here, there, own = plan.levels[at.entry], plan.levels[at.entry + 1], plan.rows[at.entry].noise
        if not self.config.variance_type.startswith("learned") or not own:
            return noise
        told = model_output[:, sample.shape[1] :]
        if self.config.variance_type == "learned":
            deviation = told.sqrt() / own  # in units of the row's own
        else:  # between β̃, the row's own, and β of the step, in logarithms
            deviation = (forward_deviation(here, there) / own) ** ((told + 1) / 2)
        noise.check(sample)
        return _Given(values=deviation * noise.draw(at.entry, sample))
