"""What every solver shares: compiling to a plan, for a number of steps or for a budget, and sampling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any

from pndm_solvers.advice import advice_on_plan, advise_on_samples, warn
from pndm_solvers.arguments import check_options, shown, whole
from pndm_solvers.arrays import check_state
from pndm_solvers.condition import Condition, rows_of
from pndm_solvers.grid import Grid, GridOptions, TooShortError, make_grid, size_of_data
from pndm_solvers.latents import first_state
from pndm_solvers.older import Unpack
from pndm_solvers.plan import Plan
from pndm_solvers.program import Form, Program
from pndm_solvers.remembered import Remembered, frozen
from pndm_solvers.rule import NOISY_RULE, RULE, Rule
from pndm_solvers.run_options import Model, RunOptions
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.spacings import DEFAULT_SPACING, INTEGRAL_SPACINGS, SPACINGS
from pndm_solvers.tolerance import plan_for_tolerance

__all__ = ["SampleOptions", "Solver"]


# The plans that were made last, each with what to warn of.
PLANS: Remembered[tuple[Plan, list[str]]] = Remembered(128)


class SampleOptions(GridOptions, RunOptions, total=False):
    """The options of `Solver.plan` and of `Plan.run`."""

    max_model_calls: int | None


class Solver(ABC):
    """A method on a noise schedule. Immutable, hashable, and free to share between threads."""

    schedule: NoiseSchedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(
                f"schedule is a {type(self.schedule).__name__}; make a NoiseSchedule: "
                f"NoiseSchedule.cosine() say, or of your own betas NoiseSchedule.from_betas(...)"
            )

    @property
    @abstractmethod
    def name(self) -> str:
        """The method's name, with its options, in tables and on progress bars."""

    @property
    @abstractmethod
    def convergence_order(self) -> int | None:
        """The p of an error that falls as (step size)^p where ε is smooth; None for a stochastic method."""

    @property
    def weak_order(self) -> int | None:
        """The p of an error of the samples' distribution that falls as (step size)^p."""
        return self.convergence_order

    @property
    def strong_order(self) -> int | None:
        """The p of an error along one Brownian path that falls as (step size)^p.

        With noise it is 1 for every method: what happens to the path within a step is not seen.
        """
        return self.convergence_order or (1 if self.weak_order else None)

    @abstractmethod
    def write(self, program: Program, x: Form) -> Form:
        """The method's steps over `program.grid`, from the state `x` that a run begins with to the one it ends with."""

    def from_step(self, begin: int) -> Solver:
        """The method for a run that begins at step `begin` of a grid, counted from 0."""
        return self

    def plan_on(self, grid: Grid) -> Plan:
        """The method compiled for a grid of the caller's own; where its levels rise, noise is added.

        Each fall is written as a run of its own, whose method begins anew. TypeError for anything but a `Grid`.
        """
        if not isinstance(grid, Grid):
            raise TypeError(f"grid is {shown(grid)}; it must be a Grid, as make_grid gives")
        program = Program(grid)
        x = program.start
        for part in grid.parts:
            program.grid = part
            x = self.write(program, program.diffused(x, part.levels[0]))
            if not isinstance(x, Form):
                raise TypeError(f"write of {self.name} returned {shown(x)}; it must return the last state")
        return program.table(x, self.name, Plan)

    def plan(
        self,
        num_inference_steps: int | None = None,
        *,
        max_model_calls: int | None = None,
        **options: Unpack[GridOptions],
    ) -> Plan:
        """The method compiled for the times of one run; no model is called. For equal arguments, the same plan again.

        Exactly one of `num_inference_steps`, `timesteps` and `max_model_calls` says how long the run is.

        Parameters
        ----------
        num_inference_steps:
            Steps of a named spacing over the whole schedule.
        max_model_calls:
            The most steps of a named spacing whose plan makes no more than this many model calls.
        timesteps:
            The caller's own times t_0 > … > t_{n−1}; integers keep inner stages on integers.
        spacing:
            One of `SPACINGS`, "default" unless said, or a callable `(schedule, steps, end) -> times`.
        start, stop:
            Cut the grid to begin exactly at `start` and to end exactly at `stop`; upwards where `stop` is above. "top"
            begins at the highest level, as a run must that goes on from an inversion.
        final:
            Where a run without `stop` ends: "clean" (α = 1, σ = 0; the default) or "first", the lowest trained level.
        steps_offset:
            Added to the times of "leading" spacing.
        restarts:
            Where noise is added within the run, and it falls anew: `Restart`s.
        prediction, data_range, sample_shape:
            What the network predicts and what the data are. The default grid begins where they say (`default_start`),
            and `data_range` is also the scale of its levels and of the library's own weights (`make_grid`). `sample`
            passes on its own prediction, and the shape of its noise.

        Raises
        ------
        ValueError:
            For options that contradict each other, or times that the schedule lacks.
        """
        arguments = num_inference_steps, max_model_calls
        try:
            # The meaning of a spacing's name belongs to the key, since names may be given another.
            spacing = SPACINGS.get(options.get("spacing", DEFAULT_SPACING))  # type: ignore[call-overload]
            key = frozen((self, *arguments, *sorted(options.items())), Solver), spacing
            hash(key)
        except TypeError:
            plan, advice = self._planned(*arguments, options)
        else:
            plan, advice = PLANS.get(key, lambda: self._planned(*arguments, options))
        for message in advice:
            warn(message)
        return plan

    def _planned(
        self, num_inference_steps: int | None, max_model_calls: int | None, options: GridOptions
    ) -> tuple[Plan, list[str]]:
        """A new plan, and what to warn of. The arguments are those of `plan`."""
        check_options("plan", options, {"num_inference_steps", "max_model_calls", *GridOptions.__annotations__})
        given = {
            "num_inference_steps": num_inference_steps,
            "timesteps": options.get("timesteps"),
            "max_model_calls": max_model_calls,
        }
        named = [name for name, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(f"pass exactly one of {', '.join(given)}; got {' and '.join(named) or 'none'}")
        if max_model_calls is None:
            plan = self._compile(num_inference_steps, options)
        else:
            plan = self._within(whole("max_model_calls", max_model_calls), options)
        return plan, self._advice(plan, options)

    def _compile(self, num_inference_steps: int | None, options: GridOptions) -> Plan:
        return self.plan_on(make_grid(self.schedule, num_inference_steps, rule=self._rule, **options))

    @property
    def _rule(self) -> Rule:
        """The numbers of its default grid."""
        return NOISY_RULE if self.convergence_order is None else RULE

    def _within(self, max_model_calls: int, options: GridOptions) -> Plan:
        """Doubles the number of steps until the calls no longer fit, then halves the gap."""
        size = self.schedule.num_train_timesteps or 1000
        # The most steps to try: with a cut, or a spacing of the caller's own, more steps may never need more calls.
        spacing = options.get("spacing", DEFAULT_SPACING)
        integral = isinstance(spacing, str) and spacing in INTEGRAL_SPACINGS
        most = size if integral else size + 64 * max_model_calls
        best, fits, fails = None, 0, most + 1
        while fails - fits > 1:
            steps = min(2 * fits + 1, most) if fails > most else (fits + fails) // 2
            try:
                plan = self._compile(steps, options)
            except TooShortError:
                fits = steps
                continue
            if plan.model_calls <= max_model_calls:
                best, fits = plan, steps
            else:
                fails = steps
        if best is None or not best.rows:
            raise ValueError(f"{self.name} has no plan of 1 to {max_model_calls} model call(s) for these times")
        return best

    def _advice(self, plan: Plan, options: GridOptions, fewest: int = 5) -> list[str]:
        cut = {name: options.get(name) for name in ("start", "stop", "timesteps")}
        data_range = size_of_data(options.get("data_range", 1.0))
        return advice_on_plan(plan, self.schedule, **cut, data_range=data_range, fewest=fewest)

    def plan_within(
        self,
        tolerance: float,
        model: Model,
        x: Any,
        *,
        condition: Condition | None = None,
        data_mean: Any = None,
        max_model_calls: int = 1000,
        **options: Unpack[GridOptions],
    ) -> Plan:
        """A plan with about as many model calls as an error of `tolerance` takes, by a pilot on a few samples.

        The samples are solved with 4, 6, 8, 12, 16, … calls until twice the calls change them by no more than
        the tolerance. The change is the median over the samples of its root mean square, in x's units. Halving
        then narrows the number of calls down. In total each pilot sample takes about ten times the calls of the
        plan that is found. The pilot does not see errors below the lowest trained level, where no network can be
        called.

        Parameters
        ----------
        tolerance:
            Above 0; 0.01 say, for pictures in [-1, 1].
        model, x, condition:
            As for `Plan.run`; `x` `(B, …)` is the pilot, some eight samples where the plan begins.
        data_mean:
            As for `sample`: added to `x`, which is then pure noise.
        max_model_calls:
            The most calls with which the pilot solves its samples before it gives up.
        options:
            Those of `plan`: `prediction`, `spacing`, `start`, `stop`, `final`, `steps_offset`, `data_range`.

        Returns
        -------
        Plan
            Its `name` holds the estimated error, its `model_calls` the price.

        Raises
        ------
        ValueError:
            For a tolerance that is not above 0 or cannot be met, for `timesteps`, and for a stochastic solver.
        """
        check_options("plan_within", options, {"data_mean", "max_model_calls", *GridOptions.__annotations__})
        if options.get("timesteps") is not None:
            raise ValueError("timesteps fix the length of a run, which the tolerance chooses; pass spacing= instead")
        options = {"sample_shape": shape_of("x", x), "prediction": "epsilon", **options}
        order = self.convergence_order
        if order is None:
            raise ValueError(f"{self.name} draws noise: its samples have no single right end to be near to")
        if options.get("restarts"):
            raise ValueError("restarts draw noise: such samples have no single right end to be near to; leave them out")
        plan, error = plan_for_tolerance(
            tolerance,
            lambda calls: self._within(calls, options),
            lambda plan: plan.run(
                model,
                first_state(x, plan.levels[0], data_mean, options),
                prediction=options["prediction"],
                condition=condition,
                check_finite=None,
            ),
            x,
            order,
            max_model_calls,
        )
        # A pilot that did not look at the decisive levels cannot judge them.
        for message in self._advice(plan, options, fewest=1):
            warn(message)
        return replace(plan, name=f"{plan.name}, error about {error:.1e}")

    def sample(
        self,
        model: Model,
        x_T: Any,  # noqa: N803 — the field's name for it
        num_inference_steps: int | None = None,
        *,
        tolerance: float | None = None,
        data_mean: Any = None,
        **options: Unpack[SampleOptions],
    ) -> Any:
        """The sample from the noise `x_T` `(B, …)`: `plan(num_inference_steps, …)`, then `Plan.run`.

        A run may begin below the highest level (`default_start`), where the data's mean is not yet drowned in noise.
        `data_mean`, a number or an array that broadcasts to `x_T`, is then added: x = α·mean + σ·x_T. Without it the
        data count as centred, and a warning tells where the samples say otherwise. With a `data_range` below 1 the mean
        is 0 unless said. A state `x_T` that is no pure noise needs a `start`: the time of its level, or "top" for one
        from an inversion.

        `options` are those of `plan` (`timesteps`, `max_model_calls`, `spacing`, `start`, `stop`, `final`,
        `steps_offset`, `data_range`, `sample_shape`) and of `Plan.run` (`prediction`, `condition`, `seed`,
        `generator`, `callback`, `progress`, `trajectory`, `check_finite`, `state_dtype`, `checkpoint`). The result
        and the errors are those of `Plan.run`. A `tolerance` takes the place of a length: `plan_within` then makes
        the plan, with eight samples from all over the batch as its pilot, and their rows of the condition. A run that
        goes on from its `checkpoint` makes its pilot anew.

        >>> import numpy as np
        >>> from pndm_solvers import NoiseSchedule, PLMSSolver
        >>> solver = PLMSSolver(NoiseSchedule.linear())
        >>> solver.sample(lambda x, t: x, np.ones((2, 3)), 10).shape
        (2, 3)
        """
        known = {"num_inference_steps", "tolerance", "data_mean", *SampleOptions.__annotations__}
        check_options("sample", options, known)
        lengths = {"max_model_calls", *GridOptions.__annotations__}
        of_plan: Any = {"sample_shape": shape_of("x_T", x_T)}
        of_plan |= {name: value for name, value in options.items() if name in lengths}
        of_run: Any = {name: value for name, value in options.items() if name not in lengths or name == "prediction"}
        if data_mean is not None and options.get("start") not in (None, "top"):
            raise ValueError(
                f"start is {options.get('start')}, so x_T counts as a state of that level, which has its mean already, "
                f"and data_mean is for pure noise; pass one of them, or make the state: "
                f"pndm_solvers.latents.around(mean, noise, schedule.level(start))"
            )
        if tolerance is None:
            plan = self.plan(num_inference_steps, **of_plan)
        else:
            given = {"num_inference_steps": num_inference_steps, **of_plan}
            named = [n for n in ("num_inference_steps", "timesteps", "max_model_calls") if given.get(n) is not None]
            if named:
                raise ValueError(f"pass exactly one of tolerance and {named[0]}; the tolerance chooses the length")
            of_plan.pop("max_model_calls", None)
            stride = max(1, x_T.shape[0] // 8)
            pilot = slice(0, 8 * stride, stride)
            of_pilot: Any = {"condition": rows_of(of_run.get("condition"), pilot)}
            mean: Any = data_mean
            each = getattr(mean, "ndim", 0) == x_T.ndim and mean.shape[0] == x_T.shape[0]
            of_pilot["data_mean"] = mean[pilot, ...] if each else mean
            plan = self.plan_within(tolerance, model, x_T[pilot, ...], **of_pilot, **of_plan)
        sample = plan.run(model, first_state(x_T, plan.levels[0], data_mean, of_plan), **of_run)
        from_noise = data_mean is None and options.get("start") is None and options.get("timesteps") is None
        if from_noise and options.get("check_finite", False) is not None and not options.get("trajectory"):
            own = options.get("spacing", DEFAULT_SPACING) == DEFAULT_SPACING
            said = size_of_data(options.get("data_range", 1.0)) if own else None
            advise_on_samples(sample, plan, self.schedule, said)
        return sample


def shape_of(name: str, x: Any) -> tuple[int, ...]:
    """The shape of one sample of the batch `x`. TypeError or ValueError unless it is a batch of floating numbers."""
    check_state(name, x)
    return tuple(x.shape[1:])
