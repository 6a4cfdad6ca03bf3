"""What speed.py finds, as Markdown tables, as a picture, and as a page."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from speed_cases import SHAPES, classical
from speed_costs import Memory, Share
from speed_timing import Line, Ratio, Settings, fit_line, median, ratio
from tables import fill_page, heading, table
from work_precision_tables import geometric

__all__ = [
    "Compared",
    "Costs",
    "Found",
    "Imports",
    "Planned",
    "Rows",
    "Swept",
    "Used",
    "facts",
    "section",
    "shown",
    "write_page",
]

# The targets, as ratios of the peer's time to ours; the last is a part of the run.
CORE_EACH, CORE_MEAN, STEP_EACH, OUTSIDE = 4.0, 5.0, 2.0, 0.01

IN_CACHE = 262_144  # elements up to which the arrays of a run mostly fit into the cache of one core
CALLS = ("five array calls", "one copy")  # what a row of PLMS does with arrays

# ------------------------------------------------------------------ what was found


class Compared(NamedTuple):
    """Ours and a peer's median µs a row, and the ratio of theirs to ours."""

    name: str
    peer: str
    shape: tuple[int, ...]
    ours: float
    theirs: float
    ratio: Ratio
    rounds: int


class Costs(NamedTuple):
    """µs a row: ours and the bare array calls', and the ratios of ours to each."""

    shape: tuple[int, ...]
    ours: float
    bare: list[float]
    ratios: list[Ratio]


class Swept(NamedTuple):
    """Median µs a row by the names of the cases."""

    kind: str
    elements: int
    batch: int
    micros: dict[str, float]


class Rows(NamedTuple):
    """µs a row in the first and the last third of a plan."""

    length: int
    first: float
    last: float
    ratio: Ratio


class Planned(NamedTuple):
    """Median µs: of something new, in between, and again."""

    name: str
    micros: tuple[float, ...]


class Imports(NamedTuple):
    """Wall and processor seconds of NumPy alone, and of the package after NumPy: `(processes, 2)`."""

    numpy: np.ndarray
    package: np.ndarray


class Used(NamedTuple):
    """The memory of a run; `fresh` says that the network allocates its answers."""

    name: str
    fresh: bool
    memory: Memory


@dataclass
class Found:
    """All that was measured, in the order in which it was."""

    core: list[Compared] = field(default_factory=list)
    schedulers: list[Compared] = field(default_factory=list)
    bounds: list[Costs] = field(default_factory=list)
    sweep: list[Swept] = field(default_factory=list)
    rows: list[Rows] = field(default_factory=list)
    lengths: list[tuple[int, float]] = field(default_factory=list)
    plans: list[Planned] = field(default_factory=list)
    timesteps: list[Planned] = field(default_factory=list)
    imports: list[Imports] = field(default_factory=list)
    memory: list[Used] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)


# ------------------------------------------------------------------ how figures are written


