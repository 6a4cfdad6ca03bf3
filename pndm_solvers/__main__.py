"""`python -m pndm_solvers` and `pndm-solvers`: the entry point, which works without the command line's extra too."""

import sys


def main() -> None:
    """Run the command line, or name the extra that it needs."""
    try:
        from pndm_solvers import cli
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("pndm-solvers: the command line needs its extra: pip install 'pndm_solvers[demo]'")
    cli.main()


if __name__ == "__main__":
    main()
