"""The cells of the papers' table: a network, a method and a number of steps, run once and kept as a file.

A file is written whole or not at all, and a lock keeps two processes from running one cell. Every method begins with
the same starts, and stochastic ones draw the same noise, so that differences of cells are paired.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import networks
import numpy as np
import torch
from numpy.typing import NDArray
from paper_networks import Case
from tqdm import tqdm

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    FONSolver,
    NoiseSchedule,
    Plan,
    PLMSSolver,
    PNDMSolver,
    Prediction,
    Solver,
    initial_noise,
    slerp,
)
from pndm_solvers.distances import resampled
from pndm_solvers.ode import probability_flow

CACHE = networks.CACHE / "paper"
SEED, DRAWS, FINE = 7, 100, 400
STEPS = (5, 10, 20, 50, 100, 250, 1000)
# The papers' grid: t = 0, T/N, 2·T/N, …, so that a run begins at T − T/N, with noise as it is at the top.
GRID: dict[str, Any] = {"spacing": "leading"}

Float64 = NDArray[np.float64]
Samples = NDArray[np.float32]


class Cell(NamedTuple):
    """`size` is a number of steps, or a tolerance."""

    network: str
    method: str
    size: float


# --------------------------------------------------------------------- methods


def on_grid(make: Callable[[NoiseSchedule], Solver]) -> Callable[[Case, int], Plan]:
    return lambda case, steps: make(case.schedule).plan(steps, **GRID)


def plms(case: Case, steps: int) -> Plan:
    """Latent diffusion's PLMS, whose times are one higher where the schedule has them. Here it ends clean."""
    solver = PLMSSolver(case.schedule, weights="classical", starter="heun")
    return solver.plan(steps, **GRID, steps_offset=int(steps < 1000))


def own(case: Case, calls: int) -> Plan:
    return PLMSSolver(case.schedule).plan(calls, prediction=case.prediction, sample_shape=case.shape)


def fitted(case: Case, calls: int) -> Plan:
    assert case.fitted is not None
    return case.fitted.plan(calls)


def fine(case: Case, calls: int) -> Plan:
    """What errors are measured to: the flow from the highest level."""
    return PLMSSolver(case.schedule).plan(calls, start="top")


@dataclass(frozen=True)
class Method:
    """How a method is run, and with which numbers of steps; the flow by SciPy has no plan, and tolerances as sizes."""

    plan: Callable[[Case, int], Plan] | None
    sizes: Sequence[float] = STEPS
    between: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None  # starts between two draws of noise
    stochastic: bool = False
    clip: float | None = None  # of the predicted picture


TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
PF_CALLS = dict(zip(TOLERANCES, (65, 95, 150, 310), strict=True))  # about, for the estimate of the time
ETAS = (0.2, 0.5)

METHODS: dict[str, Method] = {
    "DDIM": Method(on_grid(DDIMSolver)),
    "S-PNDM": Method(on_grid(lambda schedule: PNDMSolver(schedule, 2))),
    "F-PNDM": Method(on_grid(PNDMSolver)),
    "FON": Method(on_grid(FONSolver)),
    "PLMS": Method(plms),
    "PF": Method(None, TOLERANCES),
    "DDPM": Method(on_grid(DDPMSolver), stochastic=True),
    "ours": Method(own),
    "fitted": Method(fitted, (5, 10, 20)),
    **{
        f"DDIM η={eta:g}": Method(
            on_grid(lambda schedule, eta=eta: DDIMSolver(schedule, eta=eta)), (10, 20, 50, 100), stochastic=True
        )
        for eta in ETAS
    },
    "DDIM slerp": Method(on_grid(DDIMSolver), (50,), lambda a, b: slerp(a, b, 0.5)),
    "DDIM lerp": Method(on_grid(DDIMSolver), (50,), lambda a, b: (a + b) / 2),
    # As the authors of cosine betas draw: from σ/α of 20,291, where the network's error is multiplied by it.
    "DDIM clipped": Method(on_grid(DDIMSolver), (250, 1000), clip=1.0),
    "fine": Method(fine, (FINE,)),
}
# Cells that no claim needs; they are run last.
LATE = {(name, 1000) for name in ("S-PNDM", "F-PNDM", "FON", "PLMS", "ours")}


