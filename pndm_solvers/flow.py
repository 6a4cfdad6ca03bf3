"""Where the probability-flow ODE leads: exactly, for a distribution, or by a fine run of a network."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.advice import advise_on_reference
from pndm_solvers.analytic import Distribution
from pndm_solvers.arrays import library
from pndm_solvers.methods import PLMSSolver
from pndm_solvers.observers import Step
from pndm_solvers.schedule import Level

if TYPE_CHECKING:
    from pndm_solvers.problem import Problem

__all__ = ["ExactFlow", "FineRun", "Flow", "Reference"]

Float64 = NDArray[np.float64]

FINE_ORDER = 2  # of the method of a fine run


@dataclass(frozen=True, eq=False)
class Reference:
    """The end points of the flow from some starts, and how well they are known.

    Attributes
    ----------
    begin, ends:
        The starts `(B, …)` and the points to which the flow carries them, arrays of the problem's library.
    error:
        The estimated error of `ends`: the median over the samples of its root mean square; 0 for an exact flow.
    last_step:
        By how much the step below the lowest trained level, where no network can be called, depends on the method: the
        median distance of `ends` to those of Euler's last step. 0 for an exact flow, and for an end above that level.
    calls:
        The model calls of the run that made them; 0 for an exact flow.
    """

    begin: Any = field(repr=False)
    ends: Any = field(repr=False)
    error: float = 0.0
    last_step: float = 0.0
    calls: int = 0

    @property
    def limit(self) -> float:
        """The distance to `ends` below which figures show nothing: the larger of the two."""
        return max(self.error, self.last_step)

    def errors(self, result: Any) -> Float64:
        """The root-mean-square distance of each sample of `result` `(B, …)` to its end, `(B,)` float64."""
        return distance(result, self.ends)


class Flow(Protocol):
    """How a problem finds where the probability-flow ODE leads."""

    def __call__(self, problem: Problem, x: Any, here: Level, there: Level) -> Reference:
        """The flow's end points from `x` `(B, …)` at the level `here` to the level `there`."""
        ...

    def draws(self, problem: Problem, x: Any, seed: int, end: Level) -> Any:
        """As many samples at the level `end` as `x` has rows, of starts that `seed` draws."""
        ...


@dataclass(frozen=True)
class ExactFlow:
    """The flow of a distribution, in closed form or by an integration with a tolerance of 1e-10."""

    distribution: Distribution

    def __call__(self, problem: Problem, x: Any, here: Level, there: Level) -> Reference:
        lowest = problem.schedule.level(problem.schedule.t_min)
        # By way of the lowest level, which other references pass as well.
        through = [lowest, there] if there == problem.schedule.clean and here.t > lowest.t else [there]
        ends = x
        for level in through:
            ends, here = self.distribution.flow(ends, here, level), level
        return Reference(x, ends)

    def draws(self, problem: Problem, x: Any, seed: int, end: Level) -> Any:
        """Draws of the distribution with the noise of the level."""
        pictures = self.distribution.sample(len(x), seed)
        noise = np.random.default_rng([seed, 1]).standard_normal(pictures.shape)
        return end.alpha * pictures + end.sigma * noise


@dataclass(frozen=True)
class FineRun:
    """The flow of a network, by a run of many steps. A run of half as many gives its error.

    Attributes
    ----------
    calls:
        The model calls of the finer run. Both runs together take one and a half times as many.
    progress:
        Whether to show a bar, and to print the estimated error, on stderr.
    """

    calls: int = 512
    progress: bool = False

    def __call__(self, problem: Problem, x: Any, here: Level, there: Level) -> Reference:
        half, _ = self._run(problem, x, self.calls // 2, here, there, "1 of 2")
        ends, by_euler = self._run(problem, x, self.calls, here, there, "2 of 2")
        size = float(np.sqrt(np.mean(library(ends).numbers(ends) ** 2)))
        if not math.isfinite(size):
            raise ValueError(
                f"the fine run of {problem.name} from t = {here.t:g} ends at samples that are not finite; check the "
                f"network, its prediction= and its schedule, or begin below the level where it overflows"
            )
        advise_on_reference(problem.name, size, problem.prediction.type)
        # A method of order p loses 2^p − 1 of 2^p parts of its error when the steps are halved.
        error = float(np.median(distance(half, ends))) / (2**FINE_ORDER - 1)
        last_step = float(np.median(distance(by_euler, ends))) if there.sigma == 0 else 0.0
        if self.progress:
            also = f", that of its last step up to {last_step:.1e}" if last_step else ""
            print(
                f"{problem.name}: a reference of {self.calls} model calls from t = {here.t:g} to {there.t:g}, its own "
                f"error about {error:.1e}{also}",
                file=sys.stderr,
            )
        return Reference(x, ends, error, last_step, self.calls)

    def draws(self, problem: Problem, x: Any, seed: int, end: Level) -> Any:
        """The ends of a fine run from other starts."""
        top = problem.schedule.level(problem.schedule.t_max)
        return self._run(problem, problem.starts(seed=seed), self.calls, top, end, "of other starts")[0]

    def _run(self, problem: Problem, x: Any, calls: int, here: Level, there: Level, which: str) -> tuple[Any, Any]:
        """The sample, and x̂_0 of the last call: where Euler's step would end."""
        solver = PLMSSolver(problem.schedule, order=FINE_ORDER)
        clean = there == problem.schedule.clean
        end: Any = {"final": "clean"} if clean else {"stop": there.t}
        upwards = there.t > here.t and not clean
        spacing = "linspace" if upwards else "quadratic"
        plan = solver.plan(max_model_calls=calls, spacing=spacing, start=here.t, **end)
        plan = replace(plan, name=f"{problem.name}: fine run {which}")
        last: list[Any] = []

        def keep(step: Step) -> None:
            if step.state.done:
                last.append(step.x0)

        return problem.run(plan, x, callback=keep, progress=self.progress), last[0]


def distance(a: Any, b: Any) -> Float64:
    """The root-mean-square difference of each sample, `(B,)`."""
    difference = library(a).numbers(a) - library(b).numbers(b)
    return np.sqrt((difference.reshape(len(difference), -1) ** 2).mean(1))
