"""Several latents, and several runs, at once: what lies between two latents, and runs that share a model's calls."""

from __future__ import annotations

import math
from typing import Any

from pndm_solvers.arguments import floating, function, real
from pndm_solvers.arrays import elsewhere, is_array, library
from pndm_solvers.execute import Model, State, check_answer, check_state

__all__ = ["advance_together", "slerp"]


def slerp(a: Any, b: Any, weight: Any) -> Any:
    """Between the latents `a` (weight 0) and `b` (weight 1), along the arc: Shoemake (1985), section 3.3.

    `sin((1 − weight)·θ)/sin θ·a + sin(weight·θ)/sin θ·b`, where θ is the angle between a sample of `a` and its
    partner in `b`. So what lies between two draws of noise is as long as noise is; on the chord it would be shorter,
    and no network has seen such. Parallel samples, whose arc is a point, are mixed linearly.

    Parameters
    ----------
    a, b:
        `(B, …)`, floating, of one library, shape, dtype and device, as is the result. Each sample has its own angle.
    weight:
        A number, also one that is differentiated by: 0 to 1, or outside to go on along the same circle.

    Raises
    ------
    TypeError, ValueError:
        For arrays that do not match, and for samples that are not finite, or each other's opposite: no arc between
        those is the shortest. (Within `jax.jit`, which cannot look, the result is NaN.)
    """
    check_state(floating("a", a))
    _check_alike("a", a, "b", floating("b", b), tuple(a.shape))
    ours, xp = library(a), library(a).namespace(a)
    # As a number of the library it may be what one differentiates by.
    if not (is_array(weight) and library(weight) is ours and weight.ndim == 0 and ours.is_floating(weight)):
        weight = real("weight", weight)
    rows = (a.shape[0], math.prod(a.shape[1:]))
    u, v = (xp.reshape(ours.wide(x), rows) for x in (a, b))
    cosine = xp.clip(xp.sum(_directions(u, xp) * _directions(v, xp), axis=1), -1, 1)
    # Nearer than this the weights differ from the linear ones by a rounding, and θ has no derivative.
    narrow = 1 - cosine**2 < 8 * xp.finfo(u.dtype).eps
    angle = xp.acos(xp.where(narrow, xp.zeros_like(cosine), cosine))
    parts = []
    for x, share in ((u, 1 - weight), (v, weight)):
        straight = xp.where(cosine > 0, xp.zeros_like(angle) + share, xp.full_like(angle, math.nan))
        parts.append(x * xp.reshape(xp.where(narrow, straight, xp.sin(share * angle) / xp.sin(angle)), (-1, 1)))
    between = ours.cast(xp.reshape(parts[0] + parts[1], a.shape), a.dtype)
    if not ours.is_finite(between):
        raise ValueError(
            f"no arc of finite numbers: weight is {weight}, and no sample of a and b may hold infinity or NaN, nor be "
            f"the opposite of its partner; use others, or go by way of a third"
        )
    return between


def _directions(x: Any, xp: Any) -> Any:
    """The rows of `x` `(B, n)` at length 1, but those of zeros, which have no direction: any angle will do."""
    if 0 in x.shape:
        return x
    for order in (math.inf, 2):  # by the largest number first, since the squares of huge and tiny ones are none
        size = xp.linalg.vector_norm(x, ord=order, axis=1, keepdims=True)
        x = x / xp.where(size > 0, size, xp.ones_like(size))
    return x


def advance_together(model: Model, states: list[State] | tuple[State, ...]) -> list[State]:
    """Each of the runs one row further, by one call of the model for all of them.

    The runs may be of any plans, stand at any rows, and be of any batch sizes; the model sees one batch with a time
    for each sample. A model that treats each sample by itself gives each run what it would give it alone. Runs that
    are done are returned as they are, and where all are, the model is not called:

        while not all(state.done for state in states):
            states = advance_together(model, states)

    Parameters
    ----------
    model:
        As for `Plan.run`. Its times are integers only where those of every plan that takes part are.
    states:
        From `Plan.start`, with arrays of one library, dtype, device and sample shape, and one type of prediction.

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
    first = running[0]
    xs = [state.x for state in running]
    for n, (state, x) in enumerate(zip(running, xs, strict=True)):
        _check_alike("the first state", xs[0], f"state {n}", x, (*x.shape[:1], *xs[0].shape[1:]))
        if state.prediction.type != first.prediction.type:
            raise ValueError(
                f"the runs take the model's answer for {first.prediction.type!r} and for {state.prediction.type!r}; "
                f"one model predicts one thing: start them with the same prediction="
            )
    ours = library(xs[0])
    integer = all(state.plan.integer_times for state in running)
    times = [
        ours.times(x, state.plan.rows[state.row].t, x.dtype, integer=integer)
        for state, x in zip(running, xs, strict=True)
    ]
    x = ours.concatenate(xs)
    answer = model(x, ours.concatenate(times))
    check_answer(x, first.plan.rows[first.row].t, answer)
    advanced, end = [], 0
    for state in states:
        if not state.done:
            begin, end = end, end + state.states[state.row].shape[0]
            # A copy, so that a run that is kept does not keep the answers to all the others.
            state = state.plan.advance(state, ours.copy(answer[begin:end, ...]))
        advanced.append(state)
    return advanced


def _check_alike(name: str, x: Any, other: str, y: Any, shape: tuple[int, ...]) -> None:
    """TypeError or ValueError unless `y` is a floating array of that shape, and of x's library, dtype and device."""
    check_state(y)
    ours = library(x)
    if ours.namespace(x) is not library(y).namespace(y):
        raise TypeError(f"{name} is a {type(x).__name__} and {other} a {type(y).__name__}; convert one of them")
    for what, mine, its in (
        ("of shape", shape, tuple(y.shape)),
        ("of dtype", x.dtype, y.dtype),
        ("on the device", ours.device(x), ours.device(y)),
    ):
        if mine != its and (what != "on the device" or elsewhere(x, y)):
            raise ValueError(
                f"{other} is {what} {its}, and beside {name} it must be {what} {mine}; convert one of them"
            )
