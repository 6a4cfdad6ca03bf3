"""Distances between sets of points: how like the data are samples that have no single right end?

Sets are `(n, …)` and `(m, …)` arrays of real numbers, one row a point; rows are taken as vectors of d numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pndm_solvers.arguments import reals, whole

__all__ = ["Target", "frechet", "resampled", "sliced_wasserstein"]

Float64 = NDArray[np.float64]


class Target:
    """A set of points `(m, …)` to which other sets are compared. It keeps what every comparison needs.

    `directions` are fixed: the same for every target of one dimension and one `seed`, so that figures can be compared.
    """

    def __init__(self, points: ArrayLike, directions: int = 64, seed: int = 0) -> None:
        self.points = _rows("points", points)
        directions = whole("directions", directions)
        axes = np.random.default_rng(seed).standard_normal((self.points.shape[1], directions))
        self.directions = axes / np.linalg.norm(axes, axis=0)

    @cached_property
    def _projected(self) -> Float64:
        return np.sort(self.points @ self.directions, axis=0)

    @cached_property
    def _moments(self) -> tuple[Float64, Float64]:
        return _moments(self.points)

    def sliced_wasserstein(self, points: ArrayLike) -> float:
        """SW²: the squared Wasserstein-2 distance of the projections, its mean over the directions.

        In squared units of a point's numbers. Bonneel et al. (2015), eq. (2). Two sets of n draws from one distribution
        are not at distance 0; subtract that floor (see `measure.compare`).
        """
        return self.sliced_wasserstein_of(self.project(points))

    def project(self, points: ArrayLike) -> Float64:
        """The points on the directions, `(n, directions)`."""
        return self._same_width(points) @ self.directions

    def sliced_wasserstein_of(self, projected: Float64) -> float:
        """SW² of points that were projected before."""
        mine, theirs = np.sort(projected, axis=0), self._projected
        n, m = len(mine), len(theirs)
        # Both quantile functions are steps. Between two of these places, multiples of 1/(n·m), neither changes.
        places = np.union1d(m * np.arange(1, n + 1), n * np.arange(1, m + 1))
        widths = np.diff(places, prepend=0) / (n * m)
        squares = (mine[(places - 1) // m] - theirs[(places - 1) // n]) ** 2
        return float((widths @ squares).mean())

    def frechet(self, points: ArrayLike) -> float:
        """The Fréchet distance of the Gaussians with the sets' means and covariances: Dowson and Landau (1982).

        |μ₁ − μ₂|² + tr(C₁ + C₂ − 2·(C₁·C₂)^½), in squared units of a point's numbers.
        """
        rows = self._same_width(points)
        if max(len(rows), len(self.points)) < rows.shape[1]:
            return self._frechet_of_few(rows)
        mean, covariance = _moments(rows)
        other_mean, other = self._moments
        values, axes = np.linalg.eigh(other)
        root = axes * np.sqrt(np.maximum(values, 0)) @ axes.T
        # The eigenvalues of C₁·C₂ are those of C₂^½·C₁·C₂^½, which is symmetric.
        shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariance @ root), 0)).sum()
        return float(((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other) - 2 * shared)

    def _frechet_of_few(self, rows: Float64) -> float:
        """The same of fewer points than dimensions, by their inner products.

        tr (C₁·C₂)^½ is the sum of the singular values of A·Bᵀ, where C₁ = AᵀA and C₂ = BᵀB.
        """
        a, b = ((x - x.mean(0)) / np.sqrt(max(len(x) - 1, 1)) for x in (rows, self.points))
        shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
        apart = ((rows.mean(0) - self.points.mean(0)) ** 2).sum()
        return float(apart + (a**2).sum() + (b**2).sum() - 2 * shared)

    def nearest(self, points: ArrayLike) -> tuple[Float64, Float64]:
        """The distance from each point to the nearest of the target `(n,)`, and from each of the target's back `(m,)`.

        Root mean squares over the numbers of a point. Points that are far from the target make the first large, and
        parts of the target that no point covers make the second large.
        """
        between = self.between(points)
        return between.min(1), between.min(0)

    def between(self, points: ArrayLike) -> Float64:
        """The root-mean-square distance of each point to each of the target's, `(n, m)`."""
        rows = self._same_width(points)
        squares = (rows**2).sum(1)[:, None] + (self.points**2).sum(1) - 2 * rows @ self.points.T
        return np.sqrt(np.maximum(squares, 0) / rows.shape[1])

    def _same_width(self, points: ArrayLike) -> Float64:
        rows = _rows("points", points)
        if rows.shape[1] != self.points.shape[1]:
            raise ValueError(
                f"points have {rows.shape[1]} numbers each and the target's {self.points.shape[1]}; sets are compared "
                f"in one space"
            )
        return rows


def sliced_wasserstein(a: ArrayLike, b: ArrayLike, directions: int = 64, seed: int = 0) -> float:
    """SW² of two sets: see `Target.sliced_wasserstein`."""
    return Target(b, directions, seed).sliced_wasserstein(a)


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """The Fréchet distance of two sets: see `Target.frechet`."""
    return Target(b).frechet(a)


def resampled(
    statistic: Callable[[NDArray[np.intp]], float], count: int, resamples: int = 100, seed: int = 0
) -> Float64:
    """The bootstrap: `statistic` of `resamples` draws with replacement of `count` indices (Efron 1979)."""
    generator = np.random.default_rng(seed)
    return np.array([statistic(generator.integers(count, size=count)) for _ in range(resamples)])


def _rows(name: str, points: Any) -> Float64:
    rows = reals(name, points).astype(np.float64)
    if rows.ndim < 2 or not rows.size:
        raise ValueError(f"{name} is of shape {rows.shape}; it must be (n, …) with a point in each row")
    return rows.reshape(len(rows), -1)


def _moments(rows: Float64) -> tuple[Float64, Float64]:
    away = rows - rows.mean(0)
    return rows.mean(0), away.T @ away / max(len(rows) - 1, 1)
