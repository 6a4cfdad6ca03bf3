"""The papers' claims as differences of cells, each with an interval and a verdict that no sign was demanded of.

A difference is of Fréchet distances, lower being better, so a claim of the kind "A is at least as good as B" holds
where A − B lies below 0. Its interval is ± 1.96 standard deviations of the difference of bootstrap draws. The same
samples are drawn for both, since both began with the same noise. The draws' own quantiles would be biased: a draw with
replacement has fewer different samples, and the distance of fewer samples is larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from kept import stored
from paper_cells import DRAWS, METHODS, SEED, Cell, Float64, path_of
from paper_experiments import ENCODE_STEPS, ORDER_STEPS, ORDERS, PREVIEW_TIMES, coarse_and_fine

from pndm_solvers.distances import resampled

MEASURES = ("pixels", "features")
HOLDS, WITHIN, NOT_SHOWN = "holds", "within the interval", "does not show"
CLOSE = 0.25  # how near to the claimed order a measured one counts as it


@dataclass(frozen=True)
class Results:
    """The files of one network."""

    network: str
    count: int

    def file(self, *parts: Any) -> dict[str, Any] | None:
        """Without the samples, which no table needs."""
        path = path_of(self.network, self.count, *parts)
        if path not in _FILES and (found := stored(path)) is not None:
            _FILES[path] = found
        return _FILES.get(path)

    def cell(self, method: str, size: float) -> dict[str, Any] | None:
        return self.file(method, f"{size:g}")

    @cached_property
    def has(self) -> set[Cell]:
        every = (Cell(self.network, name, size) for name, method in METHODS.items() for size in method.sizes)
        return {cell for cell in every if path_of(cell.network, self.count, cell.method, f"{cell.size:g}").exists()}


_FILES: dict[Any, dict[str, Any]] = {}


class Evidence(NamedTuple):
    """One row of the table of claims: a value that is below 0 where the claim holds, and its interval."""

    what: str
    measure: str
    value: float
    low: float
    high: float
    calls: str
    verdict: str


def verdict(low: float, high: float) -> str:
    return HOLDS if high < 0 else NOT_SHOWN if low > 0 else WITHIN


def evidence(what: str, measure: str, value: float, drawn: Float64, calls: str) -> Evidence:
    spread = 1.96 * float(np.std(drawn)) if np.all(np.isfinite(drawn)) else math.nan
    low, high = value - spread, value + spread
    if not math.isfinite(value):  # a method whose samples are not finite is surely not the better one
        return Evidence(what, measure, value, value, value, calls, HOLDS if value < 0 else NOT_SHOWN)
    return Evidence(what, measure, value, low, high, calls, verdict(low, high))


Term = tuple[int, str, float]  # sign, method, size


@dataclass(frozen=True)
class Difference:
    """Σ sign·distance of some cells, on each measure."""

    terms: Sequence[Term]

    def __call__(self, results: Results) -> list[Evidence]:
        found = [(sign, method, size, results.cell(method, size)) for sign, method, size in self.terms]
        if any(cell is None for *_, cell in found):
            return []
        what = " ".join(f"{'+−'[sign < 0]} {named(method, size)}" for sign, method, size, _ in found).removeprefix("+ ")
        calls = " / ".join(str(cell["calls"]) for *_, cell in found if cell)
        rows = []
        for measure in MEASURES:
            with np.errstate(invalid="ignore"):
                value = float(np.sum([sign * cell[measure] for sign, *_, cell in found if cell]))
                drawn = np.sum([sign * cell[f"{measure}-drawn"] for sign, *_, cell in found if cell], axis=0)
            rows.append(evidence(what, measure, value, drawn, calls))
        return rows


def difference(*terms: Term) -> Difference:
    return Difference(terms)


def named(method: str, size: float) -> str:
    return f"{method} at {size:.0e}".replace("e-0", "e-") if method == "PF" else f"{method}-{size:g}"


def encoding_error_falls(results: Results) -> list[Evidence]:
    """The slope of log error against log steps."""
    found = results.file("encoding")
    if found is None:
        return []
    errors = found["errors"]

    def slope(rows: Any) -> float:
        means = np.sqrt((errors[:, rows] ** 2).mean(1))
        return float(np.polyfit(np.log(ENCODE_STEPS), np.log(means), 1)[0])

    drawn = resampled(slope, errors.shape[1], DRAWS, SEED)
    what = f"slope of log error on log steps, {ENCODE_STEPS[0]} to {ENCODE_STEPS[-1]:,}"
    return [evidence(what, "error", slope(slice(None)), drawn, f"2 × {ENCODE_STEPS[0]} to {ENCODE_STEPS[-1]}")]


def unexplained(results: Results) -> tuple[Float64, Float64] | None:
    """What previews leave unexplained of the coarse and of the fine part of the sample, `(times, n)`; 1 is all."""
    found = results.file("previews")
    if found is None:
        return None
    ends = coarse_and_fine(found["samples"])
    parts = []
    for seen, end in zip(coarse_and_fine(found["previews"]), ends, strict=True):
        square = ((seen - end) ** 2).reshape(*seen.shape[:2], -1).mean(-1)
        parts.append(square / end.reshape(len(end), -1).var(0).mean())
    return parts[0], parts[1]


def coarse_comes_first(results: Results) -> list[Evidence]:
    """Over the times from 900 to 100: what is unexplained of the coarse part, minus that of the fine part."""
    parts = unexplained(results)
    if parts is None:
        return []
    kept = [place for place, t in enumerate(PREVIEW_TIMES) if 100 <= t <= 900]
    apart = (np.minimum(parts[0][kept], 1) - np.minimum(parts[1][kept], 1)).mean(0)
    drawn = resampled(lambda rows: float(apart[rows].mean()), len(apart), DRAWS, SEED)
    return [evidence("unexplained of coarse − of fine", "share", float(apart.mean()), drawn, "1000")]


def order_is(name: str, claimed: int) -> Callable[[Results], list[Evidence]]:
    def evaluate(results: Results) -> list[Evidence]:
        found = results.file("orders")
        if found is None:
            return []
        errors = np.array([found[f"{name} {steps}"] for steps in ORDER_STEPS])

        def apart(rows: Any) -> float:
            # Of the median, since a mean would be that of the few starts that lie between two kinds of pictures.
            return float(-np.polyfit(np.log(ORDER_STEPS), np.log(np.median(errors[:, rows], 1)), 1)[0]) - claimed

        value, drawn = apart(slice(None)), resampled(apart, errors.shape[1], DRAWS, SEED)
        row = evidence(f"order of {name} − {claimed}", "error", value, drawn, f"{ORDER_STEPS[0]} to {ORDER_STEPS[-1]}")
        near = HOLDS if abs(value) <= CLOSE else WITHIN if row.low <= 0 <= row.high else NOT_SHOWN
        return [row._replace(verdict=near)]

    return evaluate


# ---------------------------------------------------------------------- claims

# What a complete list speaks of.
SUBJECTS = (
    "50 steps against 1000", "50 steps against 250", "η", "encoding", "interpolation", "few steps",
    "ancestral sampling", "previews", "FON", "PF", "orders",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    subject: str
    source: str
    text: str
    evaluate: Callable[[Results], list[Evidence]] = field(repr=False)


PNDM, DDIM, DDPM = "PNDM", "DDIM", "DDPM"

CLAIMS: Sequence[Claim] = (
    *(
        Claim(
            "50 steps against 1000", PNDM, f"{name} with 50 steps is at least as good as DDIM with 1,000",
            difference((1, name, 50), (-1, "DDIM", 1000)),
        )
        for name in ("F-PNDM", "S-PNDM")
    ),
    *(
        Claim(
            f"50 steps against {steps}", PNDM, f"{name} with 50 steps is {better} DDIM with {steps:,}, clipped",
            difference((1, name, 50), (-1, "DDIM clipped", steps)),
        )
        for steps, better in ((1000, "at least as good as"), (250, "better than"))
        for name in ("F-PNDM", "S-PNDM")
    ),
    *(
        Claim(
            "50 steps against 250", PNDM, f"{name} with 50 steps is better than DDIM with 250",
            difference((1, name, 50), (-1, "DDIM", 250)),
        )
        for name in ("F-PNDM", "S-PNDM")
    ),
    *(
        Claim(
            "η", DDIM, f"with {steps} steps η = 0 is better than η = 1",
            difference((1, "DDIM", steps), (-1, "DDPM", steps)),
        )
        for steps in (10, 20, 50, 100)
    ),
    Claim("η", DDIM, "with 20 steps η = 0 is better than η = 0.5", difference((1, "DDIM", 20), (-1, "DDIM η=0.5", 20))),
    Claim("encoding", DDIM, "the error of encoding and decoding falls with the steps", encoding_error_falls),
    Claim(
        "interpolation", DDIM, "samples half way along arcs of slerp are as good as others",
        difference((1, "DDIM slerp", 50), (-1, "DDIM", 50)),
    ),
    Claim(
        "interpolation", DDIM, "such samples are better than those half way along straight lines",
        difference((1, "DDIM slerp", 50), (-1, "DDIM lerp", 50)),
    ),
    *(
        Claim(
            "few steps", DDIM, f"from 1,000 steps to {steps} DDIM loses less than ancestral sampling",
            difference((1, "DDIM", steps), (-1, "DDIM", 1000), (-1, "DDPM", steps), (1, "DDPM", 1000)),
        )
        for steps in (20, 50, 100)
    ),
    Claim(
        "few steps", DDIM, "DDIM with 50 steps is as good as with 1,000",
        difference((1, "DDIM", 50), (-1, "DDIM", 1000)),
    ),
    Claim(
        "ancestral sampling", DDPM, "with 1,000 steps ancestral sampling is at least as good as DDIM",
        difference((1, "DDPM", 1000), (-1, "DDIM", 1000)),
    ),
    Claim("previews", DDPM, "in the previews the coarse comes before the fine", coarse_comes_first),
    *(
        Claim(
            "FON", PNDM, f"with {steps} steps F-PNDM is better than FON",
            difference((1, "F-PNDM", steps), (-1, "FON", steps)),
        )
        for steps in (10, 20, 50)
    ),
    Claim("PF", PNDM, "F-PNDM is better than the flow by RK45 at about its cost",
          difference((1, "F-PNDM", 50), (-1, "PF", 1e-2))),
    *(
        Claim(
            "orders", PNDM if claimed > 1 else DDIM, f"{name} converges with order {claimed}", order_is(name, claimed)
        )
        for name, (_, claimed) in ORDERS.items()
    ),
)  # fmt: skip

# The cells that claims read.
READ = {term[1:] for claim in CLAIMS if isinstance(claim.evaluate, Difference) for term in claim.evaluate.terms}
