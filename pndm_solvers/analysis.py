"""Measuring solvers: the observed order, and the error against model calls, where the right end is known."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.analytic import Distribution, Empirical, Gaussian, GaussianMixture
from pndm_solvers.base import Solver
from pndm_solvers.execute import Model
from pndm_solvers.grid import SPACINGS, Spacing
from pndm_solvers.noise import initial_noise
from pndm_solvers.schedule import NoiseSchedule
from pndm_solvers.solvers import SOLVERS, PLMSSolver, PNDMSolver, PRKSolver, Starter
from pndm_solvers.tableaux import ADAMS_BASHFORTH, TABLEAUX

__all__ = [
    "GRIDS",
    "PROBLEMS",
    "Curve",
    "ObservedOrder",
    "Problem",
    "compare",
    "deterministic_solvers",
    "exact_problem",
    "network_problem",
    "observed_order",
]

Float64 = NDArray[np.float64]


# ------------------------------------------------------------------ distributions


def random_gaussian(dimension: int = 4, seed: int = 0) -> Gaussian:
    """A correlated Gaussian away from the origin."""
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((dimension, dimension))
    return Gaussian(generator.standard_normal(dimension), root @ root.T / dimension)


def random_mixture(dimension: int = 4, seed: int = 0) -> GaussianMixture:
    """Four wide, overlapping parts: ε turns slowly, so that some hundred steps show a method's order."""
    generator = np.random.default_rng(seed)
    roots = generator.standard_normal((4, dimension, dimension)) / 2
    return GaussianMixture([0.1, 0.2, 0.3, 0.4], generator.standard_normal((4, dimension)), roots @ roots.mT)


def anisotropic_mixture(dimension: int = 16, parts: int = 6, seed: int = 0) -> GaussianMixture:
    """Random parts of unequal weight, each a random ellipsoid with deviations from 0.05 to 0.5 along its axes."""
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(parts, 3.0))
    means = 0.6 * generator.standard_normal((parts, dimension))
    axes = np.linalg.qr(generator.standard_normal((parts, dimension, dimension)))[0]
    deviations = np.exp(generator.uniform(np.log(0.05), np.log(0.5), (parts, 1, dimension)))
    roots = axes * deviations
    return GaussianMixture(weights, means, roots @ roots.mT)


def digits_kernel(width: float = 0.15) -> Empirical:
    """scikit-learn's 1,797 digits of 8×8 pixels in [-1, 1], each blurred by `width`."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits of digits-kernel come with scikit-learn: pip install 'pndm_solvers[analysis]'"
        ) from error
    pixels, _ = load_digits(return_X_y=True)
    return Empirical(pixels / 8 - 1, width)


def power_law(dimension: int = 64, exponent: float = 2.0, seed: int = 0) -> Gaussian:
    """A correlated Gaussian, the variances along its axes falling as 1/k^exponent from 1, as images' spectra do."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]
    variances = np.arange(1, dimension + 1) ** -exponent
    return Gaussian(0.3 * axes[:, 0], (axes * variances) @ axes.T)


# Distributions whose ε is exact, by the name that the command line and the benchmarks use.
PROBLEMS: dict[str, Callable[[], Distribution]] = {
    "gaussian": random_gaussian,
    "smooth-mixture": random_mixture,
    "ring": GaussianMixture.ring,
    "mixture": anisotropic_mixture,
    "digits-kernel": digits_kernel,
    "power-law": power_law,
}


# ------------------------------------------------------------------ observed order


def uniform(first: float, last: float, steps: int) -> Float64:
    """Even steps in t."""
    return np.linspace(first, last, steps + 1)


def graded(first: float, last: float, steps: int) -> Float64:
    """Steps whose size changes smoothly, from 1.3 to 0.7 of their mean."""
    s = np.linspace(0, 1, steps + 1)
    return np.linspace(first, last, steps + 1) + 0.3 * (last - first) * s * (1 - s)


def perturbed(first: float, last: float, steps: int, seed: int = 0) -> Float64:
    """Even steps whose inner times are each moved by up to 0.35 of a step, at random: from 0.3 to 1.7 of their mean."""
    times = np.linspace(first, last, steps + 1)
    times[1:-1] += (last - first) / steps * np.random.default_rng([seed, steps]).uniform(-0.35, 0.35, steps - 1)
    return times


# (first time, last time, number of steps n) -> the n + 1 times
GRIDS: dict[str, Callable[[float, float, int], Float64]] = {
    "uniform": uniform,
    "graded": graded,
    "perturbed": perturbed,
}

