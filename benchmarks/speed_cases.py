"""What speed.py times: whole runs beside an idle network, of ours and of the peers, from the same arrays.

The network answers with a tensor that was laid out before the run, so all the time is the sampler's. It is the same in
every call. That favours samplers that keep the network's answers without a copy: their history is one array.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import diffusers
import k_diffusion_peers
import numpy as np
import torch

from pndm_solvers import DDIMSolver, DPMMultistepSolver, NoiseSchedule, Plan, PLMSSolver, Solver, UniPCSolver
from pndm_solvers.adapters import diffusers as adapters

__all__ = [
    "BARE",
    "CORE",
    "ROWS",
    "SCHEDULERS",
    "SHAPES",
    "Case",
    "Pair",
    "answers",
    "classical",
    "idle_run",
    "new_betas",
]

ROWS = 50  # the steps of a run
SHAPES = ((1, 4, 8, 8), (1, 4, 64, 64), (16, 3, 64, 64), (64, 3, 128, 128))


def nothing() -> None:
    """Where a run needs no preparation."""


@dataclass(frozen=True)
class Case:
    """A run that is timed.

    Attributes
    ----------
    name:
        What runs.
    rows:
        How many times a run calls the model. Its time is divided by this.
    run:
        One run; returns its result.
    prepare:
        Called before each run, and not timed.
    """

    name: str
    rows: int
    run: Callable[[], Any]
    prepare: Callable[[], None] = nothing


@dataclass(frozen=True)
class Pair:
    """Ours and a peer with the same method on the same times: each makes a `Case` from x."""

    name: str
    peer: str
    ours: Callable[[torch.Tensor], Case]
    theirs: Callable[[torch.Tensor], Case]


def answers(shape: Iterable[int], count: int = 1, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Noise: what a run begins with, and what the idle network answers."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(shape), generator=generator).to(dtype) for _ in range(count)]


def idle_run(plan: Plan, x: Any, name: str = "ours") -> Case:
    """`plan.run` on arrays of any library."""
    answer = x + 0.5
    return Case(name, plan.model_calls, lambda: plan.run(lambda x, t: answer, x))


@cache
def classical(steps: int) -> Plan:
    """Latent diffusion's PLMS on the times of diffusers' PNDMScheduler: one call more than steps."""
    solver = PLMSSolver(NoiseSchedule.linear(), weights="classical", starter="heun")
    return solver.plan(steps, spacing="leading")


def new_betas(numbers: Iterable[int] = itertools.count(1)) -> float:
    """A β_end that no schedule of this process had: nothing that is kept from earlier plans fits it."""
    return 0.02 * (1 - 1e-7 * next(iter(numbers)))


# ------------------------------------------------------------------ schedulers of diffusers and ours


def steps_of(name: str, scheduler: Any, x: torch.Tensor, return_dict: bool) -> Case:
    """The loop of a pipeline around `step`."""
    answer = x + 0.5
    scheduler.set_timesteps(ROWS)

    def tuples() -> torch.Tensor:
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(answer, t, sample, return_dict=False)[0]
        return sample

    def objects() -> torch.Tensor:
        sample = x
        for t in scheduler.timesteps:
            sample = scheduler.step(answer, t, sample).prev_sample
        return sample

    rows = len(scheduler.timesteps)
    return Case(name, rows, objects if return_dict else tuples, partial(scheduler.set_timesteps, ROWS))


@dataclass(frozen=True)
class Scheduler:
    """A scheduler's class, by its name in both libraries, and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def theirs(self, x: torch.Tensor, return_dict: bool = False) -> Case:
        return steps_of(f"diffusers {self.name}", getattr(diffusers, self.name)(**self.options), x, return_dict)

    def ours(self, x: torch.Tensor, return_dict: bool = False) -> Case:
        return steps_of(f"our {self.name}", getattr(adapters, self.name)(**self.options), x, return_dict)


