"""What all samplers share: their form, and the loop in which a plan runs."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm

from pndm_solvers.adapters.k_diffusion.noise import churned, is_flow, noise_above, seed_options
from pndm_solvers.arguments import from_zero, function
from pndm_solvers.arrays import check_state, library
from pndm_solvers.grid import Grid
from pndm_solvers.plan import Plan
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.sde import forward_deviation
from pndm_solvers.solver import Solver

__all__ = ["EVERY_SIGMA", "Sampler", "sampler_of"]

# A sampler receives the sigmas of a run, never the range that the network was trained for.
EVERY_SIGMA = NoiseSchedule.ve(sys.float_info.min, 1e100)
# For the noise of flow models, whose state at sigma is (1 − σ)·x_0 + σ·ε.
FLOW = NoiseSchedule.rectified_flow()

PARAMETERS = """

    The arguments and the result are the same for every sampler, except for those after `disable`.

    Parameters
    ----------
    model:
        `model(x, sigma, **extra_args)`, with x `(B, …)` and sigma `(B,)` in the dtype and on the device of the
        argument `x`. It answers the denoised picture, of x's shape.
    x:
        `(B, …)`, floating: the state at `sigmas[0]`. The result has its shape, dtype and device. No gradients are kept.
    sigmas:
        1-D: noise levels that fall, mostly to 0, or rise from above 0, from a picture to its noise. Where they rise
        between two falls, noise is added, as in Restart sampling. Equal neighbours count as one. They are read from
        their device once, before the first call. Without a step, `x` is returned.
    extra_args:
        Keyword arguments for each call of the model. A whole number "seed" among them, or a list with one for each
        sample, is the seed of the noise: see `noise_sampler`.
    callback:
        Called once a step, after the step's first model call, with a dict: "i", the index in `sigmas`; "x", the state
        there; "sigma", a copy of `sigmas[i]`; "sigma_hat", the level of x, which churn raises; and "denoised", the
        model's answer.
    disable:
        As in tqdm: True hides the progress bar, None shows it on a terminal only."""

OPTIONS = {
    "eta": """
    eta:
        How much noise: 0 is deterministic. In ancestral samplers and dpmpp_sde it is DDIM's η. In the other SDE
        samplers it is τ², where 1 is the reverse SDE.""",
    "s_churn": """
    s_churn, s_tmin, s_tmax:
        Where sigma is in [s_tmin, s_tmax], a step begins with noise up to sigma_hat = sigma·(1 + s_churn/N), for N
        steps, at most √2·sigma.""",
    "s_noise": """
    s_noise:
        Multiplies all noise.""",
    "noise_sampler": """
    noise_sampler:
        `noise_sampler(sigma, sigma_next)` returns the noise of one draw, of x's shape; both are 0-dimensional tensors.
        Without it, a seed in `extra_args` chooses one Brownian path a sample, so that pictures stay alike when the
        number of steps changes. Without either, each draw is `torch.randn_like`.""",
    "r": """
    r:
        Where in the step the stage stands, as a fraction in log sigma.""",
    "solver_type": """
    solver_type:
        "midpoint" or "heun": see `DPMMultistepSolver`.""",
    "order": """
    order:
        How many answers a step combines.""",
}

ERRORS = """

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

NoiseSampler = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Sampler(Protocol):
    """The signature of every function in `SAMPLERS`; `options` are named in its own signature."""

    def __call__(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], None] | None = None,
        disable: bool | None = None,
        **options: Any,
    ) -> torch.Tensor: ...


def sampler_of(name: str, solver: Solver | Callable[..., Solver], summary: str, **options: Any) -> Sampler:
    """The solver as a function `sample_name` in k-diffusion's form, with a `summary` for its docstring.

    `options` are further arguments with their defaults. The function passes them to `solver`, which then makes the
    solver, except for those that `_run` has itself.
    """

    def compiled(levels: list[float], schedule: NoiseSchedule, **given: Any) -> Plan:
        made = solver if isinstance(solver, Solver) else solver(**given)
        grid = Grid(schedule, tuple(map(schedule.level, levels)), False)
        return replace(made, schedule=schedule).plan_on(grid)  # type: ignore[type-var]

    return sampler(name, compiled, summary, **options)


