"""Data distributions with a known exact ε and a known exact flow, to measure solvers on."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import choice, real, reals, whole
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.table import Table

__all__ = ["Distribution", "Empirical", "Gaussian", "GaussianMixture"]

Float64 = NDArray[np.float64]


class Distribution(ABC):
    """A distribution of x_0 in d dimensions, as float64 arrays `(B, d)` or any `(B, …)` of d values."""

    @abstractmethod
    def posterior(self, x: Float64, alpha: float, sigma: float) -> tuple[Float64, Float64]:
        """The means of x_0 and of ε given `x = α·x_0 + σ·ε`, for `x` `(B, d)`.

        The mean of ε is the answer of a perfect network. Both means have a formula of their own, so that neither
        loses digits at either end of the schedule.
        """

    @abstractmethod
    def sample(self, count: int, seed: int = 0) -> Float64:
        """`count` draws of x_0, `(count, d)`."""

    def model(self, schedule: NoiseSchedule, prediction: str = "epsilon") -> Model:
        """The perfect network `model(x, t)` of a schedule, for any kind of prediction, on NumPy arrays.

        `x` is `(B, …)` and `t` is `(B,)`; the times of a batch may differ. Raises ValueError for an unknown prediction.
        """
        mix = PREDICTIONS[choice("prediction", prediction, PREDICTIONS)]

        def answer(x: Float64, t: Any) -> Float64:
            x = np.asarray(x)
            result = np.empty(x.shape, np.result_type(x, np.float32))
            for time in np.unique(t):
                # Rounding can move a float32 time past the end of the schedule.
                inside = np.clip(time, schedule.t_min, schedule.t_max)
                _, alpha, sigma = schedule.level(inside if np.isclose(time, inside, rtol=1e-6) else time)
                at = t == time
                x0, epsilon = self.posterior(x[at].reshape(at.sum(), -1), alpha, sigma)
                a, b = mix(alpha, sigma)
                result[at] = (a * x0 + b * epsilon).reshape(x[at].shape)
            return result

        return answer

    def flow(self, x: ArrayLike, here: Level, there: Level) -> Float64:
        """The point `(B, d)` to which the probability-flow ODE carries `x` `(B, d)` from the level `here` to `there`.

        SciPy's DOP853 integrates it with a tolerance of 1e-10. On the circle α = cos θ, σ = sin θ the flow is
        dz/dθ = v (Salimans and Ho 2022, appendix D), which is finite at both ends. Other schedules are scaled onto the
        circle. Raises RuntimeError if the integration fails.
        """
        from scipy.integrate import solve_ivp

        x = np.asarray(x, np.float64)
        scale_here, scale_there = (math.hypot(level.alpha, level.sigma) for level in (here, there))
        angle_here, angle_there = (math.atan2(level.sigma, level.alpha) for level in (here, there))
        if angle_here == angle_there:
            return x * (scale_there / scale_here)

        def v(theta: float, z: Float64) -> Float64:
            alpha, sigma = math.cos(theta), math.sin(theta)
            x0, epsilon = self.posterior(z.reshape(x.shape), alpha, sigma)
            return (alpha * epsilon - sigma * x0).ravel()

        solution = solve_ivp(
            v, (angle_here, angle_there), (x / scale_here).ravel(), method="DOP853", rtol=1e-10, atol=1e-10
        )
        if not solution.success:
            raise RuntimeError(f"the exact flow could not be integrated: {solution.message}")
        return solution.y[:, -1].reshape(x.shape) * scale_there


class Gaussian(Distribution):
    """N(mean, covariance): `mean` `(d,)`, `covariance` `(d, d)`, or `(d,)` variances along the axes.

    ε is linear in x, and the exact flow is a closed form: along an eigenvector of the covariance with eigenvalue λ,
    the distance from the mean scales as √(α²·λ + σ²). Raises ValueError for a mean that is not finite, and for a
    covariance that is not symmetric and positive semi-definite.
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike) -> None:
        self.mean = reals("mean", mean).astype(np.float64)
        if self.mean.ndim != 1 or not np.isfinite(self.mean).all():
            raise ValueError(f"mean must be finite and of shape (d,), not {mean!r}")
        self.variances, self._axes = _eigen(covariance, self.mean.size)

    @property
    def axes(self) -> Float64:
        """The axes `(d, d)`, in columns."""
        return np.eye(self.mean.size) if self._axes is None else self._axes

    def along(self, x: Float64) -> Float64:
        """The coordinates of x `(…, d)` along the axes."""
        return x if self._axes is None else x @ self._axes

    def across(self, along: Float64) -> Float64:
        """The x `(…, d)` of these coordinates."""
        return along if self._axes is None else along @ self._axes.T

    def posterior(self, x: Float64, alpha: float, sigma: float) -> tuple[Float64, Float64]:
        total = alpha**2 * self.variances + sigma**2
        along = self.along(x - alpha * self.mean)
        x0 = self.mean + self.across(along * (alpha * self.variances / total))
        return x0, self.across(along * (sigma / total))

    def sample(self, count: int, seed: int = 0) -> Float64:
        z = np.random.default_rng(seed).standard_normal((count, self.mean.size))
        return self.mean + self.across(z * np.sqrt(self.variances))

    def flow(self, x: ArrayLike, here: Level, there: Level) -> Float64:
        """As `Distribution.flow`, in closed form."""
        spread_here, spread_there = (
            np.sqrt(level.alpha**2 * self.variances + level.sigma**2) for level in (here, there)
        )
        along = self.along(np.asarray(x, np.float64) - here.alpha * self.mean)
        return there.alpha * self.mean + self.across(along * (spread_there / spread_here))

    def moments(self, plan: Table) -> list[tuple[Float64, Float64]]:
        """The mean `(d,)` and the covariance `(d, d)` of every state of a plan, from its first level to the sample.

        The first state is distributed as the data with the noise of its level, answers are exact, and the noises of
        rows are independent. A state is then a linear form of these, so its moments are exact, without a draw.
        """
        d, count = self.mean.size, len(plan.rows)
        mean, first = self.along(self.mean), plan.levels[0]
        state = np.zeros((d, 2 + count))  # along each axis: the mean, the weight of the start, and of each row's noise
        state[:, 0] = first.alpha * mean
        state[:, 1] = np.sqrt(first.alpha**2 * self.variances + first.sigma**2)
        states, answers = [state], []
        for k, row in enumerate(plan.rows):
            away = states[k].copy()
            away[:, 0] -= row.alpha * mean
            away /= (row.alpha**2 * self.variances + row.sigma**2)[:, None]
            picture, noise = away * (row.alpha * self.variances)[:, None], away * row.sigma
            picture[:, 0] += mean
            a, b = PREDICTIONS[row.space](row.alpha, row.sigma)
            answers.append(a * picture + b * noise)
            state = sum((w * states[i] for i, w in row.states), np.zeros_like(state))
            state = sum((w * answers[j] for j, w in row.answers), state)
            state[:, 2 + k] += row.noise
            states.append(state)
        axes = self.axes
        return [(axes @ s[:, 0], (axes * (s[:, 1:] ** 2).sum(1)) @ axes.T) for s in states]


