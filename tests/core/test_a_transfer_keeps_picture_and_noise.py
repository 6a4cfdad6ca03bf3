"""The identities of the transfer φ, over schedules, times, shapes and dtypes."""

import numpy as np
import pytest
import torch
from conftest import SCHEDULES, assert_refused
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import Level, transfer
from pndm_solvers.transfer import transfer_weights

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 5e-2, "bfloat16": 0.3}


@st.composite
def levels(draw, count):
    """Levels of one schedule with α > 0, away from the noisiest end, so that α_s/α_t stays under 100."""
    schedule = draw(st.sampled_from(list(SCHEDULES.values())))
    fractions = draw(st.lists(st.floats(0, 0.9), min_size=count, max_size=count))
    return [schedule.level(schedule.t_min + f * (schedule.t_max - schedule.t_min)) for f in fractions]


@st.composite
def arrays(draw, count):
    """Arrays of one shape, dtype and library, and the name of that dtype."""
    shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)))
    kind = draw(st.sampled_from(["float64", "float32", "float16", "torch.float64", "torch.float32", "torch.bfloat16"]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = [generator.standard_normal(shape) for _ in range(count)]
    library, _, dtype = kind.rpartition(".")
    if library:
        return [torch.from_numpy(value).to(getattr(torch, dtype)) for value in values], dtype
    return [value.astype(dtype) for value in values], dtype


def close(left, right, dtype, scale):
    left, right = (np.asarray(a.double() if isinstance(a, torch.Tensor) else a, np.float64) for a in (left, right))
    return np.abs(left - right).max() <= TOLERANCE[dtype] * scale


@given(arrays(2), levels(1))
def test_staying_changes_nothing(inputs, at):
    (x, epsilon), dtype = inputs
    here = at[0]
    result = transfer(x, epsilon, here, here)
    assert close(result, x, dtype, 4)
    assert result.dtype == x.dtype
    assert result.shape == x.shape


@given(arrays(2), levels(3))
def test_two_transfers_of_one_epsilon_are_one(inputs, at):
    (x, epsilon), dtype = inputs
    here, between, there = at
    detour = transfer(transfer(x, epsilon, here, between), epsilon, between, there)
    scale = 10 * max(level.alpha for level in at) / min(level.alpha for level in at) * max(1, *(v.sigma for v in at))
    assert close(detour, transfer(x, epsilon, here, there), dtype, scale)


@given(arrays(2), levels(2))
def test_a_transfer_keeps_the_picture_and_the_noise(inputs, at):
    """x_t = α_t·x_0 + σ_t·ε goes to x_s = α_s·x_0 + σ_s·ε."""
    (x0, epsilon), dtype = inputs
    here, there = at
    arrived = transfer(here.alpha * x0 + here.sigma * epsilon, epsilon, here, there)
    scale = 10 * max(here.alpha, there.alpha) / min(here.alpha, there.alpha) * max(1, here.sigma, there.sigma)
    assert close(arrived, there.alpha * x0 + there.sigma * epsilon, dtype, scale)


@given(levels(2))
def test_the_weights_are_equation_9_of_the_paper(at):
    """x_s = √ᾱ_s/√ᾱ_t·x − (ᾱ_s − ᾱ_t)/(√ᾱ_t·(√((1 − ᾱ_s)·ᾱ_t) + √((1 − ᾱ_t)·ᾱ_s)))·ε, where α² + σ² = 1."""
    t, s = at
    if abs(t.alpha**2 + t.sigma**2 - 1) > 1e-9 or abs(s.alpha**2 + s.sigma**2 - 1) > 1e-9:
        return
    a_t, a_s = t.alpha**2, s.alpha**2
    divisor = t.alpha * (s.sigma * t.alpha + t.sigma * s.alpha)
    a, b = transfer_weights(t, s)
    assert a == pytest.approx((a_s / a_t) ** 0.5, rel=1e-12)
    assert b == pytest.approx(-(a_s - a_t) / divisor, rel=1e-6, abs=1e-9)


ONES = np.ones((2, 3))
HERE, THERE = Level(5.0, 0.8, 0.6), Level(0.0, 1.0, 0.0)


def test_a_transfer_may_end_at_pure_noise_but_not_begin_there():
    noise = Level(9.0, 0.0, 1.0)
    np.testing.assert_array_equal(transfer(ONES, ONES, THERE, noise), ONES)
    with pytest.raises(ValueError, match="α = 0"):
        transfer_weights(noise, HERE)


REFUSED = {
    "arrays": [
        (
            (ONES, ONES[:1], HERE, THERE),
            ValueError,
            r"^epsilon is of shape \(1, 3\); beside x it must be of shape \(2, 3\)",
        ),
        ((ONES, [[1.0] * 3] * 2, HERE, THERE), TypeError, "^epsilon is"),
        ((ONES.astype(int), ONES, HERE, THERE), TypeError, "^x is of dtype int64"),
        ((ONES, torch.ones(2, 3), HERE, THERE), TypeError, "^epsilon is a Tensor and x a ndarray"),
    ],
    "levels": [
        ((ONES, ONES, 5.0, THERE), TypeError, "^here is a float; it must be a Level"),
        ((ONES, ONES, HERE, (0.0, 1.0, 0.0)), TypeError, "^there is a tuple; it must be a Level"),
    ],
}


@pytest.mark.parametrize("what", REFUSED)
def test_arrays_and_levels_that_cannot_be_transferred_are_named(what):
    assert_refused((lambda a=arguments: transfer(*a), error, message) for arguments, error, message in REFUSED[what])
