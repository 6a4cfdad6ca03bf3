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

__all__ = ["by_cell", "fill_page", "heading", "parts_of", "report", "table"]


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


def parts_of(path: Path, script: str) -> tuple[str, str]:
    """What stands before and after a script's tables in a page, its markers included.

    SystemExit where the page has no place for them.
    """
    begin, end = f"<!-- written by benchmarks/{script}: begin -->", "<!-- end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin) if path.exists() else ("", "", "")
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise SystemExit(f"{path} has no place for the tables; it must hold the lines {begin} and {end}")
    return before + begin, end + after


def fill_page(path: Path, script: str, text: str) -> None:
    """Puts a script's tables between its markers in a page."""
    before, after = parts_of(path, script)
    path.write_text(f"{before}\n\n{text}\n\n{after}", encoding="utf-8")