class GaussianMixture(Distribution):
    """Σ weights_k·N(means_k, covariances_k): `(K,)`, `(K, d)`, and `(K, d, d)` or `(K, d)` variances.

    Raises ValueError for weights that are not positive or do not sum to 1, and for shapes that do not match.
    """

    def __init__(self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> None:
        self.weights, means, covariances = (
            reals(name, values).astype(np.float64)
            for name, values in (("weights", weights), ("means", means), ("covariances", covariances))
        )
        if not (
            self.weights.ndim == 1
            and self.weights.min(initial=1) > 0
            and math.isclose(self.weights.sum(), 1, rel_tol=1e-9)
        ):
            raise ValueError(f"weights must be positive and sum to 1, not {self.weights}")
        if means.ndim != 2 or covariances.ndim < 2:
            raise ValueError(
                f"means must be (K, d) and covariances (K, d, d) or (K, d), not {means.shape}, {covariances.shape}"
            )
        if not len(self.weights) == len(means) == len(covariances):
            raise ValueError(
                f"weights, means and covariances have {len(self.weights)}, {len(means)} and {len(covariances)} parts"
            )
        self.parts = [Gaussian(mean, covariance) for mean, covariance in zip(means, covariances, strict=True)]

    @staticmethod
    def ring(modes: int = 8, radius: float = 0.8, width: float = 0.1) -> GaussianMixture:
        """Round modes of equal weight and standard deviation `width`, at equal distances on a circle in the plane."""
        modes = whole("modes", modes)
        angles = 2 * math.pi * np.arange(modes) / modes
        means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return GaussianMixture(np.full(modes, 1 / modes), means, np.full((modes, 2), width**2))

    def posterior(self, x: Float64, alpha: float, sigma: float) -> tuple[Float64, Float64]:
        logs, pictures, noises = [], [], []
        for weight, part in zip(self.weights, self.parts, strict=True):
            total = alpha**2 * part.variances + sigma**2
            along = part.along(x - alpha * part.mean)
            logs.append(math.log(weight) - 0.5 * (along**2 / total).sum(1) - 0.5 * np.log(total).sum())
            x0, epsilon = part.posterior(x, alpha, sigma)
            pictures.append(x0)
            noises.append(epsilon)
        share = _softmax(np.stack(logs))[..., None]
        return (share * np.stack(pictures)).sum(0), (share * np.stack(noises)).sum(0)

    def sample(self, count: int, seed: int = 0) -> Float64:
        choice = np.random.default_rng(seed).choice(len(self.parts), count, p=self.weights)
        draws = np.stack([part.sample(count, seed + 1 + k) for k, part in enumerate(self.parts)])
        return draws[choice, np.arange(count)]


class Empirical(Distribution):
    """A data set `(K, …)` as a mixture of kernels: N(y, width²·I) around each row y, with `width` > 0.

    Its ε is that of a network that has memorised the data. Raises ValueError for data that are empty or not finite, and
    for a width that is not above 0.
    """

    def __init__(self, data: ArrayLike, width: float) -> None:
        data = reals("data", data).astype(np.float64)
        if data.ndim < 1 or not data.size or not np.isfinite(data).all():
            raise ValueError(f"data must be a finite (K, …), not of shape {data.shape}")
        allowed = "a number above 0, since points without width have no flow to σ = 0"
        self.data, self.width = data.reshape(len(data), -1), real("width", width, allowed, lambda w: 0 < w < math.inf)
        self._squares = (self.data**2).sum(1)

    def posterior(self, x: Float64, alpha: float, sigma: float) -> tuple[Float64, Float64]:
        total = (alpha * self.width) ** 2 + sigma**2
        # −|x − α·y|²/2 for every pair, without the term that is common to a row of x.
        logs = (alpha * x @ self.data.T - alpha**2 * self._squares / 2) / total
        nearest = _softmax(logs.T).T @ self.data
        away = x - alpha * nearest
        return nearest + (alpha * self.width**2 / total) * away, (sigma / total) * away

    def sample(self, count: int, seed: int = 0) -> Float64:
        generator = np.random.default_rng(seed)
        chosen = self.data[generator.integers(len(self.data), size=count)]
        return chosen + self.width * generator.standard_normal(chosen.shape)


def _softmax(logs: Float64) -> Float64:
    """Softmax over the first axis."""
    shares = np.exp(logs - logs.max(0))
    return shares / shares.sum(0)


def _eigen(covariance: ArrayLike, dimension: int) -> tuple[Float64, Float64 | None]:
    """The variances `(d,)` and the axes `(d, d)`, in columns; None for those of x itself."""
    covariance = reals("covariance", covariance).astype(np.float64)
    if not np.isfinite(covariance).all():
        raise ValueError("covariance must be finite")
    if covariance.shape == (dimension,):
        variances, axes = covariance, None
    elif covariance.shape == (dimension, dimension) and np.allclose(covariance, covariance.T):
        variances, axes = np.linalg.eigh(covariance)
    else:
        raise ValueError(
            f"covariance must be symmetric ({dimension}, {dimension}) or ({dimension},) variances, "
            f"not of shape {covariance.shape}"
        )
    if variances.min(initial=0) < -1e-10 * variances.max():
        raise ValueError(f"covariance must be positive semi-definite; its lowest eigenvalue is {variances.min():g}")
    return np.maximum(variances, 0), axes
