"""`pndm-solvers order` and `compare`: solvers measured against a known flow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import typer

from pndm_solvers.cli.command import INTERRUPTED, MEASURED, SOLVED, WRITTEN
from pndm_solvers.cli.options import (
    SEVERAL,
    ScheduleName,
    check_known,
    read_names,
    read_numbers,
    read_schedule,
)
from pndm_solvers.cli.tables import marked_rows, strict_json, text_table
from pndm_solvers.files import make_parent
from pndm_solvers.fit import FittedSolver
from pndm_solvers.fit.solver import read_plan
from pndm_solvers.flow import ExactFlow
from pndm_solvers.measure import CALLS, MEASURES, STANDARD, Curve, compare
from pndm_solvers.methods import SOLVERS
from pndm_solvers.orders import GRIDS, ORDER_STEPS, observed_order
from pndm_solvers.problem import Problem
from pndm_solvers.problems import PROBLEMS, exact_problem, network_problem
from pndm_solvers.reference import NETWORK_NAMES
from pndm_solvers.schedules import SCHEDULES, NoiseSchedule
from pndm_solvers.solver import Solver
from pndm_solvers.spacings import DEFAULT_SPACING, SPACINGS

DETERMINISTIC = [name for name, make in SOLVERS.items() if make(NoiseSchedule.linear()).convergence_order is not None]

Json = Annotated[
    bool,
    typer.Option(
        "--json", help="Print JSON instead of a table, and draw a plot only with --out.", rich_help_panel=WRITTEN
    ),
]

T = TypeVar("T")


def print_orders(
    problem: Annotated[
        str,
        typer.Option(
            help=f"A distribution with an exact flow: {', '.join(PROBLEMS)}.", metavar="NAME", rich_help_panel=MEASURED
        ),
    ] = "gaussian",
    schedule: ScheduleName = "linear",
    solver: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(DETERMINISTIC)}; {SEVERAL}. [default: all]", metavar="NAME", rich_help_panel=SOLVED
        ),
    ] = None,
    grid: Annotated[
        str,
        typer.Option(help=f"Where the steps lie, one of: {', '.join(GRIDS)}.", metavar="NAME", rich_help_panel=SOLVED),
    ] = "uniform",
    steps: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Numbers of steps, two or more; {SEVERAL}. [default: {','.join(map(str, ORDER_STEPS))}]",
            metavar="N",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The plot; the extension names its format. [default: order.png]",
            metavar="FILE",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
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
    measured = exact_problem(problem, noise_schedule, starts=16)
    title = f"Distance to the exact flow of {problem} ({schedule} schedule, {grid} grid)"

    def work(solver: Solver) -> Any:
        return observed_order(solver, measured, grid=GRIDS[grid], steps=numbers)

    with _finished(solvers, work, problem) as found:
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
            f"observed: the slope of the errors in a log-log plot; declared: what a method guarantees, and one whose "
            f"first step errs little may show more; {picture}"
        )


def print_comparison(
    problem: Annotated[
        str | None,
        typer.Option(
            help=f"A distribution with an exact flow: {', '.join(PROBLEMS)}; or a bundled network: "
            f"{', '.join(NETWORK_NAMES)}. [default: ring]",
            metavar="NAME",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --problem: a folder that a diffusers pipeline was saved to, with a UNet2DModel.",
            metavar="FOLDER",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help=f"The noise schedule of a distribution: {', '.join(SCHEDULES)}; or the file of a diffusers "
            "scheduler's config. [default: linear]",
            metavar="NAME|FILE",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    measure: Annotated[
        str,
        typer.Option(
            help=f"One of: {', '.join(MEASURES)}. paired is the distance of each sample to the end of the exact flow, "
            "or of a fine run, from the same start; the others compare sets of samples.",
            metavar="NAME",
            rich_help_panel=MEASURED,
        ),
    ] = "paired",
    starts: Annotated[
        int | None,
        typer.Option(
            help="How many starting points. [default: 32, or 512 to compare sets]",
            metavar="N",
            min=2,
            rich_help_panel=MEASURED,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="The data of a network, floats (K, C, H, W), for measures that compare sets.",
            metavar="FILE.npy",
            rich_help_panel=MEASURED,
        ),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(DETERMINISTIC)}; for measures that compare sets any solver; {SEVERAL}. "
            f"[default: {', '.join(STANDARD)}]",
            metavar="NAME",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    plan: Annotated[
        list[Path] | None,
        typer.Option(
            help="A file with a plan, as `fit` writes it, to compare too; several by repeating it.",
            metavar="FILE",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    calls: Annotated[
        list[str] | None,
        typer.Option(
            help=f"The most model calls that a run may make; {SEVERAL}. [default: {','.join(map(str, CALLS))}]",
            metavar="N",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    spacing: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Where the steps lie, of {', '.join(SPACINGS)}; {SEVERAL}. [default: {DEFAULT_SPACING}]",
            metavar="NAME",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The plot; the extension names its format. [default: compare.png]",
            metavar="FILE",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    saved: Annotated[
        Path | None,
        typer.Option(
            help="Keeps the fine runs of a network: where the file exists they are read, else written.",
            metavar="FILE.npz",
            rich_help_panel=WRITTEN,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure solvers on time grids against model calls, by their distance to the right ends or to the data."""
    if plan and problem is None and model is None:
        raise ValueError("--plan belongs to a network: name it with --problem or --model")
    given = [read_plan(path) for path in plan or ()]
    budgets = sorted({one.model_calls for one in given})
    numbers = read_numbers("--calls", calls, budgets or CALLS)
    check_known("--measure", measure, MEASURES)
    spacings = read_names("--spacing", spacing, SPACINGS, [DEFAULT_SPACING])
    names = read_names("--solver", solver, _measurable(measure), STANDARD)
    picture = _picture(out, "compare.png", as_json)
    starts = starts or (32 if measure == "paired" else 512)
    measured = _problem(problem, model, schedule, starts, data, saved)
    pairs: list[tuple[Solver, str]] = list(product([SOLVERS[name](measured.schedule) for name in names], spacings))
    if given:
        pairs.append((FittedSolver(measured.schedule, tuple(given)), DEFAULT_SPACING))
    title = _title(measured, measure, starts)

    def work(pair: tuple[Solver, str]) -> Curve:
        return compare(measured, [pair[0]], [pair[1]], numbers, measure=measure)[0]

    with _finished(pairs, work, measured.name) as curves:
        if picture is not None:
            from pndm_solvers.plots import plot_curves

            plot_curves(curves, title).savefig(picture, dpi=150)
        if as_json:
            own = not isinstance(measured.flow, ExactFlow)
            facts = {"problem": measured.name, "schedule": None if own else schedule or "linear", "starts": starts}
            typer.echo(strict_json(facts | {"curves": [asdict(curve) for curve in curves]}))
            return
        typer.echo(f"{title}, by model calls")
        typer.echo(text_table([("solver, spacing", *map(str, numbers)), *marked_rows(curves)]))
        typer.echo(f"* the lowest of its column; {_limit(curves)}{picture}")