def cells(case: Case, sizes: Sequence[int] = STEPS) -> list[Cell]:
    """The cells of a network in the order of the table."""
    found = []
    for name, method in METHODS.items():
        if (name == "fitted" and case.fitted is None) or (method.clip is not None and case.name != "digits-cosine"):
            continue
        kept = [s for s in method.sizes if method.plan is None or name == "fine" or s in sizes]
        found += [Cell(case.name, name, size) for size in kept]
    return found


def calls_of(case: Case, cell: Cell) -> int:
    """The model calls of a cell, for each of its samples; about, where SciPy chooses the steps."""
    method = METHODS[cell.method]
    return PF_CALLS.get(cell.size, 65) if method.plan is None else planned(method, case, cell).model_calls


def planned(method: Method, case: Case, cell: Cell) -> Plan:
    assert method.plan is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few steps
        return method.plan(case, int(cell.size))


# --------------------------------------------------------------------- running


class Runner:
    """Runs the cells of one network. The progress bar counts calls for one sample each."""

    def __init__(self, case: Case, progress: tqdm | None = None, compiled: bool = False) -> None:
        self.case, self.progress = case, progress
        self.network = self._network(compiled)

    def _network(self, compiled: bool) -> Callable[..., torch.Tensor]:
        if not compiled:
            return self.case.unet
        import torch._inductor.config

        torch._inductor.config.freezing = True  # folds the weights' layout into the code: twice as fast as eager
        return torch.compile(self.case.unet, dynamic=False)

    def model(self, x: torch.Tensor, t: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
        if self.progress is not None:
            self.progress.update(len(x))
        # The compiled code is for one shape.
        network = self.network if len(x) == self.case.batch else self.case.unet
        return network(x, t.float(), **condition)

    def parts(self, starts: torch.Tensor) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
        """The starts in batches, each with what a run of it is called with."""
        first = 0
        for number, x in enumerate(starts.split(self.case.batch)):
            options: dict[str, Any] = {"prediction": self.case.prediction}
            if self.case.classes:
                options["condition"] = {"label": (first + torch.arange(len(x))) % self.case.classes}
            first += len(x)
            yield x, options | {"generator": torch.Generator().manual_seed(1000 * SEED + number)}

    def starts(self, count: int | None = None, seed: int = SEED) -> torch.Tensor:
        return torch.from_numpy(initial_noise((count or self.case.count, *self.case.shape), seed)).float()

    def run(self, plan: Plan, starts: torch.Tensor, stochastic: bool = False, clip: float | None = None) -> Samples:
        """The samples of a plan. Without noise, a generator has no use and `Plan.run` receives none."""
        found = []
        for x, options in self.parts(starts):
            if not stochastic:
                options.pop("generator")
            options["prediction"] = Prediction(options["prediction"], clip=clip)
            with torch.inference_mode():
                found.append(plan.run(self.model, x, check_finite=None, **options))
        return torch.cat(found).numpy()

    def flow(self, starts: torch.Tensor, tolerance: float) -> tuple[Samples, int]:
        """The probability flow, all samples as one system of equations."""
        label = {"label": torch.arange(len(starts)) % self.case.classes} if self.case.classes else {}

        def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            parts = zip(x.split(self.case.batch), t.split(self.case.batch), strict=True)
            rows = torch.arange(len(x)).split(self.case.batch)
            answers = (self.model(y, s, **{k: v[i] for k, v in label.items()})
                       for (y, s), i in zip(parts, rows, strict=True))  # fmt: skip
            return torch.cat(list(answers))

        with torch.inference_mode():
            solution = probability_flow(
                model, starts, self.case.schedule, prediction=self.case.prediction, rtol=tolerance, atol=tolerance
            )
        return solution.x.numpy(), solution.model_calls

    def cell(self, cell: Cell) -> dict[str, Any]:
        """What the file of a cell holds."""
        method, starts = METHODS[cell.method], self.starts()
        if method.between is not None:
            starts = method.between(starts, self.starts(seed=SEED + 1))
        began, busy = time.monotonic(), time.process_time()
        if method.plan is None:
            samples, calls = self.flow(starts, cell.size)
        else:
            plan = planned(method, self.case, cell)
            samples, calls = self.run(plan, starts, method.stochastic, method.clip), plan.model_calls
        seconds, wall = time.process_time() - busy, time.monotonic() - began
        found = {"samples": samples, "calls": calls, "seconds": seconds, "wall": wall}
        for name, space in self.spaces.items():
            found[name], found[f"{name}-drawn"] = space.figures(samples)
        return found

    @cached_property
    def spaces(self) -> dict[str, Space]:
        return {"pixels": Space(self.case.data), "features": Space(self.case.data, self.case.features)}

    def floor(self) -> dict[str, Any]:
        """The distances from the data of as many draws from themselves."""
        generator = np.random.default_rng(SEED)
        chosen = [generator.integers(len(self.case.data), size=self.case.count) for _ in range(10)]
        return {name: [space.of(self.case.data[rows]) for rows in chosen] for name, space in self.spaces.items()}


# ------------------------------------------------------------------- distances


class Space:
    """The Fréchet distance to the data, on pixels or on features: `pndm_solvers.distances.frechet`, of many draws."""

    def __init__(self, data: Samples, features: Callable[[Any], Float64] | None = None) -> None:
        self.features = features
        blocks = [self.rows(part) for part in np.array_split(data, max(1, len(data) // 5000))]
        self.mean = sum(block.sum(0) for block in blocks) / len(data)
        covariance = sum((block - self.mean).T @ (block - self.mean) for block in blocks) / (len(data) - 1)
        values, axes = np.linalg.eigh(covariance)
        self.root, self.spread = axes * np.sqrt(np.maximum(values, 0)) @ axes.T, float(np.trace(covariance))

    def rows(self, points: Samples) -> Float64:
        return np.asarray(self.features(points) if self.features else points, np.float64).reshape(len(points), -1)

    def of(self, points: Samples) -> float:
        rows = self.rows(points)
        return self._distance(rows, rows @ self.root)

    def figures(self, points: Samples) -> tuple[float, Float64]:
        """The distance, and those of bootstrap draws. The same rows are drawn for every set of one size."""
        rows = self.rows(points)
        if not np.all(np.isfinite(rows)):
            return np.inf, np.full(DRAWS, np.inf)
        turned = rows @ self.root
        drawn = resampled(lambda chosen: self._distance(rows[chosen], turned[chosen]), len(rows), DRAWS, SEED)
        return self._distance(rows, turned), drawn

    def _distance(self, rows: Float64, turned: Float64) -> float:
        away = turned - turned.mean(0)
        # The singular values of A·C₂^½, where C₁ = AᵀA, by the smaller of the two products.
        product = away @ away.T if len(away) < away.shape[1] else away.T @ away
        shared = np.sqrt(np.maximum(np.linalg.eigvalsh(product / (len(away) - 1)), 0)).sum()
        return float(((rows.mean(0) - self.mean) ** 2).sum() + rows.var(0, ddof=1).sum() + self.spread - 2 * shared)


# ----------------------------------------------------------------------- files


def path_of(case_name: str, count: int, *parts: Any) -> Path:
    return CACHE / f"{'-'.join(map(str, (case_name, count, *parts))).replace(' ', '_')}.npz"
