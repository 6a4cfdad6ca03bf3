"""Log-SNR falls with time in every schedule, and α and σ keep all their digits."""

import itertools
import json
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from conftest import REGISTERED_SCHEDULES, SCHEDULES, assert_refused
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import NoiseSchedule, add_noise

TABLES = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "scaled_linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_falls_and_time_at_inverts_it(name):
    schedule = SCHEDULES[name]
    t = np.linspace(schedule.t_min, schedule.t_max, 4001)[:-1]
    assert np.all(np.diff(schedule.log_snr(t)) < 0)
    np.testing.assert_allclose(schedule.time_at(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-9 * schedule.t_max)


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_is_the_logarithm_of_alpha_and_sigma(name):
    """Also at the clean end, where log-SNR depends on the small σ alone, and near the noisy end."""
    schedule = SCHEDULES[name]
    times = schedule.t_min + (schedule.t_max - schedule.t_min) * np.array([0, 1e-6, 1e-3, 0.1, 0.5, 0.9])
    snr = (schedule.alpha(times) / schedule.sigma(times)) ** 2
    np.testing.assert_allclose(np.exp(schedule.log_snr(times)), snr, rtol=1e-13)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_derivatives(name):
    schedule = SCHEDULES[name]
    h = 1e-4 * schedule.t_max
    for t in np.linspace(schedule.t_min, schedule.t_max, 23)[1:-1]:
        slopes = [(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma)]
        np.testing.assert_allclose(schedule.rates(t), slopes, rtol=2e-4, atol=1e-6 / schedule.t_max)


@given(betas=st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=12))
def test_any_table_falls_between_its_integers(betas):
    schedule = NoiseSchedule.from_betas(betas)
    values = schedule.log_snr(np.linspace(0, len(betas) - 1, 200))
    assert np.all(np.diff(values) <= 0)


def test_schedules_are_values():
    twins = {name: make() for name, make in REGISTERED_SCHEDULES.items()}
    twins["zero_terminal_snr"] = NoiseSchedule.linear().rescale_zero_terminal_snr()
    assert twins == SCHEDULES
    assert [hash(twin) for twin in twins.values()] == [hash(schedule) for schedule in SCHEDULES.values()]
    assert len(set(SCHEDULES.values())) == len(SCHEDULES)


# ------------------------------------------------------------------ against the papers' formulas


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_products_of_their_betas(name):
    alphas_cumprod = np.cumprod(1 - TABLES[name])
    t = np.arange(1000)
    np.testing.assert_allclose(SCHEDULES[name].alpha(t) ** 2, alphas_cumprod, rtol=1e-12)
    np.testing.assert_allclose(SCHEDULES[name].sigma(t) ** 2, 1 - alphas_cumprod, rtol=1e-11)


def test_cosine_follows_nichol_and_dhariwal():
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(SCHEDULES["cosine"].alpha(np.arange(990)) ** 2, (f / f[0])[1:991], rtol=1e-11)


def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_noise():
    plain, rescaled = SCHEDULES["linear"], SCHEDULES["zero_terminal_snr"]
    assert rescaled.level(999) == (999, 0, 1)
    assert rescaled.alpha(0) == pytest.approx(float(plain.alpha(0)), rel=1e-12)
    # Lin et al. (2024), algorithm 1, on √ᾱ
    roots = np.sqrt(np.cumprod(1 - TABLES["linear"]))
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    np.testing.assert_allclose(rescaled.alpha(np.arange(1000)), expected, rtol=1e-9, atol=1e-15)


def test_continuous_schedules_cannot_be_rescaled():
    continuous = [schedule for schedule in SCHEDULES.values() if schedule.num_train_timesteps is None]
    assert_refused((schedule.rescale_zero_terminal_snr, TypeError, "continuous") for schedule in continuous)


@pytest.mark.parametrize("first", [1e-4, 1e-8, 1e-12, 1e-15])
def test_one_minus_alphas_cumprod_keeps_its_digits_near_the_data(first):
    """σ² equals the exact fraction, while 1 − cumprod(1 − β) loses all digits as β falls to 1e-15."""
    betas = np.linspace(first, 0.02, 1000)
    schedule = NoiseSchedule.from_betas(betas)
    products = itertools.accumulate((1 - Fraction(float(beta)) for beta in betas[:100]), lambda a, b: a * b)
    exact = np.array([float(1 - product) for product in products])
    np.testing.assert_allclose(schedule.sigma(np.arange(100)) ** 2, exact, rtol=3e-14)
    naive = 1 - np.cumprod(1 - betas)[0]
    assert first > 1e-8 or abs(naive / exact[0] - 1) > 1e-10


