"""An estimate of a run's error from the run's own answers: it makes no model call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pndm_solvers.arrays import combine, library
from pndm_solvers.methods.adams import exact_weights
from pndm_solvers.observers import Step
from pndm_solvers.prediction import conversion
from pndm_solvers.schedule import Float64, Level
from pndm_solvers.transfer import transfer_weights

__all__ = ["ErrorEstimate", "StepError"]

# A point of the solution: (level, state, answer, the answer's space).
_Point = tuple[Level, Any, Any, str]

# Above this σ/α a picture is hardly begun.
NOISY = 10.0


@dataclass(frozen=True)
class StepError:
    """The estimated error that one step has added.

    Attributes
    ----------
    here, there:
        The levels between which the step ran.
    error:
        Root mean square over a sample's dimensions, in x's own units at the level `there`, `(B,)`.
    """

    here: Level
    there: Level
    error: Float64


@dataclass(repr=False)
class ErrorEstimate:
    """A callback that estimates the local error of each step, from the answers that the run has anyway.

    After a step the network answers at its end too. The polynomial through this answer and up to three
    earlier ones integrates ε over the step more accurately than a formula that had only the past. The
    estimate is the difference between the polynomial's end and the step's end (as for embedded formulas;
    Hairer, Nørsett and Wanner, *Solving ODEs I*, section III.1). The last step of a run has no answer at its
    end. The estimate compares it with the two highest polynomials through the past, and is nan where there is
    none. Stages of Runge–Kutta are no points of the solution, so the estimate passes over them. It is for
    deterministic plans, of any solver.

    >>> import numpy as np
    >>> from pndm_solvers import ErrorEstimate, NoiseSchedule, PLMSSolver
    >>> estimate = ErrorEstimate()
    >>> plan = PLMSSolver(NoiseSchedule.linear()).plan(10)
    >>> x0 = plan.run(lambda x, t: x, np.ones((2, 3)), callback=estimate)
    >>> len(estimate.steps), estimate.total.shape
    (10, (2,))

    Attributes
    ----------
    steps:
        One `StepError` a step, in order; the newest is known one model call late.
    total:
        The estimated error of the sample, `(B,)`, root mean square over its dimensions. None before the end of the run,
        and where the estimate did not see the first row, as in a run that went on from a checkpoint. It is the sum of
        the steps' errors, with their signs, and the last step's with the one that makes it larger. Each is scaled as
        the flow scales the spread of the states over the batch, which is right on Gaussian data. On data in separate
        modes the flow draws distances together, and the total is some two to four times too high. For a single sample
        it is so too, since the spread over its dimensions contains its mean. The total is made for data of deviations
        from 0.1 to 1; on others it can be far too low, where signs happen to cancel. For a number to rely on,
        `Solver.plan_within` compares runs.
    """

    steps: list[StepError] = field(default_factory=list, init=False)
    total: Float64 | None = field(default=None, init=False)
    _points: list[_Point] = field(default_factory=list, init=False)
    # The steps' errors, carried on to the newest point, or None unless every row was seen; and the row expected next.
    _carried: Any = field(default=None, init=False)
    _expected: int = field(default=0, init=False)

    # How many answers a polynomial goes through at most, the one at the step's end included.
    _NODES = 4

    def __repr__(self) -> str:
        if self.total is None:
            return f"<ErrorEstimate, {len(self.steps)} steps so far>"
        return f"<ErrorEstimate, {len(self.steps)} steps, error of the sample about {np.median(self.total):.1e}>"

    def __call__(self, step: Step) -> None:
        if not isinstance(step, Step):
            raise TypeError(f"step is a {type(step).__name__}; pass the estimate itself as callback=, to run or sample")
        plan = step.state.plan
        if plan.is_stochastic:
            raise ValueError(f"{plan.name} draws noise, so its steps have no single right end to be compared with")
        x = step.x
        if not library(x).has_numbers(x):
            raise ValueError("an estimate looks at the numbers of x, which has none on the meta device and in jax.jit")
        if step.row == 0 or step.row != self._expected:
            self.steps, self.total, self._points = [], None, []
            self._carried = _sum([(x, 0.0)]) if step.row == 0 else None
        self._expected = step.row + 1
        if step.row == 0 or not plan.rows[step.row - 1].stage:
            row = plan.rows[step.row]
            here = row.level
            self._points = points = [(here, x, step.answer, row.space), *self._points][: self._NODES + 1]
            if len(points) > 1:
                self._add(points[1], here, x, _difference(points[1], here, x, points[: self._NODES]))
        if step.state.done:
            points, x = self._points, step.state.x
            # The step's own formula may be one of the two highest polynomials through the past, but not both.
            counts = (len(points), len(points) - 1) if len(points) > 1 else ()
            found = [_difference(points[0], plan.end, x, points[:count]) for count in counts]
            error = max(found, key=lambda error: _rms(error).sum()) if found else x * float("nan")
            self._add(points[0], plan.end, x, error)
            if self._carried is not None:  # of the last step's guess not even the sign is sure
                other = _sum([(self._carried, 1.0), (error, -2.0)])
                self.total = np.maximum(_rms(self._carried), _rms(other))
            self._points, self._carried, self._expected = [], None, 0

    def _add(self, origin: _Point, there: Level, reached: Any, error: Any) -> None:
        here, x, *_ = origin
        self.steps.append(StepError(here, there, _rms(error)))
        if self._carried is not None:
            self._carried = _sum([(self._carried, _growth(x, reached)), (error, 1.0)])


def _growth(before: Any, after: Any) -> float:
    """The factor by which the flow scales distances from one point of the solution to the next."""
    # One sample, or copies of one, have no spread over the batch. Then that over the dimensions counts, or the length.
    spreads = zip(_spreads(before), _spreads(after), strict=True) if 0 not in before.shape else ()
    return next((then / now for now, then in spreads if now), 1.0)


def _spreads(x: Any) -> Iterator[float]:
    """Root mean squares: over the batch about its mean, over the dimensions about each sample's, and about zero."""
    ours = library(x)
    xp, flat = ours.namespace(x), ours.wide(x)
    flat = xp.reshape(flat, (x.shape[0], math.prod(x.shape[1:])))
    for axis, first in ((0, flat[:1, :]), (1, flat[:, :1])):
        apart = flat - first  # so that copies are exactly as one
        yield _size(apart - xp.mean(apart, axis=axis, keepdims=True))
    yield _size(flat)


