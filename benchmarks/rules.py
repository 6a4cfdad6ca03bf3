"""Which simple rules for a sampler are good, and does the instrument that judges them tell samplers apart?

All four tables are measured on the choosing set, so they do not show how good a choice is elsewhere.

- rules: 36 rules (`candidates.py`) on two networks of galaxies, the bundled networks and the exact mixture. The error
  is the median over the starts of the root-mean-square distance to a fine run from the rule's own first level.
- start: the digits network in distribution, with the balanced grid begun lower and lower.
- newcomer: small ε-networks that train in a minute, with the default and with a start at lower σ/α.
- instrument: distances of the data, of fine runs, of a good sampler and of two bad ones.

    python benchmarks/rules.py

The galaxies need packages: see `packages.INSTALL`. Fine runs and figures are kept in --cache, so that a stopped run
goes on. A changed plan or network is measured anew.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import networks
import numpy as np
import packages
import torch
from candidates import CANDIDATES, WEIGHTS, candidate
from network_recipes import DATA
from tables import heading, report, table
from tqdm import tqdm

from pndm_solvers import NoiseSchedule
from pndm_solvers.distances import Target, frechet
from pndm_solvers.measure import estimate
from pndm_solvers.noise import initial_noise
from pndm_solvers.plan import Plan
from pndm_solvers.problem import Problem
from pndm_solvers.problems import exact_problem
from pndm_solvers.reference import NETWORK_NAMES, load_network

TOPS, GRIDS = (None, 20, 10), ("balanced", "quadratic", "log")
DEFAULT, LOW = "default, 20 calls", "from σ/α = 10, 20 calls"


class Cells:
    """Figures by their keys, kept in a file."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "rules.json"
        self.values: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, problem: Problem, what: str, measure: Callable[[], Any], plan: Plan | None = None) -> Any:
        """The figure `what` of a plan on a problem: `measure()` where it is new."""
        key = f"{problem.name}, {what}, {digest(problem)}, {sha256(plan.to_json().encode()).hexdigest() if plan else 0}"
        if key not in self.values:
            self.values[key] = measure()
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self.values, indent=0))
            partial.replace(self.path)
        return self.values[key]

    def problem(self, name: str, x: Any, model: Any, schedule: NoiseSchedule, calls: int, **options: Any) -> Problem:
        """A problem whose fine runs are kept."""
        options |= {"name": name, "calls": calls, "progress": False}
        own = digest(Problem.of(model, schedule, x, **options))
        return Problem.of(model, schedule, x, saved=self.path.with_name(f"fine-{name}-{calls}-{own}.npz"), **options)

    def network(self, name: str, starts: int, seed: int = 1, calls: int = 160, data: Any = None) -> Problem:
        """A network by its name, with its classes in turn or what else it is conditioned on."""
        condition = None
        if name in packages.FOREIGN:
            network = packages.load(name)
            model = network.model
        elif name in NETWORK_NAMES:
            model = network = load_network(name)
            condition = {"label": torch.arange(starts) % len(network.labels)} if network.labels else None
        else:
            network = networks.load(name)
            model, condition = network.network, network.condition(starts)
        x = initial_noise((starts, *network.shape), seed)
        x = x if name in packages.FOREIGN else torch.from_numpy(x).float()
        options = {"condition": condition, "data": data, "prediction": network.prediction}
        return self.problem(name, x, model, network.schedule, calls, **options)


@cache
def digest(problem: Problem) -> str:
    """A hash of what figures depend on: the starts, four answers of the network, and the mean that a run knows."""
    x, t = problem.x[:4], np.full(4, problem.schedule.level_at(1.0).t)
    condition = {name: value[:4] for name, value in (problem.condition or {}).items()}
    answer = problem.model(x, torch.from_numpy(t).to(x.dtype) if torch.is_tensor(x) else t, **condition)
    parts = [problem.x, answer, *([] if problem.data_mean is None else [problem.data_mean])]
    return sha256(b"".join(np.asarray(part, np.float64).tobytes() for part in parts)).hexdigest()[:12]


def begun(problem: Problem, plan: Plan) -> np.ndarray:
    """The samples of a plan, from the problem's starts."""
    return np.asarray(problem.run(plan, problem.starts(plan.levels[0].t)), np.float64)


# ------------------------------------------------------------------ the 36 rules


