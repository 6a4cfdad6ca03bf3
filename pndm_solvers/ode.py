"""The probability flow by a general solver of ordinary differential equations: SciPy's, with adaptive steps.

dx/dt = α'(t)·x̂_0 + σ'(t)·ε, eq. (13) of Song et al. (2021), from the highest time down. The papers call this baseline
PF. Its number of model calls is known only after the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pndm_solvers.arguments import choice, function, real
from pndm_solvers.arrays import check_state, check_together, combine, library
from pndm_solvers.condition import Condition, checked_condition
from pndm_solvers.latents import converted
from pndm_solvers.prediction import Prediction
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule
from pndm_solvers.transfer import transfer_weights

__all__ = ["FlowSolution", "probability_flow"]

METHODS = ("RK45", "RK23", "DOP853")


@dataclass(frozen=True, eq=False)
class FlowSolution:
    """The samples `x`, of the start's shape, dtype and device, and how often the network was called for them."""

    x: Any
    model_calls: int


def probability_flow(
    model: Model,
    x: Any,
    schedule: NoiseSchedule,
    *,
    prediction: str | Prediction = "epsilon",
    condition: Condition | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    method: str = "RK45",
    start: float | None = None,
    stop: float | None = None,
    final: str = "clean",
) -> FlowSolution:
    """Samples by the probability-flow ODE and SciPy's `solve_ivp`, with a tolerance in the place of a number of steps.

    The batch is one system of equations, as in Song et al.'s code: its error is the root mean square over all numbers,
    so a sample depends slightly on the others of its batch. The state is kept in float64.

    Parameters
    ----------
    model, prediction, condition:
        As for `Plan.run`; the network is called at real times.
    x:
        `(B, …)`, floating: states at `start`, or at `stop` where that is above.
    schedule:
        What the network was trained with.
    rtol, atol:
        Each step's error is held below `atol + rtol·|x|`.
    method:
        "RK45" (Dormand and Prince 1980), "RK23" or "DOP853".
    start, stop:
        Where the run begins and ends: by default the highest and the lowest trained level. Upwards where `stop` is
        above.
    final:
        "clean" goes on from the lowest trained level to α = 1, σ = 0, along the network's ε there: one more call.
        "first" does not, and neither does a run with a `stop`.

    Raises
    ------
    ImportError:
        If SciPy is not installed.
    RuntimeError:
        If SciPy finds no step that keeps the tolerance.

    >>> import numpy as np
    >>> from pndm_solvers import NoiseSchedule
    >>> solution = probability_flow(lambda x, t: 0 * x, np.ones((2, 3)), NoiseSchedule.vp(), rtol=1e-3, atol=1e-3)
    >>> solution.x.shape
    (2, 3)
    """
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError("probability_flow needs SciPy: pip install 'pndm_solvers[exact]'") from error
    function("model", model, "model(x, t)")
    check_state("x", x)
    choice("method", method, METHODS)
    choice("final", final, ("clean", "first"))
    prediction, condition, ours = Prediction.of(prediction), checked_condition(condition, x), library(x)
    first = schedule.level(schedule.t_max if start is None else start, "start")
    last = schedule.level(schedule.t_min if stop is None else stop, "stop")
    prediction.check((level, "sample") for level in (first, last))
    prediction.check((level, "epsilon") for level in (first, last))
    calls = 0

    def answer(state: Any, level: Level) -> Any:
        nonlocal calls
        calls += 1
        found = model(state, ours.times(state, level.t, state.dtype, integer=False), **condition)
        check_together("the model's answer", found, "the state", state)
        return found

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        # Runge–Kutta stages may lie a rounding outside the trained times.
        t = min(max(t, min(first.t, last.t)), max(first.t, last.t))
        level, state = schedule.level(t), ours.from_numpy(flat.reshape(x.shape), x, x.dtype)
        found = answer(state, level)
        parts = [converted(ours, prediction, kind, state, found, level) for kind in ("sample", "epsilon")]
        alpha_rate, sigma_rate = schedule.rates(t)
        sample, epsilon = (np.asarray(ours.numbers(part), np.float64).ravel() for part in parts)
        return alpha_rate * sample + sigma_rate * epsilon

    rtol = real("rtol", rtol, "a number above 0", lambda value: value > 0)
    atol = real("atol", atol, "a number above 0", lambda value: value > 0)
    begin = np.asarray(ours.numbers(x), np.float64).ravel()
    with ours.unrecorded():
        solved = solve_ivp(slope, (first.t, last.t), begin, method=method, t_eval=[last.t], rtol=rtol, atol=atol)
        if not solved.success:
            raise RuntimeError(f"{method} stopped before its end: {solved.message} Try a larger rtol or another method")
        end = ours.from_numpy(solved.y[:, -1].reshape(x.shape), x, x.dtype)
        if final == "clean" and stop is None:
            epsilon = converted(ours, prediction, "epsilon", end, answer(end, last), last)
            end = combine([end, epsilon], transfer_weights(last, schedule.clean))
    return FlowSolution(end, calls)
