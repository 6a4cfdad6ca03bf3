"""Samplers with k-diffusion's signature, for ComfyUI, for A1111's web UI, and for loops in their style.

In k-diffusion a `model(x, sigma)` answers the denoised picture D at x = x_0 + σ·ε, and a sampler solves
dx/dσ = (x − D)/σ: Karras et al. (2022), eq. (1) and (3) with σ(t) = t. This is the library's variance-exploding
schedule, whose time is σ. Flow models work too: in ComfyUI they answer D at x = (1 − σ)·x_0 + σ·ε, where (x − D)/σ is
ε − x_0, again dx/dσ. So each sampler is the same method on flow models, with the same order.

For ComfyUI and A1111 `pndm-solvers comfyui` and `pndm-solvers a1111` write folders that register them.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from tqdm.auto import tqdm

try:
    import torch
except ImportError as error:
    raise ImportError("k-diffusion's samplers need torch: pip install torch") from error

from pndm_solvers.arguments import function, reals
from pndm_solvers.arrays import check_state, library
from pndm_solvers.fit.solver import read_plan
from pndm_solvers.grid import make_grid
from pndm_solvers.methods import (
    DDIMSolver,
    DEISSolver,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    UniPCSolver,
)
from pndm_solvers.plan import Plan
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.solver import Solver

__all__ = [
    "SAMPLERS",
    "FittedSampler",
    "get_sigmas_pndm",
    "sample_ddim",
    "sample_deis",
    "sample_dpm_2",
    "sample_dpmpp_2m",
    "sample_dpmpp_2s",
    "sample_dpmpp_3m",
    "sample_heun",
    "sample_lms",
    "sample_plms",
    "sample_plms_classical",
    "sample_pndm",
    "sample_uni_pc",
    "sample_uni_pc_bh2",
]

# A sampler receives the sigmas of a run, never the range that the network was trained for.
EVERY_SIGMA = NoiseSchedule.ve(sys.float_info.min, 1e100)

ARGUMENTS = """

    The arguments and the result are the same for every sampler.

    Parameters
    ----------
    model:
        `model(x, sigma, **extra_args)`, with x `(B, …)` and sigma `(B,)` in the dtype and on the device of the
        argument `x`. It answers the denoised picture, of x's shape.
    x:
        `(B, …)`, floating: the state at `sigmas[0]`. The result has its shape, dtype and device. No gradients are kept.
    sigmas:
        1-D: noise levels that fall, mostly to 0, or rise from above 0, from a picture to its noise. Equal neighbours
        count as one. They are read from their device once, before the first call. Without a step, `x` is returned.
    extra_args:
        Keyword arguments for each call of the model.
    callback:
        Called once a step, after the step's first model call, with a dict: "i", the index in `sigmas`; "x", the state
        there; "sigma" and "sigma_hat", both copies of `sigmas[i]`; and "denoised", the model's answer.
    disable:
        As in tqdm: True hides the progress bar, None shows it on a terminal only.

    Raises
    ------
    TypeError:
        For an `x` that is no floating tensor, `sigmas` that are no tensor of real numbers, and a model that cannot be
        called.
    ValueError:
        For sigmas of another shape or order, and for an answer of another shape.
    FloatingPointError:
        For a sample that is not finite.
    """


class Sampler(Protocol):
    """The signature of every function in `SAMPLERS`."""

    def __call__(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
    ) -> torch.Tensor: ...


def sampler_of(name: str, solver: Solver, summary: str) -> Sampler:
    """The solver as a function `sample_name` in k-diffusion's form, with a `summary` for its docstring."""
    return _sampler(name, lambda levels: solver.plan(timesteps=levels[:-1], stop=levels[-1]), summary)


def _sampler(name: str, compiled: Callable[[list[float]], Plan], summary: str) -> Sampler:
    """The sampler that runs the plan which `compiled` makes of a run's distinct sigmas."""

    # A function with its own name and signature: programs read both.
    @torch.no_grad()
    def sample(model, x, sigmas, extra_args=None, callback=None, disable=None):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x is a {type(x).__name__}; it must be a floating torch.Tensor, (B, …)")
        check_state("x", x)
        levels = _checked(sigmas)
        numbers = [i for i, (here, there) in enumerate(pairwise(levels)) if here != there]
        if not numbers:
            return x
        function("model", model, "model(x, sigma, **extra_args)")
        plan = compiled([levels[i] for i in numbers] + levels[-1:])
        state, steps, within_step = plan.start(x, prediction="sample"), iter(numbers), False
        with tqdm(total=len(numbers), disable=disable) as bar:
            for row in plan.rows:
                # In x's dtype, since a model may scale x by sigma before layers of that dtype.
                denoised = model(state.x, state.t.to(x.dtype), **(extra_args or {}))
                if not within_step:
                    i = next(steps)
                    if callback is not None:
                        # Copies, so that a callback that writes into them leaves the caller's sigmas alone.
                        at = {"i": i, "sigma": sigmas[i].clone(), "sigma_hat": sigmas[i].clone()}
                        callback({**at, "x": state.x, "denoised": denoised})
                state, within_step = plan.advance(state, denoised), row.stage
                bar.update(not within_step)
        if not library(state.x).is_finite(state.x):
            raise FloatingPointError(
                "the sample is not finite; most often the model overflows, in half precision for example, or x or "
                "sigmas exceed the range of x's dtype"
            )
        return state.x

    sample.__name__ = sample.__qualname__ = f"sample_{name}"
    sample.__doc__ = summary + ARGUMENTS
    return sample


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

        def compiled(sigmas: list[float]) -> Plan:
            near = len(sigmas) == len(levels) and all(
                math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-6) for a, b in zip(sigmas, levels, strict=True)
            )
            if not near:
                given, own = (", ".join(f"{sigma:.4g}" for sigma in numbers) for numbers in (sigmas, levels))
                raise ValueError(f"sigmas are {given}, but the plan visits {own}; pass it its own, sampler.sigmas")
            return self.plan

        self._sample = _sampler("fitted", compiled, "")

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