def test_sigma_of_the_continuous_vp_schedule_keeps_its_digits_near_the_data():
    schedule = NoiseSchedule.vp(t_min=1e-14)
    with localcontext() as context:
        context.prec = 60
        for t in (1e-14, 1e-10, 1e-6, 1e-3, 0.5, 1.0):
            time = Decimal(t)
            log_alpha = -time * time * (Decimal(schedule.beta_max) - Decimal(schedule.beta_min)) / 4
            log_alpha -= time * Decimal(schedule.beta_min) / 2
            exact = float((1 - (2 * log_alpha).exp()).sqrt())
            assert float(schedule.sigma(t)) == pytest.approx(exact, rel=1e-15, abs=0)


def test_noise_is_added_in_float64_and_rounded_to_the_dtype_of_the_picture():
    schedule = SCHEDULES["linear"]
    x0, noise = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    x = add_noise(schedule, x0, noise, 600)
    assert x.dtype == np.float32
    level = schedule.level(600)
    np.testing.assert_allclose(x, level.alpha * x0 + level.sigma * noise, rtol=1e-5)


# ------------------------------------------------------------------ configs and refusals


def test_a_diffusers_config_becomes_its_schedule(tmp_path):
    assert NoiseSchedule.from_config({}) == NoiseSchedule.linear()
    stable_diffusion = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(stable_diffusion))
    for source in (stable_diffusion, tmp_path, tmp_path / "scheduler_config.json", str(tmp_path)):
        assert NoiseSchedule.from_config(source) == NoiseSchedule.scaled_linear()
    assert NoiseSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"}) == NoiseSchedule.cosine()
    assert NoiseSchedule.from_config({"rescale_betas_zero_snr": True}) == SCHEDULES["zero_terminal_snr"]
    assert NoiseSchedule.from_config({"trained_betas": [0.1, 0.2]}) == NoiseSchedule.from_betas([0.1, 0.2])


REFUSED = {
    "betas": [
        (lambda: NoiseSchedule.from_betas([]), "non-empty"),
        (lambda: NoiseSchedule.from_betas([[0.1]]), r"shape \(1, 1\)"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.0, 0.1]), r"betas\[1\] is 1"),
        (lambda: NoiseSchedule.from_betas([1.0]), r"betas\[0\] is 1"),
        (lambda: NoiseSchedule.from_betas([0.1, 0.0]), r"betas\[1\] is 0"),
        (lambda: NoiseSchedule.from_betas([0.1, -0.1]), r"betas\[1\] is -0.1"),
        (lambda: NoiseSchedule.from_betas([0.1, float("nan")]), r"betas\[1\] is nan"),
    ],
    "alphas_cumprod": [
        (lambda: NoiseSchedule.from_alphas_cumprod([0.9, 0.95, 0.5]), "fall strictly"),
        (lambda: NoiseSchedule.from_alphas_cumprod([1.0, 0.5]), r"\[0\] is 1"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.9, 0.0, 0.0]), r"\[1\] is 0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.0]), r"\[0\] is 0"),
    ],
    "the options of a schedule": [
        (lambda: NoiseSchedule.linear(0), "at least 1"),
        (lambda: NoiseSchedule.linear(beta_end=2.0), "betas"),
        (lambda: NoiseSchedule.scaled_linear(beta_start=-0.1), "betas"),
        (lambda: NoiseSchedule.cosine(2.5), "whole number"),
        (lambda: NoiseSchedule.vp(t_min=0), "t_min"),
        (lambda: NoiseSchedule.vp(beta_min=-1), "beta_min"),
        (lambda: NoiseSchedule.ve(sigma_min=2, sigma_max=1), "sigma_min"),
    ],
    "a time": [(lambda: NoiseSchedule.linear().level(1000), "outside the trained range")],
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_numbers_of_a_schedule_are_refused(what):
    assert_refused((make, ValueError, message) for make, message in REFUSED[what])


def test_a_table_of_the_other_kind_is_named():
    table = NoiseSchedule.cosine().alpha(np.arange(1000)) ** 2
    with pytest.raises(ValueError, match=r"betas fall from 0\.99\d* to .*, as ᾱ does; .* from_alphas_cumprod"):
        NoiseSchedule.from_betas(table)
    with pytest.raises(ValueError, match="If these are betas, pass them to from_betas"):
        NoiseSchedule.from_alphas_cumprod(np.linspace(1e-4, 0.02, 1000))