PNDM = Scheduler("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True})
DDIM = Scheduler("DDIMScheduler", {"clip_sample": False})
DPM = Scheduler("DPMSolverMultistepScheduler")
UNIPC = Scheduler("UniPCMultistepScheduler")
PLMS = Scheduler("PLMSScheduler", {"timestep_spacing": "leading"})

# Our PLMSScheduler has no namesake in diffusers: its peer is the PLMS of their PNDMScheduler.
SCHEDULERS = {
    "PNDMScheduler": (PNDM.ours, PNDM.theirs),
    "PLMSScheduler": (PLMS.ours, PNDM.theirs),
    "DDIMScheduler": (DDIM.ours, DDIM.theirs),
    "DPMSolverMultistepScheduler": (DPM.ours, DPM.theirs),
    "UniPCMultistepScheduler": (UNIPC.ours, UNIPC.theirs),
}


# ------------------------------------------------------------------ k-diffusion


def k_diffusion(name: str, x: torch.Tensor) -> Case:
    """A loop of k-diffusion on its Karras grid."""
    sampler, answer = k_diffusion_peers.SAMPLERS[name], x + 0.5
    sigmas = k_diffusion_peers.module("sampling").get_sigmas_karras(ROWS, 0.03, 14.6)
    return Case(f"k-diffusion sample_{name}", ROWS, lambda: sampler(lambda x, sigma: answer, x, sigmas))


# ------------------------------------------------------------------ pairs


def planned(make: Callable[[NoiseSchedule], Solver], spacing: str) -> Callable[[torch.Tensor], Case]:
    """`plan.run` of a method."""

    def case(x: torch.Tensor) -> Case:
        return idle_run(make(NoiseSchedule.linear()).plan(ROWS, spacing=spacing), x)

    return case


CORE = (
    Pair("PLMS, classical", "diffusers PNDM", lambda x: idle_run(classical(ROWS), x), PNDM.theirs),
    Pair("DDIM", "diffusers DDIM", planned(DDIMSolver, "leading"), DDIM.theirs),
    Pair("DPM-Solver++(2M)", "diffusers DPMSolverMultistep", planned(DPMMultistepSolver, "linspace"), DPM.theirs),
    Pair("UniPC-2", "diffusers UniPC", planned(UniPCSolver, "linspace"), UNIPC.theirs),
    Pair(
        "DPM-Solver++(2M)",
        "k-diffusion sample_dpmpp_2m",
        planned(DPMMultistepSolver, "karras"),
        partial(k_diffusion, "dpmpp_2m"),
    ),
    Pair(
        "LMS",
        "k-diffusion sample_lms",
        planned(partial(PLMSSolver, coordinate="ratio"), "karras"),
        partial(k_diffusion, "lms"),
    ),
)


# ------------------------------------------------------------------ what arrays alone cost


def copy(x: torch.Tensor) -> Case:
    """The bound by memory bandwidth: each number read once and written once."""
    to = torch.empty_like(x)

    def run() -> None:
        for _ in range(ROWS):
            to.copy_(x)

    return Case("one copy", ROWS, run)


WEIGHTS = (0.9, 0.4, -0.3, 0.2, -0.1)


def five_calls(x: torch.Tensor) -> Case:
    """w0·x + w1·e1 + … + w4·e4: a product, then four sums in place."""
    to, (first, *weights) = torch.empty_like(x), WEIGHTS
    terms = list(zip(answers(x.shape, len(weights), x.dtype), weights, strict=True))

    def run() -> None:
        for _ in range(ROWS):
            torch.mul(x, first, out=to)
            for answer, weight in terms:
                to.add_(answer, alpha=weight)

    return Case("five array calls", ROWS, run)


def one_call(x: torch.Tensor) -> Case:
    """The same sum by one product of a matrix and a vector: the answers lie in a ring."""
    (first, *rest), flat = WEIGHTS, x.reshape(-1)
    ring, weights, to = (
        torch.stack(answers(flat.shape, len(rest), x.dtype)).t(),
        torch.tensor(rest),
        torch.empty_like(flat),
    )

    def run() -> None:
        for _ in range(ROWS):
            torch.addmv(flat, ring, weights, beta=first, out=to)

    return Case("one addmv", ROWS, run)


BARE = (copy, five_calls, one_call)


def numpy_noise(shape: Iterable[int]) -> np.ndarray:
    """The same noise as NumPy's array."""
    return answers(shape)[0].numpy()
