"""What every benchmark prints: a heading with date, machine and command, and Markdown tables."""

import datetime
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["by_cell", "heading", "report", "table"]


def heading(*packages: str) -> str:
    """Date, machine, the versions of packages, and the command."""
    facts = [str(datetime.date.today()), platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    facts += [f"{package} {version(package)}" for package in packages]
    return f"{', '.join(facts)}\n`python benchmarks/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"


def table(heads: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(map(str, heads))
    lines = [heads, ["---"] * len(heads), *(list(map(str, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def by_cell(head: str, cells: Mapping[tuple[str, int], Any], entry: Callable[[Any], str] = str) -> str:
    """A table of one entry for each cell: a row for each problem, a column for each budget."""
    budgets = sorted({calls for _, calls in cells})
    rows = [
        [problem, *(entry(cells[problem, calls]) if (problem, calls) in cells else "" for calls in budgets)]
        for problem in dict.fromkeys(problem for problem, _ in cells)
    ]
    return table((head, *budgets), rows)


def report(tables: Mapping[str, Callable[[Any], str]], names: Iterable[str], given: Any) -> None:
    """Prints tables that functions make of what is `given`: their docstrings, the tables, and how long each took."""
    for name in names:
        began = time.monotonic()
        title = inspect.cleandoc(tables[name].__doc__ or "")
        print(f"\n## {title}\n\n{tables[name](given)}\n", flush=True)
        print(f"Time: {time.monotonic() - began:.0f} s.", flush=True)