ORDER_STEPS = (113, 160, 226, 320, 452)


@dataclass(frozen=True)
class ObservedOrder:
    """What `observed_order` found.

    Attributes
    ----------
    name:
        The solver's.
    declared, observed:
        Its `convergence_order`, and the slope p of log(error) = −p·log(steps) + c by least squares.
    steps, errors:
        The measured points: root-mean-square distances to the exact flow.
    """

    name: str
    declared: int
    observed: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]


def observed_order(
    solver: Solver,
    distribution: Distribution,
    *,
    grid: Callable[[float, float, int], Any] = uniform,
    steps: Sequence[int] = ORDER_STEPS,
    first: float | None = None,
    last: float | None = None,
    starts: int = 16,
    seed: int = 1,
) -> ObservedOrder:
    """How fast a solver's error falls with the number of steps, between two times where ε is smooth.

    Parameters
    ----------
    solver, distribution:
        What is measured, and on which exact ε.
    grid:
        One of `GRIDS`' functions, or one like them: (first, last, steps) to `steps` + 1 times.
    steps:
        Two or more numbers of steps.
    first, last:
        Between which times; 0.9·t_max and 0.2·t_max unless said, away from both ends of the schedule.
    starts, seed:
        How many points of N(0, (α² + σ²)·I) are carried along, and which.

    Raises
    ------
    ValueError:
        For a stochastic solver, which has no such order.
    """
    _check_deterministic(solver)
    if len(set(steps)) < 2:
        raise ValueError(f"steps are {list(steps)}; a slope takes two different numbers of steps")
    schedule = solver.schedule
    first = 0.9 * schedule.t_max if first is None else first
    last = 0.2 * schedule.t_max if last is None else last
    top = schedule.level(first)
    x = np.random.default_rng(seed).standard_normal((starts, distribution.sample(1).shape[1]))
    x *= math.hypot(top.alpha, top.sigma)
    exact = distribution.flow(x, top, schedule.level(last))
    model = distribution.model(schedule)
    errors = []
    for count in steps:
        *visited, stop = grid(first, last, count)
        result = solver.plan(timesteps=visited, stop=stop).run(model, x, check_finite=None)
        errors.append(float(np.sqrt(np.mean((result - exact) ** 2))))
    observed = -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
    assert solver.convergence_order is not None
    return ObservedOrder(solver.name, solver.convergence_order, observed, tuple(steps), tuple(errors))


def deterministic_solvers(schedule: NoiseSchedule) -> list[Solver]:
    """Every registered method with an order, and every option of those that have one, none twice."""
    solvers = [make(schedule) for make in SOLVERS.values()]
    solvers += [
        PLMSSolver(schedule, order, starter, weights)
        for weights in ("exact", "classical")
        for order in ADAMS_BASHFORTH
        for starter in get_args(Starter)
    ]
    solvers += [PRKSolver(schedule, tableau) for tableau in TABLEAUX.values()]
    solvers += [PNDMSolver(schedule, order=2)]
    return [solver for solver in dict.fromkeys(solvers) if solver.convergence_order is not None]


def _check_deterministic(solver: Solver) -> None:
    if solver.convergence_order is None:
        raise ValueError(f"{solver.name} is stochastic: it has neither an order nor one right end to be compared with")


# ------------------------------------------------------------------ error against model calls


@dataclass(frozen=True, eq=False)
class Problem:
    """Starts, a model, and where the probability-flow ODE leads them.

    Attributes
    ----------
    name, schedule:
        What it is called, and the schedule that its times belong to.
    model, prediction:
        A function of (x, t), and what it predicts.
    x:
        The starts `(B, …)` at the schedule's highest level, a NumPy array or a torch tensor.
    ends:
        Where they lead, by what `Solver.plan` calls its `final`: "clean" or "first".
    """

    name: str
    schedule: NoiseSchedule
    model: Model = field(repr=False)
    prediction: str
    x: Any = field(repr=False)
    ends: Mapping[str, Any] = field(repr=False)

    def errors(self, result: Any, final: str = "clean") -> Float64:
        """The root-mean-square distance of each sample of `result` `(B, …)` to an end, `(B,)` float64."""
        difference = np.asarray(result, np.float64) - np.asarray(self.ends[final], np.float64)
        return np.sqrt((difference.reshape(len(difference), -1) ** 2).mean(1))


