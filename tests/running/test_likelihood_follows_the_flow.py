"""The log-likelihood is the density that the probability flow carries up to pure noise, for any network."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from array_libraries import enable_x64
from conftest import SCHEDULES
from scipy.linalg import expm

from pndm_solvers import alpha_sigma
from pndm_solvers.analytic import Gaussian, GaussianMixture
from pndm_solvers.likelihood import log_likelihood
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.problems import anisotropic_mixture

STEPS = 49  # and a call at the end: 50 in all
SAMPLES = 64

# The library's knee and nodes were chosen on the first four; the others had no say.
DATA = {
    "gaussian": Gaussian([0.5, -0.3, 0.2], [0.01, 0.09, 0.6]),
    "ring": GaussianMixture.ring(),
    "two modes": GaussianMixture([0.3, 0.7], [[0.5, -0.5], [-0.2, 0.6]], [[0.09, 0.16], [0.0625, 0.1225]]),
    "five dimensions": anisotropic_mixture(5, 4, seed=2),
    "turned gaussian": Gaussian([-0.6, 0.4, 0.1], [[0.3, 0.2, 0.0], [0.2, 0.4, -0.1], [0.0, -0.1, 0.05]]),
    "wide ring": GaussianMixture.ring(5, 1.0, 0.12),
    "eight dimensions": anisotropic_mixture(8, 6, seed=1),
}


def parts(distribution):
    """weights (K,), means (K, d), variances (K, d), axes (K, d, d)."""
    weights = getattr(distribution, "weights", np.ones(1))
    gaussians = getattr(distribution, "parts", [distribution])
    return weights, *(np.stack([getattr(g, name) for g in gaussians]) for name in ("mean", "variances", "axes"))


def mean_of(distribution):
    weights, means, *_ = parts(distribution)
    return weights @ means


def log_density(distribution, x, level):
    """The exact log-density of α·x_0 + σ·z, `(B,)`."""
    weights, means, variances, axes = parts(distribution)
    total = level.alpha**2 * variances + level.sigma**2
    along = np.einsum("kbi,kij->kbj", x - level.alpha * means[:, None], axes)
    logs = -((along**2 / total[:, None]).sum(-1) + np.log(2 * math.pi * total).sum(-1)[:, None]) / 2
    return np.logaddexp.reduce(np.log(weights)[:, None] + logs)


def exact_model(xp, distribution, schedule, prediction):
    """`Distribution.model` of torch or JAX: the perfect network."""
    weights, means, variances, axes = (xp.asarray(values) for values in parts(distribution))

    def model(x, t):
        flat = xp.reshape(x, (x.shape[0], -1))
        alpha, sigma = alpha_sigma(schedule, t, flat)
        total = alpha**2 * variances[:, None] + sigma**2
        along = xp.einsum("kbi,kij->kbj", flat - alpha * means[:, None], axes)
        logs = xp.log(weights)[:, None] - xp.sum(along**2 / total + xp.log(total), -1) / 2
        share = xp.exp(logs - xp.amax(logs, 0))
        share = (share / xp.sum(share, 0))[..., None]
        x0 = means[:, None] + xp.einsum("kbj,kij->kbi", along * alpha * variances[:, None] / total, axes)
        noise = xp.einsum("kbj,kij->kbi", along * sigma / total, axes)
        a, b = PREDICTIONS[prediction](alpha, sigma)
        return xp.reshape(xp.sum(share * (a * x0 + b * noise), 0), x.shape)

    return model


def draws(distribution, level, count=SAMPLES):
    z = np.random.default_rng(8).standard_normal((count, len(mean_of(distribution))))
    return level.alpha * distribution.sample(count, seed=7) + level.sigma * z


def log_normal(x, level, mean):
    """The log-density of the noise that a run begins with, N(α·mean, σ²·I)."""
    return -(((x - level.alpha * mean) / level.sigma) ** 2 / 2 + math.log(math.sqrt(2 * math.pi) * level.sigma)).sum(1)


def usual(schedule):
    """What networks predict on the schedule: ε where it determines the picture at the highest level."""
    return "epsilon" if schedule.alpha(schedule.t_max) else "v_prediction"


def found_by(data, name, xp=torch, *, steps=STEPS, x=None, **options):
    """The log-likelihoods by the exact network, as NumPy's."""
    schedule, distribution = SCHEDULES[name], DATA[data]
    x = draws(distribution, schedule.level(schedule.t_min)) if x is None else x
    prediction = options.pop("prediction", usual(schedule))
    model = exact_model(xp, distribution, schedule, prediction)
    model = jax.jit(model) if xp is jnp else model
    options = {"data_mean": mean_of(distribution), **options}
    return np.asarray(log_likelihood(model, xp.asarray(x), schedule, steps, prediction=prediction, **options))


