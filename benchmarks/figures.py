"""The figures of the explanations and of the results: a plan, grids, orders, and work against precision.

    python benchmarks/figures.py                    all, into docs/images
    python benchmarks/figures.py --only grids       one of them, or several

The figure "work-precision" is drawn from the tables of docs/development/results-choosing.md and results-testing.md.
Nothing of it is measured anew.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from tqdm import tqdm
from work_precision_tables import geometric

from pndm_solvers import SPACINGS, DDIMSolver, Grid, NoiseSchedule, Plan, PLMSSolver, PRKSolver, make_grid
from pndm_solvers.orders import observed_order
from pndm_solvers.plots import COLOURS, MARKERS, plot_grids, plot_orders, plot_plan
from pndm_solvers.problems import exact_problem
from pndm_solvers.reference import PLANS

DOCS = Path(__file__).parents[1] / "docs"
STEPS = (20, 28, 40, 57, 80, 113, 160, 226, 320, 452)

Cells = dict[tuple[str, int], list[float]]  # by problem and calls: the numbers of a cell


def plan() -> Figure:
    """A plan as a picture"""
    made = PLMSSolver(NoiseSchedule.linear()).plan(8)
    return plot_plan(made, "The default with 8 steps on linear betas")


def fitted_plan() -> Figure:
    """A plan that was fitted to a network"""
    made = Plan.from_json((PLANS / "fashion-2-8.json").read_text("utf-8"))
    return plot_plan(made, "The plan of 8 calls that was fitted to the network fashion at guidance 2")


def grids() -> Figure:
    """The named spacings: ten steps on linear betas"""
    schedule, found = NoiseSchedule.linear(), dict[str, Grid]()
    for name in SPACINGS:
        try:
            grid = make_grid(schedule, 10, spacing=name)
        except ValueError:  # those that were made for other schedules
            continue
        same = next((other for other, known in found.items() if known.levels == grid.levels), None)
        found[f"{same}, {name}" if same else name] = found.pop(same) if same else grid
    return plot_grids(found, "Ten steps on linear betas, by spacing: a dot for each level")


def orders() -> Figure:
    """Error against steps on an exact Gaussian flow"""
    schedule = NoiseSchedule.linear()
    problem = exact_problem("gaussian", schedule, starts=16)
    solvers = [
        DDIMSolver(schedule),
        PRKSolver(schedule, "rk4"),
        *(PLMSSolver(schedule, order, "heun" if order == 3 else "rk4") for order in (2, 3, 4)),
    ]
    found = [observed_order(solver, problem, steps=STEPS) for solver in tqdm(solvers, desc="orders", leave=False)]
    figure = plot_orders(found, "An exact Gaussian flow, linear betas, from 0.9 to 0.2 of the schedule")
    figure.axes[0].set_xticks([20, 40, 80, 160, 320])
    return figure


# ------------------------------------------------------------- work against precision


def cells_of(page: str, title: str, method: str = "") -> Cells:
    """The table below a title of a page of results: the numbers of each cell.

    SystemExit where the page has no such table. Of a table with a column "method" the rows of `method` alone.
    """
    text = (DOCS / "development" / page).read_text(encoding="utf-8")
    lines = iter(text.partition(f"## {title}\n")[2].partition("\n## ")[0].splitlines())
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    if len(rows) < 3:
        raise SystemExit(f"{page} has no table below {title!r}")
    labels = 2 if method else 1
    calls, found = [int(head) for head in rows[0][labels:]], Cells()
    for row in rows[2:]:
        if method and row[1] != method:
            continue
        for budget, cell in zip(calls, row[labels:], strict=True):
            if cell:
                found[row[0], budget] = [float(number) for number in re.findall(r"\d[\d.]*(?:e[+-]\d+)?", cell)]
    return found


def single_peer(page: str) -> dict[str, float]:
    """The error of the best single peer over the default's, a geometric mean, by the range of calls."""
    text = (DOCS / "development" / page).read_text(encoding="utf-8")
    text = text.partition("## One peer for all cells\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| ([\d to]+) \| all \| [^|]+ \| ([\d.]+) \|", text, re.MULTILINE)
    if not found:
        raise SystemExit(f"{page} has no table of one peer for all cells")
    return {calls: 1 / float(ratio) for calls, ratio in found}


def work_precision() -> Figure:
    """DDIM and the best peers beside the default, by calls"""
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name in zip(panels, ("choosing", "testing"), strict=True):
        page = f"results-{name}.md"
        peers = cells_of(page, "Paired error, ours / the best peer's of the cell")
        ours, ddim = (cells_of(page, "Our methods beside the default, paired", way) for way in ("default", "DDIM"))
        draw_ratios(axes, {cell: ddim[cell][0] / ours[cell][0] for cell in ours}, "DDIM on the same grid", 1)
        for calls, ratio in single_peer(page).items():
            first, *_, last = re.findall(r"\d+", calls) * 2
            axes.plot([int(first) * 0.92, int(last) * 1.08], [ratio] * 2, color=COLOURS[2], lw=3, solid_capstyle="butt",
                      label="the one peer that is best over all problems" if first != last else None)  # fmt: skip
        best = {cell: numbers[1] / numbers[0] for cell, numbers in peers.items() if len(numbers) > 1}
        draw_ratios(axes, best, "the best of 196 peers for each problem and number of calls", 0)
        axes.axhline(1, color="#000000", lw=1.4)
        axes.set_title(f"{name} set: {len({problem for problem, _ in peers})} problems", loc="left", fontsize=11)
        axes.set(xscale="log", yscale="log", xlabel="model calls (problems measured)")
        counts = Counter(calls for _, calls in peers)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(sorted(counts), [f"{calls}\n({counts[calls]})" for calls in sorted(counts)])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.grid(color="#e4e4e4", lw=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.annotate("the default", (31, 1), (0, -4), textcoords="offset points", va="top", ha="center", fontsize=9)
    panels[0].set_ylabel("error ÷ the default's error")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9
    )
    return figure


def draw_ratios(axes: Axes, ratios: dict[tuple[str, int], float], label: str, number: int) -> None:
    """A point for each problem, and the geometric means by calls as a line."""
    budgets = sorted({calls for _, calls in ratios})
    shift = 1 + 0.03 * (1 - 2 * number)
    points = [(calls * shift, ratio) for (_, calls), ratio in ratios.items()]
    axes.plot(*zip(*points, strict=True), "o", color=COLOURS[number], ms=3.5, alpha=0.35, mew=0)
    means = [geometric(ratio for (_, own), ratio in ratios.items() if own == calls) for calls in budgets]
    axes.plot(budgets, means, color=COLOURS[number], lw=2, marker=MARKERS[number], ms=6, label=label)


FIGURES: dict[str, Callable[[], Figure]] = {
    function.__name__.replace("_", "-"): function for function in (plan, fitted_plan, grids, orders, work_precision)
}


def draw(names: Iterable[str], folder: Path) -> None:
    """The figures of those names, as figure-NAME.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in tqdm(list(names), desc="figures"):
        path = folder / f"figure-{name}.png"
        FIGURES[name]().savefig(path, dpi=110, metadata={"Software": None})
        tqdm.write(f"{path}: {(FIGURES[name].__doc__ or '').strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*FIGURES], default=[*FIGURES], help="which figures")
    parser.add_argument("--out", type=Path, default=DOCS / "images", help="the folder to write to")
    options = parser.parse_args()
    draw(options.only, options.out)


if __name__ == "__main__":
    main()
