"""How near to the right end do our samplers and those of diffusers come at a budget of model calls?

Our sampler is the default, `PLMSSolver(schedule)` without options. The peers are all schedulers of diffusers for the
probability-flow ODE, with every grid of times that they offer (`peers.py`). All run in one process, from the same
starts, on the same models: exact problems in float64, and the bundled networks. The error of a sample is its
root-mean-square distance to the end of the flow. The flow of a network is F-PNDM with 1,000 calls.

A peer ends at the noise-free level or at the lowest trained level. It is measured at the nearer of these ends, and
compared with our sampler at the same end. The best peer of a cell has the lowest error or, with --strict, the highest
ratio (ours / peer's). The script writes JSON after each cell and budget. A peer whose result is in the file is not run
again; our sampler always is. The script prints Markdown.

    python benchmarks/work_precision.py work_precision.json

With --own it compares the library's own methods with the default instead, without peers, on the exact problems: each
method on the default's grid, and on the grid of `SPACINGS` that suits it best.

    python benchmarks/work_precision.py --own
"""

import argparse
import datetime
import itertools
import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from peers import PEERS, Peer, run
from tqdm import tqdm

from pndm_solvers import SPACINGS, NoiseSchedule, PLMSSolver, Solver, UniPCSolver
from pndm_solvers.grid import DEFAULT_SPACING
from pndm_solvers.measure import compare
from pndm_solvers.methods import SOLVERS
from pndm_solvers.problems import Problem, exact_problem, network_problem
from pndm_solvers.reference import NETWORK_NAMES
from pndm_solvers.schedules import SCHEDULES

EXACT = ("ring", "mixture", "digits-kernel", "power-law")
SCHEDULE_NAMES = ("linear", "scaled_linear", "cosine")
CALLS = (5, 8, 10, 15, 20, 50, 100)
STARTS = {"digits": 64, "fashion": 24}  # of exact problems 64
FINALS = ("clean", "first")
# PNDM with the defaults of diffusers' constructor, and with the configuration of Stable Diffusion.
PNDM_DEFAULTS = {
    "constructor's": "PNDM skip_prk_steps=False set_alpha_to_one=False leading",
    "Stable Diffusion's": "PNDM skip_prk_steps=True set_alpha_to_one=False leading",
}

# ------------------------------------------------------------------ measuring


def figures(problem: Problem, result: Any, final: str) -> list[float]:
    """[median, mean] over the starts."""
    errors = problem.errors(result, final)
    return [float(np.median(errors)), float(errors.mean())]


def ours(problem: Problem, calls: int) -> dict[str, list[float]]:
    solver = PLMSSolver(problem.schedule)
    results = {
        final: solver.plan(max_model_calls=calls, final=final).run(
            problem.model, problem.x, prediction=problem.prediction
        )
        for final in FINALS
    }
    return {final: figures(problem, result, final) for final, result in results.items()}


