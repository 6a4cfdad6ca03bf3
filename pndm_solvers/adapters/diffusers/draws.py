"""How a step of diffusers' interface comes by its noise, and the probability of the sample that it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from torch import Tensor

from pndm_solvers.arguments import boolean
from pndm_solvers.arrays import check_together
from pndm_solvers.noise import NoiseSource
from pndm_solvers.table import Span
from pndm_solvers.transition import Transition

__all__ = ["PLAIN", "Draw", "GivenNoise", "PickedNoise", "ScaledNoise", "mean_log_prob"]


@dataclass(frozen=True)
class GivenNoise(NoiseSource):
    """Noise that the caller drew."""

    values: Any = None

    def check(self, like: Any) -> None:
        """Refuses noise that is no tensor of the sample's shape."""
        check_together("variance_noise", self.values, "sample", like)

    def draw(self, row: int, like: Any, span: Span | None = None) -> Any:
        """The noise, whatever the row."""
        return self.values


@dataclass(frozen=True)
class ScaledNoise(NoiseSource):
    """Noise with a deviation of its own at each element: `scale`, in units of the row's."""

    source: NoiseSource = field(default_factory=NoiseSource)
    scale: Any = 1.0

    def check(self, like: Any) -> None:
        """Refuses what the noise cannot be drawn from."""
        self.source.check(like)

    def draw(self, row: int, like: Any, span: Span | None = None) -> Any:
        """The noise of `source`, scaled."""
        return self.scale * self.source.draw(row, like, span)


@dataclass(frozen=True, eq=False)
class PickedNoise(NoiseSource):
    """The noise of the samples at `index` in a `batch`: `whole()` draws that of the whole batch, once."""

    source: NoiseSource = field(kw_only=True)
    batch: Any = field(kw_only=True)
    index: Any = field(kw_only=True)
    whole: Callable[[], Any] = field(kw_only=True)

    def check(self, like: Any) -> None:
        """Refuses what the noise of the batch cannot be drawn from."""
        self.source.check(self.batch)

    def draw(self, row: int, like: Any, span: Span | None = None) -> Any:
        """The noise of these samples, whatever the row."""
        return self.whole()[self.index]


@dataclass(frozen=True)
class Draw:
    """Where a step's sample comes from beside the network's answer.

    Attributes
    ----------
    noise:
        What the noise is drawn from.
    prev_sample:
        The sample that takes the place of a draw, or None.
    log_prob:
        Whether the step returns the log-probability of its sample.
    """

    noise: NoiseSource = field(default_factory=NoiseSource)
    prev_sample: Tensor | None = None
    log_prob: bool = False

    @staticmethod
    def of(
        generator: Any, variance_noise: Any = None, prev_sample: Tensor | None = None, log_prob: bool = False
    ) -> Draw:
        """From the arguments of `step`. ValueError where two of the first three are given."""
        if generator is variance_noise is prev_sample is None and log_prob is False:
            return PLAIN
        given = {"generator": generator, "variance_noise": variance_noise, "prev_sample": prev_sample}
        named = [name for name, value in given.items() if value is not None]
        if len(named) > 1:
            raise ValueError(f"pass {' or '.join(named)}, not both: each decides the step's noise")
        noise = NoiseSource(generator=generator) if variance_noise is None else GivenNoise(values=variance_noise)
        return Draw(noise, prev_sample, boolean("log_prob", log_prob) or prev_sample is not None)

    def picked(self, groups: Iterable[Tensor], sample: Tensor) -> Iterator[Draw]:
        """The draws of groups of samples, each by its places in the batch of `sample`."""
        if self.prev_sample is not None:
            check_together("prev_sample", self.prev_sample, "sample", sample)
        whole = cache(partial(self.noise.draw, 0, sample))
        for index in groups:
            given = None if self.prev_sample is None else self.prev_sample[index]
            yield Draw(PickedNoise(source=self.noise, batch=sample, index=index, whole=whole), given, self.log_prob)

    def check(self, noise: NoiseSource, deviation: float, sample: Tensor, time: float) -> None:
        """Refuses what cannot be drawn or has no probability, in a step with noise of this `deviation`."""
        if self.log_prob and not deviation:
            asked = "log_prob is True" if self.prev_sample is None else "prev_sample is given"
            raise ValueError(
                f"{asked} at t = {time:g}, where the step draws no noise, so its sample has no probability. Leave both "
                f"out at such a step; or choose a stochastic one: DDIMScheduler with eta above 0, "
                f"DPMSolverMultistepScheduler with an algorithm_type 'sde-…', SASolverScheduler with a tau_func above "
                f"0 there. A step to σ = 0 is never one"
            )
        if self.prev_sample is not None:
            check_together("prev_sample", self.prev_sample, "sample", sample)
        elif deviation:  # callers pass their generators to steps that draw nothing, too
            noise.check(sample)


# That of a step to which nothing was passed.
PLAIN = Draw()


def mean_log_prob(row: int, mean: Tensor, deviation: float, noise: NoiseSource, x: Tensor) -> Tensor:
    """The logarithm of the normal density at `x` `(B, …)`, a mean over all dimensions but the batch: `(B,)`.

    `x` counts as a constant, as in DDPO, so the gradient is that of the mean and of the deviation.
    """
    x = x.detach()
    if not isinstance(noise, ScaledNoise):
        return Transition(row, mean, deviation).log_prob(x) / math.prod(mean.shape[1:])
    deviations = deviation * noise.scale.to(mean.dtype)
    terms = ((x - mean) / deviations) ** 2 / 2 + deviations.log()
    return -terms.reshape(len(terms), -1).mean(1) - math.log(2 * math.pi) / 2
