"""Runs of plans on a pilot's samples, from the start or from any row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.array_library import dtype_name
from pndm_solvers.arrays import library
from pndm_solvers.plan import Plan, State
from pndm_solvers.prediction import conversion
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Float64
from pndm_solvers.table import Row

__all__ = ["Part", "Run", "Runner", "as_prediction", "first_samples", "numbers"]


class Part(NamedTuple):
    """Samples that the network takes at once.

    Attributes
    ----------
    start:
        Their run before its first call.
    rows:
        Their places among the pilot's samples.
    ends:
        Where the flow leads them, `(b, D)`.
    """

    start: State
    rows: NDArray[np.intp]
    ends: Float64

    def taken(self, chosen: NDArray[np.intp]) -> Part:
        """Some of the samples."""
        ours, state = self.start.library, self.start

        def of(x: Any) -> Any:
            return ours.concatenate([x[row : row + 1, ...] for row in chosen.tolist()])

        condition = {name: of(value) for name, value in state.condition.items()}
        start = replace(state, states={0: of(state.states[0])}, condition=condition)
        return Part(start, self.rows[chosen], self.ends[chosen])


class Run(NamedTuple):
    """A part's run: all its states and answers, and its end `(b, D)`."""

    states: list[Any]
    answers: list[Any]
    end: Float64


@dataclass
class Runner:
    """Calls the network, and counts for how many samples.

    Attributes
    ----------
    model:
        The network.
    called:
        Told the number of samples after each call, or None.
    calls:
        For how many samples the network was called.
    """

    model: Model
    called: Callable[[int], Any] | None = None
    calls: int = field(default=0, init=False)

    def run(self, plan: Plan, part: Part) -> Run:
        """The whole run of a plan."""
        state = replace(part.start, plan=plan)
        states, answers = [state.states[0]], []
        while not state.done:
            answers.append(self.answer(state))
            state = self.state(plan, part, states, answers)
            states.append(state.states[state.row])
        return Run(states, answers, numbers(state.x))

    def answer(self, state: State) -> Any:
        """What the next row combines."""
        count = state.states[state.row].shape[0]
        answer = self.model(state.x, state.t, **state.condition)
        state.check_answer(answer)
        self.calls += count
        if self.called is not None:
            self.called(count)
        return state.converted(answer, own=True)

    def state(self, plan: Plan, part: Part, states: Sequence[Any], answers: Sequence[Any]) -> State:
        """A run of the plan after its last answer: of these states and answers, whichever plan made them."""
        row = len(answers) - 1
        kept = {"states": dict(enumerate(states[: row + 1])), "answers": dict(enumerate(answers[:row]))}
        return replace(part.start, plan=plan, row=row, **kept).combined(answers[row])

    def end(self, state: State) -> Float64:
        """Where a run goes on from `state` to."""
        while not state.done:
            state = state.combined(self.answer(state))
        return numbers(state.x)

    def errors(self, plan: Plan, parts: Sequence[Part]) -> Float64:
        """Each sample's root-mean-square distance to its end; infinite for one that is not finite."""
        with np.errstate(all="ignore"):
            found = [np.sqrt(((self.run(plan, part).end - part.ends) ** 2).mean(1)) for part in parts]
        errors = np.concatenate(found)
        return np.where(np.isfinite(errors), errors, np.inf)


def first_samples(parts: Sequence[Part], count: int) -> list[Part]:
    """The first samples of some parts."""
    chosen = []
    for part in parts:
        if (some := min(count, len(part.rows))) > 0:
            chosen.append(part.taken(np.arange(some)))
            count -= some
    return chosen


def as_prediction(name: str, row: Row, x: Any, answer: Any, kept: NDArray[np.intp]) -> Float64:
    """What a row combines, at its state `x`, as another prediction: the kept numbers, `(B, kept)`."""
    p, q = conversion(row.space, name, row.alpha, row.sigma)
    return p * numbers(x, kept) + q * numbers(answer, kept)


def numbers(x: Any, kept: NDArray[np.intp] | None = None) -> Float64:
    """`(B, D)` on the host, or only the kept numbers of each sample."""
    ours = library(x)
    wide = ours.wide(x)
    values = ours.to_bytes(wide).view(dtype_name(wide.dtype)).reshape(x.shape[0], -1)
    return (values if kept is None else values[:, kept]).astype(np.float64)
