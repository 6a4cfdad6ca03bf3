"""The command line: `pndm-solvers sample`, `generate`, `verify`, `plan`, `fit`, `order`, `compare` and two more.

Those two, `comfyui` and `a1111`, write extensions of other programs.
"""

from __future__ import annotations

import sys
import warnings
from typing import Annotated, Any

import typer

from pndm_solvers.cli import fit, folders, generate, measure, plan, sample
from pndm_solvers.cli.command import Command, in_options
from pndm_solvers.version import __version__

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": 100},
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


for name, command in {
    "sample": sample.sample,
    "generate": generate.generate,
    "verify": generate.verify,
    "fit": fit.fit,
    "plan": plan.print_plan,
    "compare": measure.print_comparison,
    "order": measure.print_orders,
    "comfyui": folders.comfyui,
    "a1111": folders.a1111,
}.items():
    app.command(name, cls=Command)(command)


def _show(message: object, *_: Any, **__: Any) -> None:
    """A warning as one line of its own, also beside an open progress bar."""
    line = f"pndm-solvers: {in_options(message)}"
    # Where nothing has loaded tqdm, there is no bar.
    tqdm = sys.modules.get("tqdm")
    (tqdm.tqdm.write if tqdm else print)(line, file=sys.stderr)


def main() -> None:
    """Run the command line; the library's own errors and warnings become one line without a traceback."""
    warnings.showwarning = _show
    try:
        app()
    except OSError as error:
        told = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else in_options(error)
        sys.exit(f"pndm-solvers: {told}")
    except (ValueError, ImportError, FloatingPointError) as error:
        sys.exit(f"pndm-solvers: {in_options(error)}")
