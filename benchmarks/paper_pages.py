"""The papers' table and claims as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from paper_cells import FINE, METHODS
from paper_claims import CLAIMS, HOLDS, NOT_SHOWN, SUBJECTS, WITHIN, Evidence, Results, unexplained
from paper_experiments import ENCODE_STEPS, ORDER_STEPS, ORDERS, PREVIEW_TIMES, root_mean_squares
from tables import table

__all__ = ["body", "cells_table", "claims_table"]


def shown(value: float) -> str:
    return "not finite" if not math.isfinite(value) else f"{value:.3g}" if abs(value) < 1e4 else f"{value:.1e}"


def signed(value: float) -> str:
    return f"{value:+.2g}".replace("-", "−") if math.isfinite(value) else "not finite"


def cells_table(results: Results) -> str:
    """Every cell that is there: seconds are processor time of one thread for all samples."""
    fine, rows = results.cell("fine", FINE), []
    for name, method in METHODS.items():
        for size in method.sizes:
            cell = results.cell(name, size)
            if cell is None:
                continue
            row = [name, f"{size:g}", f"{cell['calls']:,}", f"{cell['seconds']:.0f}"]
            for measure in ("pixels", "features"):
                row.append(f"{shown(cell[measure])} ± {shown(1.96 * float(np.std(cell[f'{measure}-drawn'])))}"
                           if math.isfinite(cell[measure]) else "not finite")  # fmt: skip
            paired = fine is not None and method.between is None and not method.stochastic and name != "fine"
            with np.errstate(over="ignore", invalid="ignore"):
                errors = root_mean_squares(cell["samples"] - fine["samples"]) if paired and fine else None
            rows.append([*row, "" if errors is None else shown(float(np.median(errors)))])
    heads = "method", "steps or tolerance", "model calls", "seconds", "Fréchet, pixels", "Fréchet, features"
    return table((*heads, "paired error"), rows) if rows else ""


def floor_line(results: Results) -> str:
    floor = results.file("floor")
    if floor is None:
        return ""
    pixels, features = (f"{np.mean(floor[name]):.3g} ± {np.std(floor[name]):.1g}" for name in ("pixels", "features"))
    return f"As many draws from the data are at {pixels} on pixels and at {features} on features."


def claims_of(networks: Sequence[Results]) -> Iterator[tuple[Any, Results, list[Evidence]]]:
    for claim in CLAIMS:
        for results in networks:
            if rows := claim.evaluate(results):
                yield claim, results, rows


def claims_table(networks: Sequence[Results], subject: str) -> str:
    """The claims of one subject, a row for each network."""
    rows = []
    for claim, results, found in claims_of(networks):
        if claim.subject == subject:
            entries = [
                f"{signed(each.value)} ({signed(each.low)} to {signed(each.high)}): {emphasised(each.verdict)}"
                for each in found
            ]
            rows.append(
                [f"{claim.source}: {claim.text}", results.network, found[0].calls, *entries, *[""] * (2 - len(entries))]
            )
    return table(("claim", "network", "model calls", "on pixels, or alone", "on features"), rows) if rows else ""


def emphasised(verdict: str) -> str:
    return f"**{verdict}**" if verdict == NOT_SHOWN else verdict


def summary_table(networks: Sequence[Results]) -> str:
    """How often each claim holds, over networks and measures."""
    counts: dict[str, dict[str, int]] = {}
    for claim, _, rows in claims_of(networks):
        entry = counts.setdefault(f"{claim.source}: {claim.text}", dict.fromkeys((HOLDS, WITHIN, NOT_SHOWN), 0))
        for row in rows:
            entry[row.verdict] += 1
    return table(("claim", HOLDS, WITHIN, NOT_SHOWN), ([text, *entry.values()] for text, entry in counts.items()))


def encoding_table(networks: Sequence[Results]) -> str:
    found = [(results.network, results.file("encoding")) for results in networks]
    rows = [
        [name, *(shown(float(np.sqrt((errors**2).mean()))) for errors in file["errors"])]
        for name, file in found if file
    ]  # fmt: skip
    return table(("network", *(f"{steps:,} steps" for steps in ENCODE_STEPS)), rows) if rows else ""


def previews_table(networks: Sequence[Results]) -> str:
    rows = []
    for results in networks:
        parts = unexplained(results)
        for name, part in zip(("coarse", "fine"), parts or (), strict=False):
            rows.append([results.network, name, *(f"{value:.2f}" for value in part.mean(1))])
    return table(("network", "part", *(f"t = {t}" for t in PREVIEW_TIMES)), rows) if rows else ""


def orders_table(networks: Sequence[Results]) -> str:
    rows = []
    for results in networks:
        found = results.file("orders")
        for name in ORDERS if found else ():
            errors = [float(np.median(found[f"{name} {steps}"])) for steps in ORDER_STEPS] if found else []
            rows.append([results.network, name, *map(shown, errors)])
    return table(("network", "method", *(f"{steps} steps" for steps in ORDER_STEPS)), rows) if rows else ""


def body(networks: Sequence[Results], facts: str) -> str:
    """All tables, for every network that has a cell."""
    parts = [facts, "### All claims", summary_table(networks)]
    for subject in SUBJECTS:
        parts += [f"### Claims: {subject}", claims_table(networks, subject)]
    for title, make in (("Encoding and decoding: root-mean-square error", encoding_table),
                        ("Previews: what is not yet there of the coarse and of the fine part", previews_table),
                        ("Orders: median error from t = 900 to t = 20", orders_table)):  # fmt: skip
        parts += [f"### {title}", make(networks)]
    for results in networks:
        parts += [f"### {results.network}, {results.count:,} samples", floor_line(results), cells_table(results)]
    # A title without a table under it is left out.
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True)
            if part and not (part.startswith("###") and not after and part is not parts[-1])]  # fmt: skip
    return "\n\n".join(kept)