def simple_plans(problem: Problem, calls: int) -> dict[tuple[Any, ...], Plan]:
    """The plans of the 36 rules, less those that the schedule lacks: from pure noise no grid is even in log σ/α."""
    plans = {}
    for top, grid, weights in product(TOPS, GRIDS, WEIGHTS):
        with suppress(ValueError):
            plans[top, grid, weights] = candidate(weights, grid, top)(problem.schedule, calls)
    return plans


# What the same 36 rules once gave: the geometric mean, and the worst cell.
ONCE = {
    (10, "quadratic", "default"): "1.74 (3.8)",
    (10, "log", "default"): "1.83 (2.5)",
    (20, "balanced", "default"): "1.79 (5.9)",
    (None, "quadratic", "default"): "2.25 (5.8)",
    (None, "balanced", "default"): "2.52 (32)",
    (None, "balanced", "order 2"): "2.53 (8.8)",
    **{(None, grid, "classical"): "6.5 to 6.9 (60)" for grid in GRIDS},
}


def problems_of_rules(cells: Cells) -> list[Problem]:
    """Two networks of galaxies, the bundled networks and the exact mixture."""
    exact = exact_problem("mixture", NoiseSchedule.linear(), starts=48, seed=3)
    return [
        *(cells.network(name, 16, 11) for name in ("hsc-32", "ztf-32")),
        *(cells.network(name, 24, 3) for name in ("digits", "fashion")),
        cells.problem("mixture", exact.x, exact.model, exact.schedule, 160, prediction=exact.prediction),
    ]


def errors_of(problem: Problem, plan: Plan) -> np.ndarray:
    """Each sample's error to the flow from the plan's own first level."""
    return problem.reference(plan.levels[0].t).errors(begun(problem, plan))


def paired(problem: Problem, plan: Plan) -> tuple[float, float]:
    """The median of these errors, and the flow's own."""
    return float(np.median(errors_of(problem, plan))), problem.reference(plan.levels[0].t).error


def rules(cells: Cells) -> str:
    """36 rules: each error divided by that of the best in its cell, over all cells"""
    problems = problems_of_rules(cells)
    names, columns = list(product(TOPS, GRIDS, WEIGHTS)), list(product(problems, (5, 8, 10, 20)))
    errors, limits = np.empty((2, len(names), len(columns)))

    bar = tqdm(list(product(enumerate(names), enumerate(columns))), desc="rules", unit="cell")
    for (i, (top, grid, weights)), (j, (problem, calls)) in bar:
        plan = candidate(weights, grid, top)(problem.schedule, calls)
        errors[i, j], limits[i, j] = cells.get(problem, "paired", lambda p=problem, plan=plan: paired(p, plan), plan)
    ratios = errors / errors.min(0)
    means, worst = np.exp(np.log(ratios).mean(1)), ratios.argmax(1)
    rows, cell_rows = [], []
    for i in np.argsort(means):
        problem, calls = columns[worst[i]]
        figures = f"{means[i]:.2f}", f"{ratios[i].max():.1f}", f"{problem.name}, {calls}", ONCE.get(names[i], "")
        rows.append([str(names[i][0] or "t_max"), *names[i][1:], *figures])
    for j, (problem, calls) in enumerate(columns):
        top, grid, weights = names[errors[:, j].argmin()]
        default, limit = errors[0, j], limits[:, j].max()  # the first of all rules is the default
        figures = f"{errors[:, j].min():.2e}", f"from {top or 't_max'}, {grid}, {weights}", f"{default:.2e}"
        cell_rows.append([problem.name, str(calls), *figures, f"{limit:.0e}"])
    heads = ("from σ/α", "grid", "weights", "geometric mean", "worst", "worst cell", "once measured: mean (worst)")
    heads_of_cells = ("problem", "calls", "least error", "by the rule", "default's error", "fine runs' own error")
    return f"{table(heads, rows)}\n\n{table(heads_of_cells, cell_rows)}"


# ------------------------------------------------------------------ begun lower, in distribution


def floor_of(data: np.ndarray, count: int) -> float:
    """SW² of all the data and `count` other draws, from that of two halves: SW² of n and m draws goes as 1/n + 1/m."""
    splits = [np.random.default_rng(seed).permutation(len(data)) for seed in range(20)]
    halves = np.mean([Target(data[order[::2]]).sliced_wasserstein(data[order[1::2]]) for order in splits])
    return float(halves) * (1 / len(data) + 1 / count) * len(data) / 4


