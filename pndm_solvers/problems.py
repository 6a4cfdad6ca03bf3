"""Problems to measure solvers on: starts, a model, and the points to which the probability-flow ODE carries the starts.

The model is exact, for the distributions of `PROBLEMS`, or a bundled network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.analytic import Distribution, Empirical, Gaussian, GaussianMixture
from pndm_solvers.methods import PNDMSolver
from pndm_solvers.noise import initial_noise
from pndm_solvers.plan import Model
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["PROBLEMS", "Problem", "exact_problem", "network_problem"]

Float64 = NDArray[np.float64]


def random_gaussian(dimension: int = 4, seed: int = 0) -> Gaussian:
    """A correlated Gaussian away from the origin."""
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((dimension, dimension))
    return Gaussian(generator.standard_normal(dimension), root @ root.T / dimension)


def random_mixture(dimension: int = 4, seed: int = 0) -> GaussianMixture:
    """Four wide, overlapping parts: ε changes slowly, so that a hundred steps show a method's order."""
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
            "the problem digits-kernel needs scikit-learn: pip install 'pndm_solvers[analysis]'"
        ) from error
    pixels, _ = load_digits(return_X_y=True)
    return Empirical(pixels / 8 - 1, width)


def power_law(dimension: int = 64, exponent: float = 2.0, seed: int = 0) -> Gaussian:
    """A correlated Gaussian whose variances fall as 1/k^exponent, k = 1 … dimension, as in the spectra of images."""
    generator = np.random.default_rng(seed)
    axes = np.linalg.qr(generator.standard_normal((dimension, dimension)))[0]
    variances = np.arange(1, dimension + 1) ** -exponent
    return Gaussian(0.3 * axes[:, 0], (axes * variances) @ axes.T)


# Distributions whose ε is exact, by name.
PROBLEMS: dict[str, Callable[[], Distribution]] = {
    "gaussian": random_gaussian,
    "smooth-mixture": random_mixture,
    "ring": GaussianMixture.ring,
    "mixture": anisotropic_mixture,
    "digits-kernel": digits_kernel,
    "power-law": power_law,
}


@dataclass(frozen=True, eq=False)
class Problem:
    """Starts, a model, and the points to which the probability-flow ODE carries the starts.

    Attributes
    ----------
    name, schedule:
        The problem's name, and the schedule of its times.
    model, prediction:
        A function of (x, t), and the kind of its prediction.
    x:
        The starts `(B, …)` at the schedule's highest level, a NumPy array or a torch tensor.
    ends:
        The end points `(B, …)`, by the `final` of `Solver.plan`: "clean" or "first".
    """

    name: str
    schedule: NoiseSchedule
    model: Model = field(repr=False)
    prediction: str
    x: Any = field(repr=False)
    ends: Mapping[str, Any] = field(repr=False)

    def errors(self, result: Any, final: str = "clean") -> Float64:
        """The root-mean-square distance of each sample of `result` `(B, …)` to its end, `(B,)` float64."""
        difference = np.asarray(result, np.float64) - np.asarray(self.ends[final], np.float64)
        return np.sqrt((difference.reshape(len(difference), -1) ** 2).mean(1))


def exact_problem(name: str, schedule: NoiseSchedule, starts: int = 64, seed: int = 1) -> Problem:
    """One of `PROBLEMS` on a schedule, in float64 on NumPy arrays, with the ends of the exact flow.

    The starts are N(0, α² + σ²) at the schedule's highest level. The first starts are the same for any number of them.
    Raises ValueError for a name that is not in `PROBLEMS`.
    """
    if name not in PROBLEMS:
        raise ValueError(f"problem is {name!r}; known are {', '.join(PROBLEMS)}")
    distribution = PROBLEMS[name]()
    top, first = schedule.level(schedule.t_max), schedule.level(schedule.t_min)
    x = math.hypot(top.alpha, top.sigma) * initial_noise((starts, distribution.sample(1).shape[1]), seed)
    at_first = distribution.flow(x, top, first)
    ends = {"clean": distribution.flow(at_first, first, schedule.clean), "first": at_first}
    prediction = "epsilon" if top.alpha else "v_prediction"  # in pure noise ε carries no information
    return Problem(name, schedule, distribution.model(schedule, prediction), prediction, x, ends)


def network_problem(
    name: str,
    starts: int = 32,
    seed: int = 1,
    finals: Iterable[str] = ("clean", "first"),
    calls: int = 1000,
    progress: bool = False,
) -> Problem:
    """A bundled network as a problem, with its classes in turn, in torch float32.

    The ends are those of F-PNDM with `calls` model calls on the quadratic grid, for each of `finals`.
    Raises ValueError for a name that is not in `NETWORK_NAMES`, and ImportError if torch is not installed.
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
        final: solver.plan(max_model_calls=calls, spacing="quadratic", final=final).run(
            model, x, prediction=network.prediction, progress=progress
        )
        for final in finals
    }
    return Problem(name, network.schedule, model, network.prediction, x, ends)
