"""The tables of work_precision.py, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from tables import by_cell, heading, table

from pndm_solvers.distances import resampled

__all__ = ["geometric", "interval_of_ratio", "report", "shown"]

ABOVE = 1.5  # times the best peer's figure: what lies wholly above it is marked

Results = dict[str, Any]  # problem -> column -> budget -> peer -> figures or an error


def geometric(values: Iterable[float]) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values and min(values) > 0 else math.nan


def interval_of_ratio(mine: ArrayLike, theirs: ArrayLike) -> tuple[float, float]:
    """Of the medians of errors (n,) from the same starts, ours / theirs: 90 %, by the bootstrap over the starts."""
    mine, theirs = np.asarray(mine), np.asarray(theirs)
    ratios = resampled(lambda chosen: float(np.median(mine[chosen]) / np.median(theirs[chosen])), len(mine), 400)
    low, high = np.quantile(ratios, [0.05, 0.95])
    return float(low), float(high)


def shown(name: str) -> str:
    """A peer's name for people: the values of its options, and the switches that are on."""
    words = (word for word in name.split() if not word.endswith("=False"))
    return " ".join(word.removesuffix("=True").split("=")[-1] for word in words)


def halves(errors: list[float]) -> tuple[float, float]:
    """(median of the starts that pick a peer, median of those that compare it). They alternate."""
    return float(np.median(errors[::2])), float(np.median(errors[1::2]))


class Cell:
    """One problem at one budget: the errors of every peer and of ours at the same end."""

    def __init__(self, peers: dict[str, Any], ours: dict[str, Any]) -> None:
        self.peers = {name: found for name, found in peers.items() if isinstance(found, dict)}
        self.ours = ours

    def paired(self, name: str, method: str = "default") -> tuple[float, float, float]:
        """(picking, comparing: the peer's median errors; ours at the same end, comparing)."""
        found = self.peers.get(name)
        if found is None:
            return math.inf, math.inf, math.nan
        return *halves(found["errors"]), halves(self.ours[method][found["final"]])[1]

    def distance(self, name: str, method: str = "default") -> tuple[float, float, float]:
        """As `paired`, of SW² less its floor."""
        found = self.peers.get(name, {})
        if "sw2" not in found:
            return math.inf, math.inf, math.nan
        return *found["sw2"], self.ours[method]["sw2"][1]

    def interval(self, name: str) -> tuple[float, float]:
        """Of ours / the peer's paired errors, of 90 %, over the starts that compare."""
        found = self.peers[name]
        return interval_of_ratio(self.ours["default"][found["final"]][1::2], found["errors"][1::2])

    def is_above(self, kind: str) -> bool:
        """Whether ours lies above `ABOVE` times the best peer's figure by its whole interval.

        A peer's SW² below its floor counts as 0.
        """
        name = self.best(kind)
        if kind == "paired":
            return self.interval(name)[0] > ABOVE
        return self.ours["default"]["sw2 from"] > ABOVE * max(self.distance(name)[1], 0.0)

    def best(self, kind: str) -> str:
        """The peer with the lowest figure on the half that picks."""
        return min(self.peers, key=lambda name: getattr(self, kind)(name)[0])


Cells = dict[tuple[str, int], Cell]  # by problem and budget


def cells_of(results: Results, ours: dict[str, Any], column: str = "own") -> Cells:
    return {
        (problem, int(calls)): Cell(peers, {method: cells[calls] for method, cells in ours[problem].items()})
        for problem, columns in results.items()
        for calls, peers in columns.get(column, {}).items()
        if calls in ours[problem]["default"] and any(isinstance(found, dict) for found in peers.values())
    }


def common(cells: Iterable[Cell]) -> set[str]:
    """The peers that every cell has."""
    return set.intersection(*(set(cell.peers) for cell in cells))


