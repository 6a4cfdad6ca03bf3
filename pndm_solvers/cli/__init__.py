"""The command line: `pndm-solvers sample`, `generate`, `verify`, `plan`, `fit`, `order`, `compare` and two more.

Those two, `comfyui` and `a1111`, write extensions of other programs.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated

import typer

from pndm_solvers.cli import fit, folders, generate, measure, plan, sample
from pndm_solvers.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pndm_solvers {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """Numerical solvers for diffusion models, compiled to plans."""


app.command()(sample.sample)
app.command()(generate.generate)
app.command()(generate.verify)
app.command("plan")(plan.print_plan)
app.command("fit")(fit.fit)
app.command("order")(measure.print_orders)
app.command("compare")(measure.print_comparison)
app.command("comfyui")(folders.comfyui)
app.command("a1111")(folders.a1111)


def main() -> None:
    """Run the command line; the library's own errors and warnings become one line without a traceback."""
    warnings.formatwarning = lambda message, *_, **__: f"pndm-solvers: {message}\n"
    try:
        app()
    except (ValueError, ImportError, OSError, FloatingPointError) as error:
        sys.exit(f"pndm-solvers: {error}")
