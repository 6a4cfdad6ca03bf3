"""Noise in k-diffusion's samplers: ancestral steps, churn, noise in a stage, and where the draws come from.

An ancestral step goes down to σ_down, below its end, and noise leads up to the end. A churned step begins with noise,
up to σ̂, and goes down from there. So both are deterministic steps on levels that rise in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypedDict

import numpy as np

from pndm_solvers.arguments import from_zero, real
from pndm_solvers.coordinates import COORDINATES
from pndm_solvers.methods.dpm_solver import half_slope_mean, takes_order_one
from pndm_solvers.noise import NoiseSource
from pndm_solvers.program import Form, Mean, Program
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import posterior_deviation, remaining
from pndm_solvers.solver import Solver
from pndm_solvers.table import Span

__all__ = [
    "Ancestral",
    "SinglestepSDE",
    "churned",
    "is_flow",
    "noise_above",
    "seed_options",
]


class _Stochastic(Solver):
    """A solver with DDIM's η, from 0. Above 1 it adds more noise, at most the σ of a step's end."""

    eta: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "eta", from_zero("eta", self.eta))

    @property
    def convergence_order(self) -> None:
        """None: the method draws noise."""
        return None

    def _fresh(self, here: Level, there: Level) -> float:
        """The deviation of a step's noise: σ_up of `get_ancestral_step`, η·√β̃."""
        return min(there.sigma, self.eta * posterior_deviation(here, there))


@dataclass(frozen=True)
class Ancestral(_Stochastic):
    """Each step of a singlestep `solver` goes down to the level from which fresh noise leads up to the step's end.

    The noise is DDIM's, with its η. With `DDIMSolver` this is DDIM: k-diffusion's euler_ancestral.
    """

    schedule: NoiseSchedule
    solver: Solver
    eta: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.solver.name}, ancestral (η = {self.eta:g})"

    def write(self, program: Program, x: Form) -> Form:
        part, solver = program.grid, replace(self.solver, schedule=self.schedule)  # type: ignore[type-var]
        for here, there in part.steps:
            noise = self._fresh(here, there)
            ratio = remaining(there.sigma, noise) / there.alpha
            down = self.schedule.level_at(ratio) if ratio else self.schedule.clean
            program.grid = replace(part, levels=(here, down))
            x = solver.write(program, x)
            x = program.combine(x, there.alpha / down.alpha, {}, there, noise=noise)
        program.grid = part
        return x


@dataclass(frozen=True)
class SinglestepSDE(_Stochastic):
    """DPM-Solver++(2S) whose stage, at the fraction `r` of the step in log σ, draws noise as the step does.

    Both noises are DDIM's, with its η. Also known as: DPM++ SDE, k-diffusion's dpmpp_sde.
    """

    schedule: NoiseSchedule
    eta: float = 1.0
    r: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "r", real("r", self.r, "a number in (0, 1]", lambda r: 0 < r <= 1))

    @property
    def name(self) -> str:
        return f"DPM-Solver++ 2S (η = {self.eta:g} in stages too)"

    def write(self, program: Program, x: Form) -> Form:
        for here, there in program.grid.steps:
            first = program.ask(x)
            mean: Mean = first
            if here.alpha and not takes_order_one(here, there):
                middle = program.grid.between(here, there, self.r, by=COORDINATES["log_ratio"])
                other = program.ask(self._move(program, x, first, middle, stage=True))
                mean = half_slope_mean(first, other, here, there)
            x = self._move(program, x, mean, there)
        return x

    def _move(self, program: Program, x: Form, mean: Mean, to: Level, *, stage: bool = False) -> Form:
        noise = self._fresh(x.level, to)
        sigma = remaining(to.sigma, noise)
        return program.transfer(x, mean, to, space="sample", sigma=sigma, noise=noise, stage=stage)


def churned(
    schedule: NoiseSchedule, levels: Sequence[float], s_churn: float, s_tmin: float, s_tmax: float
) -> list[float]:
    """σ̂_0, σ_1, σ̂_1, σ_2, …: a step begins where σ/α is 1 + γ times that of its σ, if σ is in [s_tmin, s_tmax].

    Steps upwards are left out, since the next σ̂ says how far the noise leads. ValueError for an inversion.
    Reference: Karras et al. (2022), algorithm 2.
    """
    growth = 1 + min(from_zero("s_churn", s_churn) / (len(levels) - 1), math.sqrt(2) - 1)
    if growth == 1:
        return list(levels)
    if levels[0] < levels[1]:
        raise ValueError(f"s_churn is {s_churn:g}, but sigmas rise: a run from a picture to its noise adds none")
    visited: list[float] = []
    for here, there in pairwise(levels):
        if there < here:
            raised = here
            if s_tmin <= here <= s_tmax:
                raised = schedule.level_at(growth * schedule.level(here).ratio).t
            visited += [there] if visited and raised == visited[-1] else [raised, there]
    return visited


class SeedOptions(TypedDict, total=False):
    """Two of the arguments of `Plan.start`."""

    seed: int | Sequence[int]
    noise: Literal["brownian"]


def seed_options(extra_args: Mapping[str, Any] | None) -> SeedOptions:
    """The arguments of `Plan.start` for one Brownian path a sample, where "seed" is a whole number or a list of them.

    ComfyUI passes its seed there.
    """
    seed: Any = (extra_args or {}).get("seed")
    numbers = seed if isinstance(seed, (list, tuple)) else [seed]
    if not numbers or not all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in numbers):
        return {}
    return {"seed": seed, "noise": "brownian"}


def noise_above(level: Level, like: Any, options: SeedOptions) -> Any:
    """The z of the churn before a run's first call: the increment of its path above the first level, used by no row."""
    source = NoiseSource.of(options.get("seed"), None, "brownian")
    return source.draw(0, like, Span(0, 0.0, (1 / level.ratio) ** 2))


def is_flow(model: Any) -> bool:
    """Whether a program's model answers at x = (1 − σ)·x_0 + σ·ε: one of ComfyUI's class CONST, or Forge's "const"."""
    inner = getattr(model, "inner_model", None)
    patcher = getattr(inner, "model_patcher", None)
    kinds = type(patcher.get_model_object("model_sampling")).__mro__ if patcher is not None else ()
    predicts = getattr(getattr(inner, "predictor", None), "prediction_type", "")
    return predicts == "const" or any(kind.__name__ == "CONST" for kind in kinds)
