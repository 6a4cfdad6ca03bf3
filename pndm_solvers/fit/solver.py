"""Fitted plans where a solver is asked for."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from pndm_solvers.arguments import location, whole
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.program import Form, Program
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = ["FittedSolver"]


@dataclass(frozen=True)
class FittedSolver(Solver):
    """Plans that were made before, mostly by `fit_plan`, each for its own number of model calls.

    `plan(8)` is the plan of 8 calls, and `plan(max_model_calls=8)` the longest of up to 8. The plans bring their levels
    along, so a spacing, a cut or times of the caller's own are errors. So is a schedule whose levels are others.
    """

    schedule: NoiseSchedule
    plans: tuple[Plan, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        plans = (self.plans,) if isinstance(self.plans, Plan) else tuple(self.plans)
        if not plans or not all(isinstance(plan, Plan) for plan in plans):
            raise TypeError(f"plans is {self.plans!r}; it must be plans, one at least; a Fit has one as its .plan")
        for plan in plans:
            _check_levels(plan, self.schedule)
        object.__setattr__(self, "plans", tuple(sorted(plans, key=lambda plan: plan.model_calls)))

    @staticmethod
    def load(schedule: NoiseSchedule, *paths: str | os.PathLike[str]) -> FittedSolver:
        """From files that hold the JSON of plans. OSError and ValueError where they do not."""
        return FittedSolver(schedule, tuple(read_plan(path) for path in paths))

    @property
    def name(self) -> str:
        return "fitted"

    @property
    def convergence_order(self) -> int | None:
        """None where a plan draws noise, else 1: a fitted plan is for its own number of calls, so it has no order."""
        return None if any(plan.is_stochastic for plan in self.plans) else 1

    def plan_within(self, tolerance: float, *arguments: Any, **options: Any) -> Plan:
        """ValueError: a tolerance chooses the number of calls, and a fitted plan has its own."""
        raise ValueError(
            f"tolerance is {tolerance!r}, but fitted plans have their own numbers of calls; pass one of them"
        )

    def write(self, program: Program, x: Form) -> Form:
        raise ValueError("a fitted plan has its own levels; it cannot be written for others")

    def plan(
        self, num_inference_steps: int | None = None, *, max_model_calls: int | None = None, **options: Any
    ) -> Plan:
        """One of the plans; where there is only one, no number is needed.

        `prediction`, `data_range` and `sample_shape` are taken, and change nothing.

        Raises ValueError for another number of calls, for other options of `Solver.plan`, for another `final` than the
        plan's end, and for another prediction than the plan was fitted to.
        """
        for name, value in options.items():
            own = name in ("spacing", "start", "stop", "timesteps", "steps_offset")
            if own and value is not None and not (isinstance(value, (str, int)) and value in ("default", 0)):
                raise ValueError(f"{name} is {value!r}, but a fitted plan has its own levels; leave it out")
        budgets = [plan.model_calls for plan in self.plans]
        if num_inference_steps is None and max_model_calls is None and len(budgets) == 1:
            max_model_calls = budgets[0]
        if (num_inference_steps is None) == (max_model_calls is None):
            raise ValueError("pass exactly one of num_inference_steps and max_model_calls")
        if num_inference_steps is not None:
            fits = [
                plan for plan in self.plans if plan.model_calls == whole("num_inference_steps", num_inference_steps)
            ]
        else:
            fits = [plan for plan in self.plans if plan.model_calls <= whole("max_model_calls", max_model_calls)]
        if not fits:
            asked = f"at most {max_model_calls}" if num_inference_steps is None else num_inference_steps
            raise ValueError(
                f"there are plans of {', '.join(map(str, budgets))} model calls, none of {asked}; pass one of these "
                f"numbers, or fit a plan of that many"
            )
        plan = fits[-1]
        if "final" in options and (options["final"] == "clean") != (plan.end == self.schedule.clean):
            raise ValueError(f"final is {options['final']!r}, but this plan ends at t = {plan.end.t:g}")
        if "prediction" in options and plan.fitted is not None:
            plan.fitted.check_prediction(Prediction.of(options["prediction"]).type)
        return plan


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """The plan whose JSON a file holds. ValueError for any other text, OSError for a file that cannot be read."""
    try:
        return Plan.from_json(location("path", path).read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{str(path)!r} is no text, so not the JSON of a plan; write one with Plan.to_json()"
        ) from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def _check_levels(plan: Plan, schedule: NoiseSchedule) -> None:
    """ValueError unless the plan's levels are the schedule's."""
    for level in plan.levels:
        try:
            own = schedule.level(level.t)
            same = all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-9) for a, b in zip(level, own, strict=True))
        except ValueError:
            same = False
        if not same:
            known = "" if plan.fitted is None else f", {plan.fitted.schedule}"
            raise ValueError(
                f"{plan.name} is a plan of another schedule{known}: at t = {level.t:g} it has α = {level.alpha:g} and "
                f"σ = {level.sigma:g}, unlike {schedule!r}; a plan runs on the schedule that it was made for"
            )
