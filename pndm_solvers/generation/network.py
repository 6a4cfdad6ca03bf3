"""A network of the caller's own with all that sampling needs: what a function that `--model` names returns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.advice import advise_on_samples
from pndm_solvers.arguments import function, shown, whole
from pndm_solvers.grid import default_start, size_of_data
from pndm_solvers.guidance import classifier_free_guidance
from pndm_solvers.latents import around, first_state, mean_of
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.rule import SHORT
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule

__all__ = [
    "Network",
    "advise",
    "data_of",
    "first_state_of",
    "modules_of",
    "noise_size",
    "parameters_digest",
    "said_of_data",
]


@dataclass(frozen=True, eq=False)
class Network:
    """A network for the commands `sample`, `fit` and `generate`, by `--model module:function`.

    Attributes
    ----------
    network:
        A torch module, or any function, `(x, t)` for x `(B, …)` and t `(B,)`; with classes `(x, t, label=y)`, y `(B,)`.
        It answers a tensor of x's shape.
    schedule, prediction:
        What it was trained with.
    shape:
        The shape of one sample: (channels, height, width) for pictures in [-1, 1].
    labels:
        The names of its classes, or their number; empty for a network without classes.
    unconditional:
        The label that stands for no class, by which guidance asks; None where there is none.
    name:
        For messages; by default that of the network's class or function.
    data_mean, data_range:
        Of its data, as for `Solver.sample`, where they are not centred or reach far beyond ±1.

    Raises TypeError or ValueError for anything else.
    """

    network: Callable[..., Any] = field(repr=False)
    schedule: NoiseSchedule
    shape: tuple[int, ...]
    prediction: str | Prediction = "epsilon"
    labels: tuple[str, ...] = ()
    unconditional: int | None = None
    name: str = ""
    data_mean: Any = None
    data_range: float = 1.0

    def __post_init__(self) -> None:
        function("network", self.network, "network(x, t)")
        if not isinstance(self.schedule, NoiseSchedule):
            raise TypeError(f"schedule is {shown(self.schedule)}; it must be a NoiseSchedule, NoiseSchedule.linear()")
        Prediction.of(self.prediction)
        labels = range(self.labels) if isinstance(self.labels, int) else self.labels
        if isinstance(labels, str):
            raise TypeError(f"labels is {labels!r}; it must be the names of the classes, or their number")
        shape = tuple(whole("a length in shape", length) for length in self.shape)
        own = getattr(self.network, "__name__", type(self.network).__name__)
        vars(self).update(shape=shape, labels=tuple(map(str, labels)), name=self.name or own)
        vars(self).update(data_of(self)._asdict())
        if self.data_mean is not None:
            top = self.schedule.level(self.schedule.t_max)
            around(self.data_mean, np.zeros((1, *shape)), top)  # refuses what does not fit

    def __call__(self, x: Any, t: Any, label: Any = None) -> Any:
        """The answer at the times `t` `(B,)`, for the classes `label` `(B,)` where it has some."""
        return self.network(x, t) if label is None else self.network(x, t, label=label)

    def model(self, label: Any = None, guidance: float = 1.0) -> Model:
        """The network for the classes `label` `(B,)`, by classifier-free guidance of that scale; 1 is no guidance."""
        if label is None:
            return self
        guided = self.guided(guidance) if guidance != 1 else self
        return lambda x, t: guided(x, t, label=label)

    def guided(self, scale: float) -> Model:
        """The network with classifier-free guidance. ValueError where it has no label for no class."""
        if self.unconditional is None:
            raise ValueError(
                f"guidance is {scale:g}, but the network {self.name!r} has no label for no class; leave --guidance "
                f"out, or pass unconditional= to Network"
            )
        return classifier_free_guidance(self, {"label": self.unconditional}, scale)


def noise_size(level: Level) -> float:
    """The deviation of pure noise at a level: σ where a schedule's variance explodes, else 1."""
    size = math.hypot(level.alpha, level.sigma)
    return size if size > 1.01 else 1.0


class Data(NamedTuple):
    """What a network says of its data: options of `Solver.sample`."""

    data_mean: NDArray[np.float64] | None
    data_range: float


def data_of(loaded: Any) -> Data:
    """What a network says of its data. TypeError or ValueError for what cannot be."""
    mean = getattr(loaded, "data_mean", None)
    return Data(None if mean is None else mean_of(mean), size_of_data(getattr(loaded, "data_range", 1.0)))


def said_of_data(loaded: Any) -> dict[str, Any]:
    """The same for JSON, without what was not said."""
    mean, size = data_of(loaded)
    return ({} if mean is None else {"data_mean": mean.tolist()}) | ({} if size == 1 else {"data_range": size})


def first_state_of(loaded: Any, noise: Any, level: Level) -> Any:
    """The state at which a run of the network begins at a level, from `noise` `(B, …)` of deviation 1."""
    mean, size = data_of(loaded)
    return first_state(noise * noise_size(level), level, mean, {"data_range": size})


def advise(loaded: Any, samples: Any, plan: Plan) -> None:
    """Where the network says no mean, warns of samples `(B, …)` that have one, or are far wider than it says.

    Their width says something where the run began where the range decides.
    """
    mean, size = data_of(loaded)
    if mean is not None:
        return
    facts = loaded.schedule, loaded.prediction, size, tuple(loaded.shape)
    starts = (default_start(*facts, steps=steps).t for steps in (None, SHORT))
    own = any(math.isclose(plan.levels[0].t, t, rel_tol=1e-9, abs_tol=1e-9) for t in starts)
    advise_on_samples(samples, plan, loaded.schedule, size if own else None)


def modules_of(loaded: Any) -> Iterator[tuple[str, Any]]:
    """The torch modules that a network is or holds, by name: of a bundled one, a saved one or a `Network`."""
    import torch

    if isinstance(loaded, torch.nn.Module):
        yield "", loaded
        return
    for name, value in sorted(vars(loaded).items()):
        if isinstance(value, torch.nn.Module):
            yield name, value


def parameters_digest(loaded: Any) -> str | None:
    """The SHA-256 of all parameters and buffers of a network; None where it holds no torch module."""
    from hashlib import sha256

    import torch

    digest, modules = sha256(), list(modules_of(loaded))
    for module, held in modules:
        for name, tensor in sorted(held.state_dict().items()):
            if isinstance(tensor, torch.Tensor):
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(f"{module}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest() if modules else None
