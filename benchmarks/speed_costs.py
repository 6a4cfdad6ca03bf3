"""What speed.py measures beside the cost of a row: planning, imports, memory, and a network's share of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from speed_cases import ROWS, Case, classical, new_betas
from torch.profiler import ProfilerActivity, profile

from pndm_solvers import DDIMSolver, NoiseSchedule, Plan, PLMSSolver, Solver
from pndm_solvers.adapters import diffusers as adapters
from pndm_solvers.reference import load_network

__all__ = [
    "LIBRARIES",
    "PLANNERS",
    "PLANS",
    "Memory",
    "Share",
    "import_seconds",
    "numpy_memory",
    "our_loop",
    "plan_again",
    "plan_anew",
    "plan_otherwise",
    "row_times",
    "share",
    "their_loop",
    "times_again",
    "times_anew",
    "torch_memory",
]

Clock = Callable[[], float]

# ------------------------------------------------------------------ rows


def row_times(plan: Plan, x: torch.Tensor, clock: Clock) -> NDArray[np.float64]:
    """µs from each model call of a run to the next."""
    answer, stamps = x + 0.5, []

    def network(x: Any, t: Any) -> Any:
        stamps.append(clock())
        return answer

    plan.run(network, x)
    return 1e6 * np.diff(stamps)


# ------------------------------------------------------------------ plans

PLANS: dict[str, tuple[Callable[[NoiseSchedule], Solver], int]] = {
    "DDIM, 50 rows": (DDIMSolver, 50),
    "exact PLMS, 50 rows": (PLMSSolver, 50),
    "DDIM, 1,000 rows": (DDIMSolver, 1000),
    "exact PLMS, 1,000 rows": (PLMSSolver, 1000),
}
PLANNERS = {
    "PNDMScheduler": {"skip_prk_steps": True},
    "DDIMScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "UniPCMultistepScheduler": {},
}


class Latest:
    """What `prepare` of a case makes for its `run`."""

    value: Any = None


def plan_anew(make: Callable[[NoiseSchedule], Solver], rows: int) -> Case:
    """A plan of a solver whose schedule is new each time: nothing that was kept fits it."""
    made = Latest()

    def prepare() -> None:
        made.value = make(NoiseSchedule.linear(beta_end=new_betas()))

    return Case("a new schedule", 1, lambda: made.value.plan(rows), prepare)


def plan_otherwise(make: Callable[[NoiseSchedule], Solver], rows: int) -> Case:
    """A plan that is new each time, since it is for data of a new range, on one schedule."""
    solver = make(NoiseSchedule.linear())
    return Case("new options", 1, lambda: solver.plan(rows, data_range=new_betas() / 0.02))


def plan_again(make: Callable[[NoiseSchedule], Solver], rows: int) -> Case:
    """The same plan of the same solver."""
    solver = make(NoiseSchedule.linear())
    solver.plan(rows)
    return Case("again", 1, lambda: solver.plan(rows))


def times_anew(library: Any, name: str, rows: int = ROWS) -> Case:
    """`set_timesteps` of a scheduler that is new each time, as its betas are."""
    made, options = Latest(), PLANNERS[name]

    def prepare() -> None:
        made.value = getattr(library, name)(beta_end=new_betas(), **options)

    return Case("a new scheduler", 1, lambda: made.value.set_timesteps(rows), prepare)


def times_again(library: Any, name: str, rows: int = ROWS) -> Case:
    """`set_timesteps` of the same scheduler."""
    scheduler = getattr(library, name)(**PLANNERS[name])
    scheduler.set_timesteps(rows)
    return Case("again", 1, lambda: scheduler.set_timesteps(rows))


LIBRARIES = {"diffusers": diffusers, "ours": adapters}


def import_seconds(*modules: str) -> tuple[float, float]:
    """Wall and processor time, in which the last of the modules is imported after the others, in a fresh process."""
    *first, last = modules
    code = "\n".join(
        [
            "from time import perf_counter, process_time",
            *(f"import {name}" for name in first),
            f"wall, processor = perf_counter(), process_time()\nimport {last}",
            "print(perf_counter() - wall, process_time() - processor)",
        ]
    )
    # An installed package has its bytecode at hand. Without it the time would be that of the compiler.
    written = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=written).stdout
    wall, processor = map(float, printed.split())
    return wall, processor


# ------------------------------------------------------------------ memory


class Memory(NamedTuple):
    """In arrays of x's size: the most at one time, and what a row in the middle of a run allocates.

    `others` counts the smaller allocations of a row: scalars and times. None where they cannot be seen.
    """

    peak: float
    arrays: float
    others: float | None


def their_loop(network: Callable[[Any, Any], Any], x: torch.Tensor, steps: int, library: Any = diffusers) -> None:
    """diffusers' PLMS, scheduler included."""
    scheduler = library.PNDMScheduler(skip_prk_steps=True)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t), t, x, return_dict=False)[0]