def theirs(problem: Problem, peer: Peer, calls: int) -> dict[str, list[float]] | str:
    """Their figures at both ends, or the error: whatever a peer raises is a result."""
    x = torch.as_tensor(problem.x)

    def model(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if torch.is_tensor(problem.x):
            return problem.model(x, t)
        return torch.from_numpy(problem.model(x.numpy(), t.numpy()))

    try:
        with torch.inference_mode(), warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            result = run(peer, problem.schedule, model, x, calls, problem.prediction)
        if not result.isfinite().all():
            return "the result is not finite"
        return {final: figures(problem, result, final) for final in FINALS}
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def measure(
    problem: Problem, title: str, calls: Iterable[int], stored: dict[str, Any], fresh: bool
) -> Iterator[dict[str, Any]]:
    """Add our figures and those of the missing peers to `stored`, and yield it after each budget."""
    for budget in calls:
        cell = stored.setdefault(str(budget), {})
        cell["ours"] = ours(problem, budget)
        known = {} if fresh else {name: found for name, found in cell.get("peers", {}).items() if name in PEERS}
        missing = [peer for name, peer in PEERS.items() if name not in known]
        bar = tqdm(missing, desc=f"{title}, {budget}", leave=False, disable=not missing)
        cell["peers"] = known | {peer.name: theirs(problem, peer, budget) for peer in bar}
        yield stored


# ------------------------------------------------------------------ tables

Cells = dict[str, dict[str, Any]]  # title -> budget -> {"ours": …, "peers": …}


def rival(cell: dict[str, Any], name: str, own: dict[str, Any] | None = None, kind: int = 0) -> tuple[float, float]:
    """A peer's error at its nearer end, and the ratio of our error to it; infinite and 0 for a peer that failed.

    `own` is our result at another budget; `kind` is 0 for medians, 1 for means.
    """
    found = cell["peers"][name]
    if isinstance(found, str):
        return math.inf, 0.0
    final = min(FINALS, key=lambda final: found[final][0])
    return found[final][kind], (own or cell["ours"])[final][kind] / found[final][kind]


def best(cells: list[dict[str, Any]], names: Iterable[str], strict: bool, own: Any = None, kind: int = 0) -> str:
    """The peer with the lowest error or the highest ratio, by the geometric mean over the cells."""

    def merit(name: str) -> float:
        errors, ratios = zip(*(rival(cell, name, own, kind) for cell in cells), strict=True)
        return geometric(ratios) if strict else -geometric(errors)

    return max(names, key=merit)


def geometric(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else 0.0


def table(heads: Iterable[Any], rows: Iterable[Iterable[str]]) -> str:
    heads = list(map(str, heads))
    lines = [heads, ["---"] * len(heads), *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pair(error: float, ratio: float, calls: int) -> str:
    mark = "**" if ratio > 1 and calls >= 8 else ""
    return f"{ratio * error:.1e} / {error:.1e} ({mark}{ratio:.2f}{mark})"


def shown(name: str) -> str:
    """A peer's name for people: the values of its options, and the switches that are on."""
    words = (word for word in name.split() if not word.endswith("=False"))
    return " ".join(word.removesuffix("=True").split("=")[-1] for word in words)


def cell_tables(cells: Cells, calls: list[int], strict: bool) -> str:
    """Tables of ours / the best peer's (ratio), for medians and means, and of the best peers by the median."""
    parts = []
    for kind, word in enumerate(("median", "mean")):
        rows, who = [], []
        for title, stored in cells.items():
            names = [best([stored[str(n)]], PEERS, strict, kind=kind) for n in calls]
            errors = [rival(stored[str(n)], name, kind=kind) for n, name in zip(calls, names, strict=True)]
            rows.append([title, *(pair(*found, n) for found, n in zip(errors, calls, strict=True))])
            who.append([title, *map(shown, names)])
        parts.append(table((f"{word}, calls", *calls), rows))
        if kind == 0:
            parts.append(table(("best peer by the median", *calls), who))
    return "\n\n".join(parts)


def single_table(cells: Cells, calls: list[int], strict: bool) -> str:
    rows = []
    ranges = {"5 to 20": [n for n in calls if n <= 20], "50 to 100": [n for n in calls if n >= 50]}
    without = [name for name in PEERS if not name.startswith("IPNDM")]
    for title, budgets in ranges.items():
        for whose, names in (("all", list(PEERS)), ("without IPNDM", without)):
            chosen = [stored[str(n)] for stored in cells.values() for n in budgets]
            if not chosen:
                continue
            name = best(chosen, names, strict)
            errors, ratios = zip(*(rival(cell, name) for cell in chosen), strict=True)
            behind = f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"
            rows.append([title, whose, shown(name), f"{geometric(errors):.1e}", f"{geometric(ratios):.2f}", behind])
    return table(("calls", "among", "the best single peer", "its error", "ours / its", "ours behind in"), rows)


def pndm_table(cells: Cells, strict: bool) -> str:
    rows = []
    pndm = [name for name in PEERS if name.startswith("PNDM")]
    for title, stored in cells.items():
        own, cell = stored["20"]["ours"], stored["50"]
        name = best([cell], pndm, strict, own)
        entries = [pair(*rival(cell, peer, own), 20) for peer in (name, *PNDM_DEFAULTS.values())]
        rows.append([title, *entries, shown(name)])
    return table(("ours at 20 / PNDM at 50", "best of its", *PNDM_DEFAULTS, "which is best"), rows)


def report(exact: Cells, networks: Cells, calls: list[int], strict: bool) -> None:
    print(
        f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, {len(PEERS)} peer configurations"
    )
    print(f"`python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}`")
    print("\nOurs / the best peer's (ratio); a ratio above 1 from 8 calls on is bold.")
    if exact:
        print(f"\n### Exact problems\n\n{cell_tables(exact, calls, strict)}")
    if networks:
        print(f"\n### Networks\n\n{cell_tables(networks, [n for n in calls if n <= 50], strict)}")
    if exact:
        print("\n### One configuration for all\n\nGeometric means of the medians over every exact problem and budget.")
        print(
            "diffusers' IPNDM takes no schedule: a user gets it on their own only by an adapter like that in peers.py."
        )
        print(f"\n{single_table(exact, calls, strict)}")
    if {20, 50} <= set(calls):
        print(f"\n### 20 calls against PNDM's 50\n\nMedians.\n\n{pndm_table(exact | networks, strict)}")


# ------------------------------------------------------------------ the library's own methods

OWN: dict[str, Callable[[NoiseSchedule], Solver]] = {
    "PLMSSolver(schedule), the default": PLMSSolver,
    **{name: make for name, make in SOLVERS.items() if name not in ("plms", "ddpm")},
    "unipc, order 3": partial(UniPCSolver, order=3),
    **{f"plms, space {space}": partial(PLMSSolver, space=space) for space in ("sample", "v_prediction", "flow")},
    "plms with a corrector": partial(PLMSSolver, corrector=True),
}


Medians = dict[tuple[str, str], np.ndarray]  # (method, spacing) -> by budget


def own_medians(problems: list[str], schedules: list[str], calls: list[int]) -> Medians:
    """Geometric means of the median errors over all cells; infinite where a method has no plan."""
    found: dict[tuple[str, str], list] = {pair: [] for pair in itertools.product(OWN, SPACINGS)}
    for name, schedule in tqdm(list(itertools.product(problems, schedules)), unit="problem"):
        problem = exact_problem(name, SCHEDULES[schedule]())
        for method, make in OWN.items():
            curves = compare(problem, [make(problem.schedule)], SPACINGS, calls)
            for spacing, curve in zip(SPACINGS, curves, strict=True):
                found[method, spacing].append(curve.median)
    return {pair: np.exp(np.mean(np.log(cells), axis=0)) for pair, cells in found.items()}


def report_own(problems: list[str], schedules: list[str], calls: list[int]) -> None:
    print(
        f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores, NumPy "
        f"{np.__version__}\n`python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}`"
    )
    medians = own_medians(problems, schedules, calls)
    default = medians[next(iter(OWN)), DEFAULT_SPACING]

    def entry(method: str, spacing: str, budget: int) -> str:
        error = medians[method, spacing][budget]
        return f"{error:.1e} ({error / default[budget]:.2f})" if math.isfinite(error) else "none"

    def best_spacing(method: str, budget: int) -> str:
        return min(SPACINGS, key=lambda spacing: medians[method, spacing][budget])

    budgets = range(len(calls))
    print(
        f"\nGeometric means of the median errors over {len(problems)} problems and {len(schedules)} schedules, and in "
        f"brackets their ratio to the default's.\n\n### On the default's grid, \"{DEFAULT_SPACING}\"\n"
    )
    heads = ("method, calls", *calls)
    print(table(heads, ([method, *(entry(method, DEFAULT_SPACING, k) for k in budgets)] for method in OWN)))
    print("\n### On the grid that suits the method best at that number of calls\n")
    grids = {method: [best_spacing(method, k) for k in budgets] for method in OWN}
    rows = [[method, *(f"{entry(method, grids[method][k], k)} {grids[method][k]}" for k in budgets)] for method in OWN]
    print(table(heads, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", help="the JSON file of the peers' results")
    parser.add_argument("--own", action="store_true", help="the library's own methods, without peers")
    parser.add_argument("--problems", nargs="+", choices=[*EXACT, *NETWORK_NAMES], default=[*EXACT, *NETWORK_NAMES])
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=SCHEDULE_NAMES)
    parser.add_argument("--calls", nargs="+", type=int, default=CALLS)
    parser.add_argument(
        "--fresh", action="store_true", help="run again the peers that are in the file, as after a change of a problem"
    )
    parser.add_argument("--strict", action="store_true", help="take the peer with the highest ratio as the best")
    arguments = parser.parse_args()
    calls = sorted(arguments.calls)
    if arguments.own:
        report_own([name for name in arguments.problems if name in EXACT], list(arguments.schedules), calls)
        return
    if arguments.out is None:
        parser.error("pass a JSON file for the peers' results, or --own")
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    exact: Cells = {}
    networks: Cells = {}

    def fill(cells: Cells, title: str, problem: Problem, budgets: Iterable[int]) -> None:
        for _ in measure(problem, title, budgets, results.setdefault(title, {}), arguments.fresh):
            partial = arguments.out.with_suffix(".partial")
            partial.write_text(json.dumps(results, indent=1, allow_nan=False))
            partial.replace(arguments.out)
        cells[title] = results[title]

    for name, schedule in itertools.product(arguments.problems, arguments.schedules):
        if name in EXACT:
            fill(exact, f"{name}, {schedule}", exact_problem(name, SCHEDULES[schedule]()), calls)
    for name in arguments.problems:
        if name in NETWORK_NAMES:
            fill(networks, name, network_problem(name, STARTS[name], progress=True), [n for n in calls if n <= 50])
    report(exact, networks, calls, arguments.strict)


if __name__ == "__main__":
    main()
