"""diffusers' samplers for the probability-flow ODE, with every grid of times that their constructors offer."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch

from pndm_solvers import NoiseSchedule

# Schedulers whose state is x/α, at the noise level σ/α.
EXPLODING = (diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler, diffusers.LMSDiscreteScheduler)


class IPNDM:
    """diffusers' IPNDM on a schedule.

    It has no schedule: its `trained_betas` are the σ of the steps of one run, its times are angles, and it predicts v.
    """

    grids: Mapping[str, Callable[[NoiseSchedule, int], Any]] = {
        # Its own grid, clipped to the trained levels.
        "sine": lambda schedule, steps: np.clip(
            np.sin(np.linspace(1, 0, steps + 1)[:-1] * math.pi / 2) ** 2, *schedule.sigma([0, schedule.t_max])
        ),
        "linspace": lambda schedule, steps: schedule.sigma(np.linspace(schedule.t_max, 0, steps)),
    }

    def __init__(self, trained_betas: list[float], prediction_type: str, grid: str) -> None:
        self.schedule, self.prediction_type = NoiseSchedule.from_betas(trained_betas), prediction_type
        self.grid = self.grids[grid]

    def set_timesteps(self, steps: int) -> None:
        self.inner = diffusers.IPNDMScheduler(trained_betas=[*self.grid(self.schedule, steps).tolist(), 0.0])
        self.inner.set_timesteps(steps)
        self.inner.set_begin_index(0)
        angles = self.inner.timesteps.double().numpy() * math.pi / 2
        self.timesteps = torch.from_numpy(self.schedule.time_at(-2 * np.log(np.tan(angles))))

    def step(self, answer: torch.Tensor, t: Any, x: torch.Tensor) -> Any:
        index = self.inner.step_index or 0
        alpha, sigma = self.inner.alphas[index], self.inner.betas[index]
        v = answer if self.prediction_type == "v_prediction" else (answer - sigma * x) / max(alpha, 1e-8)
        return self.inner.step(v, self.inner.timesteps[index], x)


@dataclass(frozen=True)
class Peer:
    """A scheduler with its options; the name contains both."""

    name: str
    scheduler: Callable[..., Any]
    options: Mapping[str, Any]

    def start(self, schedule: NoiseSchedule, prediction: str, calls: int) -> Any:
        """The scheduler with the most steps within the budget; it makes one model call for each of its times."""
        alphas_cumprod = schedule.alpha(np.arange(schedule.num_train_timesteps)) ** 2
        betas = (1 - alphas_cumprod / np.append(1, alphas_cumprod[:-1])).tolist()
        for steps in range(calls, 0, -1):
            scheduler = self.scheduler(trained_betas=betas, prediction_type=prediction, **self.options)
            scheduler.set_timesteps(steps)
            if len(scheduler.timesteps) <= calls:
                return scheduler
        raise ValueError(f"no number of steps makes at most {calls} model calls; raise the budget")


def _peers() -> Iterator[Peer]:
    spacings = {name: {"timestep_spacing": name} for name in ("leading", "trailing", "linspace")}
    grids = spacings | {name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")}
    with_lu = grids | {"lu": {"use_lu_lambdas": True}}
    dpm, unipc = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
    orders, ends, lowest = [2, 3], ["zero", "sigma_min"], ["sigma_min"]
    # Grids of sigmas end at sigma_min already. The last step then has no length, and order 3 divides by it.
    safe = {"solver_order": orders, "final_sigmas_type": lowest, "euler_at_final": [True]}
    families = (
        (diffusers.DDIMScheduler, spacings, {"clip_sample": [False], "set_alpha_to_one": [True, False]}),
        (diffusers.PNDMScheduler, spacings, {"skip_prk_steps": [True, False], "set_alpha_to_one": [True, False]}),
        (IPNDM, {name: {"grid": name} for name in IPNDM.grids}, {}),
        (diffusers.DEISMultistepScheduler, grids, {"solver_order": [1, 2, 3]}),
        (dpm, with_lu, {"solver_order": orders, "final_sigmas_type": ends}),
        (dpm, with_lu, safe),
        (dpm, with_lu, {"solver_type": ["heun"]}),
        (dpm, with_lu, {"algorithm_type": ["dpmsolver"]} | safe),
        (unipc, grids, {"solver_order": orders, "final_sigmas_type": ends}),
        # Into σ = 0 bh1 is infinite.
        (unipc, grids, {"solver_order": orders, "solver_type": ["bh1"], "final_sigmas_type": lowest}),
        *((scheduler, grids, {}) for scheduler in EXPLODING),
    )
    for scheduler, times, choices in families:
        for values, grid in itertools.product(itertools.product(*choices.values()), times):
            options = dict(zip(choices, values, strict=True))
            words = [scheduler.__name__.removesuffix("Scheduler"), *(f"{k}={v}" for k, v in options.items()), grid]
            yield Peer(" ".join(words), scheduler, options | times[grid])


PEERS = {peer.name: peer for peer in _peers()}


def run(
    peer: Peer, schedule: NoiseSchedule, model: Callable, x: torch.Tensor, calls: int, prediction: str = "epsilon"
) -> torch.Tensor:
    """The end of a peer's run from `x` `(B, …)` at the schedule's highest time, in at most `calls` model calls.

    Raises ValueError if no number of steps fits the budget.
    """
    scheduler = peer.start(schedule, prediction, calls)
    if hasattr(scheduler, "set_begin_index"):
        # Otherwise a time that rounding repeats is found at its second place, and a step is lost.
        scheduler.set_begin_index(0)
    exploding = isinstance(scheduler, EXPLODING)
    if exploding:
        x = x * math.hypot(1, scheduler.sigmas[0])
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if exploding else x
        x = scheduler.step(model(seen, t.expand(len(x))), t, x).prev_sample
    return x / math.hypot(1, scheduler.sigmas[-1]) if exploding else x
