"""A scheduler's step within torch.compile: one operator, which the compiler does not look into.

The row is looked up when the operator runs, not when it is compiled. So one graph serves all rows and all plans.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

__all__ = ["COMPILES", "apart", "compiled_step", "numbered"]


# A graph holds numbers and tensors alone, so a scheduler goes by number; no graph keeps it alive.
SCHEDULERS: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = itertools.count()


def numbered(scheduler: Any) -> int:
    """Gives a scheduler a number. The operator finds the scheduler by it."""
    number = next(_numbers)
    SCHEDULERS[number] = scheduler
    return number


def apart(step: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a step outside of any graph."""
    return _outside(step, *arguments)


def compiled_step(
    number: int, model_output: Tensor, timestep: Any, sample: Tensor, epsilon_as_answered: bool
) -> tuple[Tensor, Tensor]:
    """The next sample and x̂_0, by the scheduler of that number, in a graph."""
    time = timestep if isinstance(timestep, Tensor) else torch.tensor(timestep, dtype=torch.float64)
    return OPERATOR(number, model_output, time, sample, epsilon_as_answered)


def _stepped(
    scheduler: int, answer: Tensor, time: Tensor, sample: Tensor, epsilon_as_answered: bool
) -> tuple[Tensor, Tensor]:
    options = {"epsilon_as_answered": epsilon_as_answered}
    following, x0 = SCHEDULERS[scheduler]._step(answer, time, sample, False, **options)
    # In the layout of `_shapes`, and in memory of their own: a graph takes both for granted.
    return _laid_out(following, like=sample), _laid_out(x0.clone() if x0 is answer else x0, like=sample)


def _shapes(
    scheduler: int, answer: Tensor, time: Tensor, sample: Tensor, epsilon_as_answered: bool
) -> tuple[Tensor, Tensor]:
    """Tensors of the shapes, dtypes and layouts of what `_stepped` returns."""
    own = SCHEDULERS[scheduler]
    # An answer that is the picture keeps its dtype.
    is_answer = not own.prediction.conversions("sample", 1.0, 1.0) and own.config.timestep_type != "edm"
    return torch.empty_like(sample), torch.empty_like(sample, dtype=answer.dtype if is_answer else sample.dtype)


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """`x` with the strides of a new tensor like `like`."""
    made = torch.empty_like(like, dtype=x.dtype, device="meta")
    return x if x.stride() == made.stride() else torch.empty_like(like, dtype=x.dtype).copy_(x)


def _operator() -> Any:
    """`_stepped` as an operator of torch."""
    # Two equal calls may differ: each is a step of its run, and draws noise of its own. In a CUDA graph each replay
    # would repeat one row.
    tags = torch.Tag.nondeterministic_seeded, torch.Tag.cudagraph_unsafe
    schema = "(int scheduler, Tensor answer, Tensor time, Tensor sample, bool epsilon_as_answered) -> (Tensor, Tensor)"
    made = torch.library.custom_op("pndm_solvers::step", _stepped, mutates_args=(), schema=schema, tags=tags)
    made.register_fake(_shapes)
    return made


# Torch before 2.9 cannot keep an operator out of CUDA graphs.
COMPILES = hasattr(torch.Tag, "cudagraph_unsafe")
OPERATOR: Any = _operator() if COMPILES else None
OUTSIDE = (
    "pndm_solvers: a graph holds only steps that draw their noise, if any, from torch's own generator, and for which "
    "torch records no gradients; leave out generator, variance_noise, prev_sample, log_prob and eta, and sample under "
    "torch.no_grad(), or compile without fullgraph=True"
)
_outside: Any = torch.compiler.disable(lambda step, *arguments: step(*arguments), reason=OUTSIDE) if COMPILES else None
