"""A JAX function as the model: the whole run, with all its model calls, is one compiled, differentiable function."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from pndm_solvers import NoiseSchedule, PLMSSolver, alpha_sigma

schedule = NoiseSchedule.vp()  # continuous: times from 0.001 to 1
plan = PLMSSolver(schedule).plan(num_inference_steps=10, start="top")  # the mean is given at run time


def model(x, t, mean):
    """The exact noise in x `(B, 2)` at the times t `(B,)`, for data N(mean, 0.5²)."""
    alpha, sigma = alpha_sigma(schedule, t, x)
    return sigma * (x - alpha * mean) / (0.25 * alpha**2 + sigma**2)


@jax.jit
def generate(x, mean):
    return plan.run(lambda x, t: model(x, t, mean), x)


noise = jax.random.normal(jax.random.key(0), (10000, 2))
mean = jnp.array([2.0, -1.0])
samples = generate(noise, mean)
print(f"{plan.model_calls} model calls: samples of mean {samples.mean(axis=0)} and deviation {samples.std(axis=0)}")

# Gradients flow through the run: the mean of the samples moves with the mean of the data.
slope = jax.jacobian(lambda mean: generate(noise, mean).mean(axis=0))(mean)
print(f"d(mean of the samples) / d(mean of the data):\n{slope}")
