"""diffusers' scheduler interface to a solver: its times and its levels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pndm_solvers.adapters.diffusers.compiled import numbered
from pndm_solvers.adapters.diffusers.configured import Configured
from pndm_solvers.adapters.diffusers.options import RESPACED, TABLE, THEIR_SPACINGS, check_options
from pndm_solvers.adapters.diffusers.runs import Runs, Timetable, with_last_look
from pndm_solvers.adapters.diffusers.steps import Steps
from pndm_solvers.adapters.diffusers.times import even_sigmas, flow_shift, flow_sigmas, numbers, times_of_ratios
from pndm_solvers.arguments import real, whole
from pndm_solvers.config import OWN_CLASSES, is_flow, shift_of
from pndm_solvers.grid import GridOptions, make_grid
from pndm_solvers.plan import Plan
from pndm_solvers.schedules import NoiseSchedule, shifted
from pndm_solvers.solver import Solver
from pndm_solvers.spacings import beta_sigmas, karras, log_snr

__all__ = ["PlanScheduler"]


class PlanScheduler(Configured, Steps):
    """diffusers' interface to a solver. A subclass provides the solver, and `step` with its own arguments."""

    # Model calls per step, in diffusers' sense: image-to-image counts with it. It is not the method's order.
    order = 1
    init_noise_sigma = 1.0
    # Whose levels a flow's run has unless the config says so.
    _flow_levels = "FlowMatch"

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
        """Where a run ends: at no noise, or at the lowest trained level, which is an option of tables."""
        tabular = self.schedule.num_train_timesteps is not None
        return "first" if tabular and not self.config.set_alpha_to_one else "clean"

    def _grid(self) -> GridOptions:
        """The options of the configured spacing."""
        config = self.config
        bounds = {end: config[end] for end in ("sigma_min", "sigma_max") if config.timestep_type == "discrete"}
        spacing: Any = beta_sigmas if config.use_beta_sigmas else config.timestep_spacing
        if config.use_karras_sigmas:
            spacing = partial(karras, **bounds) if any(bounds.values()) else "karras"
        elif config.use_exponential_sigmas:
            spacing = partial(log_snr, **bounds) if any(bounds.values()) else "log_snr"
        return {
            "spacing": spacing,
            "steps_offset": config.steps_offset if spacing == "leading" else 0,
            "prediction": self.prediction,
            "data_range": config.get("data_range", 1.0),
        }

    def _prepare(self) -> None:
        """Reads the configuration and refuses what is wrong with it: the body of each `__init__`."""
        config = self.config
        # What describes the network is passed on to other classes even where it is our default: theirs may differ.
        if defaults := config.get("_use_default_values"):
            self.register_to_config(_use_default_values=sorted(set(defaults) - set(TABLE)))
        check_options(config, self._own())
        self._shift = shift_of(config)
        # By a class of this library: the options are its own, none is left behind by another class.
        self.schedule = NoiseSchedule.from_config({**config, "_class_name": OWN_CLASSES[0]})
        self._describe(self.schedule, self._end())
        self.prediction  # noqa: B018 — refuses a wrong bound now
        self._solver()  # and a wrong option, not in set_timesteps
        self.num_inference_steps: int | None = None
        self._runs, self._number = Runs(), numbered(self)
        self._timesteps = self._trained_times()
        self._sigmas, self._edited = self._timesteps / len(self) if self._flow else None, 0

    @property
    def _flow(self) -> bool:
        return is_flow(self.config)

    def _trained_times(self) -> Tensor:
        """The times of training, falling; a flow's are shifted as diffusers' class shifts them."""
        if self.schedule.num_train_timesteps is not None:
            return torch.arange(len(self) - 1, -1, -1)
        if self._flow:
            times = len(self) * shifted(np.arange(len(self), 0, -1) / len(self), self._static_shift)
        else:
            times = np.linspace(self.schedule.t_max, self.schedule.t_min, len(self))
        return torch.from_numpy(times).float()

    def __len__(self) -> int:
        return self.schedule.num_train_timesteps or self.config.num_train_timesteps

    # The runs are kept with the caller's own tensors, which do not go into a copy or a pickle.
    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_runs": self._runs.table}

    def __setstate__(self, state: dict[str, Any]) -> None:
        table: Timetable | None = state["_runs"]
        vars(self).update(state, _runs=Runs(), _number=numbered(self))
        if table is not None:
            self._runs.lay_down(self._timesteps, table.copied())

    # ------------------------------------------------------------------ times

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Compiles the plan of a run and lays down `timesteps`, one for each model call.

        Parameters
        ----------
        num_inference_steps:
            Steps of the configured spacing. Beside `timesteps` or `sigmas` it is their number.
        device:
            Where `timesteps` lies. No step reads a number from there, so the host does not wait for an accelerator.
        timesteps:
            The times at which steps begin, falling. A flow's levels are those shifted as the config says.
        sigmas:
            The σ/α at which steps begin, falling; the last is where the run ends, 0 for no noise. A flow's are its σ,
            shifted as the config says, and its runs end at 0, whether or not that is given. Beside `timesteps`, at
            which a flow's network is then asked, they are the levels.
        mu:
            A flow's shift, where the config has `use_dynamic_shifting`: e^mu, or mu if its type is "linear".

        Raises
        ------
        ValueError:
            For none of the first three, or several that contradict each other; for times out of order or out of range;
            and for a time at which the prediction does not determine the picture, as ε at zero terminal SNR.
        """
        given = {"num_inference_steps": num_inference_steps, "timesteps": timesteps, "sigmas": sigmas}
        named = [name for name, value in given.items() if value is not None]
        if not named or (len(named) > 1 and not self._flow):
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {' and '.join(named) or 'none'}")
        asked: Any = None
        end: dict[str, Any] = {"final": self._end()}
        steps = None if num_inference_steps is None else whole("num_inference_steps", num_inference_steps)
        times = None if timesteps is None else numbers("timesteps", timesteps)
        levels = None if sigmas is None else numbers("sigmas", sigmas).astype(np.float64)
        if self._flow:
            times, asked = self._flow_times(steps, times, levels, mu)
        elif mu is not None:
            raise ValueError("mu is the shift of a flow, and this scheduler's network has levels of betas")
        elif levels is not None:
            times, end = times_of_ratios(self.schedule, levels)
        grid = {"num_inference_steps": steps, **self._grid()} if times is None else {"timesteps": times}
        self._compile(grid, end, asked, device)

    def _compile(
        self,
        grid: Mapping[str, Any],
        end: dict[str, Any],
        asked: Any = None,
        device: Any = None,
        handed_out: Tensor | None = None,
    ) -> None:
        """Makes the plan of a grid that of the next runs, and lays down its times.

        `asked` are the times for the network where they are not the levels' own. `handed_out` is the tensor of times
        that callers hold already.
        """
        steps = grid.get("num_inference_steps") or np.size(grid["timesteps"])
        solver = self._solver_for(steps)
        plan = solver.plan(**grid, **end)
        # Where the last time is the run's end, the plan has one call less than there are times.
        if plan.end.sigma and len(make_grid(self.schedule, **grid, **end).levels) == steps:
            plan = with_last_look(plan)
        dtype = torch.int64 if plan.integer_times and asked is None else torch.float32
        asked = plan.times if asked is None or len(asked) != len(plan.rows) else tuple(map(float, asked))
        self.prediction.check((row.level, row.space) for row in plan.rows)  # refuses now what a step would refuse
        with torch.inference_mode(False):  # there, a view would not keep its tensor alive, nor what belongs to it
            laid_down = torch.tensor(asked, dtype=torch.float64).to(dtype).to(device)
        times = laid_down if handed_out is None else handed_out
        # Registered before another thread can see them, whose own times may stand in `_timesteps` at any moment.
        self._runs.lay_down(times, Timetable(solver, self._continuation(solver), plan, end, asked))
        self._timesteps = times
        self.num_inference_steps, self._sigmas, self._edited = steps, None, 0

    def _flow_times(self, steps: int | None, times: Any, levels: Any, mu: float | None) -> tuple[Any, Any]:
        """The times of a flow's levels, and those at which the network is asked; None for those of a named spacing."""
        lengths = {len(values) for values in (times, levels) if values is not None} | ({steps} if steps else set())
        if len(lengths) > 1:
            raise ValueError(
                f"num_inference_steps, timesteps and sigmas count {', '.join(map(str, sorted(lengths)))} steps; a "
                f"flow's run has one time and one σ for each step"
            )
        shift, size, below = flow_shift(self.config, self._shift, mu), len(self), False
        if levels is not None or times is not None:
            # In float32, as diffusers has them: a program's own numbers come back to the last bit.
            even = (times / size if levels is None else levels).astype(np.float32).astype(np.float64)
            if len(even) > 1 and even[-1] == 0:  # a final 0, which diffusers adds itself
                even, times = even[:-1], None if times is None else times[:-1]
        elif self._keeps_levels:
            kind = self.config.get("flow_levels") or self._flow_levels
            even = even_sigmas(kind, whole("num_inference_steps", steps), size, self._static_shift)
            below = kind == "UniPC"  # whose first time is just below the highest; pipelines compare it with bounds
        else:
            self.schedule = NoiseSchedule.rectified_flow(shift=shift, num_train_timesteps=size)
            return None, None
        if not (np.all(np.diff(even) < 0) and even[-1] > 0 and even[0] <= 1):
            name = "timesteps" if levels is None else "sigmas"
            raise ValueError(
                f"{name} must fall strictly and have σ from 1 to above 0, not {times if levels is None else levels}"
            )
        sigmas = flow_sigmas(self.config, even, shift)
        if times is None and (self.config.invert_sigmas or below):
            times = size * (1 - sigmas) if self.config.invert_sigmas else size * np.minimum(sigmas, 1 - 1e-6)
        return size * sigmas, times

    @property
    def _keeps_levels(self) -> bool:
        """Whether a flow's run has the levels of a class of diffusers, and not those of a named spacing."""
        config = self.config
        spacing = config.get("timestep_spacing")
        return any(map(config.get, RESPACED)) or (config.get("flow_levels") != "spacing" and spacing in THEIR_SPACINGS)

    @property
    def _static_shift(self) -> float:
        """The shift that diffusers' class has made its table with, before any `set_shift`."""
        return 1.0 if self.config.get("use_dynamic_shifting") else shift_of(self.config)

    @property
    def timesteps(self) -> Tensor:
        """The times of the model calls, `(N,)`; before `set_timesteps` those of training. Assigned ones count."""
        return self._timesteps

    @timesteps.setter
    def timesteps(self, times: Tensor) -> None:
        table = self._runs.table
        if table is not None and not table.has(torch.as_tensor(times)):
            self._compile({"timesteps": numbers("timesteps", times)}, {"final": self._end()})
        self._timesteps = times = torch.as_tensor(times)
        if table is not None and len(times) == len(table.asked):
            self._runs.lay_down(times, self._runs.current)

    @property
    def sigmas(self) -> Tensor:
        """σ/α of the model calls and of the end, or a flow's σ: `(N + 1,)`, float32, on the host. Edited ones count."""
        if self._sigmas is None:
            levels = self.plan.levels
            values = [level.sigma if self._flow else level.ratio for level in levels]
            self._sigmas = torch.tensor(values, dtype=torch.float64).float()
            self._edited = self._sigmas._version
        return self._sigmas

    @sigmas.setter
    def sigmas(self, sigmas: Tensor) -> None:
        self._sigmas, self._edited = sigmas, -1

    def _take_edited_sigmas(self) -> None:
        """Plans anew where a caller has written other σ; called before a step."""
        sigmas = self._sigmas
        if sigmas is None or sigmas._version == self._edited or self._runs.table is None:
            return
        values, asked = numbers("sigmas", sigmas).astype(np.float64), self._runs.current.asked
        if len(values) != len(asked) + 1:
            raise ValueError(f"sigmas are {len(values)}; {len(asked)} calls have {len(asked) + 1}, with the end")
        times = values * len(self) if self._flow else self.schedule.time_of_k_sigma(values[values > 0])
        end: dict[str, Any] = {"stop": float(times[-1])} if values[-1] else {"final": "clean"}
        self._compile({"timesteps": times[: len(asked)]}, end, asked, handed_out=self._timesteps)

    @property
    def shift(self) -> float:
        """A flow's shift."""
        return self._shift

    def set_shift(self, shift: float) -> None:
        """Sets a flow's shift for the next `set_timesteps`."""
        self._shift = real("shift", shift, "a number above 0", lambda shift: shift > 0)

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
            raise ValueError(
                f"begin_index is {begin_index}; it must be from 0 to {len(self.timesteps) - 1}. A pipeline's strength "
                f"times its steps must make one step at least"
            )
        table = self._runs.current
        table.begin_index, table.newest = begin_index, None

    @property
    def step_index(self) -> int | None:
        """The index in `timesteps` of the step after the newest one; None before a run's first step."""
        return self._runs.table and self._runs.table.stepped

    def index_for_timestep(self, timestep: Any, schedule_timesteps: Tensor | None = None) -> int:
        """The index of a time in `timesteps`, or in `schedule_timesteps`; of one that comes twice, the second."""
        times = self.timesteps if schedule_timesteps is None else schedule_timesteps
        found = (times == timestep).nonzero().flatten().tolist()
        if not found:
            raise ValueError(f"timestep is {timestep}, which is none of {times}")
        return found[min(1, len(found) - 1)]

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """`sample` as it is: networks on these schedules take it so."""
        return sample

    def _levels_changed(self) -> None:
        """Plans anew for an assigned table."""
        self._runs.table = None

    @property
    def _asked(self) -> dict[float, float] | None:
        table = self._runs.table
        if table is None or table.asked == table.plan.times:
            return None
        return dict(zip(np.asarray(table.asked, np.float32).tolist(), table.plan.times, strict=True))
