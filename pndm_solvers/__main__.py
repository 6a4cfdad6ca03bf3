"""`python -m pndm_solvers` and `pndm-solvers`, also where the command line's own needs are not installed."""

import sys


def main() -> None:
    """The command line; without its extra, one line that says how to get it."""
    try:
        from pndm_solvers import cli
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("pndm-solvers: the command line needs its extra: pip install 'pndm_solvers[demo]'")
    cli.main()


if __name__ == "__main__":
    main()
