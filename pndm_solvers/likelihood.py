"""The log-density that a network assigns to data, by its probability-flow ODE.

The flow is an equation on the circle z = x/√(α² + σ²), θ = arctan(σ/α): dz/dθ = v (Salimans and Ho 2022). Along a
solution the density follows d log p/dθ = −div v (Song et al. 2021, app. D.2). Both stay finite at pure noise. Along any
other path z(θ) it follows

    d log p/dθ = −div v + (dz/dθ − v)·s        s = ∇ log p = −(z + v·cot θ)

and v gives the score s too. A plan is not an exact solution, and the second term makes good what its steps leave. The
error is then that of a quadrature, of smooth functions whose values are known at the levels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from pndm_solvers.arguments import choice, function, whole
from pndm_solvers.array_library import ArrayLibrary
from pndm_solvers.arrays import check_state, check_together, library
from pndm_solvers.condition import Condition
from pndm_solvers.latents import around, converted
from pndm_solvers.methods.multistep import PLMSSolver
from pndm_solvers.noise import NoiseSource
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Float64, Level
from pndm_solvers.schedules import NoiseSchedule

__all__ = ["log_likelihood"]

# Levels are even in ρ/(ρ + KNEE), ρ = σ/α, and NODES of them carry each polynomial. Chosen on mixtures of deviation 0.1
# and more: other knees, and 4, 5 or 8 nodes, left more.
KNEE, NODES = 0.2, 6


def log_likelihood(
    model: Model,
    x: Any,
    schedule: NoiseSchedule,
    num_inference_steps: int,
    *,
    prediction: str | Prediction = "epsilon",
    condition: Condition | None = None,
    trace: str = "exact",
    probes: int = 1,
    seed: int | Sequence[int] = 0,
    start: float | None = None,
    stop: float | None = None,
    data_mean: Any = 0.0,
) -> Any:
    """The log-density of each sample of a batch, in nats: log p(x), at the level `start`.

    It is the density of noised data α·x_0 + σ·z, by default at the lowest trained level, and not that of x_0: below it
    nothing was trained, and data on a surface have no density. So pass `add_noise(schedule, x0, z, schedule.t_min)`.
    The probability flow leads x up to pure noise, whose density is known, and the divergence on the way is integrated.

    Parameters
    ----------
    model:
        `model(x, t)`, or `model(x, t, **condition)`, as for `Plan.run`. Its answer must be differentiable in x, and no
        answer may depend on another sample. It is called `num_inference_steps + 1` times, at real times.
    x:
        `(B, …)`, floating, of torch or JAX.
    schedule:
        What the network was trained with.
    num_inference_steps:
        Steps from `start` to `stop`. 50 are usual. The states of all steps are kept.
    prediction, condition:
        As for `Plan.run`.
    trace:
        "exact" takes the divergence by one backward pass for each dimension, in each call. "hutchinson" estimates it
        by `probes` backward passes (Hutchinson 1989; FFJORD, Grathwohl et al. 2019): without bias, but for a spread.
    probes, seed:
        The random signs of "hutchinson", fresh ones in each call, so that their errors average out on the way. Those of
        a sample are a function of its seed alone, as for `NoiseSource`: one seed, or one for each sample.
    start, stop:
        The times of x and of pure noise: by default the lowest and the highest trained level.
    data_mean:
        A number or an array that broadcasts to x. At `stop` the density counts as N(α·data_mean, σ²·I).

    Returns
    -------
    array
        `(B,)`, of x's library, device and dtype; float32 where that has fewer bits. torch does not record it.

    Raises
    ------
    TypeError:
        For arrays of a library without derivatives, NumPy's say.
    ValueError:
        For a prediction that does not determine v at `stop`, as ε where α = 0; for a `stop` that is not above `start`;
        for a model whose answer torch has not recorded.

    Reference: Song et al. (2021), arXiv 2011.13456, section 4.3 and appendix D.2; the correction is this library's own.

    >>> import torch
    >>> from pndm_solvers import NoiseSchedule
    >>> log_likelihood(lambda x, t: 0 * x, torch.zeros(3, 2), NoiseSchedule.rectified_flow(), 49, prediction="flow")
    tensor([-1.8379, -1.8379, -1.8379])
    """
    function("model", model, "model(x, t)")
    check_state("x", x)
    choice("trace", trace, ("exact", "hutchinson"))
    count, ours, source = whole("probes", probes), library(x), NoiseSource.of(seed, None)
    source.check(x)
    plan = _plan(schedule, whole("num_inference_steps", num_inference_steps), start, stop)
    prediction = Prediction.of(prediction)
    prediction.check((level, "v_prediction") for level in plan.levels)

    def slope(y: Any, level: Level) -> Any:
        answer = model(y, ours.times(y, level.t, y.dtype, integer=False), **state.condition)
        check_together("the model's answer", answer, "the state", y)
        if ours.records_gradients(y) and not ours.records_gradients(answer):
            raise ValueError("the model's answer is not recorded, as under no_grad; torch must see how it depends on x")
        return converted(ours, prediction, "v_prediction", y, answer, level)

    with ours.unrecorded():
        state = plan.start(x, prediction="v_prediction", condition=condition)
        states, slopes, divergences = [], [], []
        for number, level in enumerate(plan.levels):
            v, pullback = ours.vjp(partial(slope, level=level), state.x)
            exact = trace == "exact"
            directions = _axes(ours, v) if exact else _signs(ours, v, source, number * count, count)
            divergences.append(sum(_dot(ours, e, pullback(e)) for e in directions) / (1 if exact else count))
            states.append(ours.wide(state.x))
            slopes.append(ours.wide(v))
            state = state if state.done else plan.advance(state, v)
        noise = states[-1] - around(data_mean, 0 * states[-1], plan.end)
        return _log_normal(ours, noise, plan.end.sigma) + _gained(ours, plan.levels, states, slopes, divergences)


def _plan(schedule: NoiseSchedule, steps: int, start: float | None, stop: float | None) -> Plan:
    """The way upwards. Its order is 3, since explicit steps of higher orders are unstable between modes."""
    solver = PLMSSolver(schedule, order=3, space="v_prediction", coordinate="angle")
    low = schedule.level(schedule.t_min if start is None else start, "start")
    top = schedule.level(schedule.t_max if stop is None else stop, "stop")
    if not low.t < top.t:
        raise ValueError(f"stop is {top.t:g} and start {low.t:g}; stop must be above start, at or near pure noise")
    first, last = (level.sigma / (level.sigma + KNEE * level.alpha) for level in (low, top))
    shares = np.linspace(first, last, steps + 1)[1:-1]
    inner = schedule.time_at(-2 * np.log(KNEE * shares / (1 - shares)))
    return solver.plan(timesteps=[low.t, *inner], stop=top.t)


def _gained(
    ours: ArrayLibrary, levels: Sequence[Level], states: list[Any], slopes: list[Any], divergences: list[Any]
) -> Any:
    """By how much log p at the first level exceeds that at the last, `(B,)`: ∫ div v − (dz/dθ − v)·s dθ, and scale."""
    scales = [math.hypot(level.alpha, level.sigma) for level in levels]
    weights, differences = _path_weights(np.array([math.atan2(level.sigma, level.alpha) for level in levels]))
    total = math.prod(states[0].shape[1:]) * math.log(scales[-1] / scales[0])
    for j, (level, x, v) in enumerate(zip(levels, states, slopes, strict=True)):
        near = [i for i, weight in enumerate(differences[j]) if weight]
        parts = [float(differences[j, i]) / scales[i] for i in near]
        excess = ours.combine([*(states[i] for i in near), v], [*parts, -float(weights[j]) / scales[j]], x.dtype)
        score = ours.combine([x, v], [-1 / scales[j], -level.alpha / level.sigma / scales[j]], x.dtype)
        total = total + float(weights[j]) * divergences[j] - _dot(ours, excess, score)
    return total


def _path_weights(angles: Float64) -> tuple[Float64, Float64]:
    """(w, A) for functions known at n angles: ∫ f dθ = Σ_j w_j·f_j and ∫ g·dz = Σ_ij g_j·A_ji·z_i; `(n,)` and `(n, n)`.

    Each step has the polynomials in θ through the levels nearest to it, at most `NODES`.
    """
    count = len(angles)
    nodes = min(NODES, count)
    weights, differences, powers = np.zeros(count), np.zeros((count, count)), np.arange(nodes)
    for i in range(count - 1):
        first = max(0, min(i + 1 - nodes // 2, count - nodes))
        near = slice(first, first + nodes)
        scale = angles[near][-1] - angles[near][0]
        place = (angles[near] - angles[i]) / scale
        basis = np.linalg.inv(np.vander(place, increasing=True))  # the coefficients of each node's polynomial
        slopes = np.vander(place, increasing=True)[:, :-1] * powers[1:] @ basis[1:] / scale
        mean = scale * ((angles[i + 1] - angles[i]) / scale) ** (powers + 1) / (powers + 1) @ basis
        weights[near] += mean
        differences[near, near] += mean[:, None] * slopes
    return weights, differences


def _axes(ours: ArrayLibrary, like: Any) -> Iterator[Any]:
    """The unit vectors of a sample's dimensions, each for the whole batch `(B, …)`."""
    size = math.prod(like.shape[1:])
    places = np.tile(np.arange(size), (like.shape[0], 1)).reshape(like.shape)
    places = ours.from_numpy(places, like, ours.wide_dtype(like))
    return (ours.cast(places == place, like.dtype) for place in range(size))


def _signs(ours: ArrayLibrary, like: Any, source: NoiseSource, first: int, count: int) -> Iterator[Any]:
    """`count` arrays `(B, …)` of random signs (Rademacher), the rows `first`, … of the source."""
    return (1 - 2 * ours.cast(source.draw(first + i, like) < 0, like.dtype) for i in range(count))


def _dot(ours: ArrayLibrary, a: Any, b: Any) -> Any:
    """Each sample's inner product, `(B,)`."""
    xp, shape = ours.namespace(a), (a.shape[0], math.prod(a.shape[1:]))
    return xp.sum(xp.reshape(ours.wide(a) * ours.wide(b), shape), axis=1)


def _log_normal(ours: ArrayLibrary, x: Any, sigma: float) -> Any:
    """The log-density of N(0, σ²·I) at `x` `(B, …)`."""
    return -_dot(ours, x / sigma, x / sigma) / 2 - math.prod(x.shape[1:]) * math.log(math.sqrt(2 * math.pi) * sigma)