def exact_problem(name: str, schedule: NoiseSchedule, starts: int = 64, seed: int = 1) -> Problem:
    """One of `PROBLEMS` on a schedule, in float64 on NumPy arrays, with the ends of the exact flow.

    The starts are pure noise of the schedule's highest level: N(0, α² + σ²), and not dependent on `starts`.
    Raises ValueError for another name.
    """
    if name not in PROBLEMS:
        raise ValueError(f"problem is {name!r}; known are {', '.join(PROBLEMS)}")
    distribution = PROBLEMS[name]()
    top, first = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    x = math.hypot(top.alpha, top.sigma) * initial_noise((starts, distribution.sample(1).shape[1]), seed)
    at_first = distribution.flow(x, top, first)
    ends = {"clean": distribution.flow(at_first, first, schedule.clean), "first": at_first}
    prediction = "epsilon" if top.alpha else "v_prediction"  # in pure noise ε tells nothing
    return Problem(name, schedule, distribution.model(schedule, prediction), prediction, x, ends)


def network_problem(
    name: str, starts: int = 32, seed: int = 1, finals: Iterable[str] = ("clean", "first"), progress: bool = False
) -> Problem:
    """A bundled network, its classes in turn, in torch float32.

    An end is where F-PNDM leads in 1,000 model calls on the quadratic grid; `finals` says which are computed.
    Raises ValueError for a name that is none of `NETWORK_NAMES`, ImportError where torch is not installed.
    """
    from pndm_solvers.reference import load_network

    network = load_network(name)
    import torch

    label = torch.arange(starts) % len(network.labels) if network.labels else None
    answer = network.model(label)

    def model(x: Any, t: Any) -> Any:
        with torch.no_grad():
            return answer(x, t)

    x = torch.from_numpy(initial_noise((starts, *network.shape), seed)).float()
    solver = PNDMSolver(network.schedule)
    ends = {
        final: solver.plan(max_model_calls=1000, spacing="quadratic", final=final).run(
            model, x, prediction=network.prediction, progress=progress
        )
        for final in finals
    }
    return Problem(name, network.schedule, model, network.prediction, x, ends)


@dataclass(frozen=True)
class Curve:
    """The error of one solver on one time grid against its budget of model calls.

    Attributes
    ----------
    solver, spacing:
        The solver's name and the grid's.
    calls:
        The budgets.
    median, mean:
        Over the starts, for each budget; infinite where nothing fits the budget, or the run left the finite numbers.
    """

    solver: str
    spacing: str
    calls: tuple[int, ...]
    median: tuple[float, ...]
    mean: tuple[float, ...]

    @property
    def name(self) -> str:
        """Both, as in "DDIM, trailing"."""
        return f"{self.solver}, {self.spacing}"


def compare(
    problem: Problem,
    solvers: Iterable[Solver],
    spacings: Iterable[str | Spacing],
    calls: Sequence[int],
    *,
    final: str = "clean",
    progress: bool = False,
) -> list[Curve]:
    """The error of each solver on each spacing, at each budget of model calls, to one of the problem's ends.

    A solver with a budget is `solver.plan(max_model_calls=…)`. ValueError for a stochastic solver, for one of
    another schedule than the problem's, and for an unknown spacing.
    """
    pairs = list(product(solvers, spacings))
    for solver, spacing in pairs:
        _check_deterministic(solver)
        if solver.schedule != problem.schedule:
            raise ValueError(f"{solver.name} is on {solver.schedule!r}, the problem on {problem.schedule!r}")
        if isinstance(spacing, str) and spacing not in SPACINGS:
            raise ValueError(f"spacing is {spacing!r}; known are {', '.join(SPACINGS)}")
    from tqdm.auto import tqdm

    curves = []
    with tqdm(total=len(pairs) * len(calls), unit="run", desc=problem.name, disable=not progress) as bar:
        for solver, spacing in pairs:
            errors = []
            for budget in calls:
                errors.append(_errors(problem, solver, spacing, budget, final))
                bar.update()
            label = spacing if isinstance(spacing, str) else getattr(spacing, "__name__", "own spacing")
            median, mean = (tuple(float(of(e)) for e in errors) for of in (np.median, np.mean))
            curves.append(Curve(solver.name, label, tuple(calls), median, mean))
    return curves


def _errors(problem: Problem, solver: Solver, spacing: str | Spacing, budget: int, final: str) -> Float64:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # that a grid begins too low is what the table is to show
        try:
            plan = solver.plan(max_model_calls=budget, spacing=spacing, final=final)
        except ValueError:
            return np.array([math.inf])
        errors = problem.errors(
            plan.run(problem.model, problem.x, prediction=problem.prediction, check_finite=None), final
        )
    return np.where(np.isfinite(errors), errors, math.inf)