def _size(x: Any) -> float:
    return math.sqrt(np.mean(_rms(x) ** 2))


def _difference(origin: _Point, there: Level, reached: Any, points: list[_Point]) -> Any:
    """The end of the polynomial that leads from `origin` through the answers at `points`, minus `reached`."""
    here, x, *_ = origin
    if here.ratio < NOISY or points[0] is origin:
        ratios = [level.ratio for level, *_ in points]
        space, weights = here.space, exact_weights(ratios, here.ratio, there.ratio)
    else:
        # Near pure noise the predicted picture is what changes evenly, in α/σ: both ends count alike.
        points, space, weights = [origin, points[0]], "sample", (0.5, 0.5)
    p, q = transfer_weights(here, there, space)
    terms = [(x, p)]
    for (level, state, answer, given), weight in zip(points, weights, strict=True):
        of_state, of_answer = conversion(given, space, level.alpha, level.sigma) if weight else (0.0, 0.0)
        terms += [(state, weight * q * of_state), (answer, weight * q * of_answer)]
    return _sum([*((array, w) for array, w in terms if w), (reached, -1.0)])


def _sum(terms: list[tuple[Any, float]]) -> Any:
    arrays, weights = zip(*terms, strict=True)
    return combine(arrays, weights)


def _rms(x: Any) -> Float64:
    return library(x).root_mean_square(x)