def _checked(sigmas: torch.Tensor) -> list[float]:
    if not isinstance(sigmas, torch.Tensor) or sigmas.dtype == torch.bool or sigmas.dtype.is_complex:
        kind = f"of dtype {sigmas.dtype}" if isinstance(sigmas, torch.Tensor) else f"a {type(sigmas).__name__}"
        raise TypeError(f"sigmas is {kind}; it must be a 1-D torch.Tensor of real numbers")
    if sigmas.ndim != 1:
        raise ValueError(f"sigmas must be 1-D, not of shape {tuple(sigmas.shape)}")
    levels = sigmas.tolist()
    for i, sigma in enumerate(levels):
        if not 0 <= sigma <= EVERY_SIGMA.t_max:
            raise ValueError(f"sigmas must be from 0 to {EVERY_SIGMA.t_max:g}; sigmas[{i}] is {sigma:g}")
    steps = [there - here for here, there in pairwise(levels)]
    if min(steps, default=0) < 0 < max(steps, default=0):
        raise ValueError(f"sigmas must fall all the way or rise all the way, not {levels}; sample each part on its own")
    if steps and levels[0] == 0 < levels[-1]:
        raise ValueError("sigmas rise from 0, where no model can be called; begin above it, for example at 0.0001")
    return levels


sample_plms = sampler_of(
    "plms",
    PLMSSolver(EVERY_SIGMA),
    "PLMS with exact weights, the library's default: N model calls for N steps. See `PLMSSolver`.",
)
sample_plms_classical = sampler_of(
    "plms_classical",
    PLMSSolver(EVERY_SIGMA, weights="classical", starter="heun"),
    "Latent diffusion's PLMS: classical weights, after a step of improved Euler; N + 1 model calls. See `PLMSSolver`.",
)
sample_pndm = sampler_of(
    "pndm",
    PNDMSolver(EVERY_SIGMA),
    "F-PNDM, its stages halfway in σ: N + 9 model calls for N steps, from N = 4. See `PNDMSolver`.",
)
sample_ddim = sampler_of(
    "ddim",
    DDIMSolver(EVERY_SIGMA),
    "DDIM with η = 0, which k-diffusion calls Euler: N model calls for N steps. See `DDIMSolver`.",
)

sample_heun = sampler_of(
    "heun",
    PRKSolver(EVERY_SIGMA, "heun"),
    "Heun's method in σ: 2·N − 1 model calls for N steps to 0. See `PRKSolver`.",
)
sample_dpm_2 = sampler_of(
    "dpm_2",
    DPMSinglestepSolver(EVERY_SIGMA, 2, "epsilon"),
    "DPM-Solver-2, its stage halfway in log σ: 2·N − 1 model calls for N steps to 0. See `DPMSinglestepSolver`.",
)
sample_dpmpp_2s = sampler_of(
    "dpmpp_2s",
    DPMSinglestepSolver(EVERY_SIGMA, 2),
    "DPM-Solver++(2S), k-diffusion's dpmpp_2s_ancestral without noise: 2·N − 1 model calls. See `DPMSinglestepSolver`.",
)
sample_lms = sampler_of(
    "lms",
    PLMSSolver(EVERY_SIGMA, coordinate="ratio"),
    "Linear multistep of order 4, polynomials in σ: N model calls for N steps. See `PLMSSolver`.",
)
sample_deis = sampler_of(
    "deis",
    DEISSolver(EVERY_SIGMA, 3, lower_order_final=False),
    "DEIS of order 3, polynomials in log σ: N model calls for N steps. See `DEISSolver`.",
)
sample_dpmpp_2m = sampler_of(
    "dpmpp_2m",
    DPMMultistepSolver(EVERY_SIGMA, 2, lower_order_final=False),
    "DPM-Solver++(2M): N model calls for N steps. See `DPMMultistepSolver`.",
)
sample_dpmpp_3m = sampler_of(
    "dpmpp_3m",
    DPMMultistepSolver(EVERY_SIGMA, 3, lower_order_final=False),
    "DPM-Solver++(3M): N model calls for N steps. See `DPMMultistepSolver`.",
)
sample_uni_pc = sampler_of(
    "uni_pc",
    UniPCSolver(EVERY_SIGMA, 2, "bh1", lower_order_final=False),
    "UniPC-2 with B(h) = h: N model calls for N steps. See `UniPCSolver`.",
)
sample_uni_pc_bh2 = sampler_of(
    "uni_pc_bh2",
    UniPCSolver(EVERY_SIGMA, 2, lower_order_final=False),
    "UniPC-2 with B(h) = e^h − 1: N model calls for N steps. See `UniPCSolver`.",
)

# By the name in a program's table of samplers.
SAMPLERS: dict[str, Sampler] = {
    "plms": sample_plms,
    "plms_classical": sample_plms_classical,
    "pndm": sample_pndm,
    "ddim": sample_ddim,
    "heun": sample_heun,
    "dpm_2": sample_dpm_2,
    "dpmpp_2s": sample_dpmpp_2s,
    "lms": sample_lms,
    "deis": sample_deis,
    "dpmpp_2m": sample_dpmpp_2m,
    "dpmpp_3m": sample_dpmpp_3m,
    "uni_pc": sample_uni_pc,
    "uni_pc_bh2": sample_uni_pc_bh2,
}
