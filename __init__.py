"""In ComfyUI's folder `custom_nodes` this folder is a package of nodes and samplers, without pip.

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
