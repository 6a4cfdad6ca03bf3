"""In ComfyUI's folder `custom_nodes` this folder is a package of nodes and samplers, without pip."""

import sys
from pathlib import Path

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
