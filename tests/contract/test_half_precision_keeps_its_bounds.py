"""Coefficients are float64, half precision costs what its roundings must, and 1 − ᾱ loses no digits near t = 0."""

import itertools
import runpy
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, all_solvers, named

from pndm_solvers import NoiseSchedule, initial_noise

# Its bounds are what is tested here; by hand it prints them for every solver.
PRECISION = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "precision.py"))
HALVES = [torch.float16, torch.bfloat16]


def measured(plan, schedule, prediction="epsilon"):
    """In each half precision with states in float32, and with states in half too; both are within their bounds."""
    run = PRECISION["record"](plan, schedule, prediction, samples=16)
    for dtype in HALVES:
        pair = PRECISION["measure"](run, dtype), PRECISION["measure"](run, dtype, dtype)
        for found in pair:
            assert np.all(found.error <= found.bound)
            assert np.all(found.excess <= found.excess_bound)
        yield pair


@pytest.mark.parametrize("solver", all_solvers(SCHEDULES["linear"]), ids=named)
def test_half_precision_costs_what_rounding_once_must(solver):
    """In error against float64, and in what is left of it against float64 on the rounded x_T and answers."""
    for in_float32, in_half in measured(solver.plan(max_model_calls=10), SCHEDULES["linear"]):
        assert np.any(in_half.excess > in_float32.excess_bound)  # so the bound is a tight one


@pytest.mark.parametrize(
    ("schedule", "prediction"),
    [("zero_terminal_snr", "v_prediction"), ("rectified_flow", "flow"), ("rectified_flow", "sample"), ("vp", "score")],
)
def test_so_it_does_for_other_schedules_and_predictions(schedule, prediction):
    for solver in all_solvers(SCHEDULES[schedule])[:3]:
        assert len(list(measured(solver.plan(10), SCHEDULES[schedule], prediction))) == len(HALVES)


@pytest.mark.parametrize("name", SCHEDULES)
def test_coefficients_are_float64(name):
    """And not float32 numbers in float64's clothes, for which a table in float32 anywhere on the way would do."""
    for solver in all_solvers(SCHEDULES[name]):
        numbers = [
            number
            for row in solver.plan(12).rows
            for number in (row.alpha, row.sigma, row.noise, *(w for _, w in row.states + row.answers))
        ]
        assert {type(number) for number in numbers} == {float}
        ones_and_zeros = {0.0, 1.0, -1.0}
        inexact = [number for number in numbers if number not in ones_and_zeros]
        # rectified_flow's and ve's own grid may hit on a few short ones
        assert sum(number != float(np.float32(number)) for number in inexact) > 0.9 * len(inexact)


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32])
def test_states_kept_in_float64(dtype):
    """A run on few bits is then the float64 run on the same x_T and the same answers, rounded once."""
    x = torch.from_numpy(initial_noise((4, 3), seed=0)).to(dtype)
    for solver in all_solvers(SCHEDULES["linear"]):
        plan = solver.plan(5)
        wide = plan.run(lambda x, t: torch.full_like(x, 0.25), x, state_dtype=torch.float64, seed=0)
        exact = plan.run(lambda x, t: torch.full_like(x, 0.25), x.double(), seed=0)
        assert wide.dtype == dtype
        assert torch.equal(wide, exact.to(dtype))


def test_numpy_states_kept_in_float64():
    x = initial_noise((4, 3), seed=0).astype(np.float32)
    for solver in all_solvers(SCHEDULES["linear"]):
        plan = solver.plan(5)
        wide = plan.run(lambda x, t: np.full_like(x, 0.3), x, state_dtype=np.float64, seed=0)
        exact = plan.run(lambda x, t: np.full_like(x, np.float32(0.3)), x.astype(np.float64), seed=0)
        np.testing.assert_array_equal(wide, exact.astype(np.float32))


# ------------------------------------------------------------------ 1 − ᾱ near t = 0


@pytest.mark.parametrize("first", [1e-4, 1e-8, 1e-12, 1e-15])
def test_one_minus_alphas_cumprod_of_betas(first):
    """σ² against exact fractions. By 1 − cumprod(1 − β) all digits would go as β falls to 1e-15."""
    betas = np.linspace(first, 0.02, 1000)
    schedule = NoiseSchedule.from_betas(betas)
    products = itertools.accumulate((1 - Fraction(float(beta)) for beta in betas[:100]), lambda a, b: a * b)
    exact = np.array([float(1 - product) for product in products])
    np.testing.assert_allclose(schedule.sigma(np.arange(100)) ** 2, exact, rtol=3e-14)
    naive = 1 - np.cumprod(1 - betas)[0]
    assert first > 1e-8 or abs(naive / exact[0] - 1) > 1e-10


def test_one_minus_alphas_cumprod_of_continuous_schedules():
    schedule = NoiseSchedule.vp(t_min=1e-14)
    with localcontext() as context:
        context.prec = 60
        for t in (1e-14, 1e-10, 1e-6, 1e-3, 0.5, 1.0):
            time = Decimal(t)
            log_alpha = -time * time * (Decimal(schedule.beta_max) - Decimal(schedule.beta_min)) / 4
            log_alpha -= time * Decimal(schedule.beta_min) / 2
            exact = float((1 - (2 * log_alpha).exp()).sqrt())
            assert float(schedule.sigma(t)) == pytest.approx(exact, rel=1e-15, abs=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_says_what_alpha_and_sigma_say(name):
    """At the clean end, where log-SNR is of ε's small variance alone, and near the noisy one."""
    schedule = SCHEDULES[name]
    times = schedule.t_min + (schedule.t_max - schedule.t_min) * np.array([0, 1e-6, 1e-3, 0.1, 0.5, 0.9])
    snr = (schedule.alpha(times) / schedule.sigma(times)) ** 2
    np.testing.assert_allclose(np.exp(schedule.log_snr(times)), snr, rtol=1e-13)
