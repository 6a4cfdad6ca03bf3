"""`pndm-solvers order` and `compare`: solvers measured against a known flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pndm_solvers.cli.options import (
    SEVERAL,
    ScheduleName,
    check_known,
    read_names,
    read_numbers,
    read_schedule,
)
from pndm_solvers.cli.tables import marked_rows, strict_json, text_table
from pndm_solvers.grid import DEFAULT_SPACING, SPACINGS
from pndm_solvers.measure import GRIDS, ORDER_STEPS, compare, observed_order
from pndm_solvers.methods import SOLVERS
from pndm_solvers.problems import PROBLEMS, exact_problem, network_problem
from pndm_solvers.reference import NETWORK_NAMES
from pndm_solvers.schedules import NoiseSchedule

DETERMINISTIC = [name for name, make in SOLVERS.items() if make(NoiseSchedule.linear()).convergence_order is not None]
COMPARED = ("ddim", "plms", "plms-classical", "pndm", "dpmpp-2m", "unipc")
CALLS = (5, 8, 10, 15, 20, 50)

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead, and draw a plot only with --out.")]

T = TypeVar("T")


def print_orders(
    solver: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(DETERMINISTIC)}; {SEVERAL}. [default: all]")
    ] = None,
    problem: Annotated[str, typer.Option(help=f"One of: {', '.join(PROBLEMS)}.")] = "gaussian",
    schedule: ScheduleName = "linear",
    grid: Annotated[str, typer.Option(help=f"One of: {', '.join(GRIDS)}.")] = "uniform",
    steps: Annotated[
        list[str] | None,
        typer.Option(help=f"Numbers of steps; {SEVERAL}. [default: {','.join(map(str, ORDER_STEPS))}]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The plot to write. [default: order.png]")] = None,
    as_json: Json = False,
) -> None:
    """Measure how fast each solver's error falls with the number of steps, against an exact flow."""
    numbers = read_numbers("--steps", steps, ORDER_STEPS)
    if len(numbers) < 2:
        raise ValueError(f"--steps is {numbers[0]}; an order takes two numbers of steps or more")
    check_known("--problem", problem, PROBLEMS)
    check_known("--grid", grid, GRIDS)
    noise_schedule = read_schedule(schedule)
    solvers = [SOLVERS[name](noise_schedule) for name in read_names("--solver", solver, DETERMINISTIC, DETERMINISTIC)]
    picture = _picture(out, "order.png", as_json)
    distribution = PROBLEMS[problem]()
    found = _finished(
        solvers, lambda solver: observed_order(solver, distribution, grid=GRIDS[grid], steps=numbers), problem
    )
    title = f"Distance to the exact flow of {problem} ({schedule} schedule, {grid} grid)"
    if picture is not None:
        from pndm_solvers.plots import plot_orders

        plot_orders(found, title).savefig(picture, dpi=150)
    if as_json:
        facts = {"problem": problem, "schedule": schedule, "grid": grid}
        typer.echo(strict_json(facts | {"solvers": [asdict(result) for result in found]}))
        return
    typer.echo(f"{title}, root mean square, by number of steps")
    rows = [
        (result.name, str(result.declared), f"{result.observed:.2f}", *(f"{error:.1e}" for error in result.errors))
        for result in found
    ]
    typer.echo(text_table([("solver", "declared", "observed", *map(str, numbers)), *rows]))
    typer.echo(
        f"observed: the slope of the errors in a log-log plot; declared: what a method guarantees, and one whose first "
        f"step errs little may show more; {picture}"
    )


def print_comparison(
    solver: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(DETERMINISTIC)}; {SEVERAL}. [default: {','.join(COMPARED)}]"),
    ] = None,
    spacing: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(SPACINGS)}; {SEVERAL}. [default: {DEFAULT_SPACING}]")
    ] = None,
    calls: Annotated[
        list[str] | None,
        typer.Option(help=f"Budgets of model calls; {SEVERAL}. [default: {','.join(map(str, CALLS))}]"),
    ] = None,
    problem: Annotated[str, typer.Option(help=f"One of: {', '.join((*PROBLEMS, *NETWORK_NAMES))}.")] = "ring",
    schedule: Annotated[str | None, typer.Option(help="As in order; a network has its own. [default: linear]")] = None,
    starts: Annotated[int, typer.Option(help="How many starting points.", min=1)] = 32,
    out: Annotated[Path | None, typer.Option(help="The plot to write. [default: compare.png]")] = None,
    as_json: Json = False,
) -> None:
    """Measure the error of solvers on time grids against model calls, where the right end is known."""
    numbers = read_numbers("--calls", calls, CALLS)
    check_known("--problem", problem, (*PROBLEMS, *NETWORK_NAMES))
    if schedule is not None and problem in NETWORK_NAMES:
        raise ValueError(f"--schedule is {schedule!r}; the network {problem!r} has its own schedule, so leave it out")
    spacings = read_names("--spacing", spacing, SPACINGS, [DEFAULT_SPACING])
    schedule = schedule or "linear"
    noise_schedule = read_schedule(schedule)
    names = read_names("--solver", solver, DETERMINISTIC, COMPARED)
    picture = _picture(out, "compare.png", as_json)
    if problem in NETWORK_NAMES:
        measured = network_problem(problem, starts, finals=["clean"], progress=True)
        schedule, what = None, f"the limit of the network {problem}"
    else:
        measured = exact_problem(problem, noise_schedule, starts)
        what = f"the exact end of {problem} ({schedule} schedule)"
    pairs = list(product([SOLVERS[name](measured.schedule) for name in names], spacings))
    curves = _finished(pairs, lambda pair: compare(measured, [pair[0]], [pair[1]], numbers)[0], problem)
    title = f"Distance to {what}, median of {starts} starts"
    if picture is not None:
        from pndm_solvers.plots import plot_curves

        plot_curves(curves, title, "root-mean-square distance").savefig(picture, dpi=150)
    if as_json:
        facts = {"problem": problem, "schedule": schedule, "starts": starts}
        typer.echo(strict_json(facts | {"curves": [asdict(curve) for curve in curves]}))
        return
    typer.echo(f"{title}, root mean square, by model calls")
    typer.echo(text_table([("solver, spacing", *map(str, numbers)), *marked_rows(curves)]))
    typer.echo(f"* the lowest of its column; {picture}")


def _picture(out: Path | None, default: str, as_json: bool) -> Path | None:
    """The path of the plot, checked before the work begins; None for JSON without `--out`."""
    if out is None and as_json:
        return None
    import pndm_solvers.plots  # noqa: F401 — a missing matplotlib is reported before the measurement, not after
    from pndm_solvers.images import check_writable

    out = Path(default) if out is None else out
    check_writable(out)
    return out


def _finished(jobs: Sequence[Any], work: Callable[[Any], T], title: str) -> list[T]:
    """`work` of each job, with a progress bar on stderr; after Ctrl-C, the results of the jobs that are finished."""
    from tqdm.auto import tqdm

    found: list[T] = []
    try:
        for job in tqdm(jobs, desc=title, leave=False):
            found.append(work(job))
    except KeyboardInterrupt:
        if not found:
            raise
        typer.echo(f"interrupted: {len(found)} of {len(jobs)} measured", err=True)
    return found