def shown(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def digits(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{round(value, 2 - int(np.log10(abs(value)))):,.0f}"


def held(holds: bool) -> str:
    return "yes" if holds else "**no**"


def facts(settings: Settings) -> str:
    """Where the figures come from: the heading of every benchmark, the processor, threads, and how busy it is."""
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    name = models[0].partition(":")[2].strip() if models else platform.processor()
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    first, command = heading("numpy", "torch", "diffusers", "k-diffusion").split("\n")
    threads = f"{settings.threads} thread{'s'[: settings.threads > 1]}"
    return f"{command}: {first}, Python {platform.python_version()}, {name}, {threads}{load}."


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


# ------------------------------------------------------------------ tables


def compared(head: str, second: str, found: Sequence[Compared], target: float) -> str:
    rows = [
        [
            each.name,
            each.peer,
            shown(each.shape),
            digits(each.ours),
            digits(each.theirs),
            f"{each.ratio} in {each.rounds}",
            held(each.ratio.middle >= target),
        ]
        for each in found
    ]
    ratios = "theirs / ours, turns"
    heads = (head, second, "shape", "ours, µs a row", "theirs, µs a row", ratios, f"at least {target:g}?")
    return table(heads, rows)


def core_table(found: Found) -> str:
    """A run beside an idle network, 50 steps, float32"""
    parts = [compared("method", "peer", found.core, CORE_EACH)]
    ratios = [each.ratio.middle for each in found.core if each.peer == found.core[0].peer]
    if len(ratios) == len(SHAPES):
        mean = geometric(ratios)
        target = f"At least {CORE_MEAN:g}: {held(mean >= CORE_MEAN)}."
        parts.append(f"PLMS beside diffusers' PNDM, geometric mean over the shapes: {mean:.2f}. {target}")
    parts.append(_count(found.core, CORE_EACH))
    return "\n\n".join(parts)


def _count(found: Sequence[Compared], target: float) -> str:
    count = sum(each.ratio.middle >= target for each in found)
    return f"{count} of {len(found)} rows reach {target:g}."


def schedulers_table(found: Found) -> str:
    """Our schedulers beside diffusers', 50 steps, float32"""
    return (
        f"{compared('scheduler', 'called with', found.schedulers, STEP_EACH)}\n\n{_count(found.schedulers, STEP_EACH)}"
    )


def bounds_table(found: Found) -> str:
    """Classical PLMS beside bare array calls, float32"""
    names = ("one copy_", "five calls", "one addmv")
    heads = ("shape", "ours, µs a row", *(f"{name}, µs" for name in names), *(f"ours / {name}" for name in names))
    rows = [[shown(c.shape), digits(c.ours), *map(digits, c.bare), *c.ratios] for c in found.bounds]
    return table(heads, rows)


def sweep_table(found: Found) -> str:
    """Classical PLMS by size: µs a row, and µs = a + b·elements"""
    kinds = list(dict.fromkeys(each.kind for each in found.sweep))
    batches = sorted({each.batch for each in found.sweep})
    cells = {(s.kind, s.elements, s.batch): s.micros["ours"] for s in found.sweep}
    heads = ("elements", *(f"{kind}, batch {batch}" for kind in kinds for batch in batches))
    rows = []
    for size in sorted({each.elements for each in found.sweep}):
        entries = (cells.get((kind, size, batch)) for kind in kinds for batch in batches)
        rows.append([f"{size:,}", *("" if entry is None else digits(entry) for entry in entries)])
    lines = []
    for kind in kinds:
        of_kind = [each for each in found.sweep if each.kind == kind]
        parts = {
            f"{kind}, in the cache": [s for s in of_kind if s.elements <= IN_CACHE],
            f"{kind}, beyond it": [s for s in of_kind if s.elements >= IN_CACHE],
        }
        for name, part in parts.items():
            if len({each.elements for each in part}) > 1:
                lines.append(_fit(name, fit_line([s.elements for s in part], [s.micros["ours"] for s in part])))
    fits = table(("arrays", "a, µs", "b, µs for a million elements", "worst deviation of the line"), lines)
    return "\n\n".join([table(heads, rows), fits, *_beside_calls(found)])


def _beside_calls(found: Found) -> Iterator[str]:
    """A row's cost against that of the calls it makes, timed in the same turns: five sums and a copy of the answer."""
    pictured = [each for each in found.sweep if CALLS[0] in each.micros]
    if len(pictured) > 2:
        calls = [sum(each.micros[name] for name in CALLS) for each in pictured]
        line = fit_line(calls, [each.micros["ours"] for each in pictured])
        heads = ("elements", *(f"{each.elements:,}" for each in pictured))
        ratios = (f"{each.micros['ours'] / bare:.2f}" for each, bare in zip(pictured, calls, strict=True))
        yield table(heads, [["a row / its six calls made bare", *ratios]])
        yield (
            f"By the line through these, a row of torch float32 costs {line.a:.1f} µs and {line.b:.2f} times its six "
            f"calls (five sums and a copy). The worst deviation is {100 * line.worst:+.0f} %."
        )


def _fit(kind: str, line: Line) -> list[str]:
    return [kind, f"{line.a:.1f}", f"{1e6 * line.b:.0f}", f"{100 * line.worst:+.0f} % at {line.where:,} elements"]


def rows_table(found: Found) -> str:
    """Cost by a row's place and by the length of a plan, classical PLMS, 1×4×64×64"""
    heads = ("rows of the plan", "first third, µs a row", "last third, µs a row", "last / first")
    parts = [table(heads, [[f"{r.length:,}", digits(r.first), digits(r.last), r.ratio] for r in found.rows])]
    if found.lengths:
        parts.append(
            table(
                ("rows of the plan", *(f"{length:,}" for length, _ in found.lengths)),
                [["whole run, µs a row", *(digits(micros) for _, micros in found.lengths)]],
            )
        )
        line = fit_line([length for length, _ in found.lengths], [length * micros for length, micros in found.lengths])
        parts.append(
            f"By the line through the four, a run takes {digits(line.a)} µs, and {digits(line.b)} µs for each row."
        )
    return "\n\n".join(parts)


def planning_table(found: Found) -> str:
    """Planning, in milliseconds"""
    heads = "`solver.plan`", "on a new schedule", "with new options", "the same plan again"
    parts = [table(heads, map(_milliseconds, found.plans))]
    heads = ("`set_timesteps(50)`", *(f"{who}, {when}" for when in ("new scheduler", "again") for who in _WHO))
    parts += [table(heads, map(_milliseconds, found.timesteps))] if found.timesteps else []
    return "\n\n".join(parts)


def _milliseconds(planned: Planned) -> list[str]:
    return [planned.name, *(digits(micros / 1e3) for micros in planned.micros)]


_WHO = ("diffusers", "ours")


def imports_table(found: Found) -> str:
    """Import"""
    each = found.imports[0]
    rows = [
        [clock, f"{1e3 * median(alone):.0f}", f"{1e3 * median(beyond):.0f}", ratio(beyond, alone)]
        for clock, alone, beyond in zip(("wall", "processor"), each.numpy.T, each.package.T, strict=True)
    ]
    return (
        f"{table(('time', '`import numpy`, ms', '`import pndm_solvers` after it, ms', 'after it / NumPy'), rows)}\n\n"
        f"Medians of {len(each.numpy)} fresh processes of each kind, which took turns."
    )


def memory_table(found: Found) -> str:
    """Memory, in arrays of the sample's size, 16×3×64×64, float32"""
    heads = ("run", "the network's answer is", "peak", "arrays allocated a row", "smaller allocations a row")
    rows = []
    for each in found.memory:
        answer = "a new array, counted too" if each.fresh else "laid out before, not counted"
        others = "not seen" if each.memory.others is None else f"{each.memory.others:.1f}"
        rows.append([each.name, answer, f"{each.memory.peak:.2f}", f"{each.memory.arrays:.1f}", others])
    stored = classical(40).max_stored
    return (
        f"{table(heads, rows)}\n\nThe plan's `max_stored` is {stored}; with the sample that is returned that makes "
        f"{stored + 1}. NumPy's allocations cannot be counted, so its column says what a row takes at most beyond what "
        f"it keeps."
    )


def networks_table(found: Found) -> str:
    """The part of a run outside the network, exact PLMS on the bundled networks"""
    heads = ("network", "batch", "calls", "seconds", "outside the network", f"below {OUTSIDE:.0%}?")
    rows = [
        [s.network, s.batch, s.calls, digits(s.seconds), f"{100 * s.outside:.2f} %", held(s.outside < OUTSIDE)]
        for s in found.shares
    ]
    return table(heads, rows)


TABLES: dict[str, tuple[Callable[[Found], str], str]] = {
    "core": (core_table, "core"),
    "schedulers": (schedulers_table, "schedulers"),
    "bounds": (bounds_table, "bounds"),
    "sweep": (sweep_table, "sweep"),
    "rows": (rows_table, "rows"),
    "planning": (planning_table, "plans"),
    "imports": (imports_table, "imports"),
    "memory": (memory_table, "memory"),
    "networks": (networks_table, "shares"),
}


def section(name: str, found: Found) -> str:
    """A section with its title; empty where nothing of it was measured."""
    make, needs = TABLES[name]
    return f"### {make.__doc__}\n\n{make(found)}" if getattr(found, needs) else ""


# ------------------------------------------------------------------ the page

SCRIPT = "speed.py"
CURVES = {"ours": "ours", "diffusers PNDMScheduler": "diffusers' PNDMScheduler", "five array calls": "five array calls"}
CURVES |= {"one addmv": "one addmv", "one copy": "one copy: memory bandwidth"}


def picture(found: Found, path: Path) -> None:
    """µs a row against elements, both on logarithmic axes: ours, diffusers', bare calls, bandwidth."""
    together = [each for each in found.sweep if len(each.micros) > 1]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for (name, label), marker in zip(CURVES.items(), "osv^.", strict=True):
        axes.loglog([e.elements for e in together], [e.micros[name] for e in together], marker=marker, label=label)
    axes.set(xlabel="elements of the sample", ylabel="µs a row", title="Classical PLMS, torch float32, batch 1")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def write_page(path: Path, settings: Settings, found: Found, minutes: float) -> None:
    """Puts the tables between the page's markers, and the picture beside the others."""
    picture(found, path.parents[1] / "images" / "performance.png")
    texts = [f"{facts(settings)} {minutes:.1f} minutes.", *(section(name, found) for name in TABLES)]
    body = "\n\n".join(filter(None, texts))
    fill_page(path, SCRIPT, body)
