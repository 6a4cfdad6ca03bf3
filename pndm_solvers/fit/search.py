"""The search for a fitted plan: drafts on several grids, of which the better ones go on.

Where the levels lie decides which minimum Gauss–Newton finds. So it begins on several grids: the default's, and grids
that are even in log ρ or in arctan(ρ/s), which are densest about ρ = s, the deviation of the data that they suit. On
each it takes the better of two sets of weights, those of the default's rule or those of least squares. Each draft goes
one round on a few samples, the best three go on with all, and the best of these to its end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from pndm_solvers.fit.draft import HISTORY, Draft
from pndm_solvers.fit.gauss_newton import gauss_newton, typical
from pndm_solvers.fit.least_squares import least_squares
from pndm_solvers.fit.runs import Part, Runner, first_samples
from pndm_solvers.methods import PLMSSolver
from pndm_solvers.plan import Plan
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule

if TYPE_CHECKING:
    from pndm_solvers.fit.pilot import Pilot

__all__ = ["drafts", "expected_calls"]

SCALES = (0.25, 0.5, 1.0, 2.0)  # s of arctan(ρ/s)
FEW = 12  # samples of the first round, or as many as have ten numbers for each of a draft's
BETTER, ROUNDS = 3, 2  # the drafts that go on, and their rounds of derivatives
LAST_ROUNDS, LEAST_GAIN = 4, 0.01  # of the best one; it ends where a round gains less, in the logarithm of the error


def drafts(default: Plan, pilot: Pilot, fitted: Sequence[Part], runner: Runner) -> Iterator[Draft]:
    """Better and better drafts with as many calls as the `default`, from several beginnings."""

    def error(draft: Draft) -> float:
        return typical(runner.errors(draft.plan(), fitted))

    few, ranked = first_samples(fitted, _few(default, pilot)), []
    for levels in grids(default, pilot.schedule):
        ruled = _ruled(default, levels, pilot)
        starts = [ruled, least_squares(Draft.on(pilot.schedule, levels, integral=ruled.integral), pilot, few, runner)]
        start = min(starts, key=lambda draft: typical(runner.errors(draft.plan(), few)))
        draft = next(gauss_newton(start, pilot, few, runner), start)
        yield draft
        ranked.append((error(draft), draft))
    going = []
    for _, draft in sorted(ranked, key=lambda pair: pair[0])[:BETTER]:
        rounds, best = gauss_newton(draft, pilot, fitted, runner), draft
        for best in islice(rounds, ROUNDS):
            yield best
        going.append((error(best), rounds))
    least, rounds = min(going, key=lambda pair: pair[0])
    for draft in islice(rounds, LAST_ROUNDS):
        yield draft
        before, least = least, error(draft)
        if before - least < LEAST_GAIN:
            return


def _ruled(default: Plan, levels: tuple[Level, ...], pilot: Pilot) -> Draft:
    """The library's own rule on these levels."""
    if levels == default.levels:
        return Draft.of(default, pilot.schedule)
    times = np.array([level.t for level in levels[:-1]])
    end: Any = {"stop": levels[-1].t} if levels[-1].sigma else {}
    plan = PLMSSolver(pilot.schedule).plan(timesteps=times.astype(int) if default.integer_times else times, **end)
    return replace(Draft.of(plan, pilot.schedule), levels=levels)


def grids(default: Plan, schedule: NoiseSchedule) -> Iterator[tuple[Level, ...]]:
    """The default's levels, and others between its first and its last call."""
    levels = default.levels
    yield levels
    steps = default.model_calls
    if steps < 3 or levels[-2].ratio >= levels[0].ratio:
        return
    first, last = levels[0].ratio, levels[-2].ratio
    spaced = [np.geomspace(first, last, steps)] if math.isfinite(first) else []
    for scale in SCALES:
        # arctan(∞/s) is π/2, and the first level stays what it is.
        angles = np.linspace(math.atan(first / scale), math.atan(last / scale), steps)
        spaced.append(scale * np.tan(angles))
    for ratios in spaced:
        inner = [schedule.level_at(ratio) for ratio in ratios[1:-1].tolist()]
        if default.integer_times:
            inner = [schedule.level(float(round(level.t))) for level in inner]
        times = [levels[0].t, *(level.t for level in inner), levels[-2].t]
        if all(np.diff(times) < 0):
            yield (levels[0], *inner, *levels[-2:])


def expected_calls(default: Plan, pilot: Pilot, samples: int) -> int:
    """About how many samples the network will be called for, `samples` of them fitted."""
    draft = Draft.on(pilot.schedule, default.levels, integral=default.integer_times)
    one_round = sum(default.model_calls - row - 1 for row in draft.touched) + 5 * default.model_calls
    few = min(_few(default, pilot), samples)
    starts = sum(1 for _ in grids(default, pilot.schedule))
    return one_round * (starts * few + (BETTER * ROUNDS + LAST_ROUNDS // 2) * samples) * 3 // 2


def _few(default: Plan, pilot: Pilot) -> int:
    return max(FEW, 10 * (HISTORY + 1) * default.model_calls // len(pilot.kept))