def start(cells: Cells, budgets: tuple[int, ...] = (4, 5, 6, 8, 10, 20), count: int = 2000) -> str:
    """The digits network in distribution, begun at lower and lower σ/α"""
    data = DATA["digits"]()[0]
    problem = cells.network("digits", count, data=torch.from_numpy(data))
    features = networks.load_features("digits")
    known, target, floor = features(data), problem.target(), floor_of(data, count)

    def measured(plan: Plan) -> list[float]:
        samples = begun(problem, plan)
        return [target.frechet(samples), frechet(features(samples), known), target.sliced_wasserstein(samples)]

    levels = {"10": 10.0, "20": 20.0, "80": 80.0, "t_max": None}
    found = {}
    for (name, top), calls in tqdm(list(product(levels.items(), budgets)), desc="start", unit="run"):
        plan = candidate(top=top)(problem.schedule, calls)
        found[name, calls] = cells.get(problem, "in distribution", lambda plan=plan: measured(plan), plan)
    titles = "Fréchet, 64 pixels", "Fréchet, 32 features", f"SW² less floor {floor:.5f}"
    rows = []
    for (k, title), name in product(enumerate(titles), levels):
        figures = (found[name, calls][k] - (floor if k == 2 else 0) for calls in budgets)
        rows.append([title, name, *(f"{figure:.{4 if k == 2 else 3}f}" for figure in figures)])
    return table(("measure", "from σ/α", *budgets), rows)


def more_moons(seed: int) -> np.ndarray:
    """Another draw of the moons, brought to the scale of the first."""
    from sklearn.datasets import make_moons

    first, x = (make_moons(n_samples=2000, noise=0.05, random_state=state)[0] for state in (0, seed))
    return (x - first.mean(0)) / first.std(0)


def newcomer(cells: Cells, budgets: tuple[int, ...] = (5, 10, 20, 50), count: int = 2000) -> str:
    """A newcomer's ε-networks, from the top and from lower σ/α"""
    rows = []
    names = [f"{kind}-epsilon" for kind in ("moons-cosine", "moons-linear", "digits-mlp-linear", "digits-mlp-cosine")]
    for name in tqdm(names, desc="newcomer", unit="network"):
        data = networks.load(name).data()
        problem = cells.network(name, count, data=torch.from_numpy(data))
        target, moons = problem.target(), "moons" in name
        if moons:
            floor = float(np.mean([target.sliced_wasserstein(more_moons(seed)) for seed in range(1, 11)]))
            head, own = "√SW²", np.sqrt(floor)
        else:
            between = target.between(data) + np.diag(np.full(len(data), np.inf))
            floor, head, own = floor_of(data, count), "to the nearest image", between.min(1).mean() * np.sqrt(64)

        def measured(plan: Plan, problem: Problem = problem, target: Target = target) -> list[float]:
            samples = begun(problem, plan)
            return [target.sliced_wasserstein(samples), float(target.nearest(samples)[0].mean())]

        found = {}
        for top, calls in product((None, 10, 40 if "cosine" in name else 30), budgets):
            plan = candidate(top=top)(problem.schedule, calls)
            squared, near = cells.get(problem, "newcomer", lambda f=measured, plan=plan: f(plan), plan)
            found.setdefault(top, []).append((np.sqrt(squared) if moons else near * np.sqrt(64), squared - floor))
        for k, title in enumerate((f"{head}; of the data {own:.3f}", f"SW² less floor {floor:.5f}")):
            lines = {top: np.array(pairs)[:, k] for top, pairs in found.items()}
            for top, line in lines.items():
                rows.append([name, title, f"from {top or 't_max, the default'}", *(f"{figure:.3g}" for figure in line)])
            ratios = lines[None] / lines[10]
            shown = (f"**{ratio:.3g}**" if ratio >= 3 else f"{ratio:.3g}" for ratio in ratios)
            rows.append([name, title, "ratio: default / from 10", *shown])
    return f"Ratios of at least 3 are bold.\n\n{table(('network', 'measure', 'run', *budgets), rows)}"


# ------------------------------------------------------------------ the instrument


