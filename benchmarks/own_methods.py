"""How accurate are the library's other methods beside the default, on exact problems of the choosing set?

Each method runs on the default's grid, and on the grid of `SPACINGS` that suits it best. The figures are geometric
means of the median errors over four exact problems and three schedules. The script prints Markdown.

    python benchmarks/own_methods.py
"""

import argparse
import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from tables import heading, table
from tqdm import tqdm

from pndm_solvers import SPACINGS, NoiseSchedule, PLMSSolver, Solver, UniPCSolver
from pndm_solvers.measure import compare
from pndm_solvers.methods import SOLVERS
from pndm_solvers.problems import exact_problem
from pndm_solvers.schedules import SCHEDULES
from pndm_solvers.spacings import DEFAULT_SPACING

PROBLEMS = ("ring", "mixture", "digits-kernel", "power-law")
SCHEDULE_NAMES = ("linear", "scaled_linear", "cosine")
CALLS = (5, 8, 10, 15, 20, 50)

METHODS: dict[str, Callable[[NoiseSchedule], Solver]] = {
    "PLMSSolver(schedule), the default": PLMSSolver,
    **{name: make for name, make in SOLVERS.items() if name not in ("plms", "ddpm")},
    "unipc, order 3": partial(UniPCSolver, order=3),
    **{f"plms, space {space}": partial(PLMSSolver, space=space) for space in ("sample", "v_prediction", "flow")},
    "plms with a corrector": partial(PLMSSolver, corrector=True),
}

Medians = dict[tuple[str, str], np.ndarray]  # (method, spacing) -> by budget


def medians(problems: list[str], schedules: list[str], calls: list[int]) -> Medians:
    """Geometric means of the median errors over all cells; infinite where a method has no plan."""
    found: dict[tuple[str, str], list] = {pair: [] for pair in itertools.product(METHODS, SPACINGS)}
    for name, schedule in tqdm(list(itertools.product(problems, schedules)), unit="problem"):
        problem = exact_problem(name, SCHEDULES[schedule]())
        for method, make in METHODS.items():
            curves = compare(problem, [make(problem.schedule)], SPACINGS, calls)
            for spacing, curve in zip(SPACINGS, curves, strict=True):
                found[method, spacing].append(curve.value)
    return {pair: np.exp(np.mean(np.log(cells), axis=0)) for pair, cells in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), default=SCHEDULE_NAMES)
    parser.add_argument("--calls", nargs="+", type=int, default=CALLS)
    arguments = parser.parse_args()
    calls = sorted(arguments.calls)
    print(f"{heading('numpy')}\nthe choosing set")
    found = medians(list(arguments.problems), list(arguments.schedules), calls)
    default = found[next(iter(METHODS)), DEFAULT_SPACING]

    def entry(method: str, spacing: str, budget: int) -> str:
        error = found[method, spacing][budget]
        return f"{error:.1e} ({error / default[budget]:.2f})" if math.isfinite(error) else "none"

    def best_spacing(method: str, budget: int) -> str:
        return min(SPACINGS, key=lambda spacing: found[method, spacing][budget])

    budgets = range(len(calls))
    heads = ("method, calls", *calls)
    print(f"\nIn brackets the ratio to the default's.\n\n### On the default's grid, \"{DEFAULT_SPACING}\"\n")
    print(table(heads, ([method, *(entry(method, DEFAULT_SPACING, k) for k in budgets)] for method in METHODS)))
    print("\n### On the grid that suits the method best at that number of calls\n")
    grids = {method: [best_spacing(method, k) for k in budgets] for method in METHODS}
    rows = [[m, *(f"{entry(m, grids[m][k], k)} {grids[m][k]}" for k in budgets)] for m in METHODS]
    print(table(heads, rows))


if __name__ == "__main__":
    main()