def single(cells: Iterable[Cell]) -> str:
    """The one peer for all cells: the lowest geometric mean of its error over ours, on the half that picks."""
    cells = list(cells)

    def merit(name: str) -> float:
        ratios = []
        for cell in cells:
            found = cell.peers[name]
            ratios.append(halves(found["errors"])[0] / halves(cell.ours["default"][found["final"]])[0])
        return geometric(ratios)

    return min(common(cells), key=merit)


def report(
    name: str, results: Results, ours: dict[str, Any], portraits: dict[str, Any], facts: dict[str, Any], minutes: float
) -> None:
    print(f"{heading('torch', 'diffusers', 'k-diffusion')}\n{minutes:.0f} minutes\n\n## The {name} set")
    cells = cells_of(results, ours)
    print("\n### The problems\n")
    print(facts_table(facts))
    print("\n### Paired error, ours / the best peer's of the cell\n")
    print("The peer is picked on one half of the starts, compared on the other. In brackets the ratio, its interval.")
    print(f"{those_above(cells, 'paired')}\n\n{cell_table(cells, 'paired')}")
    print("\n### The best peers of the cells, by the paired error\n")
    print(peers_table(cells))
    print("\n### One peer for all cells\n")
    print(f"{single_table(cells)}\n\n{least_worst(cells)}")
    print("\n### In distribution: SW² less its floor, ours / the best peer's of the cell\n")
    print("Figures near 0 or below it are at the floor. The peer is picked on one half of the samples. In brackets the")
    print("lower end of the interval of ours, bold where it is above 1.5 times the peer's figure, and above 0.")
    print(f"{those_above(cells, 'distance')}\n\n{cell_table(cells, 'distance')}")
    if any("low" in columns for columns in results.values()):
        print("\n### Peers that begin where σ/α is 10\n")
        print("Each error is to the flow from that level: what the lower start costs shows in distribution alone.\n")
        print(low_table(results, ours))
    print("\n### Ten calls, in every measure of distributions\n")
    print(portrait_table(portraits))
    print("\n### Our methods beside the default, paired\n")
    print(methods_table(ours))


def those_above(cells: Cells, kind: str) -> str:
    above = "; ".join(f"{problem} at {calls}" for (problem, calls), cell in cells.items() if cell.is_above(kind))
    return f"Wholly above {ABOVE} times, bold: {above or 'none'}, of {len(cells)} cells."


def cell_table(cells: Cells, kind: str) -> str:
    def entry(cell: Cell) -> str:
        name = cell.best(kind)
        mark = "**" if cell.is_above(kind) else ""
        if kind == "paired":
            _, theirs, mine = cell.paired(name)
            low, high = cell.interval(name)
            return f"{mine:.1e} / {theirs:.1e} ({mark}{mine / theirs:.2f}{mark}, {low:.2f} to {high:.2f})"
        mine, low, theirs = *(cell.ours["default"][key] for key in ("sw2", "sw2 from")), cell.distance(name)[1]
        return f"{mark}{mine[1]:.1e}{mark} (from {low:.1e}) / {f'{theirs:.1e}' if math.isfinite(theirs) else '—'}"

    return by_cell("error, calls" if kind == "paired" else "SW², calls", cells, entry)


def peers_table(cells: Cells) -> str:
    return by_cell("best peer, calls", cells, lambda cell: shown(cell.best("paired")))


def single_table(cells: Cells) -> str:
    rows = []
    for title, low, high in (("5 to 20", 5, 20), ("50", 50, 50)):
        chosen = [cell for (_, calls), cell in cells.items() if low <= calls <= high]
        if not chosen:
            continue
        for among, keep in (("all", ""), ("diffusers but IPNDM", "diffusers"), ("k-diffusion", "k-diffusion ")):
            parts = [_among(cell, keep) for cell in chosen]
            if not common(parts):
                continue
            name = single(parts)
            pairs = [part.paired(name) for part in parts]
            ratios = [mine / theirs for _, theirs, mine in pairs]
            behind = f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"
            rows.append([title, among, shown(name), f"{geometric(ratios):.2f}", behind, f"{max(ratios):.1f}"])
        ratios = [mine / theirs for _, theirs, mine in (cell.paired(cell.best("paired")) for cell in chosen)]
        behind = f"{sum(ratio > 1 for ratio in ratios)} of {len(ratios)}"
        rows.append([title, "all, the best of each cell", "", f"{geometric(ratios):.2f}", behind, f"{max(ratios):.1f}"])
    return table(("calls", "among", "peer", "ours / its, geometric mean", "ours behind in", "worst"), rows)


