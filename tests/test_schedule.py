import json

import numpy as np
import pytest
from conftest import SCHEDULES
from hypothesis import given
from hypothesis import strategies as st

from pndm_solvers import NoiseSchedule

TABLES = {
    "linear": np.linspace(1e-4, 0.02, 1000),
    "scaled_linear": np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_products_of_their_betas(name):
    alphas_cumprod = np.cumprod(1 - TABLES[name])
    t = np.arange(1000)
    np.testing.assert_allclose(SCHEDULES[name].alpha(t) ** 2, alphas_cumprod, rtol=1e-12)
    np.testing.assert_allclose(SCHEDULES[name].sigma(t) ** 2, 1 - alphas_cumprod, rtol=1e-11)


def test_cosine_follows_nichol_and_dhariwal():
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(SCHEDULES["cosine"].alpha(np.arange(990)) ** 2, (f / f[0])[1:991], rtol=1e-11)


def test_sigma_keeps_its_digits_near_the_data():
    betas = np.full(10, 1e-12)
    exact = -np.expm1(np.cumsum(np.log1p(-betas)))
    np.testing.assert_allclose(NoiseSchedule.from_betas(betas).sigma(np.arange(10)) ** 2, exact, rtol=1e-13)


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_falls_and_time_at_inverts_it(name):
    schedule = SCHEDULES[name]
    t = np.linspace(schedule.t_min, schedule.t_max, 4001)[:-1]
    assert np.all(np.diff(schedule.log_snr(t)) < 0)
    np.testing.assert_allclose(schedule.time_at(schedule.log_snr(t)), t, rtol=1e-9, atol=1e-9 * schedule.t_max)


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_derivatives(name):
    schedule = SCHEDULES[name]
    h = 1e-4 * schedule.t_max
    for t in np.linspace(schedule.t_min, schedule.t_max, 23)[1:-1]:
        slopes = [(f(t + h) - f(t - h)) / (2 * h) for f in (schedule.alpha, schedule.sigma)]
        np.testing.assert_allclose(schedule.rates(t), slopes, rtol=2e-4, atol=1e-6 / schedule.t_max)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_a_value(name):
    schedule = SCHEDULES[name]
    twin = type(schedule)(**{f: getattr(schedule, f) for f in schedule.__dataclass_fields__})
    assert schedule == twin
    assert hash(schedule) == hash(twin)
    assert len(set(SCHEDULES.values())) == len(SCHEDULES)


def test_add_noise_is_where_a_run_starts():
    schedule = SCHEDULES["linear"]
    x0, noise = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    x = schedule.add_noise(x0, noise, 600)
    assert x.dtype == np.float32
    level = schedule.level(600)
    np.testing.assert_allclose(x, level.alpha * x0 + level.sigma * noise, rtol=1e-5)


@given(betas=st.lists(st.floats(1e-6, 0.999), min_size=1, max_size=12))
def test_any_table_falls_between_its_integers(betas):
    schedule = NoiseSchedule.from_betas(betas)
    values = schedule.log_snr(np.linspace(0, len(betas) - 1, 200))
    assert np.all(np.diff(values) <= 0)


def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_noise():
    plain, rescaled = SCHEDULES["linear"], SCHEDULES["zero_terminal_snr"]
    assert rescaled.level(999) == (999, 0, 1)
    assert rescaled.alpha(0) == pytest.approx(float(plain.alpha(0)), rel=1e-12)
    # Lin et al. (2024), algorithm 1, on √ᾱ
    roots = np.sqrt(np.cumprod(1 - TABLES["linear"]))
    expected = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    np.testing.assert_allclose(rescaled.alpha(np.arange(1000)), expected, rtol=1e-9, atol=1e-15)


def test_config_of_diffusers(tmp_path):
    assert NoiseSchedule.from_config({}) == NoiseSchedule.linear()
    stable_diffusion = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(stable_diffusion))
    for source in (stable_diffusion, tmp_path, tmp_path / "scheduler_config.json", str(tmp_path)):
        assert NoiseSchedule.from_config(source) == NoiseSchedule.scaled_linear()
    assert NoiseSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"}) == NoiseSchedule.cosine()
    assert NoiseSchedule.from_config({"rescale_betas_zero_snr": True}) == SCHEDULES["zero_terminal_snr"]
    assert NoiseSchedule.from_config({"trained_betas": [0.1, 0.2]}) == NoiseSchedule.from_betas([0.1, 0.2])
    with pytest.raises(ValueError, match="beta_schedule is 'sigmoid'"):
        NoiseSchedule.from_config({"beta_schedule": "sigmoid"})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseSchedule.from_betas([]), "non-empty"),
        (lambda: NoiseSchedule.from_betas([[0.1]]), r"shape \(1, 1\)"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.0]), r"betas\[1\] is 1"),
        (lambda: NoiseSchedule.from_betas([0.1, 0.0]), r"betas\[1\] is 0"),
        (lambda: NoiseSchedule.from_betas([0.1, -0.1]), r"betas\[1\] is -0.1"),
        (lambda: NoiseSchedule.from_betas([0.1, float("nan")]), r"betas\[1\] is not"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.9, 0.95, 0.5]), "fall strictly"),
        (lambda: NoiseSchedule.from_alphas_cumprod([1.0, 0.5]), r"\[0\] is 1"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.9, 0.0, 0.0]), r"\[1\] is 0"),
        (lambda: NoiseSchedule.from_alphas_cumprod([0.0]), r"\[0\] is 0"),
        (lambda: NoiseSchedule.linear(0), "at least 1"),
        (lambda: NoiseSchedule.cosine(2.5), "whole number"),
        (lambda: NoiseSchedule.scaled_linear(beta_start=-0.1), "betas"),
        (lambda: NoiseSchedule.from_config({"_class_name": "EDMEulerScheduler", "sigma_max": 80}), "names no betas"),
        (lambda: NoiseSchedule.linear(beta_end=2.0), "betas"),
        (lambda: NoiseSchedule.vp(t_min=0), "t_min"),
        (lambda: NoiseSchedule.vp(beta_min=-1), "beta_min"),
        (lambda: NoiseSchedule.ve(sigma_min=2, sigma_max=1), "sigma_min"),
        (lambda: NoiseSchedule.linear().level(1000), "outside the trained range"),
    ],
)
def test_bad_schedules_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["vp", "ve", "rectified_flow"])
def test_continuous_schedules_cannot_be_rescaled(name):
    with pytest.raises(TypeError, match="continuous"):
        SCHEDULES[name].rescale_zero_terminal_snr()
