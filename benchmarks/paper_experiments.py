"""What the papers show beside tables of quality: encoding, previews, and orders, each kept as a file like a cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from kept import make
from numpy.typing import NDArray
from paper_cells import GRID, SEED, Float64, Runner, path_of

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    FONSolver,
    NoiseSchedule,
    Plan,
    PLMSSolver,
    PNDMSolver,
    Solver,
    slerp,
)
from pndm_solvers.observers import Step

ENCODED, ENCODE_STEPS = 100, (10, 20, 50, 100, 200, 500, 1000)
PREVIEWED, PREVIEW_TIMES = 64, (999, 900, 800, 700, 600, 500, 400, 300, 200, 100, 50, 0)
ORDERED, ORDER_STEPS, ORDER_SPAN, ORDER_FINE = 100, (50, 100, 200, 400), (900.0, 20.0), 1600
ARC, ARCS = 11, 8  # points of an arc of slerp, and arcs

ORDERS: dict[str, tuple[Callable[[NoiseSchedule], Solver], int]] = {
    "DDIM": (DDIMSolver, 1),
    "S-PNDM": (lambda schedule: PNDMSolver(schedule, 2), 2),
    "F-PNDM": (PNDMSolver, 2),
    "FON": (FONSolver, 4),
}


def root_mean_squares(difference: NDArray[Any]) -> Float64:
    """Of each sample `(n,)`."""
    rows = difference.reshape(len(difference), -1).astype(np.float64)
    return np.sqrt((rows**2).mean(1))


def encoding(runner: Runner) -> dict[str, Any]:
    """DDIM from data up to noise and back: the error of each of the images, by steps `(len(ENCODE_STEPS), n)`."""
    images = runner.case.data[np.random.default_rng(SEED).choice(len(runner.case.data), ENCODED, replace=False)]
    solver, errors = DDIMSolver(runner.case.schedule), []
    for steps in ENCODE_STEPS:
        low, top = runner.case.schedule.t_min, runner.case.schedule.t_max
        noise = runner.run(solver.plan(steps, **GRID, start=low, stop=top), torch.from_numpy(images))
        back = runner.run(solver.plan(steps, **GRID, start=top, stop=low), torch.from_numpy(noise))
        errors.append(root_mean_squares(back - images))
    return {"errors": np.array(errors)}


def previews(runner: Runner) -> dict[str, Any]:
    """DDPM's x̂_0 at some times of a run of 1,000 steps: `(len(PREVIEW_TIMES), n, C, H, W)`, and the samples."""
    plan = DDPMSolver(runner.case.schedule).plan(1000, **GRID)
    seen: dict[int, list[NDArray[np.float32]]] = {t: [] for t in PREVIEW_TIMES}

    def look(step: Step) -> None:
        if int(step.t) in seen:
            seen[int(step.t)].append(step.x0.numpy())

    samples = []
    for x, options in runner.parts(runner.starts(PREVIEWED)):
        with torch.inference_mode():
            samples.append(plan.run(runner.model, x, check_finite=None, callback=look, **options).numpy())
    return {"previews": np.array([np.concatenate(seen[t]) for t in PREVIEW_TIMES]), "samples": np.concatenate(samples)}


def coarse_and_fine(images: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Means of blocks of 2×2 pixels, a quarter of the image's numbers, and what they leave."""
    coarse = images.reshape(*images.shape[:-2], images.shape[-2] // 2, 2, images.shape[-1] // 2, 2).mean((-3, -1))
    return coarse, images - coarse.repeat(2, -1).repeat(2, -2)


def orders(runner: Runner) -> dict[str, Any]:
    """Errors at t = 20 of runs from t = 900 over even real times: `(n,)` of each method and number of steps.

    Within these times ε is smooth, and a method's order can show. Any state is a lawful start of the equation.
    """
    schedule, starts = runner.case.schedule, runner.starts(ORDERED)
    high, low = ORDER_SPAN

    def plan(solver: Solver, steps: int) -> Plan:
        # A real number among the times keeps the inner stages off the integers.
        times = np.linspace(high, low, steps + 1)[:-1]
        times[1:] += 1e-9
        return solver.plan(timesteps=times, stop=low)

    fine = runner.run(plan(PLMSSolver(schedule, weights="exact"), ORDER_FINE), starts)
    found = {}
    for name, (make_solver, _) in ORDERS.items():
        for steps in ORDER_STEPS:
            found[f"{name} {steps}"] = root_mean_squares(runner.run(plan(make_solver(schedule), steps), starts) - fine)
    return found


def arcs(runner: Runner) -> dict[str, Any]:
    """Samples along arcs between starts, by DDIM with 50 steps: `(ARCS, ARC, C, H, W)`."""
    ends = runner.starts(2 * ARCS)
    a, b = ends[:ARCS], ends[ARCS:]
    points = torch.stack([slerp(a, b, weight) for weight in np.linspace(0, 1, ARC)], 1)
    plan = DDIMSolver(runner.case.schedule).plan(50, **GRID)
    rows = [runner.run(plan, points[:, place].contiguous()) for place in range(ARC)]
    return {"samples": np.stack(rows, 1)}


# Each with the model calls that it makes, times the samples.
EXPERIMENTS: dict[str, tuple[Callable[[Runner], dict[str, Any]], int]] = {
    "arcs": (arcs, 50 * ARCS * ARC),
    "encoding": (encoding, 2 * sum(ENCODE_STEPS) * ENCODED),
    "previews": (previews, 1000 * PREVIEWED),
    "orders": (orders, ORDERED * (ORDER_FINE + sum(4 * steps + 18 for steps in ORDER_STEPS))),
}


def experiment(runner: Runner, name: str) -> None:
    make(path_of(runner.case.name, runner.case.count, name), lambda: EXPERIMENTS[name][0](runner))
