"""`pndm-solvers comfyui` and `a1111`: extensions for programs that load them from folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pndm_solvers.adapters.folders import HOSTS, write_folder
from pndm_solvers.version import __version__

Folder = Annotated[
    Path, typer.Argument(help="The program's folder, that of its extensions, or one to write or renew.", metavar="DIR")
]


def comfyui(folder: Folder) -> None:
    """Write a package of nodes and samplers for ComfyUI, complete in its folder: nothing is to be installed."""
    _write("comfyui", folder, "Restart ComfyUI; plms is then in every list of samplers, SamplerPLMS among the nodes.")


def a1111(folder: Folder) -> None:
    """Write an extension for A1111's web UI and Forge, complete in its folder: nothing is to be installed."""
    _write("a1111", folder, "Restart the web UI; PLMS (pndm_solvers) is then among the samplers.")


def _write(host: str, folder: Path, then: str) -> None:
    target, wanted = write_folder(HOSTS[host], folder.expanduser()), HOSTS[host].extensions
    then = then if target.parent.name == wanted else f"It is not in a folder {wanted}: copy it into the program's."
    typer.echo(f"written: {target}, pndm_solvers {__version__}. {then}")
