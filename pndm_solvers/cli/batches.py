"""Samples drawn in batches: memory holds one batch at a time beside the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.generation.network import first_state_of, noise_size
from pndm_solvers.noise import BEFORE_THE_FIRST, NoiseSource
from pndm_solvers.observers import Observer, Step
from pndm_solvers.plan import Plan, State
from pndm_solvers.prediction import Prediction
from pndm_solvers.schedule import Level

__all__ = ["Drawing", "draw", "levels_of_states", "pilot_noise"]


class _Batch(Observer):
    """Gives a run the noise of its samples, and counts its calls on a bar that is shared with other runs."""

    needs_steps = False

    def __init__(self, first: int, bar: Any) -> None:
        self.first, self.bar = first, bar

    def begin(self, state: State) -> State:
        return replace(state, noise=replace(state.noise, first=self.first))

    def __call__(self, step: Step) -> None:
        self.bar.update()

    def passed(self) -> None:
        self.bar.update()


@dataclass
class Drawing:
    """What was drawn: samples `(N, …)`, the previews of each model call, and all states `(S + 1, N, …)`, if wanted."""

    samples: NDArray[np.float32]
    previews: list[NDArray[np.float32]] = field(default_factory=list)
    states: NDArray[np.float32] | None = None


def pilot_noise(loaded: Any, count: int, seed: int, device: str) -> Any:
    """The noise of the first samples at the schedule's highest level, as `plan_within` and `Pilot.record` take it."""
    return pure_noise(loaded, count, seed, device) * noise_size(loaded.schedule.level(loaded.schedule.t_max))


def pure_noise(loaded: Any, count: int, seed: int, device: str, first: int = 0) -> Any:
    """Noise of deviation 1 of the samples `first` to `first + count − 1`, as float32 on the device."""
    import torch

    noise = NoiseSource(seed, first=first).draw(BEFORE_THE_FIRST, np.empty((count, *loaded.shape)))
    return torch.from_numpy(noise).float().to(device)


def draw(
    plan: Plan,
    loaded: Any,
    label: Any,
    scale: float,
    prediction: Prediction,
    *,
    count: int,
    batch: int,
    seed: int,
    device: str,
    previews: bool = False,
    states: bool = False,
) -> Drawing:
    """Samples by a plan, `batch` at a time, with one progress bar. Sample i is the same in any batch, but for rounding.

    `label` is `(count,)`, or None.
    """
    from tqdm.auto import tqdm

    shape = (count, *loaded.shape)
    drawing = Drawing(np.empty(shape, np.float32))
    if previews:
        drawing.previews = [np.empty(shape, np.float32) for _ in plan.rows]
    if states:
        drawing.states = np.empty((len(levels_of_states(plan)), *shape), np.float32)
    begins = range(0, count, batch)
    with tqdm(total=plan.model_calls * len(begins), unit="call", desc=plan.name) as bar:
        for first in begins:
            here = slice(first, min(first + batch, count))
            noise = pure_noise(loaded, here.stop - first, seed, device, first)
            x = first_state_of(loaded, noise, plan.levels[0])

            def keep(step: Step, here: slice = here) -> None:
                drawing.previews[step.row][here] = step.x0.cpu().numpy()

            found = plan.run(
                loaded.model(None if label is None else label[here], scale),
                x,
                prediction=prediction,
                seed=seed,
                trajectory=states,
                callback=[_Batch(first, bar), *([keep] if previews else [])],
            )
            points: Sequence[Any] = found if states else [found]
            drawing.samples[here] = points[-1].cpu().numpy()
            if drawing.states is not None:
                drawing.states[:, here] = [point.cpu().numpy() for point in points]
    return drawing


def levels_of_states(plan: Plan) -> list[Level]:
    """The levels of the states of a run with `trajectory=True`: the first state's, and that after each step."""
    after = [level for row, level in zip(plan.rows, plan.levels[1:], strict=True) if not row.stage]
    return [plan.levels[0], *after]
