"""From a tolerance to a number of model calls, by a pilot on a few samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pndm_solvers.arguments import real, whole
from pndm_solvers.arrays import check_state, library
from pndm_solvers.plan import Plan

__all__ = ["plan_for_tolerance"]


def plan_for_tolerance(
    tolerance: float, compile_: Callable[[int], Plan], run: Callable[[Plan], Any], x: Any, order: int, most: int
) -> tuple[Plan, float]:
    """The plan with about as many model calls as an error of `tolerance` takes, and its estimated error.

    `compile_` makes the plan of at most some number of calls, and `run` samples with one from the pilot `x`. The
    method has the convergence order `order`. See `Solver.plan_within`.
    """
    allowed = "a root-mean-square error above 0, of at least 1e-15, float64's own"
    tolerance = real("tolerance", tolerance, allowed, lambda error: 1e-15 <= error < math.inf)
    if whole("max_model_calls", most) < 8:
        raise ValueError(f"max_model_calls is {most}; a pilot compares runs of at least 4 and 8 calls")
    check_state("the state x", x)
    if 0 in x.shape or not library(x).has_numbers(x):
        raise ValueError("a pilot reads the state x, which is empty, on the meta device or in jax.jit; pass samples")

    def solve(calls: int) -> tuple[int, Plan, Any]:
        plan = compile_(calls)
        return calls, plan, run(plan)

    runs = [solve(4), solve(6)]

    def error(plan: Plan, result: Any) -> float:
        """The error of a run of `plan`, from its distance to the finest one, whose error follows from the order."""
        _, finest, end = runs[-1]
        change = float(np.median(library(result).root_mean_square(result - end)))
        if not math.isfinite(change):
            raise ValueError(f"the pilot's samples are not finite, with {finest.model_calls} model calls or before")
        return change / (1 - (plan.model_calls / finest.model_calls) ** order)

    while True:
        half, plan, result = runs[-2]
        if 2 * half > most:
            raise ValueError(
                f"{plan.name} is not known to come within {tolerance:g}: with {half} model calls its error is about "
                f"{error(plan, result):.1e}, and to tell more takes over {most}; allow more calls or more error"
            )
        runs.append(solve(2 * half))
        if runs[-1][1] == plan:
            raise ValueError(f"these times have no more than {plan.model_calls} model calls to give, too few")
        del runs[:-4]  # which frees their samples, and what torch may have recorded of them
        estimate = error(plan, result)
        if estimate <= tolerance:
            break
    # The search goes on between the number of calls before, which was too few, and this one: to within an eighth.
    low, high = runs[-4][0] if len(runs) > 3 else half, half
    while high - low > max(1, high // 8):
        middle, candidate, result = solve((low + high) // 2)
        if error(candidate, result) <= tolerance:
            high, plan, estimate = middle, candidate, error(candidate, result)
        else:
            low = middle
    return plan, estimate
