"""Where a run's random numbers come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pndm_solvers.arguments import choice, whole
from pndm_solvers.arrays import check_floating, library
from pndm_solvers.brownian import brownian_increment
from pndm_solvers.remembered import Remembered
from pndm_solvers.table import Span

__all__ = ["BEFORE_THE_FIRST", "NoiseSource", "initial_noise"]

BEFORE_THE_FIRST = -1  # the row whose noise is x_T

# What the last steps of two runs drew from their Brownian paths, for the next ones: a dict of normals for each sample.
# A step takes at most 64 draws; runs that would keep more bytes than this keep none.
PATHS: Remembered[list[dict[int, np.ndarray]]] = Remembered(2)
MOST_KEPT = 2**25


@dataclass(frozen=True)
class NoiseSource:
    """The z_k of a run: addressed by seed, or drawn in turn from generators.

    Parameters
    ----------
    seed:
        An integer, or one for each sample. The noise of a sample is then a function of its seed
        and the row alone: not of the batch it stands in, the device, or what was drawn before.
        One integer for the batch gives its i-th sample the i-th stream of that seed.
    generator:
        A generator of the states' library or of NumPy, or a list with one for each sample.

        With neither, noise comes from torch's global generator, or from fresh entropy elsewhere.
    kind:
        "independent", or "brownian": the noise of a step down is then the increment of one Brownian path a sample, a
        function of the seed and the step's two levels. Runs with other numbers of steps follow the same path.
    first:
        The number of the batch's first sample, where a batch is a part of many samples with one seed.

    Raises
    ------
    ValueError:
        Where seed and generator are both given, or no seed for a path.
    """

    seed: int | tuple[int, ...] | None = None
    generator: Any = None
    kind: Literal["independent", "brownian"] = "independent"
    first: int = 0

    def __post_init__(self) -> None:
        if self.seed is not None and self.generator is not None:
            raise ValueError("pass seed= or generator=, not both")
        if choice("noise", self.kind, ("independent", "brownian")) == "brownian" and self.seed is None:
            raise ValueError("noise is 'brownian', a path that is addressed by seed; pass seed=")

    @staticmethod
    def of(seed: int | Sequence[int] | None, generator: Any, kind: Any = "independent") -> NoiseSource:
        """A source from the arguments of `Plan.run`; TypeError or ValueError for anything else than seeds."""
        if seed is None:
            return NoiseSource(None, generator, kind)
        several = getattr(seed, "ndim", 0) == 1 or (isinstance(seed, Sequence) and not isinstance(seed, (str, bytes)))
        return NoiseSource(tuple(map(_seed, seed)) if several else _seed(seed), generator, kind)  # type: ignore[arg-type]

    def check(self, like: Any) -> None:
        """ValueError unless lists have one entry a sample; TypeError unless like's library can use the generators."""
        if isinstance(self.seed, tuple):
            _one_each("seed", self.seed, like.shape[0])
        if self.generator is None:
            return
        several = isinstance(self.generator, Sequence) and not isinstance(self.generator, (str, bytes))
        for generator in _one_each("generator", self.generator, like.shape[0]) if several else [self.generator]:
            library(like).check_generator(generator)

    def draw(self, row: int, like: Any, span: Span | None = None) -> Any:
        """The noise z of one row, N(0, I), of `like`'s `(B, …)` shape, dtype and device.

        `span` is the row's step down, where it has one, for a path.
        """
        batch = like.shape[0]
        if self.seed is not None:
            if isinstance(self.seed, int):
                streams = [(self.seed, self.first + i) for i in range(batch)]
            else:
                streams = [(seed, 0) for seed in _one_each("seed", self.seed, batch)]
            values = np.empty(like.shape)
            paths: list[Any] = [None] * batch
            if self.kind == "brownian" and span is not None and 64 * values.nbytes <= MOST_KEPT:
                paths = PATHS.get((self.seed, self.first, span.fall, values.shape), lambda: [{} for _ in streams])
            for n, (seed, i) in enumerate(streams):
                if self.kind == "brownian" and span is not None:
                    values[n] = brownian_increment(seed, i, span.fall, like.shape[1:], span.begin, span.end, paths[n])
                else:
                    values[n] = _seeded(seed, i, row).standard_normal(like.shape[1:])
            return library(like).from_numpy(values, like)
        if isinstance(self.generator, Sequence):
            generators = _one_each("generator", self.generator, batch)
            parts = [library(like).normal(like[i : i + 1, ...], generator) for i, generator in enumerate(generators)]
            return library(like).concatenate(parts) if parts else like
        return library(like).normal(like, self.generator)


def initial_noise(shape: Sequence[int], seed: int | Sequence[int], like: Any = None) -> Any:
    """x_T ~ N(0, I) of `shape` `(B, …)`, each sample by its own seed, as float64 NumPy or of the kind of `like`.

    Runs on variance-preserving and rectified-flow schedules start from it; for a
    variance-exploding schedule multiply it by σ at the first time.

    Raises TypeError or ValueError for a shape without a batch, a `like` that is no floating array of that shape, and
    any other number of seeds than one, or one for each sample.
    """
    if isinstance(shape, (str, bytes)) or not isinstance(shape, Sequence):
        raise TypeError(f"shape is {shape!r}; it must be (B, …), a sequence of whole numbers")
    shape = tuple(whole("a length in shape", length, least=0, most=math.inf) for length in shape)
    if not shape:
        raise ValueError("shape is (); it must be (B, …) with the batch first")
    if seed is None:
        raise TypeError("seed is None; it must be a whole number, or one for each sample")
    if like is not None:
        check_floating("like", like)
    start = np.empty(shape) if like is None else like
    if tuple(start.shape) != shape:
        raise ValueError(f"shape is {shape} but like has {tuple(start.shape)}; pass like's own")
    return NoiseSource.of(seed, None).draw(BEFORE_THE_FIRST, start)


def _seeded(seed: int, sample: int, row: int) -> np.random.Generator:
    # Philox is counter-based: every (seed, sample, row) has its own stream, which costs nothing to reach.
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(sample, row + 1))))


def _seed(seed: Any) -> int:
    return whole("seed", seed, least=0, most=math.inf)


def _one_each(name: str, values: Sequence[Any], batch: int) -> Sequence[Any]:
    if len(values) != batch:
        raise ValueError(f"{name} has {len(values)} entries for a batch of {batch}; pass one, or one for each sample")
    return values
