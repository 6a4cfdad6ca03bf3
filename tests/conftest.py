"""What tests run over: every registered schedule and method, and problems with a known answer."""

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Small arrays gain nothing from more threads, and lose much on a busy machine. NumPy and torch read it when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from pndm_solvers import SPACINGS, ButcherTableau, NoiseSchedule, PLMSSolver, PRKSolver, make_grid, orders
from pndm_solvers.methods import SOLVERS
from pndm_solvers.schedules import SCHEDULES as REGISTERED_SCHEDULES

# Where these folders hold a module, a test file needs what that module imports.
HELPERS = [Path(__file__).parent, *(Path(__file__).parents[1] / folder for folder in ("training", "benchmarks"))]


@cache
def missing_packages(path: Path, test: bool = True) -> frozenset[str]:
    """The packages that a test file imports, or a helper at its top, and that are not installed.

    torch, say, is not for every Python. The README's command installs all.
    """
    tree, imported = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree) if test else tree.body:
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
            if "diffusers" in [*node.module.split("."), *(name.name for name in node.names)]:
                imported.add("diffusers")  # our adapter needs theirs
    folders = [path.parent, *HELPERS]
    helpers = [helper for folder in folders for name in imported if (helper := folder / f"{name}.py").exists()]
    others = imported - {helper.stem for helper in helpers} - sys.stdlib_module_names
    absent = {name for name in others if not importlib.util.find_spec(name)}
    return frozenset(absent).union(*(missing_packages(helper, False) for helper in helpers))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leaves a file out whose packages are not installed."""
    return True if collection_path.suffix == ".py" and missing_packages(collection_path) else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What was tested, and what was left out."""
    absent = [missing_packages(path) for path in sorted(Path(__file__).parent.rglob("test_*.py"))]
    without, left = sorted(frozenset().union(*absent)), sum(map(bool, absent))
    there = [name for name in ("numpy", "torch", "diffusers", "jax") if importlib.util.find_spec(name)]
    versions = ", ".join([f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in there)])
    missing = f"; {left} of {len(absent)} files left out without {', '.join(without)}" if left else ""
    terminalreporter.write_line(f"tested: {versions}{missing}")


SCHEDULES = {name: make() for name, make in REGISTERED_SCHEDULES.items()}
SCHEDULES["zero_terminal_snr"] = NoiseSchedule.linear().rescale_zero_terminal_snr()

# First-same-as-last: its fourth stage is the next step's first (Bogacki and Shampine, 1989).
BOGACKI_SHAMPINE = ButcherTableau(
    "bogacki-shampine",
    c=[0, "1/2", "3/4", 1],
    a=[[], ["1/2"], [0, "3/4"], ["2/9", "1/3", "4/9"]],
    b=["2/9", "1/3", "4/9", 0],
)


def all_solvers(schedule):
    """Every registered method, with every option of those that have one.

    PLMS comes with each starter and each kind of weights at order 4. The lower orders run the same lines of code,
    and `methods/test_orders_are_observed.py` measures each of them.
    """
    registered = [make(schedule) for make in SOLVERS.values()]
    return list(dict.fromkeys(registered + deterministic_solvers(schedule)))


def deterministic_solvers(schedule):
    """The solvers of `all_solvers` that draw no noise."""
    solvers = [*orders.deterministic_solvers(schedule), PRKSolver(schedule, BOGACKI_SHAMPINE)]
    return [solver for solver in solvers if not isinstance(solver, PLMSSolver) or solver.order == 4]


def pseudo_solvers(schedule):
    """The solvers that are exact while x_0 and ε stay: all deterministic ones except FON and those that average v.

    v turns on the way between the two. Methods that average it solve a constant v.
    """
    return [
        solver
        for solver in deterministic_solvers(schedule)
        if solver.name != "FON" and getattr(solver, "space", "epsilon") != "v_prediction"
    ]


def spacings_of(schedule):
    """The named spacings that a schedule takes: some need α > 0 at the top, others a flow or a published network."""

    def takes(spacing):
        try:
            make_grid(schedule, 2, spacing=spacing)
        except ValueError:
            return False
        return True

    return [spacing for spacing in SPACINGS if takes(spacing)]


def where_steps_begin(schedule, steps, **options):
    """The times of a named grid. Solvers that share them need not search for the levels of that grid again."""
    return [level.t for level in make_grid(schedule, steps, **options).levels[:-1]]


def named(value):
    """A solver's name, for pytest's ids."""
    return getattr(value, "name", str(value))


def relative_error(value, exact):
    """The largest deviation from `exact`, divided by the largest entry of `exact`."""
    return np.abs(value - exact).max() / np.abs(exact).max()


def assert_refused(cases: Iterable[tuple[Callable[[], object], type[Exception], str]]) -> None:
    """Every call raises its error with a message that matches its pattern; the failure lists each call that does not.

    `cases` are triples of a call without arguments, an error class and a regular expression.
    """
    wrong = []
    for call, error, pattern in cases:
        try:
            result = call()
        except error as raised:
            if not re.search(pattern, str(raised)):
                wrong.append(f"{pattern!r} is not in: {raised}")
        else:
            wrong.append(f"{pattern!r} was not raised, and the result is {result!r}")
    assert not wrong, "\n".join(wrong)
