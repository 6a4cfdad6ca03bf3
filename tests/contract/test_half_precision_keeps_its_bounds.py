"""Coefficients are float64, and a run in half precision is off by no more than its roundings must cost.

The bounds are those of benchmarks/precision.py, which prints them for every solver.
"""

import numpy as np
import precision
import pytest
import torch
from conftest import SCHEDULES, all_solvers, named

from pndm_solvers import initial_noise

HALVES = [torch.float16, torch.bfloat16]


def measured(plan, schedule, prediction="epsilon"):
    """For each half precision a run with states in float32 and one with states in half, both within their bounds."""
    run = precision.record(plan, schedule, prediction, samples=16)
    for dtype in HALVES:
        pair = precision.measure(run, dtype), precision.measure(run, dtype, dtype)
        for found in pair:
            assert np.all(found.error <= found.bound)
            assert np.all(found.excess <= found.excess_bound)
        yield pair


@pytest.mark.parametrize("solver", all_solvers(SCHEDULES["linear"]), ids=named)
def test_half_precision_costs_what_rounding_once_must(solver):
    """The error against float64 is bounded, and so is its excess over float64 on the rounded x_T and answers."""
    for in_float32, in_half in measured(solver.plan(max_model_calls=10), SCHEDULES["linear"]):
        assert np.any(in_half.excess > in_float32.excess_bound)  # so the bound is a tight one


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [("zero_terminal_snr", "v_prediction"), ("rectified_flow", "flow"), ("rectified_flow", "sample"), ("vp", "score")],
)
def test_half_precision_costs_no_more_with_other_schedules_and_predictions(schedule, prediction):
    for solver in all_solvers(SCHEDULES[schedule])[:3]:
        assert len(list(measured(solver.plan(10), SCHEDULES[schedule], prediction))) == len(HALVES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_coefficients_are_float64(name):
    """They are no float32 numbers cast to float64, as a table in float32 anywhere on the way would make them."""
    for solver in all_solvers(SCHEDULES[name]):
        numbers = [
            number
            for row in solver.plan(12).rows
            for number in (row.alpha, row.sigma, row.noise, *(w for _, w in row.states + row.answers))
        ]
        assert {type(number) for number in numbers} == {float}
        ones_and_zeros = {0.0, 1.0, -1.0}
        inexact = [number for number in numbers if number not in ones_and_zeros]
        # The grids of rectified_flow and ve contain a few numbers that are short in binary.
        assert sum(number != float(np.float32(number)) for number in inexact) > 0.9 * len(inexact), solver.name


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, np.float32], ids=str)
def test_states_may_be_kept_in_float64(dtype):
    """A run on few bits is then the float64 run on the same x_T and the same answers, rounded once."""
    noise = initial_noise((4, 3), seed=0)
    if dtype is np.float32:
        x, wide, full = noise.astype(dtype), np.float64, np.full_like
        x_wide = x.astype(wide)
    else:
        x, wide, full = torch.from_numpy(noise).to(dtype), torch.float64, torch.full_like
        x_wide = x.to(wide)
    for solver in all_solvers(SCHEDULES["linear"]):
        plan = solver.plan(5)
        kept = plan.run(lambda x, t: full(x, 0.25), x, state_dtype=wide, seed=0)
        exact = plan.run(lambda x, t: full(x, 0.25), x_wide, seed=0)
        assert kept.dtype == x.dtype
        rounded = exact.astype(dtype) if dtype is np.float32 else exact.to(dtype)
        assert (kept == rounded).all(), solver.name
