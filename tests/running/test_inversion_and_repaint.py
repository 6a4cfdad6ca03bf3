"""What is made of runs: inversion and RePaint."""

from itertools import pairwise

import numpy as np
from conftest import relative_error
from runs import LINEAR

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver
from pndm_solvers.analytic import Gaussian
from pndm_solvers.problems import random_mixture


def test_inversion_returns_at_the_methods_order():
    """From x_0 to x_t and back: twice the steps end 2^order times nearer to the beginning."""
    pictures, mixture = random_mixture(3).sample(8), random_mixture(3)
    model = mixture.model(LINEAR)
    for solver, order in ((DDIMSolver(LINEAR), 1), (PNDMSolver(LINEAR, 2), 2), (PLMSSolver(LINEAR, 4, "rk4"), 4)):
        steps, errors = (40, 80, 160), []
        for n in steps:
            times = np.linspace(200.0, 900.0, n + 1)
            noise = solver.sample(model, pictures, timesteps=times[:-1], stop=times[-1])
            back = solver.sample(model, noise, timesteps=times[:0:-1], stop=times[0])
            errors.append(relative_error(back, pictures))
        assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] > order - 0.3


def test_repaint_fills_in_what_is_not_given():
    """Lugmayr et al. (2022), algorithm 1, on a Gaussian whose first half is given, so that the answer is known.

    Each step draws the known half from the forward process and the other half by DDPM, then goes back by one step of
    the forward process, and repeats. The known half stays. The other half gets its conditional mean and covariance.
    """
    covariance = np.array([[1.0, 0.0, 0.7, 0.2], [0.0, 0.8, -0.3, 0.4], [0.7, -0.3, 0.9, 0.1], [0.2, 0.4, 0.1, 0.6]])
    gaussian, known, count = Gaussian(np.zeros(4), covariance), np.array([0.6, -0.8]), 4000
    model, generator = gaussian.model(LINEAR), np.random.default_rng(0)
    plan = DDPMSolver(LINEAR).plan(60)
    x = generator.standard_normal((count, 4))
    for k, (here, there) in enumerate(pairwise(plan.levels)):
        step = DDPMSolver(LINEAR).plan(timesteps=[here.t], stop=there.t)
        for again in reversed(range(10)):
            x = step.run(model, x, generator=generator)
            x[:, :2] = there.alpha * known + there.sigma * generator.standard_normal((count, 2))
            if again and k < plan.model_calls - 1:
                keep = here.alpha / there.alpha
                fresh = np.sqrt(here.sigma**2 - (keep * there.sigma) ** 2)
                x = keep * x + fresh * generator.standard_normal(x.shape)
    gain = covariance[2:, :2] @ np.linalg.inv(covariance[:2, :2])
    expected = covariance[2:, 2:] - gain @ covariance[:2, 2:]
    assert np.array_equal(x[:, :2], np.tile(known, (count, 1)))
    np.testing.assert_allclose(x[:, 2:].mean(0), gain @ known, atol=0.05)
    np.testing.assert_allclose(np.cov(x[:, 2:].T), expected, atol=0.05)
