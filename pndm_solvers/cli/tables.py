"""Measurements as text for the terminal, and as strict JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from pndm_solvers.measure import Curve


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns: the first flush left, the others flush right."""
    name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    return "\n".join("  ".join([row[0].ljust(name), *map(str.rjust, row[1:], widths)]).rstrip() for row in rows)


def marked_rows(curves: Sequence[Curve]) -> list[tuple[str, ...]]:
    """One row per curve: its name and its figures, with an asterisk at the lowest of each column.

    A distance less its floor may fall below 0 by chance. Then every such figure is marked.
    """
    lowest = [max(min(column), 0.0) for column in zip(*(curve.value for curve in curves), strict=True)]
    return [
        (
            curve.name,
            *(f"{e:.1e}{'*' if e <= least < math.inf else ' '}" for e, least in zip(curve.value, lowest, strict=True)),
        )
        for curve in curves
    ]


def strict_json(document: Mapping[str, Any]) -> str:
    """The document as JSON, with null for an infinite error: strict JSON has no infinity."""
    return json.dumps(_finite(document), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
