"""Command lines run in this process, for the fixtures of the tests beside this file."""

import sys

import pytest

from pndm_solvers import cli


def runner(capsys, monkeypatch):
    """A function of a command line that returns (exit status, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["pndm-solvers", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        out, err = capsys.readouterr()
        status = exit_.value.code
        return (status, out, err) if isinstance(status, int) else (1, out, err + str(status))

    return call
