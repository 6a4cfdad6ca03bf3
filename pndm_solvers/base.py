"""What every solver shares: compiling to a plan, for a number of steps or for a budget, and sampling."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, Unpack

from numpy.typing import NDArray

from pndm_solvers.execute import Model, Step
from pndm_solvers.grid import DEFAULT_SPACING, INTEGRAL_SPACINGS, Spacing, make_grid, whole
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.program import Program
from pndm_solvers.schedule import NoiseSchedule

__all__ = ["Solver"]


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
        first = plan.rows[0] if plan.rows else plan.end
        if timesteps is None and start is None and first.alpha > first.sigma:
            warnings.warn(
                f"this plan begins at t = {first.t:g}, where a state is mostly picture; pass start={first.t:g} if "
                f"yours is, else more steps or a spacing that begins at pure noise, such as 'trailing'",
                stacklevel=2,
            )
        return plan

    def _compile(self, num_inference_steps: int | None, options: GridOptions) -> Plan:
        program = Program(make_grid(self.schedule, num_inference_steps, **options))
        self.write(program)
        return program.plan(self.name)

    def _within(self, max_model_calls: int, options: GridOptions) -> Plan:
        """Doubles the number of steps until the calls no longer fit, then halves the gap."""
        size = self.schedule.num_train_timesteps or 1000
        # More steps than this are not tried: a cut or a spacing of the caller's own may never ask for more calls.
        most = size if options.get("spacing") in INTEGRAL_SPACINGS else size + 64 * max_model_calls
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

    def sample(
        self,
        model: Model,
        x_T: Any,  # noqa: N803 — the field's name for it
        num_inference_steps: int | None = None,
        *,
        prediction: str | Prediction = "epsilon",
        seed: int | Sequence[int] | None = None,
        generator: Any = None,
        callback: Callable[[Step], None] | None = None,
        progress: bool = False,
        trajectory: bool = False,
        **options: Unpack[PlanOptions],
    ) -> Any:
        """The sample from the noise `x_T` `(B, …)`: `plan(num_inference_steps, **options)`, then `Plan.run`.

        `options` are those of `plan`: `timesteps`, `max_model_calls`, `spacing`, `start`, `stop`, `final`,
        `steps_offset`. The other arguments, the result and the errors are those of `Plan.run`.

        >>> import numpy as np
        >>> from pndm_solvers import NoiseSchedule, PLMSSolver
        >>> solver = PLMSSolver(NoiseSchedule.linear())
        >>> solver.sample(lambda x, t: x, np.ones((2, 3)), 10).shape
        (2, 3)
        """
        return self.plan(num_inference_steps, **options).run(
            model,
            x_T,
            prediction=prediction,
            seed=seed,
            generator=generator,
            callback=callback,
            progress=progress,
            trajectory=trajectory,
        )