def our_loop(network: Callable[[Any, Any], Any], x: Any, steps: int) -> None:
    classical(steps).run(network, x)


def events(run: Callable[[], Any]) -> list[int]:
    """The bytes of each allocation of torch in a run, below 0 where memory is freed, in order."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    recorded: Any = profiler.profiler  # torch's types leave out what its events hold
    found = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]


def torch_memory(loop: Callable[..., None], x: torch.Tensor, fresh: bool) -> Memory:
    """Of `loop(network, x, steps)`: torch's profiler counts.

    `fresh` says that each answer is a new array, as a network's are. It is then counted too.
    """
    answer, size = x + 0.5, x.nbytes

    def network(x: Any, t: Any) -> Any:
        return answer.clone() if fresh else answer

    def allocations(steps: int) -> tuple[int, int, int]:
        loop(network, x, steps)  # so that what is made once is made
        found = events(partial(loop, network, x, steps))
        large = sum(value >= size for value in found)
        return int(np.max(np.cumsum(found))), large, sum(value > 0 for value in found) - large

    with torch.no_grad():
        (_, few, few_others), (peak, many, many_others) = allocations(20), allocations(40)
    return Memory(peak / size, (many - few) / 20, (many_others - few_others) / 20)


def numpy_memory(x: NDArray[Any]) -> Memory:
    """Of a run on NumPy's arrays: tracemalloc's peak in NumPy's domain; what a row takes beyond what it keeps."""
    answer, size, used = x + 0.5, x.nbytes, []

    def network(x: Any, t: Any) -> Any:
        now, most = tracemalloc.get_traced_memory()
        used.append((now, most))
        tracemalloc.reset_peak()
        return answer

    our_loop(lambda x, t: answer, x, 40)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        our_loop(network, x, 40)
        used.append(tracemalloc.get_traced_memory())
    finally:
        tracemalloc.stop()
    held = [now for now, _ in used]
    rows = [(most - now) / size for (_, most), now in zip(used[1:], held, strict=False)]
    return Memory((max(most for _, most in used) - before) / size, float(np.median(rows[10:30])), None)


# ------------------------------------------------------------------ beside a network


class Share(NamedTuple):
    """Seconds of a run, and the part of them outside the network."""

    network: str
    batch: int
    calls: int
    seconds: float
    outside: float


def share(name: str, calls: int, clock: Clock, batch: int = 64) -> Share:
    """One run of exact PLMS on a bundled network."""
    network = load_network(name)
    labels = torch.arange(batch) % len(network.labels) if network.labels else None
    model, inside = network.model(labels), [0.0]

    def timed(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        began = clock()
        answer = model(x, t)
        inside[0] += clock() - began
        return answer

    x = torch.randn(batch, *network.shape, generator=torch.Generator().manual_seed(0))
    plan = PLMSSolver(network.schedule).plan(calls)
    with torch.no_grad():
        model(x, torch.full((batch,), 500.0))
        began = clock()
        plan.run(timed, x, prediction=network.prediction)
        seconds = clock() - began
    return Share(name, batch, calls, seconds, (seconds - inside[0]) / seconds)
