"""In a web UI's folder `extensions` this folder adds samplers and a scheduler, without pip."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package of this folder
try:
    from pndm_solvers.adapters.a1111 import register
finally:
    sys.path.remove(str(Path(__file__).parents[1]))

register()
