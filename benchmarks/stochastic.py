"""Does noise help? The Fréchet distance of samples to the data against τ, at 10, 20 and 50 model calls.

Samples of the bundled networks and of a small one of two moons, on the default grid, with the same starts and the same
draws of noise in every cell. Distances are on pixels or coordinates, as `pndm_solvers.distances` has them. A second
table holds the strong order: runs of one Brownian path, against a fine run of it.

Each cell is stored as soon as it is done. A run that was interrupted or killed goes on when it is started again. The
script prints Markdown; with --page nothing is run, and the page holds the cells that are there. Stored cells do not
follow a change of a solver: delete `.cache/stochastic` after one.

    python benchmarks/stochastic.py
    python benchmarks/stochastic.py --networks moons digits
    python benchmarks/stochastic.py --page
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import networks
import numpy as np
import torch
from network_recipes import Data, network_data
from numpy.typing import NDArray
from tables import heading, table
from tqdm import tqdm

import pndm_solvers.noise
from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    DPMMultistepSolver,
    NoiseSchedule,
    PLMSSolver,
    SASolver,
    Solver,
    initial_noise,
)
from pndm_solvers.analytic import GaussianMixture
from pndm_solvers.brownian import brownian_increment
from pndm_solvers.distances import Target, resampled
from pndm_solvers.reference import load_network

CACHE = networks.CACHE / "stochastic"
CALLS = (10, 20, 50)
# In the order in which cells are run, so that an interrupted table holds those that say most.
TAUS: tuple[float | str, ...] = (0, 1, 0.5, "er_sde", 0.25, 1.4, 0.75)
ETAS = (0, 1, 0.5)
SEED, DRAWS = 7, 50
SIGNIFICANT = 2  # standard deviations of a difference

METHODS: dict[str, Callable[[NoiseSchedule, Any], Solver]] = {
    "PLMS": lambda schedule, tau: PLMSSolver(schedule, tau=tau),
    "SA-Solver 2-2": lambda schedule, tau: SASolver(schedule, tau=tau),
    "DPM-Solver++ 2M": lambda schedule, tau: DPMMultistepSolver(schedule, 2, tau=tau),
}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# ---------------------------------------------------------------------- networks


@dataclass(frozen=True)
class Case:
    """A network with its data `(K, …)`; its classes, if any, are taken in turn."""

    network: Any
    schedule: NoiseSchedule
    prediction: Any
    shape: tuple[int, ...]
    classes: int
    data: NDArray[np.float32]
    count: int
    batch: int

    def samples(self, solver: Solver, calls: int, progress: tqdm) -> NDArray[np.float32]:
        """`count` samples. A batch draws its noise from a generator of its own, the same for every solver."""
        starts = torch.from_numpy(initial_noise((self.count, *self.shape), SEED)).float()
        parts = []
        for number, x in enumerate(starts.split(self.batch)):
            x = x.to(DEVICE)
            label = (number * self.batch + torch.arange(len(x), device=DEVICE)) % max(self.classes, 1)
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of few steps, and of the data's mean
                found = solver.sample(
                    self.network,
                    x,
                    calls,
                    prediction=self.prediction,
                    condition={"label": label} if self.classes else None,
                    generator=torch.Generator().manual_seed(1000 * SEED + number),
                )
            parts.append(found.cpu().numpy())
            progress.update(len(x) * calls)
        return np.concatenate(parts)


def bundled(name: str, data: Callable[[], Data], count: int, batch: int) -> Case:
    found = load_network(name, DEVICE)
    found.unet.to(memory_format=torch.channels_last)  # a third faster on a CPU
    return Case(
        found, found.schedule, found.prediction, found.shape, len(found.labels), data()[0], count, batch
    )  # fmt: skip


def moons(count: int) -> Case:
    found = networks.load("moons-linear-epsilon")
    found.network.to(DEVICE)
    return Case(
        found.network, found.schedule, found.prediction, found.shape, found.classes, found.data(), count, count
    )  # fmt: skip


# Samples: as many as about an hour on one core permits. Fashion's are too few for 784 numbers.
BATCH = 500 if DEVICE == "cuda" else 50
COUNTS = {"digits": 2000, "fashion": 500, "moons": 10_000}
CASES: dict[str, Callable[[], Case]] = {
    "digits": lambda: bundled("digits", network_data.digits, COUNTS["digits"], BATCH),
    "fashion": lambda: bundled("fashion", network_data.fashion, COUNTS["fashion"], BATCH),
    "moons": lambda: moons(COUNTS["moons"]),
}

# --------------------------------------------------------------------- distances


class Distance:
    """The Fréchet distance to the data of many draws from few samples: `Target.frechet`, with the data's root kept."""

    def __init__(self, data: NDArray[np.float32]) -> None:
        self.target = Target(data)
        rows = self.target.points
        self.mean, away = rows.mean(0), rows - rows.mean(0)
        covariance = away.T @ away / (len(rows) - 1)
        values, axes = np.linalg.eigh(covariance)
        self.root, self.spread = axes * np.sqrt(np.maximum(values, 0)) @ axes.T, float(np.trace(covariance))

    def resampled(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The distances of bootstrap draws of the rows. The same rows are drawn for every set of one size."""
        turned = rows @ self.root

        def distance(chosen: NDArray[np.intp]) -> float:
            mine, their = rows[chosen], turned[chosen]
            away = their - their.mean(0)
            # The singular values of A·C₂^½, where C₁ = AᵀA, by the smaller of the two products.
            product = away @ away.T if len(away) < away.shape[1] else away.T @ away
            shared = np.sqrt(np.maximum(np.linalg.eigvalsh(product / (len(away) - 1)), 0)).sum()
            return float(((mine.mean(0) - self.mean) ** 2).sum() + mine.var(0, ddof=1).sum() + self.spread - 2 * shared)

        return resampled(distance, len(rows), DRAWS)

    def of(self, points: NDArray[np.float32]) -> dict[str, Any]:
        """The figures that a cell's file holds."""
        rows = points.reshape(len(points), -1).astype(np.float64)
        return {"value": self.target.frechet(rows), "resampled": self.resampled(rows).tolist()}

    def floor(self, count: int) -> dict[str, Any]:
        """Of data against data: of `count` draws from the data, and of one half from the other."""
        rows, generator = self.target.points, np.random.default_rng(SEED)
        drawn = [self.target.frechet(rows[generator.integers(len(rows), size=count)]) for _ in range(20)]
        halves = np.array_split(generator.permutation(len(rows)), 2)
        return {"drawn": drawn, "halves": Target(rows[halves[0]]).frechet(rows[halves[1]])}


# ------------------------------------------------------------------------- cells

Cell = tuple[str, str, float | str, int]  # network, method, τ or η, calls


def cells(chosen: Sequence[str], budgets: Sequence[int]) -> list[Cell]:
    """All cells of some networks and numbers of calls, in the order in which they are run."""
    found: list[Cell] = []
    for name, calls in itertools.product(chosen, budgets):
        found += [(name, method, tau, calls) for tau in TAUS for method in METHODS]
        found += [(name, "DDIM", eta, calls) for eta in ETAS]
    return found


def path_of(name: str, *parts: Any) -> Path:
    return CACHE / f"{'-'.join(map(str, (name, COUNTS[name], SEED, *parts))).replace(' ', '_')}.json"


def stored(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def store(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(figures))
    os.replace(part, path)


def solver_of(schedule: NoiseSchedule, method: str, tau: Any) -> Solver:
    return DDIMSolver(schedule, eta=tau) if method == "DDIM" else METHODS[method](schedule, tau)


def run(chosen: Sequence[str], budgets: Sequence[int]) -> None:
    """Run the cells that are missing."""
    missing = [cell for cell in cells(chosen, budgets) if not path_of(*cell).exists()]
    work = {name: sum(cell[3] for cell in missing if cell[0] == name) * COUNTS[name] for name in chosen}
    for name in chosen:
        floor = path_of(name, "floor")
        if not work[name] and floor.exists():
            continue
        case = CASES[name]()
        distance = Distance(case.data)
        if not floor.exists():
            store(floor, distance.floor(case.count))
        with tqdm(total=work[name], unit="call", unit_scale=True, desc=name, mininterval=1) as progress:
            for cell in missing:
                if cell[0] != name:
                    continue
                _, method, tau, calls = cell
                began = time.monotonic()
                points = case.samples(solver_of(case.schedule, method, tau), calls, progress)
                seconds = time.monotonic() - began
                store(path_of(*cell), {**distance.of(points), "seconds": seconds})


# ------------------------------------------------------------------ strong order

STEPS, FINE, PATHS, OTHER_SEED = (10, 20, 40, 80, 160), 1280, 64, 8
STRONG: dict[str, Callable[[NoiseSchedule, Any], Solver]] = {
    "PLMS 1": lambda schedule, tau: PLMSSolver(schedule, 1, tau=tau),
    **METHODS,
    "DDPM": lambda schedule, tau: DDPMSolver(schedule),
}
STRONG_CELLS = [(m, tau, noise) for noise in ("brownian", "independent") for tau in (0.5, 1) for m in STRONG
                if m != "DDPM" or tau == 1]  # fmt: skip


def path_of_strong(method: str, tau: Any, noise: str) -> Path:
    return CACHE / f"strong-{PATHS}-{SEED}-{method}-{tau}-{noise}.json".replace(" ", "_")


def run_strong() -> None:
    """Run what is missing of the table of strong orders."""
    missing = [cell for cell in STRONG_CELLS if not path_of_strong(*cell).exists()]
    schedule, x = NoiseSchedule.linear(), initial_noise((PATHS, 2), SEED)
    model = GaussianMixture.ring().model(schedule)
    # All solvers step over the same levels, so that each increment of the path is computed once.
    kept = functools.cache(brownian_increment)
    for method, tau, noise in tqdm(missing, unit="method", desc="strong order", mininterval=1):
        solver = STRONG[method](schedule, tau)

        def end(steps: int, seed: int = SEED, solver: Solver = solver, noise: Any = noise) -> NDArray[np.float64]:
            with mock.patch.object(pndm_solvers.noise, "brownian_increment", kept), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plan = solver.plan(steps, sample_shape=x.shape[1:])
                return plan.run(model, x, seed=seed, noise=noise)

        def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> list[float]:
            return np.sqrt(((a - b) ** 2).mean(1)).tolist()  # of each path

        fine, ends = end(FINE), {steps: end(steps) for steps in STEPS}
        figures = {
            "errors": {steps: distance(found, fine) for steps, found in ends.items()},
            "one seed": distance(ends[20], ends[40]),
            "two seeds": distance(ends[20], end(40, OTHER_SEED)),
        }
        store(path_of_strong(method, tau, noise), figures)


# ------------------------------------------------------------------------- page

ROWS: tuple[float | str, ...] = (0, 0.25, 0.5, 0.75, 1, "er_sde", 1.4)
UNITS = {"moons": 1e-3}


def shown(cell: Cell) -> str:
    """A distance; bold where it is surely below the same method's without noise, and in italics where above."""
    name, method, _, calls = cell
    found, plain = stored(path_of(*cell)), stored(path_of(name, method, 0, calls))
    if found is None:
        return ""
    text = f"{found['value'] / UNITS.get(name, 1):.3g}"
    if plain is None or cell[2] == 0:
        return text
    spread = np.std(np.subtract(found["resampled"], plain["resampled"]))
    if abs(found["value"] - plain["value"]) <= SIGNIFICANT * spread:
        return text
    return f"**{text}**" if found["value"] < plain["value"] else f"*{text}*"


def frechet_tables(name: str) -> str:
    """The tables of one network: one for each number of calls."""
    floor, unit = stored(path_of(name, "floor")), UNITS.get(name, 1)
    if floor is None:
        return ""
    parts = [f"### {name}, {COUNTS[name]:,} samples" + (f", in units of {unit:g}" if unit != 1 else "")]
    drawn = np.array(floor["drawn"]) / unit
    parts.append(
        f"Floor: {COUNTS[name]:,} draws from the data are at {drawn.mean():.3g} ± {drawn.std():.2g}. One half of the "
        f"data is at {floor['halves'] / unit:.3g} from the other."
    )
    for calls in CALLS:
        found = [stored(path_of(name, method, tau, calls)) for method in METHODS for tau in ROWS]
        spreads = [np.std(cell["resampled"]) / unit for cell in found if cell]
        if not spreads:
            continue
        rows = [
            [tau, *(shown((name, method, tau, calls)) for method in METHODS), shown((name, "DDIM", tau, calls))]
            for tau in ROWS
        ]
        parts.append(f"{calls} calls; the standard deviation of a cell is {np.median(spreads):.2g} in the median.")
        parts.append(table(("τ, or η for DDIM", *METHODS, "DDIM"), rows))
    return "\n\n".join(parts)


def order_of(errors: dict[str, list[float]], centre: Callable[[Any], Any]) -> tuple[list[float], float]:
    """Errors by number of steps, and the order that a straight line through their logarithms has."""
    values = [float(centre(np.array(errors[str(steps)]))) for steps in STEPS]
    return values, float(-np.polyfit(np.log(STEPS), np.log(values), 1)[0])


def root_mean_square(values: NDArray[np.float64]) -> float:
    return float(np.sqrt((values**2).mean()))


def strong_tables() -> str:
    parts = []
    for noise, title in (("brownian", "One Brownian path"), ("independent", "Independent noise of one seed")):
        rows = []
        for method, tau, kind in STRONG_CELLS:
            found = stored(path_of_strong(method, tau, kind))
            if kind != noise or found is None:
                continue
            declared = STRONG[method](NoiseSchedule.linear(), tau).strong_order
            values, order = order_of(found["errors"], root_mean_square)
            _, typical = order_of(found["errors"], np.median)
            near, far = (root_mean_square(np.array(found[key])) for key in ("one seed", "two seeds"))
            orders = [f"{order:.2f}", f"{typical:.2f}", declared]
            rows.append([method, tau, *(f"{v:.1e}" for v in values), *orders, f"{near:.1e}", f"{far:.1e}"])
        heads = ("method", "τ", *STEPS, "order", "of the median", "declared", "20 to 40, one seed", "two seeds")
        parts.append(f"### {title}\n\n{table(heads, rows)}")
    return "\n\n".join(parts)


def plot(path: Path) -> None:
    """The distance against τ: a row for each network, a column for each number of calls."""
    from matplotlib.figure import Figure

    from pndm_solvers.plots import COLOURS, MARKERS

    names = [name for name in CASES if any(path_of(name, "PLMS", 0, calls).exists() for calls in CALLS)]
    figure = Figure(figsize=(10.5, 3.1 * len(names)), layout="constrained")
    taus = [tau for tau in ROWS if not isinstance(tau, str)]
    lines: dict[str, Any] = {}
    for row, name in enumerate(names):
        floor = np.array((stored(path_of(name, "floor")) or {})["drawn"])
        first: Any = None
        for column, calls in enumerate(CALLS):
            if not path_of(name, "PLMS", 1, calls).exists():
                continue
            axes = figure.add_subplot(
                len(names), len(CALLS), row * len(CALLS) + column + 1, sharex=first, sharey=first, yscale="log"
            )
            first = first or axes
            for number, method in enumerate((*METHODS, "DDIM")):
                found = [(tau, stored(path_of(name, method, tau, calls))) for tau in taus]
                there = [(tau, cell["value"], np.std(cell["resampled"])) for tau, cell in found if cell]
                if there:
                    x, y, spread = np.array(there, float).T
                    lines[method] = axes.errorbar(
                        x + 0.008 * (number - 2), y, yerr=np.minimum(spread, 0.7 * y), color=COLOURS[number],
                        marker=MARKERS[number], ms=4, lw=1.3, elinewidth=0.8,
                    )  # fmt: skip
            axes.axhline(floor.mean(), color="#999999", lw=0.9, ls=(0, (4, 3)), zorder=1)
            axes.set_title(f"{name}, {calls} calls", loc="left", fontsize=10)
            axes.grid(which="major", color="#e4e4e4", lw=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            if row == len(names) - 1:
                axes.set_xlabel("τ, or η for DDIM")
            if column == 0:
                axes.set_ylabel("Fréchet distance to the data")
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=len(lines), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


# ----------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--calls", nargs="+", type=int, choices=CALLS, default=CALLS)
    parser.add_argument("--tables", nargs="+", choices=("frechet", "strong"), default=("frechet", "strong"))
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw the distances, to a file")
    parser.add_argument("--page", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.page:
        if "frechet" in arguments.tables:
            run(arguments.networks, arguments.calls)
        if "strong" in arguments.tables:
            run_strong()
    print(heading("numpy", "torch"))
    if "frechet" in arguments.tables:
        print("\n".join(f"\n{frechet_tables(name)}" for name in arguments.networks))
    if "strong" in arguments.tables:
        print(f"\n{strong_tables()}")
    if arguments.plot:
        plot(arguments.plot)


if __name__ == "__main__":
    main()