def instrument(cells: Cells) -> str:
    """Does the measure tell samplers apart?"""
    ring = exact_problem("ring", NoiseSchedule.linear(), starts=2000)
    digits = torch.from_numpy(np.random.default_rng(0).permutation(DATA["digits"]()[0]))
    moons = (torch.from_numpy(part).float() for part in (DATA["moons"]()[0], more_moons(1)))
    # A problem with the given data, and two disjoint sets of data, if it has any.
    cases: dict[str, tuple[Callable[[Any], Problem], tuple[Any, ...]]] = {
        "ring": (lambda data: replace(ring, data=data), (ring.data[:2000], ring.data[2000:4000])),
        "moons": (lambda data: cells.network("moons-cosine-epsilon", 2000, calls=256, data=data), tuple(moons)),
        "digits": (lambda data: cells.network("digits", 500, calls=64, data=data), (digits[:500], digits[500:1000])),
        "hsc-32": (lambda data: cells.network("hsc-32", 64), ()),
    }
    rows, verdicts = [], []
    for make, data in tqdm(list(cases.values()), desc="instrument", unit="problem"):
        fine = make(None)
        problem = make(data[0]) if data else fine  # it reads the file of the fine runs
        found = cells.get(problem, "instrument", lambda f=fine, p=problem, data=data: samplers(f, p, data))
        for title, (squared, less, low, high, *others) in found.items():
            figures = f"{squared:.3g}", f"{less:.2g} ({low:.2g} to {high:.2g})"
            rows.append([problem.name, title, *figures, *(f"{figure:.3g}" for figure in others)])
        good = min(found[DEFAULT], found[LOW])  # by SW²
        for bad in ("collapsed", "blurred"):
            ratios = (f"{found[bad][k] / good[k]:.3g}" for k in (0, 4, 5, 6))
            verdicts.append([problem.name, bad, *ratios, "yes" if found[bad][2] > good[3] else "no"])
    measures = ("Fréchet", "to the nearest point of the data", "from the data to the nearest sample")
    heads = ("problem", "samples", "SW²", "less its floor (90 %)", *measures)
    heads_of_verdicts = ("problem", "its figure / the better good one's", "SW²", *measures, "intervals of SW² apart")
    return f"{table(heads, rows)}\n\n{table(heads_of_verdicts, verdicts)}"


def samplers(fine: Problem, problem: Problem, data: tuple[Any, ...]) -> dict[str, list[float]]:
    """The figures of good samples and of bad ones. `fine` has no data, so that its target is a fine run."""
    target, count = problem.target(), len(problem.x)
    other = np.asarray(fine.flow.draws(fine, fine.x, 5, fine.schedule.clean), np.float64)
    default, low = (begun(problem, CANDIDATES[name](problem.schedule, 20)) for name in ("2026-11", "from 10"))
    good = min(default, low, key=target.sliced_wasserstein)
    nearest = Target(good).between(target.points[:1])[0].argsort()[: count // 8]
    noise = target.points.std(0).mean() / 4 * np.random.default_rng(1).standard_normal(good.shape)
    sets = {
        "data, another draw": (problem, np.asarray(data[1])) if data else None,
        "a fine run, to another": (fine, other),
        "a fine run": (problem, other) if data else None,
        **{DEFAULT: (problem, default), LOW: (problem, low)},
        "collapsed": (problem, good[np.resize(nearest, count)]),
        "blurred": (problem, good + noise),
    }
    return {title: distances(*pair) for title, pair in sets.items() if pair}


def distances(problem: Problem, samples: np.ndarray) -> list[float]:
    """SW², SW² less its floor with its interval, the Fréchet distance, and the mean distances to the nearest point."""
    target = problem.target()
    sliced = estimate(problem, samples, None, "sliced-wasserstein")
    near = (float(part.mean()) for part in target.nearest(samples))
    less = sliced.value, sliced.low, sliced.high
    return [target.sliced_wasserstein(samples), *less, target.frechet(samples), *near]


# ------------------------------------------------------------------ command line


TABLES: dict[str, Callable[[Cells], str]] = {f.__name__: f for f in (rules, start, newcomer, instrument)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), help="by default all")
    parser.add_argument("--cache", type=Path, default=networks.CACHE, help="the folder of fine runs and figures")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # our own advice against such plans
    print(f"{heading('numpy', 'torch')}\n\nAll figures are of the choosing set.")
    cells = Cells(arguments.cache)
    with torch.inference_mode():
        report(TABLES, arguments.tables, cells)


if __name__ == "__main__":
    main()
