"""Several runs that share the calls of one model."""

from __future__ import annotations

from collections.abc import Sequence

from pndm_solvers.arguments import function
from pndm_solvers.arrays import check_together
from pndm_solvers.condition import joined
from pndm_solvers.plan import State
from pndm_solvers.run_options import Model

__all__ = ["advance_together"]


def advance_together(model: Model, states: Sequence[State]) -> list[State]:
    """Each of the runs one row further, by one call of the model for all of them.

    The runs may be of any plans, stand at any rows, and be of any batch sizes; the model receives one batch with a
    time for each sample. Where the model treats each sample by itself, each run gets the answers that it would get
    alone. Runs that are done are returned as they are; where all runs are done, the model is not called:

        while not all(state.done for state in states):
            states = advance_together(model, states)

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
    first, xs = running[0], [state.x for state in running]
    for n, (state, x) in enumerate(zip(running, xs, strict=True)):
        shape = (*x.shape[:1], *xs[0].shape[1:])
        check_together(f"state {n}", x, "the first state", xs[0], shape=shape, dtype=True)
        if state.prediction.type != first.prediction.type:
            raise ValueError(
                f"the runs take the model's answer for {first.prediction.type!r} and for {state.prediction.type!r}; "
                f"one model predicts one thing: start them with the same prediction="
            )
    ours = first.library
    integer = all(state.plan.integer_times for state in running)
    times = [
        ours.times(x, state.plan.rows[state.row].t, x.dtype, integer=integer)
        for state, x in zip(running, xs, strict=True)
    ]
    x = ours.concatenate(xs)
    answer = model(x, ours.concatenate(times), **joined([state.condition for state in running]))
    check_together("the model's answer", answer, "the states", x)
    advanced, end = [], 0
    for state in states:
        if not state.done:
            begin, end = end, end + state.states[state.row].shape[0]
            # A copy, so that a run that is kept does not keep the answers to all the others.
            state = state.plan.advance(state, ours.copy(answer[begin:end, ...]))
        advanced.append(state)
    return advanced
