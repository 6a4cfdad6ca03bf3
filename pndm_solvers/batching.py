"""Several runs that share the calls of one model.

A row is one row of each run. Its sums are made for all runs at once: the first terms of all as one array, then the
second terms, and so on, each sample with the weights of its own run. So the number of operations is that of one run,
however many there are, and every bit is as in a run alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pndm_solvers.arguments import function
from pndm_solvers.array_library import ArrayLibrary
from pndm_solvers.arrays import check_together
from pndm_solvers.condition import joined
from pndm_solvers.plan import State
from pndm_solvers.run_options import Model

__all__ = ["advance_together"]


class Sum(NamedTuple):
    """Σ weight·array, of a dtype, and held within ± bound."""

    terms: Sequence[tuple[Any, float]]
    dtype: Any
    bound: float = math.inf


def advance_together(model: Model, states: Sequence[State]) -> list[State]:
    """Each of the runs one row further, by one call of the model for all of them.

    The runs may be of any plans, stand at any rows, and be of any batch sizes; the model receives one batch with a
    time for each sample. Where the model treats each sample by itself, each run gets the bits that it would get
    alone. Runs that are done are returned as they are; where all runs are done, the model is not called:

        while not all(state.done for state in states):
            states = advance_together(model, states)

    `Batcher` admits runs to such a loop, and retires them.

    Parameters
    ----------
    model:
        As for `Plan.run`. It receives integer times only where every plan that takes part has integer times.
    states:
        From `Plan.start`, with arrays of one library, dtype, device and sample shape, one type of prediction, and
        conditions of the same names, dtypes and shapes beyond the batch.

    Raises
    ------
    TypeError, ValueError:
        For states that cannot stand in one batch, and for an answer of another shape, kind or device.
    """
    function("model", model, "model(x, t)")
    if not isinstance(states, (list, tuple)) or not all(isinstance(state, State) for state in states):
        raise TypeError(f"states is a {type(states).__name__}; it must be a list of states, as plan.start gives")
    running = [state for state in states if not state.done]
    if not running:
        return list(states)
    first, ours = running[0], running[0].library
    xs = [_shown(state) for state in running]
    kinds = {(type(x), x.dtype, tuple(x.shape[1:]), ours.device(x)) for x in xs}
    if len(kinds) > 1 or len({state.prediction.type for state in running}) > 1:
        _check_one_batch(running, xs)
    x = ours.concatenate(xs)
    sizes = [own.shape[0] for own in xs]
    times = _repeated([state.plan.rows[state.row].t for state in running], sizes)
    t = ours.times(x, times, first.dtype, integer=all(state.plan.integer_times for state in running))
    answer = model(x, t, **joined([state.condition for state in running]))
    check_together("the model's answer", answer, "the states", x)
    if len(running) == 1:
        return [state if state.done else state.plan.advance(state, answer) for state in states]
    # Copies, since a network may write into its memory again, and a run that is kept must not keep all answers.
    rows = iter(_rows(ours, running, ours.split(answer, sizes)))
    return [state if state.done else next(rows) for state in states]


def _shown(state: State) -> Any:
    """What the network gets of a run."""
    x = state.states[state.row]
    return x if x.dtype == state.dtype else state.library.cast(x, state.dtype)


def _check_one_batch(states: Sequence[State], xs: Sequence[Any]) -> None:
    first, like = states[0], xs[0]
    for n, (state, x) in enumerate(zip(states, xs, strict=True)):
        shape = (*x.shape[:1], *like.shape[1:])
        check_together(f"state {n}", x, "the first state", like, shape=shape, dtype=True)
        if state.prediction.type != first.prediction.type:
            raise ValueError(
                f"the runs take the model's answer for {first.prediction.type!r} and for {state.prediction.type!r}; "
                f"one model predicts one thing: start them with the same prediction="
            )


def _repeated(values: Sequence[float], sizes: Sequence[int]) -> np.ndarray:
    """Each run's number for each of its samples."""
    return np.array(values, np.float64).repeat(sizes)


def _rows(ours: ArrayLibrary, states: Sequence[State], answers: list[Any]) -> list[State]:
    """The runs after their rows, given the network's answers: `converted` and `combined` of `State`, all at once."""
    steps = []
    for state in states:
        row = state.plan.rows[state.row]
        steps.append(state.prediction.conversions(row.space, row.alpha, row.sigma))
    for number in range(max(map(len, steps))):
        converted = [n for n, own in enumerate(steps) if len(own) > number]
        sums = []
        for n in converted:
            x, (p, q), prediction = states[n].states[states[n].row], steps[n][number], states[n].prediction
            clips = number == 0 and prediction.clip is not None and prediction.threshold is None
            sums.append(Sum([(x, p), (answers[n], q)], x.dtype, prediction.bound if clips else math.inf))
        for n, value in zip(converted, _added(ours, sums), strict=True):
            prediction = states[n].prediction
            thresholds = number == 0 and prediction.threshold is not None
            answers[n] = prediction.thresholded(ours, value) if thresholds else value
    sums = [
        Sum(state.terms(answer), state.states[state.row].dtype) for state, answer in zip(states, answers, strict=True)
    ]
    made = _added(ours, sums)
    return [state.followed(answer, x) for state, answer, x in zip(states, answers, made, strict=True)]


def _added(ours: ArrayLibrary, sums: Sequence[Sum]) -> list[Any]:
    """Each of the sums, as `combine` makes it and then held within its bound, in memory of its own."""
    groups: dict[Any, list[int]] = {}
    wide = []
    for n, (terms, dtype, _) in enumerate(sums):
        if ours.wide_dtype(terms[0][0]) != dtype or any(array.dtype != dtype for array, _ in terms):
            terms = [(ours.wide(array, dtype), weight) for array, weight in terms]
        wide.append(terms)
        # Terms of several dtypes are rounded on the way, so they go with sums of the same ones alone.
        dtypes = tuple(array.dtype for array, _ in terms)
        groups.setdefault((dtype, dtypes if len(set(dtypes)) > 1 else dtypes[0]), []).append(n)
    found: dict[int, Any] = {}
    for (dtype, _), members in groups.items():
        # Those of many terms first, so that every next term is one of the first samples.
        order = sorted(members, key=lambda n: -len(wide[n]))
        sizes = [wide[n][0][0].shape[0] for n in order]
        total = None
        for place in range(len(wide[order[0]])):
            part = [wide[n][place] for n in order if len(wide[n]) > place]
            x = ours.concatenate([array for array, _ in part])
            weights = ours.column(_repeated([weight for _, weight in part], sizes[: len(part)]), x)
            total = x * weights if total is None else ours.add_rows(total, x, weights)
        total = ours.cast(total, dtype)
        if any(sums[n].bound < math.inf for n in order):
            held = ours.column(_repeated([sums[n].bound for n in order], sizes), total)
            total = ours.namespace(total).clip(total, -held, held)
        found.update(zip(order, ours.split(total, sizes), strict=True))
    return [found[n] for n in range(len(sums))]
