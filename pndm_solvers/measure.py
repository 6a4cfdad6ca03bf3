"""Measuring solvers at each budget of model calls: the error of each sample, or the distance of all to the data."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.advice import advise_on_sets
from pndm_solvers.arguments import choice, whole
from pndm_solvers.arrays import library
from pndm_solvers.distances import resampled
from pndm_solvers.flow import Reference
from pndm_solvers.methods import SOLVERS
from pndm_solvers.orders import check_deterministic, check_schedule
from pndm_solvers.problem import Problem
from pndm_solvers.solver import Solver
from pndm_solvers.spacings import DEFAULT_SPACING, SPACINGS, Spacing

__all__ = ["CALLS", "MEASURES", "STANDARD", "Curve", "Estimate", "compare", "difference", "estimate"]

Float64 = NDArray[np.float64]

# ------------------------------------------------------------------ measures

# Of one sampler's results: indices of samples, with repetition or without, -> one figure
Statistic = Callable[[NDArray[np.intp]], float]


def _paired(problem: Problem, samples: Float64, reference: Reference | None, final: str) -> Statistic:
    assert reference is not None
    errors = reference.errors(samples)
    errors = np.where(np.isfinite(errors), errors, math.inf)
    return lambda chosen: float(np.median(errors[chosen]))


def _sliced_wasserstein(problem: Problem, samples: Float64, reference: Reference | None, final: str) -> Statistic:
    target, floor = problem.target(final), problem.floor(final)
    projected = target.project(samples)
    return lambda chosen: target.sliced_wasserstein_of(projected[chosen]) - floor


def _frechet(problem: Problem, samples: Float64, reference: Reference | None, final: str) -> Statistic:
    target = problem.target(final)
    return lambda chosen: target.frechet(samples[chosen])


def _to_data(problem: Problem, samples: Float64, reference: Reference | None, final: str) -> Statistic:
    distances = problem.target(final).between(samples).min(1)
    return lambda chosen: float(distances[chosen].mean())


def _from_data(problem: Problem, samples: Float64, reference: Reference | None, final: str) -> Statistic:
    between = problem.target(final).between(samples)
    return lambda chosen: float(between[np.unique(chosen)].min(0).mean())


# By name; the first compares each sample with its own right end, the others sets of samples with `Problem.target`.
MEASURES: dict[str, Callable[[Problem, Float64, Reference | None, str], Statistic]] = {
    "paired": _paired,
    "sliced-wasserstein": _sliced_wasserstein,
    "frechet": _frechet,
    "nearest-data": _to_data,
    "nearest-sample": _from_data,
}


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval of 90 %, by the bootstrap over the starts."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.low:.4g} to {self.high:.4g})"


def estimate(
    problem: Problem,
    samples: Any,
    reference: Reference | None = None,
    measure: str = "paired",
    final: str = "clean",
    *,
    intervals: bool = True,
) -> Estimate:
    """How far the samples `(B, …)` are from where they should be, by one of `MEASURES`.

    - "paired": the median over the starts of the root-mean-square distance to the flow's end from the same start.
    - "sliced-wasserstein": SW² to `problem.target`, less `problem.floor`, so that perfect samples have 0 in the mean;
      in squared units of x.
    - "frechet": the Fréchet distance to the target, on the numbers of x.
    - "nearest-data": the mean distance of a sample to the nearest point of the target; low for samples that look right.
    - "nearest-sample": the mean distance of the target's points to the nearest sample; high where some are missing.

    `reference` is that of the level where the samples began, for the paired figure; by default the highest. Samples
    that are not finite make the figure infinite, the paired one if they are more than half. Without `intervals`, which
    take a hundred times as long, they have no width. Raises ValueError for an unknown measure.
    """
    numbers = library(samples).numbers(samples)
    if measure != "paired" and not np.isfinite(numbers).all():
        return Estimate(math.inf, math.inf, math.inf)
    with np.errstate(all="ignore"):
        return _estimated(_statistic(problem, numbers, reference, measure, final), len(numbers), intervals)


def difference(problem: Problem, a: Any, b: Any, measure: str = "sliced-wasserstein", final: str = "clean") -> Estimate:
    """The figure of the samples `a` less that of `b`, both `(B, …)` from the same starts at the highest level.

    The bootstrap draws the same starts for both, so that what both have in common cancels: equal samples give 0 with
    an interval of no width. Raises ValueError for an unknown measure.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} samples and b has {len(b)}; both must be from the same starts")
    one, other = (_statistic(problem, library(samples).numbers(samples), None, measure, final) for samples in (a, b))
    return _estimated(lambda chosen: one(chosen) - other(chosen), len(a))


def _statistic(problem: Problem, samples: Float64, reference: Reference | None, measure: str, final: str) -> Statistic:
    if measure == "paired" and reference is None:
        reference = problem.reference(final=final)
    return MEASURES[choice("measure", measure, MEASURES)](problem, samples, reference, final)


def _estimated(statistic: Statistic, count: int, intervals: bool = True) -> Estimate:
    value = statistic(np.arange(count))
    if not intervals:
        return Estimate(value, value, value)
    if not math.isfinite(value):
        return Estimate(math.inf, math.inf, math.inf)
    draws = resampled(statistic, count)
    draws = draws[np.isfinite(draws)]
    # About their own mean: a draw with repetition is farther from everything than the set that it is drawn from.
    low, high = np.quantile(draws, [0.05, 0.95]) - draws.mean() if draws.size else (0.0, 0.0)
    return Estimate(value, float(value + min(low, 0)), float(value + max(high, 0)))


