"""Named problems: distributions whose ε and flow are exact, and the bundled networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pndm_solvers.analytic import Distribution, Empirical, Gaussian, GaussianMixture
from pndm_solvers.noise import initial_noise
from pndm_solvers.problem import Problem
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["PROBLEMS", "exact_problem", "network_problem"]


def random_gaussian(dimension: int = 4, seed: int = 0) -> Gaussian:
    """A correlated Gaussian away from the origin."""
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((dimension, dimension))
    return Gaussian(generator.standard_normal(dimension), root @ root.T / dimension)


def random_mixture(dimension: int = 4, seed: int = 0) -> GaussianMixture:
    """Four wide, overlapping parts: ε changes slowly, so that a hundred steps show a method's order."""
    generator = np.random.default_rng(seed)
    roots = generator.standard_normal((4, dimension, dimension)) / 2
    return GaussianMixture(
        [0.1, 0.2, 0.3, 0.4], generator.standard_normal((4, dimension)), roots @ roots.swapaxes(-1, -2)
    )


def anisotropic_mixture(dimension: int = 16, parts: int = 6, seed: int = 0) -> GaussianMixture:
    """Random parts of unequal weight, each a random ellipsoid with deviations from 0.05 to 0.5 along its axes."""
    generator = np.random.default_rng(seed)
    weights = generator.dirichlet(np.full(parts, 3.0))
    means = 0.6 * generator.standard_normal((parts, dimension))
    axes = np.linalg.qr(generator.standard_normal((parts, dimension, dimension)))[0]
    deviations = np.exp(generator.uniform(np.log(0.05), np.log(0.5), (parts, 1, dimension)))
    roots = axes * deviations
    return GaussianMixture(weights, means, roots @ roots.swapaxes(-1, -2))


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


def exact_problem(name: str, schedule: NoiseSchedule, starts: int = 64, seed: int = 1) -> Problem:
    """One of `PROBLEMS` on a schedule: see `Problem.exact`. ValueError for a name that is not in `PROBLEMS`."""
    if name not in PROBLEMS:
        raise ValueError(f"problem is {name!r}; known are {', '.join(PROBLEMS)}")
    return Problem.exact(PROBLEMS[name](), schedule, starts, seed, name)


def network_problem(network: Any, starts: int = 32, seed: int = 1, **options: Any) -> Problem:
    """A bundled or a saved network as a problem, with its classes in turn, in torch float32.

    `network` is one of `NETWORK_NAMES`, or what `load_network` and `load_saved_network` return. `options` are those of
    `Problem.of`. Raises ValueError for an unknown name, and ImportError if torch is not installed.
    """
    if isinstance(network, str):
        from pndm_solvers.reference import load_network

        network = load_network(network)
    import torch

    x = torch.from_numpy(initial_noise((starts, *network.shape), seed)).float()
    label = {"label": torch.arange(starts) % len(network.labels)} if network.labels else None
    options = {"prediction": network.prediction, "condition": label, "name": network.name} | options
    return Problem.of(network, network.schedule, x, **options)
