"""`pndm-solvers plan`: the table to which a solver compiles."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer

from pndm_solvers.cli.command import SOLVED, WRITTEN
from pndm_solvers.cli.options import ScheduleName, SolverOptions, grouped, read_schedule
from pndm_solvers.fit.solver import read_plan
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import PREDICTIONS


@grouped
def print_plan(
    *,
    options: SolverOptions,
    schedule: ScheduleName = "linear",
    start: Annotated[
        float | None,
        typer.Option(
            help="Begin at this time of the schedule: 0 to 999 for 1,000 levels of betas. [default: by the spacing]",
            metavar="T",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    stop: Annotated[
        float | None,
        typer.Option(
            help="End at this time; above --start for an inversion. [default: as --final]",
            metavar="T",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    final: Annotated[
        str,
        typer.Option(
            help="Where a plan without --stop ends: clean (α = 1, σ = 0), or first, the lowest trained level.",
            metavar="NAME",
            rich_help_panel=SOLVED,
        ),
    ] = "clean",
    prediction: Annotated[
        str,
        typer.Option(
            help=f"What the network predicts: {', '.join(PREDICTIONS)}. The default spacing depends on it.",
            metavar="NAME",
            rich_help_panel=SOLVED,
        ),
    ] = "epsilon",
    data_range: Annotated[
        float,
        typer.Option(
            help="One to two deviations of the data, where they are not about 1. The default spacing depends on it.",
            metavar="X",
            rich_help_panel=SOLVED,
        ),
    ] = 1.0,
    shape: Annotated[
        str | None,
        typer.Option(
            help="The shape of one sample, on which the default spacing's start depends: 2, or 3,64,64. [default: "
            "1,024 numbers]",
            metavar="N[,N…]",
            rich_help_panel=SOLVED,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.", rich_help_panel=WRITTEN)] = False,
) -> None:
    """Print the plan of a solver: its times, its levels and the formula of each step. No network is called."""
    cut: dict[str, Any] = {
        "final": final,
        "start": start,
        "stop": stop,
        "prediction": prediction,
        "data_range": data_range,
    }
    if options.plan:
        named = [
            *options.named_method,
            *(["--steps"] if options.steps else []),
            *(["--calls"] if options.calls else []),
        ]
        own = inspect.signature(print_plan).parameters
        said = {"schedule": schedule, "shape": shape, **cut}
        if named or any(value != own[name].default for name, value in said.items()):
            raise ValueError(f"a plan from a file is printed as it is; leave {', '.join(named) or 'the options'} out")
        for path in options.plan:
            plan = read_plan(path)
            typer.echo(plan.to_json(indent=2) if as_json else f"{plan}{_fitted_to(plan)}")
        return
    if shape is not None:
        words = shape.split(",")
        if not all(word.isdecimal() for word in words):
            raise ValueError(f"--shape is {shape!r}; it is the lengths of one sample, such as 2 or 3,64,64")
        cut["sample_shape"] = tuple(map(int, words))
    solver = options.make_solver(read_schedule(schedule))
    plan = options.make_plan(solver, **cut)
    typer.echo(plan.to_json(indent=2) if as_json else str(plan))


def _fitted_to(plan: Plan) -> str:
    """What a plan was fitted to, as a line below it."""
    if plan.fitted is None:
        return ""
    told = plan.fitted
    facts = [told.note, told.prediction, told.schedule, told.date, f"pndm_solvers {told.version}"]
    return f"\nfitted to: {', '.join(filter(None, facts))}"