# ------------------------------------------------------------------ figures against model calls

CALLS = (5, 8, 10, 15, 20, 50)
STANDARD = ("ddim", "plms", "plms-classical", "pndm", "dpmpp-2m", "unipc")  # of SOLVERS


@dataclass(frozen=True)
class Curve:
    """The figure of one solver on one time grid, for each budget of model calls.

    Attributes
    ----------
    problem, solver, spacing, measure:
        The names of the problem, the solver, the grid and the measure.
    calls, made:
        The budgets, and the model calls that the plans within them make; 0 where no plan fits.
    value, low, high:
        The figure for each budget and its interval of 90 %; infinite if no plan fits the budget or the run overflows.
    limit:
        The estimated error of the reference: paired figures that are not well above it show nothing. Of a measure of
        distributions, the figure of the flow itself, from other starts.
    """

    problem: str
    solver: str
    spacing: str
    measure: str
    calls: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    limit: float = 0.0
    made: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The solver and the grid, such as "DDIM, trailing"."""
        return f"{self.solver}, {self.spacing}"


def compare(
    problem: Problem,
    solvers: Iterable[Solver | str] | Solver | str | None = None,
    spacings: Iterable[str | Spacing] | str | Spacing = DEFAULT_SPACING,
    calls: Sequence[int] | int = CALLS,
    *,
    measure: str = "paired",
    final: str = "clean",
    progress: bool = False,
) -> list[Curve]:
    """Measure each solver on each spacing, at each budget of model calls.

    Each run is `solver.plan(max_model_calls=budget, spacing=spacing, final=final)`. It begins where its plan does, and
    the paired error is the distance to the flow from that same level. So a paired error does not say what the choice of
    the level costs; a measure of distributions does.

    Parameters
    ----------
    problem:
        What to measure on: `Problem.of` makes it of any network.
    solvers:
        Solvers on the problem's schedule, or their names in `SOLVERS`. By default `STANDARD`: the library's own
        default, DDIM, classical PLMS, the paper's F-PNDM, DPM-Solver++(2M) and UniPC. Stochastic ones take part where
        `measure` is not "paired".
    spacings, final:
        As in `Solver.plan`.
    calls:
        Budgets: each plan makes the most calls that it can within one.
    measure:
        One of `MEASURES`: see `estimate`.
    progress:
        Whether to show a bar.

    Raises
    ------
    ValueError:
        For a solver whose schedule is not the problem's, a stochastic one where errors are paired, and unknown names.
    """
    choice("measure", measure, MEASURES)
    if not isinstance(problem, Problem):
        raise TypeError(f"problem is a {type(problem).__name__}; make one of your network with Problem.of")
    calls = [whole("calls", budget) for budget in (calls if isinstance(calls, Iterable) else [calls])]
    chosen = [
        SOLVERS[choice("solver", solver, SOLVERS)](problem.schedule) if isinstance(solver, str) else solver
        for solver in _listed(STANDARD if solvers is None else solvers)
    ]
    pairs = list(product(chosen, _listed(spacings)))
    if sets := measure != "paired":
        advise_on_sets(len(problem.x))
    for solver, spacing in pairs:
        check_schedule(solver, problem)
        if not sets:
            check_deterministic(solver)
        if isinstance(spacing, str):
            choice("spacing", spacing, SPACINGS)
    from tqdm.auto import tqdm

    flow = estimate(problem, problem.draws(final), None, measure, final, intervals=False) if sets else None
    curves = []
    with tqdm(total=len(pairs) * len(calls), unit="run", desc=problem.name, disable=not progress) as bar:
        for solver, spacing in pairs:
            found, made, limit = [], [], flow.value if flow else 0.0
            for budget in calls:
                figure, error, count = _measured(problem, solver, spacing, budget, measure, final)
                found.append(figure)
                made.append(count)
                limit = limit if flow else max(limit, error)
                bar.update()
            label = spacing if isinstance(spacing, str) else getattr(spacing, "__name__", "own spacing")
            value, low, high = (tuple(getattr(f, name) for f in found) for name in ("value", "low", "high"))
            names = problem.name, solver.name, label, measure
            curves.append(Curve(*names, tuple(calls), value, low, high, limit, tuple(made)))
    return curves


def _listed(values: Any) -> list[Any]:
    """One value as a list of one."""
    return list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]


def _measured(
    problem: Problem, solver: Solver, spacing: str | Spacing, budget: int, measure: str, final: str
) -> tuple[Estimate, float, int]:
    """The figure, the limit of the reference, and the number of model calls."""
    try:
        with _unwarned():
            plan = solver.plan(max_model_calls=budget, spacing=spacing, final=final, **problem.grid_options)
    except ValueError:
        return Estimate(math.inf, math.inf, math.inf), 0.0, 0
    start = plan.levels[0].t
    reference = problem.reference(start, final=final) if measure == "paired" else None
    with _unwarned():
        result = problem.run(plan, problem.starts(start))
    limit = 0.0 if reference is None else reference.limit
    return estimate(problem, result, reference, measure, final), limit, plan.model_calls


@contextmanager
def _unwarned() -> Iterator[None]:
    """A grid that begins too low, or a run that overflows, is a result here and not a mistake."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield
