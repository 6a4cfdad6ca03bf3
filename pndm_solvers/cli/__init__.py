"""The command line: `pndm-solvers sample`, `generate`, `verify`, `plan`, `fit`, `order`, `compare` and two more.

Those two, `comfyui` and `a1111`, write extensions of other programs.
"""

from __future__ import annotations

import sys
import warnings

import typer

from pndm_solvers.cli import fit, folders, generate, measure, plan, sample

__all__ = ["app", "main"]

app = typer.Typer(
    help="Numerical solvers for diffusion models, compiled to plans.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
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
