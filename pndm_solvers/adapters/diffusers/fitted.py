"""Fitted plans in diffusers' pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pndm_solvers.adapters.diffusers.options import NetworkAndPicture, scheduler_options
from pndm_solvers.adapters.diffusers.scheduler import PlanScheduler
from pndm_solvers.fit import FittedSolver
from pndm_solvers.fit.solver import read_plan
from pndm_solvers.grid import GridOptions
from pndm_solvers.methods import PLMSSolver
from pndm_solvers.older import Unpack
from pndm_solvers.plan import Plan
from pndm_solvers.solver import Solver

__all__ = ["FittedScheduler"]

# Where a run visits levels is said by its plan.
SPACING_OPTIONS = (
    "timestep_spacing", "steps_offset", "set_alpha_to_one", "use_karras_sigmas", "use_exponential_sigmas",
    "skip_prk_steps", "final_sigmas_type", "sigma_min", "sigma_max",
)  # fmt: skip


class FittedScheduler(PlanScheduler):
    """Plans from files, mostly those of `pndm_solvers.fit_plan`, in diffusers' pipelines.

        pipe.scheduler = FittedScheduler.from_config(pipe.scheduler.config, plans=["plan-8.json"])

    `plans` is the path of a plan's JSON or the JSON itself, or a list with a plan for each number of steps that the
    pipeline is asked for: a plan of 8 model calls is 8 steps. The configuration holds the plans themselves, so that a
    saved pipeline needs no other file. A run that begins further down, as in image-to-image, goes on by `PLMSSolver` at
    the times that are left. A plan of another schedule or another prediction is refused.
    """

    @scheduler_options(times=False)
    def __init__(
        self,
        plans: str | Sequence[str] = (),
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        **network: Unpack[NetworkAndPicture],
    ) -> None: ...

    def _prepare(self) -> None:
        plans = self.config.plans
        several = [plans] if isinstance(plans, (str, Path)) else list(plans)
        if not several:
            raise ValueError("plans is empty; pass the path of a plan's JSON, plans='plan.json', or a list of them")
        self.register_to_config(plans=[_text(plan) for plan in several])
        super()._prepare()
        for plan in self._fitted.plans:
            if plan.fitted is not None:
                plan.fitted.check_prediction(self.prediction.type)

    @classmethod
    def _understood(cls, config: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in config.items() if key not in SPACING_OPTIONS}

    @cached_property
    def _fitted(self) -> FittedSolver:
        return FittedSolver(self.schedule, tuple(map(Plan.from_json, self.config.plans)))

    def _solver(self) -> FittedSolver:
        return self._fitted

    def _continuation(self, solver: Solver) -> Solver:
        return PLMSSolver(self.schedule)

    def _end(self) -> Literal["clean", "first"]:
        return "clean" if self._fitted.plans[0].end.sigma == 0 else "first"

    def _grid(self) -> GridOptions:
        return {"prediction": self.prediction}


def _text(plan: Any) -> str:
    """A plan's JSON, from itself or from its file."""
    return plan if isinstance(plan, str) and plan.lstrip().startswith("{") else read_plan(plan).to_json()
