"""What every benchmark prints: a heading with date, machine and command, and Markdown tables."""

import datetime
import os
import platform
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["heading", "table"]


def heading(*packages: str) -> str:
    """Date, machine, the versions of packages, and the command."""
    facts = [str(datetime.date.today()), platform.processor() or platform.machine(), f"{os.cpu_count()} cores"]
    facts += [f"{package} {version(package)}" for package in packages]
    return f"{', '.join(facts)}\n`python benchmarks/{' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`"


def table(heads: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    heads = list(map(str, heads))
    lines = [heads, ["---"] * len(heads), *(list(map(str, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
