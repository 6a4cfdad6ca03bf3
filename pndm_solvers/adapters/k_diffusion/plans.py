"""Plans from files as samplers, and the library's own grid as sigmas."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pndm_solvers.adapters.k_diffusion.run import sampler
from pndm_solvers.arguments import reals
from pndm_solvers.fit.solver import read_plan
from pndm_solvers.grid import make_grid
from pndm_solvers.plan import Plan
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["FittedSampler", "get_sigmas_pndm"]


class FittedSampler:
    """A plan from a file, mostly one of `pndm_solvers.fit_plan`, as a sampler with k-diffusion's signature.

    A plan visits its own levels. So it is called with its own `sigmas`: pass `sampler.sigmas` where a program takes
    sigmas, and begin at noise of deviation `sampler.sigmas[0]`. The model answers the denoised picture, whatever the
    network below it predicts; the plan must have been fitted to that network.

    Attributes
    ----------
    plan:
        The plan in k-diffusion's variables: x/α at σ/α. Plans of rectified flow stay as they are.
    sigmas:
        The σ of its levels, float32, falling to 0 or to the plan's end.
    """

    def __init__(self, plan: Plan | str | os.PathLike[str]) -> None:
        self.plan = _in_sigmas(plan if isinstance(plan, Plan) else read_plan(plan))
        levels = [level.sigma for level in self.plan.levels]
        self.sigmas = torch.tensor(levels, dtype=torch.float32)

        def compiled(sigmas: list[float], schedule: NoiseSchedule) -> Plan:
            near = len(sigmas) == len(levels) and all(
                math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in zip(sigmas, levels, strict=True)
            )
            if not near:
                given, own = (", ".join(f"{sigma:.4g}" for sigma in numbers) for numbers in (sigmas, levels))
                raise ValueError(f"sigmas are {given}, but the plan visits {own}; pass it its own, sampler.sigmas")
            return self.plan

        self._sample = sampler("fitted", compiled, "")

    def __call__(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor:
        """The sample: see the functions in `SAMPLERS`. ValueError for other sigmas than the plan's."""
        return self._sample(model, x, sigmas, extra_args, callback, disable)


def get_sigmas_pndm(n: int, table: Sequence[float], prediction: str = "epsilon") -> torch.Tensor:
    """The sigmas of the library's default grid, where `plms` errs least: `n`, which fall, and 0; float32 `(n + 1,)`.

    Parameters
    ----------
    n:
        How many steps.
    table:
        The model's sigmas, 1-D and rising: those of its training, or a fine grid of them.
    prediction:
        What the network predicts. "epsilon" may begin below the highest sigma, where the error of such networks is
        large; "flow" says that the model's state is (1 − σ)·x_0 + σ·ε, and then the shift of its table is kept.

    Raises
    ------
    TypeError, ValueError:
        For other arguments.
    """
    sigmas = reals("table", table).astype(np.float64)
    if sigmas.ndim != 1 or len(sigmas) < 2 or not (np.diff(sigmas) > 0).all() or sigmas[0] <= 0:
        raise ValueError(f"table is of shape {sigmas.shape}; it must be two sigmas or more, above 0, that rise")
    if prediction == "flow":
        middle = sigmas[(len(sigmas) - 1) // 2]  # of the even times 1/T, 2/T, … 1 without a shift: 1/2
        schedule = NoiseSchedule.rectified_flow(shift=middle / (1 - middle))
    else:
        schedule = NoiseSchedule.from_alphas_cumprod(1 / (1 + sigmas**2))
    levels = make_grid(schedule, n, prediction=prediction).levels
    return torch.tensor(schedule.k_sigma([level.t for level in levels]), dtype=torch.float32)


def _in_sigmas(plan: Plan) -> Plan:
    """The plan on x/α, whose level is σ/α; or itself, with σ as its time, where α = 1 − σ."""
    if all(math.isclose(level.alpha + level.sigma, 1.0, abs_tol=1e-9) for level in plan.levels[:-1]):
        rows = tuple(replace(row, t=row.sigma) for row in plan.rows)
        return replace(plan, rows=rows, end=plan.end._replace(t=plan.end.sigma), integer_times=False, fitted=None)
    if any(row.space not in ("epsilon", "sample") or not row.alpha for row in plan.rows):
        raise ValueError(
            f"{plan.name} cannot be run on sigmas: it combines other predictions than ε and x_0, or begins at α = 0"
        )
    alphas, rows = [level.alpha for level in plan.levels], []
    for k, row in enumerate(plan.rows):
        there = alphas[k + 1]
        states = tuple((i, weight * alphas[i] / there) for i, weight in row.states)
        answers = tuple((j, weight / there) for j, weight in row.answers)
        ratio = row.level.ratio
        rows.append(
            replace(row, t=ratio, alpha=1.0, sigma=ratio, states=states, answers=answers, noise=row.noise / there)
        )
    end = Level(plan.end.ratio, 1.0, plan.end.ratio)
    return replace(plan, rows=tuple(rows), end=end, integer_times=False, fitted=None)
