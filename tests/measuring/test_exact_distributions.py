"""Exact distributions: ε is the score, samples have the moments, and the flow is the closed form where there is one."""

import numpy as np
import pytest
from conftest import SCHEDULES

from pndm_solvers.analytic import Distribution, Empirical, Gaussian, GaussianMixture
from pndm_solvers.problems import PROBLEMS, random_gaussian, random_mixture

LINEAR = SCHEDULES["linear"]
DISTRIBUTIONS = {
    "gaussian": random_gaussian(3),
    "diagonal": Gaussian([0.5, -1.0, 0.0], [0.2, 1.0, 0.0]),
    "mixture": random_mixture(3),
    "ring": GaussianMixture.ring(),
    "empirical": Empirical(np.random.default_rng(0).standard_normal((40, 3)), 0.2),
}


def log_density(distribution, x, alpha, sigma):
    """log p of α·x_0 + σ·ε up to a constant, written down directly from the definition."""
    if isinstance(distribution, Empirical):
        parts = [(1.0, row, np.eye(len(row)) * distribution.width**2) for row in distribution.data]
    else:
        mixture = distribution.parts if isinstance(distribution, GaussianMixture) else [distribution]
        weights = getattr(distribution, "weights", [1.0])
        parts = [(w, p.mean, (p.axes * p.variances) @ p.axes.T) for w, p in zip(weights, mixture, strict=True)]
    total = 0.0
    for weight, mean, covariance in parts:
        spread = alpha**2 * covariance + sigma**2 * np.eye(len(mean))
        away = x - alpha * mean
        total += weight * np.exp(-0.5 * away @ np.linalg.solve(spread, away)) / np.linalg.det(spread) ** 0.5
    return np.log(total)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_epsilon_is_the_scaled_score(name):
    """ε = −σ·∇ log p (Vincent 2011), the gradient by central differences of the density itself."""
    distribution, h = DISTRIBUTIONS[name], 1e-5
    for t in (50, 400, 900):
        _, alpha, sigma = LINEAR.level(t)
        x = alpha * distribution.sample(4, seed=1) + sigma * 0.5
        x0, epsilon = distribution.posterior(x, alpha, sigma)
        for point, answer in zip(x, epsilon, strict=True):
            above, below = (
                np.array(
                    [log_density(distribution, point + step, alpha, sigma) for step in side * h * np.eye(len(point))]
                )
                for side in (1, -1)
            )
            np.testing.assert_allclose(answer, -sigma * (above - below) / (2 * h), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(alpha * x0 + sigma * epsilon, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PROBLEMS)
def test_draws_have_the_mean_of_the_distribution(name):
    """Tweedie's formula in pure noise: the mean of x_0 given x is the mean of the distribution."""
    distribution = PROBLEMS[name]()
    draws = distribution.sample(20_000, seed=3)
    mean, _ = distribution.posterior(np.zeros((1, draws.shape[1])), 0.0, 1.0)
    assert np.all(np.abs(draws.mean(0) - mean) < np.minimum(0.05, 5 * draws.std(0) / 20_000**0.5 + 1e-12))


def test_a_mixture_of_one_part_and_a_data_set_of_one_point_are_gaussians():
    gaussian = Gaussian([1.0, 2.0], [0.09, 0.09])
    x = np.random.default_rng(0).standard_normal((5, 2))
    for other in (GaussianMixture([1.0], [[1.0, 2.0]], [[0.09, 0.09]]), Empirical([[1.0, 2.0]], 0.3)):
        for ours, theirs in zip(gaussian.posterior(x, 0.6, 0.8), other.posterior(x, 0.6, 0.8), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_closed_form_and_integrated_flow_agree(name):
    """The Gaussian's closed form against DOP853, over whole schedules, including α = 0 and σ = 0."""
    schedule, gaussian = SCHEDULES[name], random_gaussian(3)
    start = schedule.level(schedule.t_max)
    x = np.random.default_rng(2).standard_normal((6, 3)) * start.sigma
    for end in (schedule.clean, schedule.level(0.3 * schedule.t_max)):
        integrated = Distribution.flow(gaussian, x, start, end)
        np.testing.assert_allclose(integrated, gaussian.flow(x, start, end), rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(gaussian.flow(integrated, end, start), x, rtol=1e-6, atol=1e-7)


def test_flow_leads_to_the_data():
    ring = GaussianMixture.ring(width=0.01)
    x = np.random.default_rng(0).standard_normal((20, 2))
    ends = ring.flow(x, LINEAR.level(999), LINEAR.clean)
    assert np.abs(np.hypot(*ends.T) - 0.8).max() < 0.06


def test_one_batch_may_stand_at_several_times():
    mixture = random_mixture(3)
    x = np.random.default_rng(0).standard_normal((3, 3))
    model = mixture.model(LINEAR)
    together = model(x, np.array([900, 50, 900]))
    for i, t in enumerate([900, 50, 900]):
        np.testing.assert_allclose(together[i : i + 1], model(x[i : i + 1], np.array([t])), rtol=1e-12)


def test_bad_distributions_are_refused():
    for make, message in (
        (lambda: Gaussian([0, 0], np.eye(3)), "covariance"),
        (lambda: Gaussian([0, 0], [[1, 2], [0, 1]]), "symmetric"),
        (lambda: Gaussian([0, 0], [[1, 2], [2, 1]]), "positive semi-definite"),
        (lambda: GaussianMixture([0.5, 0.6], [[0], [1]], [[1], [1]]), "sum to 1"),
        (lambda: GaussianMixture([0.5, 0.5], [[0]], [[1], [1]]), "2, 1 and 2 parts"),
        (lambda: Empirical([[0.0]], 0), "width"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