def least_worst(cells: Cells) -> str:
    """How far behind the best peer of its worst cell each single peer is, at least."""
    bests = {key: cell.paired(cell.best("paired"))[1] for key, cell in cells.items()}
    names = common(cells.values())
    if not names:
        return "No peer ran in every cell."
    ratios = {name: [cell.paired(name)[1] / bests[key] for key, cell in cells.items()] for name in names}
    name = min(ratios, key=lambda name: max(ratios[name]))
    behind = min(np.mean(np.array(found) > 1.5) for found in ratios.values())
    return (
        f"Each single peer has a cell, of {len(cells)}, where it errs at least {max(ratios[name]):.0f} times as much "
        f"as the best peer there ({shown(name)}), and errs more than 1.5 times as much in {behind:.0%} of them or more."
    )


def _among(cell: Cell, keep: str) -> Cell:
    """The cell with a part of its peers alone."""

    def kept(name: str) -> bool:
        if keep == "diffusers":
            return not name.startswith(("k-diffusion", "IPNDM"))
        return name.startswith(keep)

    return Cell({name: found for name, found in cell.peers.items() if kept(name)}, cell.ours)


def low_table(results: Results, ours: dict[str, Any]) -> str:
    """Of the best peer of each cell in that column, picked on one half: its error, and its SW² less the floor."""

    def entry(cell: Cell) -> str:
        if not cell.peers:
            return ""
        name = cell.best("paired")
        error, distance = cell.paired(name)[1], cell.distance(name)[1]
        return f"{error:.1e}" + (f"; SW² {distance:.1e}" if math.isfinite(distance) else "")

    return by_cell("best peer from σ/α = 10, calls", cells_of(results, ours, "low"), entry)


PORTRAIT = {
    "sliced-wasserstein": "SW² less floor",
    "frechet": "Fréchet",
    "features": "Fréchet (own features)",
    "nearest-data": "to the data",
    "nearest-sample": "from the data",
}


def portrait_table(portraits: dict[str, Any]) -> str:
    rows = []
    for problem, found in portraits.items():
        for method, (figures, gap) in found.items():
            against = "" if method == "default" else f"{gap.value:+.1e} ({gap.low:+.1e} to {gap.high:+.1e})"
            shorter = (f"{figures[name]:.2g}" if name in figures else "" for name in PORTRAIT)
            rows.append([problem, shown(method), *shorter, against])
    return table(("problem", "method", *PORTRAIT.values(), "SW² less the default's"), rows)


def facts_table(facts: dict[str, Any]) -> str:
    rows = [
        [name, f["starts"], 2 * f["samples"], f"{f['error']:.1e}", f"{f['last_step']:.1e}", f"{f['floor']:.1e}"]
        for name, f in facts.items()
    ]
    heads = ("problem", "starts, paired", "samples", "error of the fine run", "of its last step", "floor of SW²")
    return table(heads, rows)


def methods_table(ours: dict[str, Any]) -> str:
    """Median errors at the clean end, over all starts."""
    budgets = sorted({int(calls) for cells in ours.values() for calls in cells["default"]})
    rows = []
    for problem, methods in ours.items():
        for method, cells in methods.items():
            figures = (f"{np.median(cells[str(c)]['clean']):.1e}" if str(c) in cells else "" for c in budgets)
            rows.append([problem, method, *figures])
    return table(("problem", "method, calls", *budgets), rows)