def sampler(name: str, compiled: Callable[..., Plan], summary: str, **options: Any) -> Sampler:
    """The sampler that runs the plan which `compiled` makes of a run's distinct sigmas and a schedule."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    defaults = {"extra_args": None, "callback": None, "disable": None, **options}
    parameters = [inspect.Parameter(parameter, kind) for parameter in ("model", "x", "sigmas")]
    parameters += [inspect.Parameter(parameter, kind, default=default) for parameter, default in defaults.items()]
    signature = inspect.Signature(parameters)

    # A function with its own name and signature: programs read both.
    @torch.no_grad()
    def sample(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return _run(compiled, **given.arguments)

    sample.__name__ = sample.__qualname__ = f"sample_{name}"
    sample.__module__ = __name__.rpartition(".")[0]  # where pickle finds it
    sample.__signature__ = signature  # type: ignore[attr-defined]
    told = "".join(text for option, text in OPTIONS.items() if option in options)
    sample.__doc__ = summary + PARAMETERS + told + ERRORS
    return sample


def _run(
    compiled: Callable[..., Plan],
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: Mapping[str, Any] | None,
    callback: Callable[[dict[str, Any]], None] | None,
    disable: bool | None,
    *,
    s_noise: float = 1.0,
    noise_sampler: NoiseSampler | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    **options: Any,
) -> torch.Tensor:
    """The sample: see `PARAMETERS` and `OPTIONS`. Further `options` are those of `compiled`."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x is a {type(x).__name__}; it must be a floating torch.Tensor, (B, …)")
    check_state("x", x)
    levels = _checked(sigmas)
    distinct = [i for i, (here, there) in enumerate(pairwise(levels)) if here != there]
    if not distinct:
        return x
    function("model", model, "model(x, sigma, **extra_args)")
    if noise_sampler is not None:
        function("noise_sampler", noise_sampler, "noise_sampler(sigma, sigma_next)")
    # Where sigmas rise between two falls there is no step: the row before adds the noise.
    numbers = [i for i in distinct if levels[i] > levels[i + 1]] or distinct

    def plan_on(schedule: NoiseSchedule) -> Plan:
        visited = [levels[i] for i in distinct] + levels[-1:]
        return compiled(churned(schedule, visited, s_churn, s_tmin, s_tmax), schedule, **options)

    plan = plan_on(schedule := EVERY_SIGMA)
    noisy = plan.is_stochastic or s_churn > 0
    if noisy and is_flow(model):
        plan = plan_on(schedule := FLOW)
    if s_noise != 1:
        noise = from_zero("s_noise", s_noise)
        plan = replace(plan, rows=tuple(replace(row, noise=noise * row.noise) for row in plan.rows))
    seed = seed_options(extra_args if noisy else None)
    draw = None if seed and noise_sampler is None else noise_sampler or (lambda *_: torch.randn_like(x))

    first = plan.rows[0].level
    if s_churn and first.sigma > levels[0]:
        # A plan begins with a model call. So the first churn is not one of its rows.
        here = schedule.level(levels[0])
        z = torch.randn_like(x) if draw else noise_above(first, x, seed)
        x = first.alpha / here.alpha * x + s_noise * forward_deviation(first, here) * z
    state, steps, within_step, i = plan.start(x, **seed, prediction="sample"), iter(numbers), False, -1
    with tqdm(total=len(numbers), disable=disable) as bar:
        for k, row in enumerate(plan.rows):
            # In x's dtype, since a model may scale x by sigma before layers of that dtype.
            denoised = model(state.x, state.t.to(x.dtype), **(extra_args or {}))
            if not within_step:
                i = next(steps)
                if callback is not None:
                    # Copies, so that a callback that writes into them leaves the caller's sigmas alone.
                    raised = torch.full_like(sigmas[i], row.t) if s_churn else sigmas[i].clone()
                    at = {"i": i, "sigma": sigmas[i].clone(), "sigma_hat": raised}
                    callback({**at, "x": state.x, "denoised": denoised})
            to = None
            if row.noise and draw:
                end = torch.full_like(sigmas[i], plan.levels[k + 1].t) if row.stage else sigmas[i + 1]
                law = plan.transition(state, denoised)
                to = law.mean + law.deviation * draw(sigmas[i], end).to(law.mean)
            state, within_step = plan.advance(state, denoised, to=to), row.stage
            bar.update(not within_step)
    if not library(state.x).is_finite(state.x):
        raise FloatingPointError(
            "the sample is not finite; most often the model overflows, in half precision for example, or x or "
            "sigmas exceed the range of x's dtype"
        )
    return state.x


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
    steps = [(here, there) for here, there in pairwise(levels) if here != there]
    rises = [here < there for here, there in steps]
    if rises and not all(rises) and (rises[0] or rises[-1] or any(map(all, pairwise(rises)))):
        raise ValueError(
            f"sigmas must fall all the way or rise all the way, or rise once between two falls, where noise is added; "
            f"they are {levels}"
        )
    if any(here == 0 < there for here, there in steps):
        raise ValueError("sigmas rise from 0, where no model can be called; begin above it, for example at 0.0001")
    return levels
