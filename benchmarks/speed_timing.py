"""How speed.py times: cases take turns in one process, and what is compared was timed in the same turn."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from speed_cases import Case

__all__ = ["Line", "Ratio", "Settings", "fit_line", "interleaved", "median", "ratio", "timed"]

Float64 = NDArray[np.float64]


class Settings(NamedTuple):
    """How long each comparison is measured: for `seconds`, but for `rounds` turns at least."""

    quick: bool = False
    threads: int = 1
    seconds: float = 1.5
    rounds: int = 3

    @property
    def clock(self) -> Callable[[], float]:
        """Processor time where one thread does all, so that neighbours on the machine do not count; else wall time."""
        return time.thread_time if self.threads == 1 else time.perf_counter


class Ratio(NamedTuple):
    """The median of paired ratios, and their quartiles."""

    low: float
    middle: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} ({self.low:.2f} to {self.high:.2f})"


class Line(NamedTuple):
    """µs = a + b·elements, and the case that lies farthest off: by how much of itself, and its elements."""

    a: float
    b: float
    worst: float
    where: int


def timed(case: Case, clock: Callable[[], float]) -> float:
    """One run: its seconds a row."""
    case.prepare()
    began = clock()
    case.run()
    return (clock() - began) / case.rows


def interleaved(cases: Sequence[Case], settings: Settings) -> Float64:
    """µs a row, `(rounds, cases)`. One round runs each case once, every other round in reverse.

    The first round warms up: it counts only where runs are so long that there are few rounds.
    """
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        rounds, began = [], time.perf_counter()
        while len(rounds) < settings.rounds or time.perf_counter() - began < settings.seconds:
            order = range(len(cases)) if len(rounds) % 2 else range(len(cases))[::-1]
            seconds = {i: timed(cases[i], settings.clock) for i in order}
            rounds.append([1e6 * seconds[i] for i in range(len(cases))])
    finally:
        if collecting:
            gc.enable()
    return np.array(rounds[len(rounds) > settings.rounds :])


def median(values: Any) -> float:
    return float(np.median(values))


def ratio(above: Float64, below: Float64) -> Ratio:
    """Of values that were timed in the same rounds."""
    return Ratio(*(float(value) for value in np.quantile(above / below, (0.25, 0.5, 0.75))))


def fit_line(elements: Sequence[int], micros: Sequence[float]) -> Line:
    """The least squares of relative deviations, so that small arrays count as much as large ones."""
    n, t = np.array(elements, float), np.array(micros)
    (a, b), *_ = np.linalg.lstsq(np.stack([1 / t, n / t], 1), np.ones(len(t)), rcond=None)
    off = (a + b * n) / t - 1
    worst = int(np.argmax(np.abs(off)))
    return Line(float(a), float(b), float(off[worst]), int(n[worst]))