def _measurable(measure: str) -> list[str]:
    return DETERMINISTIC if measure == "paired" else list(SOLVERS)


def _problem(
    name: str | None, folder: Path | None, schedule: str | None, starts: int, data: Path | None, saved: Path | None
) -> Problem:
    if name is not None and folder is not None:
        raise ValueError("pass --problem or --model, not both")
    name = name or "ring"
    check_known("--problem", name, (*PROBLEMS, *NETWORK_NAMES))
    network = folder is not None or name in NETWORK_NAMES
    if schedule is not None and network:
        which = name if folder is None else str(folder)
        raise ValueError(f"--schedule is {schedule!r}; the network {which!r} has its own schedule, so leave it out")
    if not network:
        if data is not None or saved is not None:
            raise ValueError(f"--data and --saved are for networks; the problem {name!r} is exact")
        return exact_problem(name, read_schedule(schedule or "linear"), starts)
    points = None if data is None else _read_points(data)
    if saved is not None:
        make_parent(saved)
    if folder is None:
        return network_problem(name, starts, data=points, saved=saved)
    from pndm_solvers.adapters.diffusers.networks import load_saved_network

    return network_problem(load_saved_network(folder), starts, data=points, saved=saved)


def _read_points(path: Path) -> Any:
    """The array of floats in a .npy file. ValueError for anything else."""
    try:
        points = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"--data is {path}, which is no .npy file; write one with numpy.save") from error
    if not isinstance(points, np.ndarray) or points.dtype.kind != "f":
        what = f"an array of {points.dtype}" if isinstance(points, np.ndarray) else "several arrays"
        raise ValueError(f"--data is {path}, which holds {what}; write one array of floats with numpy.save")
    return points


def _title(problem: Problem, measure: str, starts: int) -> str:
    """What a plot and a table show, in one line."""
    if measure != "paired":
        return f"{problem.name}: {measure} to the {'fine run' if problem.data is None else 'data'}, {starts} samples"
    end = "exact end" if isinstance(problem.flow, ExactFlow) else "end of a fine run"
    return f"{problem.name}: root-mean-square distance to the {end}, median of {starts} starts"


def _limit(curves: Sequence[Curve]) -> str:
    limit = max(curve.limit for curve in curves)
    if curves[0].measure != "paired":
        return f"the flow itself has {limit:.1e} from other starts; "
    return f"the fine run itself errs by about {limit:.1e}; " if limit else ""


def _picture(out: Path | None, default: str, as_json: bool) -> Path | None:
    """The path of the plot, checked before the work begins; None for JSON without `--out`."""
    if out is None and as_json:
        return None
    import pndm_solvers.plots  # noqa: F401 — a missing matplotlib is reported before the measurement, not after
    from pndm_solvers.images import check_writable

    out = Path(default) if out is None else out
    try:
        check_writable(out)
    except ValueError as error:
        raise ValueError(f"--out: {error}") from error
    return out


@contextmanager
def _finished(jobs: Sequence[Any], work: Callable[[Any], T], title: str) -> Iterator[list[T]]:
    """`work` of each job, with a progress bar on stderr.

    After Ctrl-C, the results of the jobs that are finished; the command then ends with the status `INTERRUPTED`.
    """
    from tqdm.auto import tqdm

    found: list[T] = []
    try:
        for job in tqdm(jobs, desc=title, leave=False):
            found.append(work(job))
    except KeyboardInterrupt:
        if not found:
            raise
        typer.echo(f"interrupted: {len(found)} of {len(jobs)} measured", err=True)
    yield found
    if len(found) < len(jobs):
        raise typer.Exit(INTERRUPTED)
