"""All numbers of a draft together, for the end alone: Gauss–Newton, its derivatives by forward differences.

The derivatives are those of the ends of the run: one number is moved, and the rest of the run is made anew. Between two
such rounds Broyden's update (1965) of rank one keeps them up to date at no call. Steps are damped (Levenberg 1944,
Marquardt 1963). A sample counts by 1/(error² + a tenth of the median's), so that a few starts that end in another
basin do not rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.fit.draft import Draft
from pndm_solvers.fit.runs import Part, Run, Runner
from pndm_solvers.schedule import Float64

if TYPE_CHECKING:
    from pndm_solvers.fit.pilot import Pilot

__all__ = ["gauss_newton", "typical"]

NUDGE = 2e-3  # of a weight, or of a level in log σ/α, where the network answers in float32
FARTHEST = 0.3  # that a step moves a level in log σ/α
FLOOR = 0.1  # of the median error², beside which a sample's own counts
TINY = 1e-24  # the square of an error that is rounding alone, as of an idle network
ENOUGH = 0.02  # the least gain, in the logarithm of the error, at which the derivatives are used once more


def typical(errors: Float64) -> float:
    """The logarithm of the geometric mean of errors; those that vanish count as a thirtieth of the median."""
    return float(np.mean(np.log(errors**2 + 1e-3 * np.median(errors) ** 2 + TINY)) / 2)


def gauss_newton(draft: Draft, pilot: Pilot, parts: Sequence[Part], runner: Runner) -> Iterator[Draft]:
    """Better and better drafts, one for each round of derivatives, until none is found."""
    damping = 1e-3
    runs, rest = _runs(draft, pilot, parts, runner)
    while True:
        jacobian, before = _jacobian(draft, pilot, parts, runs, runner), draft
        gain = np.inf
        while gain > ENOUGH:
            floor = FLOOR * float(np.median(_rms(rest) ** 2)) + TINY
            for _ in range(5 if draft is before else 2):
                change, size = _step(jacobian, rest, floor, damping)
                free = draft.free_levels
                change[len(change) - free :] = change[len(change) - free :].clip(-FARTHEST, FARTHEST)
                trial = draft.at(draft.numbers + change)
                if trial is not None:
                    runs_there, rest_there = _runs(trial, pilot, parts, runner)
                    gain = _cost(rest, floor) - _cost(rest_there, floor)
                    if np.isfinite(rest_there).all() and gain > 0:
                        break
                damping *= 5
            else:
                break
            along = change * size**2 / ((change * size) @ (change * size))
            missed = rest_there - rest - np.tensordot(jacobian, change.astype(np.float32), (1, 0))
            jacobian += missed[:, None] * along.astype(np.float32)[:, None]
            draft, runs, rest = trial, runs_there, rest_there
            damping /= 4
        if draft is before:
            return
        yield draft


def _cost(rest: NDArray[np.float32], floor: float) -> float:
    """What is minimised: the mean over the samples of log √(error² + floor)."""
    return float(np.mean(np.log(_rms(rest).astype(np.float64) ** 2 + floor))) / 2


def _step(
    jacobian: NDArray[np.float32], rest: NDArray[np.float32], floor: float, damping: float
) -> tuple[Float64, Float64]:
    """The damped step of least squares, each sample weighted as `_cost` weighs its square; and each column's size."""
    trust = 1 / (_rms(rest).astype(np.float64) ** 2 + floor)
    trust = (trust / trust.sum()).astype(np.float32)[:, None, None] / rest.shape[1]
    weighted = jacobian * trust
    normal = np.tensordot(weighted, jacobian, ((0, 2), (0, 2))).astype(np.float64)
    slope = np.tensordot(weighted, rest, ((0, 2), (0, 1))).astype(np.float64)
    size = np.sqrt(np.diag(normal)).clip(1e-12)
    return -np.linalg.solve(normal / np.outer(size, size) + damping * np.eye(len(size)), slope / size) / size, size


def _runs(draft: Draft, pilot: Pilot, parts: Sequence[Part], runner: Runner) -> tuple[list[Run], NDArray[np.float32]]:
    """The parts' runs, and what separates their ends from the flow's, `(B, kept)`."""
    plan = draft.plan()
    with np.errstate(all="ignore"):
        runs = [runner.run(plan, part) for part in parts]
        rest = [(run.end - part.ends)[:, pilot.kept] for run, part in zip(runs, parts, strict=True)]
        return runs, np.concatenate(rest).astype(np.float32)


def _jacobian(
    draft: Draft, pilot: Pilot, parts: Sequence[Part], runs: Sequence[Run], runner: Runner
) -> NDArray[np.float32]:
    """The derivatives of the ends by the draft's numbers, `(B, numbers, kept)`."""
    numbers, moved = draft.numbers, []
    nudge = max(NUDGE, _epsilon(parts[0]) ** 0.5)
    for i, row in enumerate(draft.touched):
        for step in (nudge, -nudge):  # backwards, where a level has no room
            trial = draft.at(numbers + step * (np.arange(len(numbers)) == i))
            if trial is not None:
                moved.append((i, row, step, trial.plan()))
                break
    found = []
    for part, run in zip(parts, runs, strict=True):
        columns = np.zeros((len(part.rows), len(numbers), len(pilot.kept)), np.float32)
        for i, row, step, plan in moved:
            state = runner.state(plan, part, run.states[: row + 1], run.answers[: row + 1])
            columns[:, i] = (runner.end(state) - run.end)[:, pilot.kept] / step
        found.append(columns)
    return np.nan_to_num(np.concatenate(found), nan=0.0, posinf=0.0, neginf=0.0)  # no step along what overflows


def _epsilon(part: Part) -> float:
    """The relative rounding of what the network receives."""
    state = part.start
    return float(state.library.namespace(state.states[0]).finfo(state.dtype).eps)


def _rms(rest: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.sqrt((rest**2).mean(1))