# --------------------------------------------------------------------- exact networks


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("name", ["linear", "cosine", "rectified_flow", "ve"])
def test_fifty_calls_give_the_exact_density_to_a_thousandth_of_a_nat(name, data):
    level = SCHEDULES[name].level(SCHEDULES[name].t_min)
    expected = log_density(DATA[data], draws(DATA[data], level), level)
    np.testing.assert_allclose(found_by(data, name), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("data", ["turned gaussian", "ring"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_beside_it_stands_what_the_highest_level_lacks_of_pure_noise(name, data):
    """The flow of pure noise is not that of noised data. The difference is known where the exact flow leads."""
    schedule, distribution = SCHEDULES[name], DATA[data]
    low, top = (schedule.level(t) for t in (schedule.t_min, schedule.t_max))
    x = draws(distribution, low)
    there = distribution.flow(x, low, top)
    lacking = log_normal(there, top, mean_of(distribution)) - log_density(distribution, there, top)
    expected = log_density(distribution, x, low) + lacking
    np.testing.assert_allclose(found_by(data, name), expected, atol=3e-4, rtol=0)


def test_half_the_calls_have_some_twenty_times_the_error():
    level = SCHEDULES["cosine"].level(SCHEDULES["cosine"].t_min)
    for data in ("ring", "two modes", "five dimensions"):
        expected = log_density(DATA[data], draws(DATA[data], level), level)
        few, many = (np.abs(found_by(data, "cosine", steps=steps) - expected).max() for steps in (24, 49))
        assert many < few / 10 < 1e-3


def test_a_call_a_step_and_one_at_the_end():
    schedule, times = SCHEDULES["linear"], []

    def model(x, t):
        times.append(t)
        return 0.5 * x

    x = torch.zeros(3, 2, 4, 4)
    log_likelihood(model, x, schedule, 20)
    assert len(times) == 21
    assert all(t.shape == (3,) and t.dtype == torch.float32 for t in times)
    at = [float(t[0]) for t in times]
    assert at == sorted(at)
    assert (at[0], at[-1]) == (0, 999)


@pytest.mark.parametrize("data", ["gaussian", "ring"])
@pytest.mark.parametrize("name", ["linear", "rectified_flow"])
def test_jax_gives_the_same(name, data):
    with enable_x64(True):
        np.testing.assert_allclose(found_by(data, name, jnp, steps=12), found_by(data, name, steps=12), rtol=1e-9)


def test_jax_compiles_it():
    schedule = SCHEDULES["linear"]
    with enable_x64(True):
        model = jax.jit(exact_model(jnp, DATA["ring"], schedule, "epsilon"))
        x = jnp.asarray(draws(DATA["ring"], schedule.level(0)))

        def run(x):
            return log_likelihood(model, x, schedule, 6, trace="hutchinson", probes=2)

        np.testing.assert_allclose(jax.jit(run)(x), run(x), rtol=1e-9)


@pytest.mark.parametrize("name", ["linear", "ve"])
def test_every_prediction_gives_the_same(name):
    for prediction in PREDICTIONS:
        np.testing.assert_allclose(
            found_by("two modes", name, steps=20, prediction=prediction),
            found_by("two modes", name, steps=20),
            rtol=1e-6,
        )


@pytest.mark.parametrize("t", [50.0, 400.0])
def test_x_may_be_of_any_level(t):
    level = SCHEDULES["linear"].level(t)
    x = draws(DATA["ring"], level)
    found = found_by("ring", "linear", x=x, start=t)
    np.testing.assert_allclose(found, log_density(DATA["ring"], x, level), atol=1e-3, rtol=0)


def test_a_flow_that_predicts_noise_stops_below_the_top():
    level = SCHEDULES["rectified_flow"].level(1e-3)
    expected = log_density(DATA["ring"], draws(DATA["ring"], level), level)
    found = found_by("ring", "rectified_flow", prediction="epsilon", stop=0.995)
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


# ------------------------------------------------------------------- other networks


def test_a_network_that_is_no_score_has_the_density_of_its_flow():
    """v = M·z, M not symmetric, is no gradient, so s is not the score. The plan still converges to the flow."""
    schedule = SCHEDULES["cosine"]
    matrix = np.array([[0.3, 0.9], [-0.5, -0.1]])
    low, top = (schedule.level(t) for t in (schedule.t_min, schedule.t_max))
    length = math.atan2(top.sigma, top.alpha) - math.atan2(low.sigma, low.alpha)
    x = np.random.default_rng(0).standard_normal((16, 2))
    expected = log_normal(x @ expm(matrix * length).T, top, 0) + np.trace(matrix) * length
    turned = torch.tensor(matrix.T)
    errors = []
    for steps in (50, 100, 200):
        found = log_likelihood(lambda x, t: x @ turned, torch.tensor(x), schedule, steps, prediction="v_prediction")
        errors.append(np.abs(found.numpy() - expected).max())
    assert errors[0] < 1e-3
    assert errors[0] > 3 * errors[1] > 9 * errors[2]  # of second order, as the plan's first step leaves it


def test_conditions_follow_the_batch_of_any_shape():
    schedule, level = SCHEDULES["linear"], SCHEDULES["linear"].level(0)
    means = np.array([[0.5, -0.5, 0.2, 0.1], [-0.4, 0.3, 0.0, 0.6]])
    label = np.arange(6) % 2
    x = draws(Gaussian(np.zeros(4), np.full(4, 0.25)), level, 6) + means[label]

    def model(x, t, label):
        alpha, sigma = alpha_sigma(schedule, t, x)
        return sigma * (x - alpha * torch.tensor(means)[label].reshape(x.shape)) / (alpha**2 / 4 + sigma**2)

    found = log_likelihood(
        model,
        torch.tensor(x).reshape(6, 1, 2, 2),
        schedule,
        STEPS,
        condition={"label": torch.tensor(label)},
        data_mean=torch.tensor(means[label]).reshape(6, 1, 2, 2),
    )
    expected = [log_density(Gaussian(means[k], np.full(4, 0.25)), x[i : i + 1], level)[0] for i, k in enumerate(label)]
    np.testing.assert_allclose(found, expected, atol=1e-3, rtol=0)


# ------------------------------------------------------------------------- the trace


def test_hutchinsons_trace_has_the_exact_one_as_its_mean():
    x = np.repeat(draws(DATA["eight dimensions"], SCHEDULES["linear"].level(0), 2), 400, axis=0)
    options = {"x": x, "steps": 12}
    exact = found_by("eight dimensions", "linear", **options).reshape(2, 400)
    one, four = (
        found_by("eight dimensions", "linear", trace="hutchinson", probes=probes, seed=4, **options).reshape(2, 400)
        for probes in (1, 4)
    )
    for found in (one, four):
        assert np.all(np.abs(found.mean(1) - exact[:, 0]) < 4 * found.std(1) / 20)
    ratio = one.std(1) / four.std(1)
    assert np.all(np.abs(ratio - 2) < 0.3)  # √4, with 400 samples of each


def test_on_independent_dimensions_any_sign_is_exact():
    np.testing.assert_allclose(
        found_by("gaussian", "linear", steps=10, trace="hutchinson"),
        found_by("gaussian", "linear", steps=10),
        rtol=1e-9,
    )


def test_signs_are_fresh_in_each_call():
    """Where e·M·e = ±2, signs that stay would be off by 2 for each radian. Fresh ones average out."""
    schedule, x = SCHEDULES["rectified_flow"], torch.zeros(64, 2, dtype=torch.float64)

    def run(trace):
        return log_likelihood(lambda x, t: x.flip(1), x, schedule, 50, prediction="v_prediction", trace=trace)

    assert (run("hutchinson") - run("exact")).std() < 0.2 * math.pi


def test_signs_are_a_function_of_the_sample_alone():
    x = draws(DATA["ring"], SCHEDULES["linear"].level(0), 5)
    options = {"steps": 8, "trace": "hutchinson", "probes": 2}
    together = found_by("ring", "linear", x=x, seed=3, **options)
    np.testing.assert_allclose(found_by("ring", "linear", x=x[:2], seed=3, **options), together[:2], rtol=1e-9)
    single = found_by("ring", "linear", x=x, seed=[9, 8, 7, 6, 5], **options)
    np.testing.assert_allclose(found_by("ring", "linear", x=x[2:4], seed=[7, 6], **options), single[2:4], rtol=1e-9)
    assert np.abs(single - together).min() > 1e-6


# ------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_x_and_gradients_stay(dtype):
    schedule = SCHEDULES["linear"]
    network = torch.nn.Linear(2, 2).to(dtype)
    network(torch.ones(1, 2, dtype=dtype)).sum().backward()
    before = [parameter.grad.clone() for parameter in network.parameters()]
    x = torch.randn(4, 2, dtype=dtype, requires_grad=True)
    found = log_likelihood(lambda x, t: network(x), x, schedule, 10)
    assert found.dtype == dtype
    assert found.shape == (4,)
    assert not found.requires_grad
    assert x.grad is None
    assert all(torch.equal(p.grad, g) for p, g in zip(network.parameters(), before, strict=True))
    with torch.no_grad():
        assert torch.equal(log_likelihood(lambda x, t: network(x), x, schedule, 10), found)


def test_single_precision_is_enough():
    for name in ("linear", "rectified_flow"):
        x = draws(DATA["ring"], SCHEDULES[name].level(SCHEDULES[name].t_min)).astype(np.float32)
        schedule, prediction = SCHEDULES[name], usual(SCHEDULES[name])
        model = exact_model(torch, DATA["ring"], schedule, prediction)
        found = log_likelihood(
            lambda x, t, model=model: model(x.double(), t).float(), torch.tensor(x), schedule, 49, prediction=prediction
        )
        np.testing.assert_allclose(found, found_by("ring", name, x=x.astype(float)), atol=2e-3, rtol=0)


def test_what_has_no_density_is_refused():
    schedule, x = SCHEDULES["linear"], torch.zeros(2, 3)

    def run(model=lambda x, t: x, x=x, schedule=schedule, steps=5, **options):
        return log_likelihood(model, x, schedule, steps, **options)

    with pytest.raises(
        TypeError, match=r"x is a ndarray, whose library numpy has no derivatives; pass .* torch or JAX"
    ):
        run(x=np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not recorded"):
        run(lambda x, t: x.detach())
    with pytest.raises(ValueError, match=r"'epsilon'.* does not determine 'v_prediction' at α = 0"):
        run(lambda x, t: pytest.fail("called"), schedule=SCHEDULES["rectified_flow"])
    with pytest.raises(ValueError, match="stop must be above start"):
        run(start=500, stop=400)
    with pytest.raises(ValueError, match="trace is 'skilling'; known are 'exact', 'hutchinson'"):
        run(trace="skilling")
    with pytest.raises(ValueError, match="probes is 0"):
        run(trace="hutchinson", probes=0)
    with pytest.raises(ValueError, match="seed has 3 entries for a batch of 2"):
        run(trace="hutchinson", seed=[1, 2, 3])
    with pytest.raises(ValueError, match=r"the model's answer is of shape \(2, 1\)"):
        run(lambda x, t: x[:, :1])


def test_one_sample_is_judged_without_a_warning():
    """torch warns of arrays that cannot be written, as those of a batch of one were."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = log_likelihood(lambda x, t: x / 2, torch.zeros(1, 3), SCHEDULES["linear"], 9)
    assert value.shape == (1,)
