"""A plain NumPy function as the model, in float64, without torch or a network."""

from __future__ import annotations

import numpy as np

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, alpha_sigma

schedule = NoiseSchedule.linear()
rng = np.random.default_rng(0)
data = rng.standard_normal((6, 3))  # a "data set" of six points


def model(x, t):
    """The exact noise in x `(B, 3)` at the times t `(B,)`, for data at these points, each blurred by 0.1."""
    alpha, sigma = alpha_sigma(schedule, t, x)
    variance = (0.1 * alpha) ** 2 + sigma**2
    away = x[:, None] - alpha[..., None] * data  # (B, 6, 3)
    weights = np.exp(-(away**2).sum(axis=2) / (2 * variance))
    weights /= weights.sum(axis=1, keepdims=True)
    return sigma / variance * (weights[..., None] * away).sum(axis=1)


noise = rng.standard_normal((300, 3))
exact = PLMSSolver(schedule).sample(model, noise, 1000)
print("calls     DDIM     PLMS   median distance to the result of 1000 calls")
for calls in (5, 10, 20, 50):
    ends = [solver(schedule).sample(model, noise, calls) for solver in (DDIMSolver, PLMSSolver)]
    errors = [np.median(np.linalg.norm(end - exact, axis=1)) for end in ends]
    print(f"{calls:5} {errors[0]:8.5f} {errors[1]:8.5f}")
