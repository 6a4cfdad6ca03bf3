"""What a run is called with: the network, and the options of `Plan.start` and `Plan.run`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypedDict

from pndm_solvers.condition import Condition
from pndm_solvers.observers import Callback
from pndm_solvers.prediction import Prediction

__all__ = ["Model", "RunOptions", "StartOptions"]

Model = Callable[..., Any]  # model(x, t), or model(x, t, **condition)


class StartOptions(TypedDict, total=False):
    """What the network predicts and receives, where noise comes from, and how states are kept: see `Plan.run`."""

    prediction: str | Prediction
    condition: Condition | None
    seed: int | Sequence[int] | None
    generator: Any
    noise: Literal["independent", "brownian"]
    state_dtype: Any


class RunOptions(StartOptions, total=False):
    """The same, and what watches the run: see `Plan.run`."""

    callback: Callback | Sequence[Callback] | None
    progress: bool
    trajectory: bool
    check_finite: bool | None
    checkpoint: str | os.PathLike[str] | None
