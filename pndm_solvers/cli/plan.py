"""`pndm-solvers plan`: the table to which a solver compiles."""

from __future__ import annotations

from typing import Annotated

import typer

from pndm_solvers.cli.options import ScheduleName, SolverOptions, grouped, read_schedule
from pndm_solvers.fit.solver import read_plan
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import PREDICTIONS


@grouped
def print_plan(
    *,
    options: SolverOptions,
    schedule: ScheduleName = "linear",
    final: Annotated[
        str, typer.Option(help="Where the plan ends: clean, or first (the lowest trained level).")
    ] = "clean",
    start: Annotated[float | None, typer.Option(help="Begin at this time.")] = None,
    stop: Annotated[float | None, typer.Option(help="End at this time; above --start for an inversion.")] = None,
    prediction: Annotated[
        str, typer.Option(help=f"What the network predicts, {', '.join(PREDICTIONS)}: the default spacing asks.")
    ] = "epsilon",
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Print the table to which a solver compiles, without running anything."""
    if options.plan:
        named = [
            *options.named_method,
            *(["--steps"] if options.steps else []),
            *(["--calls"] if options.calls else []),
        ]
        if named or schedule != "linear" or start is not None or stop is not None:
            raise ValueError(f"a plan from a file is printed as it is; leave {', '.join(named) or 'the options'} out")
        for path in options.plan:
            plan = read_plan(path)
            typer.echo(plan.to_json(indent=2) if as_json else f"{plan}{_fitted_to(plan)}")
        return
    solver = options.make_solver(read_schedule(schedule))
    plan = options.make_plan(solver, final=final, start=start, stop=stop, prediction=prediction)
    typer.echo(plan.to_json(indent=2) if as_json else str(plan))


def _fitted_to(plan: Plan) -> str:
    """What a plan was fitted to, as a line below it."""
    if plan.fitted is None:
        return ""
    told = plan.fitted
    facts = [told.note, told.prediction, told.schedule, told.date, f"pndm_solvers {told.version}"]
    return f"\nfitted to: {', '.join(filter(None, facts))}"
