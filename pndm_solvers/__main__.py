"""`python -m pndm_solvers` is `pndm-solvers`."""

import sys

try:
    from pndm_solvers.cli import main
except ModuleNotFoundError as error:
    if error.name != "typer":
        raise
    sys.exit("pndm-solvers: the command line needs its extra: pip install 'pndm_solvers[demo]'")

main()
