"""Folders for programs that load extensions without pip: a copy of the package, and the file that the program runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

__all__ = ["HOSTS", "Host", "write_folder"]

PACKAGE = Path(__file__).parents[1]
# Networks, the command line and other programs' adapters serve no one there.
LEFT_OUT = ("__pycache__", "reference", "cli", "__main__.py", "diffusers", "folders.py")


@dataclass(frozen=True)
class Host:
    """A program, by the folder in which it looks for extensions, and the file that it runs in each.

    Attributes
    ----------
    extensions:
        The name of that folder.
    entry, text:
        The file's path in an extension, and what stands in it.
    """

    extensions: str
    entry: str
    text: str


COMFYUI = Host(
    "custom_nodes",
    "__init__.py",
    '''"""In ComfyUI's folder `custom_nodes` this folder is a package of nodes and samplers, without pip.

For a program that lies beside a clone of this name Python takes the clone for the library, and is handed on to it.
"""

import importlib.util
import sys
from pathlib import Path

if __name__ == "pndm_solvers":
    inner = Path(__file__).parent / "pndm_solvers"
    spec = importlib.util.spec_from_file_location(
        __name__, inner / "__init__.py", submodule_search_locations=[str(inner)]
    )
    assert spec  # as for every file
    assert spec.loader
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = {}, {}
if "comfy.samplers" in sys.modules:  # elsewhere, as when tests are collected, there is nothing to enter
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)  # ComfyUI puts no folder of nodes on Python's path
    try:
        from pndm_solvers.adapters.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, announce
    finally:
        sys.path.remove(here)
    announce(here)

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
''',
)

A1111 = Host(
    "extensions",
    "scripts/pndm_solvers_samplers.py",
    '''"""In a web UI's folder `extensions` this folder adds samplers and a scheduler, without pip."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package of this folder
try:
    from pndm_solvers.adapters.a1111 import register
finally:
    sys.path.remove(str(Path(__file__).parents[1]))

register()
''',
)

HOSTS = {"comfyui": COMFYUI, "a1111": A1111}


def write_folder(host: Host, folder: Path) -> Path:
    """Writes the extension, whole or not at all, and returns its path. An older one of ours is replaced.

    `folder` is the program's, or the one in which it looks for extensions, or else the extension's own. Raises
    ValueError for a folder that holds anything else, OSError where it cannot be written.
    """
    folder = folder.resolve()  # what a link leads to
    if folder.name != host.extensions and (folder / host.extensions).is_dir():
        folder /= host.extensions
    target = folder / "pndm_solvers" if folder.name == host.extensions else folder
    if (target / ".git").exists():
        raise ValueError(f"{target} is a clone of a repository; update it with git pull, or choose another folder")
    ours = {"pndm_solvers", "LICENSE", "__pycache__", Path(host.entry).parts[0]}
    if target.exists() and (not target.is_dir() or not {path.name for path in target.iterdir()} <= ours):
        raise ValueError(f"{target} holds other things than an extension that was written here; choose another folder")
    if not target.parent.is_dir():
        raise ValueError(f"there is no folder {target.parent}; make it, or pass the program's own folder")
    with tempfile.TemporaryDirectory(prefix=".pndm_solvers-", dir=target.parent) as work:
        made, old = Path(work) / "new", Path(work) / "old"
        shutil.copytree(PACKAGE, made / "pndm_solvers", ignore=shutil.ignore_patterns(*LEFT_OUT))
        (made / host.entry).parent.mkdir(exist_ok=True)
        (made / host.entry).write_text(host.text, encoding="utf-8")
        (made / "LICENSE").write_text(_license(), encoding="utf-8")
        if target.exists():
            os.replace(target, old)
        os.replace(made, target)
    return target


def _license() -> str:
    beside = PACKAGE.parent / "LICENSE"  # of a checkout
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    try:
        text = distribution("pndm_solvers").read_text("licenses/LICENSE")
    except PackageNotFoundError:
        text = None
    if text is None:
        raise FileNotFoundError("the licence of pndm_solvers, which goes with each copy, is missing; install it anew")
    return text
