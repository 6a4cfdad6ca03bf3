"""What every solver shares: compiling to a plan, for a number of steps or for a budget, and sampling."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.arguments import real, warn, whole
from pndm_solvers.arrays import library
from pndm_solvers.execute import Model, Step, check_state
from pndm_solvers.grid import DEFAULT_SPACING, INTEGRAL_SPACINGS, Spacing, make_grid
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.program import Program
from pndm_solvers.schedule import NoiseSchedule

__all__ = ["Solver"]


# Between these σ/α, on data of about unit range, noise becomes a picture.
DECISIVE = (0.1, 2.0)


class GridOptions(TypedDict, total=False):
    """Which times a run visits: see `Solver.plan`."""

    timesteps: Sequence[float] | NDArray[Any] | None
    spacing: str | Spacing
    start: float | None
    stop: float | None
    final: str
    steps_offset: int


class PlanOptions(GridOptions, total=False):
    """The same, or a budget instead."""

    max_model_calls: int | None


class Solver(ABC):
    """A method on a noise schedule. Immutable, hashable, and free to share between threads."""

    schedule: NoiseSchedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(
                f"schedule is a {type(self.schedule).__name__}; make a NoiseSchedule, from betas with "
                f"NoiseSchedule.from_betas(...)"
            )

    @property
    @abstractmethod
    def name(self) -> str:
        """What the method is called, with its options, in tables and on progress bars."""

    @property
    @abstractmethod
    def convergence_order(self) -> int | None:
        """The p of an error that falls as (step size)^p where ε is smooth; None for a stochastic method."""

    @abstractmethod
    def write(self, program: Program) -> None:
        """Writes the method's rows for each step of `program.grid`."""

    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        timesteps: Sequence[float] | NDArray[Any] | None = None,
        max_model_calls: int | None = None,
        spacing: str | Spacing = DEFAULT_SPACING,
        start: float | None = None,
        stop: float | None = None,
        final: str = "clean",
        steps_offset: int = 0,
    ) -> Plan:
        """The method compiled for the times of one run; no model is called.

        Exactly one of the three says how long the run is.

        Parameters
        ----------
        num_inference_steps:
            Steps of a named spacing over the whole schedule.
        timesteps:
            The caller's own times t_0 > … > t_{n−1}; integers keep inner stages on integers.
        max_model_calls:
            The most steps of a named spacing whose plan makes no more than this many model calls.
        spacing:
            One of `SPACINGS`, or a callable `(schedule, steps, end) -> times`.
        start, stop:
            Cut the grid to begin exactly at `start` and to end exactly at `stop`; upwards where `stop` is above.
        final:
            Where a run without `stop` ends: "clean" (α = 1, σ = 0) or "first", the lowest trained level.
        steps_offset:
            Added to the times of "leading" spacing.

        Raises
        ------
        ValueError:
            For options that contradict each other, or times that the schedule lacks.
        """
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": timesteps,
            "max_model_calls": max_model_calls,
        }
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {' and '.join(named) or 'none'}")
        options: GridOptions = {
            "timesteps": timesteps,
            "spacing": spacing,
            "start": start,
            "stop": stop,
            "final": final,
            "steps_offset": steps_offset,
        }
        if max_model_calls is None:
            plan = self._compile(num_inference_steps, options)
        else:
            plan = self._within(whole("max_model_calls", max_model_calls), options)
        self._warn_of(plan, options)
        return plan

    def _compile(self, num_inference_steps: int | None, options: GridOptions) -> Plan:
        program = Program(make_grid(self.schedule, num_inference_steps, **options))
        self.write(program)
        return program.plan(self.name)

    def _within(self, max_model_calls: int, options: GridOptions) -> Plan:
        """Doubles the number of steps until the calls no longer fit, then halves the gap."""
        size = self.schedule.num_train_timesteps or 1000
        # More steps than this are not tried: a cut or a spacing of the caller's own may never ask for more calls.
        most = size if str(options.get("spacing")) in INTEGRAL_SPACINGS else size + 64 * max_model_calls
        best, fits, fails = None, 0, most + 1
        while fails - fits > 1:
            steps = min(2 * fits + 1, most) if fails > most else (fits + fails) // 2
            plan = self._compile(steps, options)
            if plan.model_calls <= max_model_calls:
                best, fits = plan, steps
            else:
                fails = steps
        if best is None or not best.rows:
            raise ValueError(f"{self.name} has no plan of 1 to {max_model_calls} model call(s) for these times")
        return best

    def _warn_of(self, plan: Plan, options: GridOptions, fewest: int = 5) -> None:
        """Warns of times that good samples are hardly to be had from, though they may be meant.

        Of less than `fewest` steps nothing is said of where they look: they are coarse on any grid.
        """
        first, ratios = plan.levels[0], [level.ratio for level in plan.levels[:-1]]
        steps, (low, high) = sum(not row.stage for row in plan.rows), DECISIVE
        leaps = ratios[:1] > [high] and plan.end.ratio < low and not any(low <= ratio <= high for ratio in ratios)
        start, timesteps = options.get("start"), options.get("timesteps")
        fractions = start is not None or (timesteps is not None and len(timesteps) > 2)  # the last few of a run may be
        if fractions and options.get("stop") is None and self.schedule.num_train_timesteps and 0 < first.t < 1:
            warn(
                f"this plan begins at t = {first.t:g}, between the two lowest levels of a table; times of a table "
                f"are 0 to {self.schedule.t_max:g}, not fractions of 1"
            )
        if timesteps is None and start is None and first.alpha > first.sigma:
            warn(
                f"this plan begins at t = {first.t:g}, where a state is mostly picture; pass start={first.t:g} if "
                f"yours is, else more steps or a spacing that begins at pure noise, such as 'trailing'"
            )
        if timesteps is None and leaps and steps >= fewest:
            warn(
                f"none of this plan's {len(ratios)} model calls is at a level between σ/α = {high:g} and {low:g}, "
                f"where noise becomes a picture; use spacing='balanced', or more steps"
            )

    def plan_within(
        self,
        tolerance: float,
        model: Model,
        x: Any,
        *,
        prediction: str | Prediction = "epsilon",
        max_model_calls: int = 1000,
        **options: Unpack[GridOptions],
    ) -> Plan:
        """A plan with about as many model calls as an error of `tolerance` takes, by a pilot on a few samples.

        The samples are solved with 4, 6, 8, 12, 16, … calls until twice the calls change them by no more than
        the tolerance: by the median over the samples of the root-mean-square change, in x's units. The
        number of calls is then narrowed down by halves. All in all each pilot sample takes about ten times the
        calls of the plan that is found. What lies below the lowest trained level, where no call can look, no
        pilot sees.

        Parameters
        ----------
        tolerance:
            Above 0; 0.01 say, for pictures in [-1, 1].
        model, x, prediction:
            As for `Plan.run`; `x` `(B, …)` is the pilot, some eight samples where the plan begins.
        max_model_calls:
            Where the pilot gives up.
        options:
            Those of `plan`: `spacing`, `start`, `stop`, `final`, `steps_offset`.

        Returns
        -------
        Plan
            Its `name` tells the estimated error, its `model_calls` the price.

        Raises
        ------
        ValueError:
            For a tolerance that is not above 0 or cannot be met, for `timesteps`, and for a stochastic solver.
        """
        allowed = "a root-mean-square error above 0, of at least 1e-15, float64's own"
        if (tolerance := real("tolerance", tolerance, allowed)) < 1e-15:
            raise ValueError(f"tolerance is {tolerance:g}; it must be {allowed}")
        if strange := options.keys() - GridOptions.__annotations__.keys():
            raise TypeError(
                f"{', '.join(sorted(strange))} is no option here, where the tolerance chooses the length; options are "
                f"{', '.join(GridOptions.__annotations__)}"
            )
        if options.get("timesteps") is not None:
            raise ValueError(
                "timesteps fix the length of a run, which the tolerance is to choose; pass spacing= instead"
            )
        check_state(x)
        if 0 in x.shape:
            raise ValueError("the state x is empty, so that a pilot has nothing to tell; pass some samples")
        if not library(x).has_numbers(x):
            raise ValueError("a pilot looks at the state x, which has no numbers on the meta device and in jax.jit")
        max_model_calls = whole("max_model_calls", max_model_calls)
        if max_model_calls < 8:
            raise ValueError(f"max_model_calls is {max_model_calls}; a pilot compares runs of at least 4 and 8 calls")
        order = self.convergence_order
        if order is None:
            raise ValueError(f"{self.name} draws noise: its samples have no single right end to be near to")

        def solve(calls: int) -> tuple[Plan, Any]:
            plan = self._within(calls, options)
            return plan, plan.run(model, x, prediction=prediction, check_finite=None)

        runs = [(calls, *solve(calls)) for calls in (4, 6)]

        def error(calls: int, result: Any) -> float:
            """Of a run of `calls`, by the finest so far, which is itself off by as much as its order tells."""
            finest, _, end = runs[-1]
            change = float(np.median(library(result).root_mean_square(result - end)))
            if not math.isfinite(change):
                raise ValueError(f"the pilot's samples are empty or not finite, with {finest} model calls or before")
            return change / (1 - (calls / finest) ** order)

        while True:
            half, plan, result = runs[-2]
            if 2 * half > max_model_calls:
                raise ValueError(
                    f"{self.name} is not known to come within {tolerance:g}: with {half} model calls its error is "
                    f"about {error(half, result):.1e}, and to tell more takes over {max_model_calls}; "
                    f"allow more calls or more error"
                )
            runs.append((2 * half, *solve(2 * half)))
            if runs[-1][1] == runs[-2][1]:
                raise ValueError(f"these times have no more than {plan.model_calls} model calls to give, too few")
            del runs[:-4]  # with the memory, and what torch may have recorded of it
            estimate = error(half, result)
            if estimate <= tolerance:
                break
        # Between this number and the one before, which did not do: to within an eighth.
        low, high = runs[-4][0] if len(runs) > 3 else half, half
        while high - low > max(1, high // 8):
            middle = (low + high) // 2
            candidate, result = solve(middle)
            if error(middle, result) <= tolerance:
                high, plan, estimate = middle, candidate, error(middle, result)
            else:
                low = middle
        self._warn_of(plan, options, fewest=1)  # a pilot that has not looked there knows nothing either
        return replace(plan, name=f"{plan.name}, error about {estimate:.1e}")

    def sample(
        self,
        model: Model,
        x_T: Any,  # noqa: N803 — the field's name for it
        num_inference_steps: int | None = None,
        *,
        tolerance: float | None = None,
        prediction: str | Prediction = "epsilon",
        seed: int | Sequence[int] | None = None,
        generator: Any = None,
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        trajectory: bool = False,
        check_finite: bool | None = False,
        state_dtype: Any = None,
        checkpoint: str | os.PathLike[str] | None = None,
        **options: Unpack[PlanOptions],
    ) -> Any:
        """The sample from the noise `x_T` `(B, …)`: `plan(num_inference_steps, **options)`, then `Plan.run`.

        `options` are those of `plan`: `timesteps`, `max_model_calls`, `spacing`, `start`, `stop`, `final`,
        `steps_offset`; or, in the place of a length, a `tolerance` for `plan_within` with the first eight samples
        as pilot, for which the model must not be bound to one size of batch; a run that goes on from its
        `checkpoint` makes its pilot anew. The other arguments, the result and the errors are those of `Plan.run`.

        >>> import numpy as np
        >>> from pndm_solvers import NoiseSchedule, PLMSSolver
        >>> solver = PLMSSolver(NoiseSchedule.linear())
        >>> solver.sample(lambda x, t: x, np.ones((2, 3)), 10).shape
        (2, 3)
        """
        if tolerance is None:
            plan = self.plan(num_inference_steps, **options)
        else:
            given = {"num_inference_steps": num_inference_steps, **options}
            lengths = [n for n in ("num_inference_steps", "timesteps", "max_model_calls") if given.get(n) is not None]
            if lengths:
                raise ValueError(f"pass exactly one of tolerance and {lengths[0]}; the tolerance chooses the length")
            check_state(x_T)
            options.pop("max_model_calls", None)  # which a type checker cannot know of
            plan = self.plan_within(tolerance, model, x_T[:8], prediction=prediction, **options)  # type: ignore[arg-type]
        return plan.run(
            model,
            x_T,
            prediction=prediction,
            seed=seed,
            generator=generator,
            callback=callback,
            progress=progress,
            trajectory=trajectory,
            check_finite=check_finite,
            state_dtype=state_dtype,
            checkpoint=checkpoint,
        )
