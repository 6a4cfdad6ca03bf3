"""With which order does each solver converge to an exact flow, on even, graded and rough grids?

The order is the slope of the error against the number of steps (113 to 452), between 0.9 and 0.2 of the schedule's
length. The script prints one Markdown table per grid. An asterisk marks a figure that differs by more than 0.15 from
the declared order.

    python benchmarks/convergence_order.py [TEXT …]            only solvers with one of the texts in their names
    pytest benchmarks/convergence_order.py --benchmark-only    times one figure of each grid, with fewer steps
"""

import itertools
import sys

import pytest
from tables import heading
from tqdm import tqdm

from pndm_solvers import PLMSSolver
from pndm_solvers.orders import GRIDS, ORDER_STEPS, deterministic_solvers, observed_order
from pndm_solvers.problems import exact_problem
from pndm_solvers.schedules import SCHEDULES

SCHEDULE_NAMES = ("linear", "scaled_linear", "cosine")
DISTRIBUTIONS = {"gaussian": "gaussian", "mixture": "smooth-mixture"}


def main() -> None:
    print(heading())
    texts = sys.argv[1:] or [""]
    cells = list(itertools.product(SCHEDULE_NAMES, DISTRIBUTIONS))
    solvers = [
        [solver for solver in deterministic_solvers(SCHEDULES[name]()) if any(text in solver.name for text in texts)]
        for name in SCHEDULE_NAMES
    ]
    problems = {
        (name, distribution): exact_problem(distribution, SCHEDULES[name](), starts=16)
        for name, distribution in itertools.product(SCHEDULE_NAMES, DISTRIBUTIONS.values())
    }
    with tqdm(total=len(GRIDS) * len(cells) * len(solvers[0])) as bar:
        for grid, times in GRIDS.items():
            print(f"\n| {grid} grid | declared | " + " | ".join(f"{s}, {d}" for s, d in cells) + " |")
            print("|---|" + "---|" * (1 + len(cells)))
            for versions in zip(*solvers, strict=True):
                figures = []
                for solver, problem in zip(sorted(versions * 2, key=versions.index), problems.values(), strict=True):
                    found = observed_order(solver, problem, grid=times)
                    off = abs(found.observed - found.declared) > 0.15
                    figures.append(f"{found.observed:.2f}{'*' if off else ''}")
                    bar.update()
                print(
                    f"| {versions[0].name} | {versions[0].convergence_order} | " + " | ".join(figures) + " |",
                    flush=True,
                )


@pytest.mark.parametrize("grid", GRIDS)
def test_one_figure(benchmark, grid):
    schedule = SCHEDULES[SCHEDULE_NAMES[0]]()
    problem = exact_problem(DISTRIBUTIONS["gaussian"], schedule, starts=16)
    found = benchmark(observed_order, PLMSSolver(schedule), problem, grid=GRIDS[grid], steps=ORDER_STEPS[:2])
    assert found.errors[1] < found.errors[0]


if __name__ == "__main__":
    main()
