"""Ancestral, churned, SDE and Restart samplers equal the published ones on the same noise, and take seeds as said."""

import inspect
import math
from itertools import pairwise

import numpy as np
import published_stochastic as published
import pytest
import torch

from pndm_solvers import Grid, NoiseSchedule, PLMSSolver
from pndm_solvers.adapters.k_diffusion import SAMPLERS

# As in k-diffusion's sampling.py of 2023 (0.1.1): what follows (model, x, sigmas, extra_args, callback, disable).
CHURN = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf, "s_noise": 1.0}
ANCESTRAL = {"eta": 1.0, "s_noise": 1.0, "noise_sampler": None}
THEIR_OPTIONS = {
    "euler": CHURN,
    "euler_ancestral": ANCESTRAL,
    "heun": CHURN,
    "dpm_2": CHURN,
    "dpm_2_ancestral": ANCESTRAL,
    "lms": {"order": 4},
    "dpmpp_2s_ancestral": ANCESTRAL,
    "dpmpp_sde": {**ANCESTRAL, "r": 0.5},
    "dpmpp_2m": {},
    "dpmpp_2m_sde": {**ANCESTRAL, "solver_type": "midpoint"},
    "dpmpp_3m_sde": ANCESTRAL,
}
OUR_OPTIONS = {
    "sa_solver": ANCESTRAL,
    "er_sde": {"s_noise": 1.0, "noise_sampler": None},
    "plms_sde": ANCESTRAL,
}
OPTIONS = THEIR_OPTIONS | OUR_OPTIONS
STOCHASTIC = [name for name, options in OPTIONS.items() if "noise_sampler" in options]
CHURNED = ["euler", "heun", "dpm_2"]
# Each sampler without its noise.
WITHOUT = {
    "euler_ancestral": "euler",
    "dpm_2_ancestral": "dpm_2",
    "dpmpp_2s_ancestral": "dpmpp_2s",
    "dpmpp_sde": "dpmpp_2s",
    "dpmpp_2m_sde": "dpmpp_2m",
    "plms_sde": "plms",
}

EVEN = [*np.geomspace(14.6, 0.03, 9), 0.0]
SIGMAS = {
    "to zero": EVEN,
    "not to zero": EVEN[:-1],
    "uneven": [35.0, 20.0, 19.0, 8.0, 3.0, 1.4, 0.6, 0.3, 0.05],
    "two steps": [10.0, 0.5, 0.0],
    "one step": [3.0, 1.0],
}
EACH_GRID = pytest.mark.parametrize("sigmas", SIGMAS.values(), ids=SIGMAS)


def denoise(x, sigma):
    """Some smooth picture that follows x and the level, far from linear."""
    return np.tanh(x / np.hypot(1, sigma)) + 0.2 * np.sin(3 * x / (1 + sigma))


def model(x, sigma, seed=None):
    return torch.from_numpy(denoise(x.double().numpy(), float(sigma[0]))).to(x)


class Draws:
    """One sequence of noise for both sides, and what each draw was asked for."""

    def __init__(self, shape=(3, 4)):
        self.random, self.shape, self.pairs = np.random.default_rng(7), shape, []

    def published(self, i, kind):
        return self.random.standard_normal(self.shape)

    def sampler(self, sigma, sigma_next):
        assert sigma.ndim == sigma_next.ndim == 0
        self.pairs.append((float(sigma), float(sigma_next)))
        return torch.from_numpy(self.random.standard_normal(self.shape))

    def randn_like(self, x):
        return self.sampler(torch.zeros(()), torch.zeros(()))


def start(sigmas, shape=(3, 4)):
    return 0.4 + sigmas[0] * np.random.default_rng(0).standard_normal(shape)


def run(name, sigmas, x=None, extra_args=None, **options):
    x = torch.from_numpy(start(sigmas)) if x is None else x
    return SAMPLERS[name](model, x, torch.tensor(sigmas, dtype=torch.float64), extra_args, disable=True, **options)


def check(name, theirs, sigmas, **options):
    """With the same noise; `theirs` gets the same options."""
    found = run(name, sigmas, noise_sampler=Draws().sampler, **options).numpy()
    expected = theirs(denoise, start(sigmas), sigmas, Draws().published, **options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * max(1, np.abs(expected).max()))


# --------------------------------------------------- against the published ones


@EACH_GRID
@pytest.mark.parametrize("name", [name for name in STOCHASTIC if name in THEIR_OPTIONS])
def test_a_sampler_is_k_diffusions(name, sigmas):
    for eta in (0.0, 0.5, 1.0):
        for s_noise in (1.0, 0.7):
            given = {"eta": eta, "s_noise": s_noise}
            check(name, getattr(published, name), sigmas, **given)
            if name == "dpmpp_sde":
                check(name, published.dpmpp_sde, sigmas, **given, r=0.3)
                check(name, published.dpmpp_sde, sigmas, **given, r=1.0)
            if name == "dpmpp_2m_sde":
                check(name, published.dpmpp_2m_sde, sigmas, **given, solver_type="heun")


def test_more_noise_than_ddpms():
    for name in ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"):
        check(name, getattr(published, name), SIGMAS["to zero"], eta=1.1)
        if name != "dpm_2_ancestral":  # which draws no noise once σ_down is 0: an oversight
            check(name, getattr(published, name), SIGMAS["to zero"], eta=3.0)


@EACH_GRID
def test_sa_solver_is_the_authors(sigmas):
    for eta in (0.0, 0.5, 1.0):
        found = run("sa_solver", sigmas, eta=eta, noise_sampler=Draws().sampler).numpy()
        expected = published.sa_solver(denoise, start(sigmas), sigmas, Draws().published, tau=math.sqrt(eta))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@EACH_GRID
def test_er_sde_is_the_authors(sigmas):
    """With the parabola's whole slope, where their third order leaves a part of it out."""
    found = run("er_sde", sigmas, noise_sampler=Draws().sampler).numpy()
    expected = published.er_sde(denoise, start(sigmas), sigmas, Draws().published, exact=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@EACH_GRID
@pytest.mark.parametrize("name", CHURNED)
def test_churn_is_algorithm_2(name, sigmas, monkeypatch):
    for options in (
        {"s_churn": 3.0},
        {"s_churn": 40.0, "s_noise": 1.003},
        {"s_churn": 2.0, "s_tmin": 0.05, "s_tmax": 10.0},
        {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 0.9},
    ):
        draws = Draws()
        monkeypatch.setattr(torch, "randn_like", draws.randn_like)
        found = run(name, sigmas, **options).numpy()
        theirs = Draws()
        expected = getattr(published, name)(denoise, start(sigmas), sigmas, theirs.published, **options)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * max(1, np.abs(expected).max()))
        assert draws.random.random() == theirs.random.random(), "as many draws"


@pytest.mark.parametrize("times", [1, 2])
def test_sigmas_that_rise_restart(times, monkeypatch):
    sigmas = [20.0, 8.0, 3.0, 1.2, 0.5, 0.1, 0.0]
    way = [2.0, 0.9, 0.5]
    course = [*sigmas[:5], *way * times, *sigmas[5:]]
    falls = [pair for pair in pairwise(course) if pair[0] > pair[1]]
    for s_noise in (1.0, 0.8):
        monkeypatch.setattr(torch, "randn_like", Draws().randn_like)
        found = run("heun", course, s_noise=s_noise).numpy()
        draws = Draws()
        expected = published.restart(denoise, start(sigmas), falls, draws.published, s_noise=s_noise)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_restarts(name, monkeypatch):
    """A run over two falls is two runs with noise between them, and its callback counts the steps of both."""
    first, second = [14.6, 6.0, 2.0, 0.7, 0.3], [1.5, 0.8, 0.2, 0.0]
    options = {"eta": 0.0} if "eta" in inspect.signature(SAMPLERS[name]).parameters else {}
    if name == "er_sde":
        options = {"s_noise": 0.0}
    x = run(name, first, **options)
    if name != "er_sde":  # whose only noise is all left out
        x = x + math.sqrt(1.5**2 - 0.3**2) * Draws().randn_like(x)
    expected = run(name, second, x, **options)
    monkeypatch.setattr(torch, "randn_like", Draws().randn_like)
    steps = []
    found = SAMPLERS[name](
        model, torch.from_numpy(start(first)), torch.tensor(first + second, dtype=torch.float64), None, steps.append,
        True, **options,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert [step["i"] for step in steps] == [0, 1, 2, 3, 5, 6, 7]
    assert [float(step["sigma"]) for step in steps] == [*first[:-1], *second[:-1]]


def test_churn_goes_together_with_restarts(monkeypatch):
    course, draws = [5.0, 1.0, 2.0, 0.5], []
    monkeypatch.setattr(torch, "randn_like", lambda x: draws.append(1) or torch.ones_like(x))
    x = torch.zeros(2, 3, dtype=torch.float64)
    found = SAMPLERS["euler"](lambda x, sigma: 0 * x, x, torch.tensor(course).double(), s_churn=0.3, disable=True)
    growth = 1.1
    expected = math.sqrt((5 * growth) ** 2 - 25) / (5 * growth)
    expected = (expected + math.sqrt((2 * growth) ** 2 - 1)) * 0.5 / (2 * growth)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(draws) == 2


# ------------------------------------------------------------- without the noise


@EACH_GRID
@pytest.mark.parametrize("name", WITHOUT)
def test_without_noise_a_sampler_is_its_deterministic_one(name, sigmas):
    expected = run(WITHOUT[name], sigmas)
    for options in ({"eta": 0.0}, {"eta": 0.0, "s_noise": 2.0}):
        np.testing.assert_allclose(run(name, sigmas, **options), expected, rtol=0, atol=1e-12)


def test_without_churn_nothing_changes():
    for name in CHURNED:
        for options in ({"s_churn": 0.0}, {"s_churn": 5.0, "s_tmin": 100.0}):
            assert torch.equal(run(name, EVEN, **options), run(name, EVEN))


# ------------------------------------------------------------------ the contract


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_signature_is_k_diffusions(name):
    first = {"extra_args": None, "callback": None, "disable": None}
    parameters = inspect.signature(SAMPLERS[name]).parameters
    assert list(parameters)[:3] == ["model", "x", "sigmas"]
    defaults = [(key, parameter.default) for key, parameter in parameters.items()]
    assert defaults[3:] == list({**first, **OPTIONS.get(name, {})}.items())


@pytest.mark.parametrize("name", OPTIONS)
def test_the_signature_is_kept(name):
    """Options by their place, and no others."""
    x, sigmas = torch.from_numpy(start(EVEN)), torch.tensor(EVEN)
    other = {"eta": 0.5, "s_noise": 0.8, "order": 2, "r": 0.4, "solver_type": "heun", "s_churn": 3.0, "s_tmin": 0.1}
    given = {key: other.get(key, default) for key, default in OPTIONS[name].items()}
    torch.manual_seed(0)
    found = SAMPLERS[name](model, x, sigmas, None, None, True, *given.values())
    torch.manual_seed(0)
    assert torch.equal(found, SAMPLERS[name](model, x, sigmas, disable=True, **given))
    torch.manual_seed(0)
    assert bool(given) != torch.equal(found, SAMPLERS[name](model, x, sigmas, disable=True))
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        SAMPLERS[name](model, x, sigmas, other=1)
    with pytest.raises(TypeError, match="missing a required argument: 'sigmas'"):
        SAMPLERS[name](model, x)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_noise_sampler_receives_the_sigmas_of_the_step(name):
    for sigmas in (EVEN, [*EVEN[:3], *EVEN[2:]]):  # equal neighbours count as one
        draws = Draws()
        run(name, sigmas, noise_sampler=draws.sampler)
        pairs = list(pairwise(EVEN))[:-1]  # none to σ = 0
        if name == "dpmpp_sde":
            middles = [(here, math.sqrt(here * there)) for here, there in pairs]
            pairs = [pair for both in zip(middles, pairs, strict=True) for pair in both]
        np.testing.assert_allclose(draws.pairs, pairs, rtol=1e-12)


@pytest.mark.parametrize("name", [*STOCHASTIC, *CHURNED])
def test_a_seed_in_extra_args_chooses_the_noise(name, monkeypatch):
    options = {"s_churn": 5.0} if name in CHURNED else {}
    x = torch.from_numpy(start(EVEN, (3, 4)))
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn_like", None)  # which is not called
        first = run(name, EVEN, x, {"seed": 5}, **options)
        assert torch.equal(first, run(name, EVEN, x, {"seed": 5}, **options))
        assert torch.equal(first[:2], run(name, EVEN, x[:2], {"seed": 5}, **options)), "whatever the batch"
        alone = [run(name, EVEN, x[i : i + 1], {"seed": seed}, **options) for i, seed in enumerate([3, 1, 4])]
        assert torch.equal(run(name, EVEN, x, {"seed": [3, 1, 4]}, **options), torch.cat(alone)), "one seed each"
        assert not torch.allclose(first, run(name, EVEN, x, {"seed": 6}, **options))
    for seed in (None, "text", True, [], 2.5):
        torch.manual_seed(0)
        one = run(name, EVEN, x, {"seed": seed}, **options)
        torch.manual_seed(0)
        assert torch.equal(one, run(name, EVEN, x, **options)), "then torch's own"
        assert not torch.equal(one, run(name, EVEN, x, **options))


def test_seeds_that_no_noise_needs_are_the_models_own():
    for seed in (-1, [1, 2]):
        assert torch.equal(run("plms", EVEN, extra_args={"seed": seed}), run("plms", EVEN))
    with pytest.raises(ValueError, match="seed is -1"):
        run("plms_sde", EVEN, extra_args={"seed": -1})


@pytest.mark.parametrize("name", STOCHASTIC)
def test_pictures_of_a_seed_keep_when_the_number_of_steps_changes(name):
    x = torch.from_numpy(start(EVEN, (2, 100)))

    def picture(steps, seed):
        return run(name, [*np.geomspace(14.6, 0.03, steps), 0.0], x, {"seed": seed})

    def distance(one, other):
        return float((one - other).square().mean().sqrt())

    assert distance(picture(20, 1), picture(40, 1)) < 0.5 * distance(picture(20, 1), picture(20, 2))


@pytest.mark.parametrize("name", CHURNED)
def test_the_callback_of_a_churned_step_has_the_raised_sigma(name):
    steps = []
    sigmas = torch.tensor(EVEN)
    options = {"s_churn": 1.8, "s_tmin": 0.1}
    x = torch.from_numpy(start(EVEN)).float()
    SAMPLERS[name](model, x, sigmas, None, steps.append, True, **options)
    for step, sigma in zip(steps, sigmas[:-1], strict=True):
        assert step["sigma"] == sigma
        raised = sigma * 1.2 if sigma >= 0.1 else sigma
        torch.testing.assert_close(step["sigma_hat"], raised, rtol=1e-6, atol=0)
        torch.testing.assert_close(step["denoised"], model(step["x"], step["sigma_hat"].expand(3)))
    assert not torch.equal(steps[0]["x"], x)


@pytest.mark.parametrize("name", [*STOCHASTIC, *CHURNED])
def test_in_half_precision(name):
    x = torch.from_numpy(start(EVEN))
    options = {"s_churn": 5.0} if name in CHURNED else {}
    exact = run(name, EVEN, x, {"seed": 3}, **options)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = run(name, EVEN, x.to(dtype).requires_grad_(), {"seed": 3}, **options)
        assert found.dtype == dtype
        assert not found.requires_grad
        assert run(name, EVEN, x.to(dtype), **options).dtype == dtype
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=64 * torch.finfo(dtype).eps + 1e-6)


@pytest.mark.parametrize("name", [*STOCHASTIC, *CHURNED])
def test_samples_have_the_distribution_of_the_data(name):
    options = {"s_churn": 10.0} if name in CHURNED else {}

    def gaussian(x, sigma):
        return 0.5 + 0.09 / (0.09 + sigma[:, None] ** 2) * (x - 0.5)

    torch.manual_seed(0)
    sigmas = torch.tensor([*np.geomspace(14.6, 0.01, 60), 0.0])
    x = SAMPLERS[name](gaussian, 14.6 * torch.randn(20_000, 1), sigmas, disable=True, **options)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.3, rel=0.08)


def test_the_step_to_zero_does_not_magnify_noise():
    """With small steps down to 0.03, a tenth of the data's deviation, and one from there to 0."""
    for name in ("plms_sde", "er_sde"):
        torch.manual_seed(77)
        sigmas = torch.tensor([*np.geomspace(14.6, 0.03, 80), 0.0])
        x = SAMPLERS[name](
            lambda x, sigma: 0.09 / (0.09 + sigma[:, None] ** 2) * x, 14.6 * torch.randn(20_000, 1), sigmas,
            disable=True,
        )  # fmt: skip
        assert float(x.std()) == pytest.approx(0.3, rel=0.02)


# -------------------------------------------------------------------- flow models


class CONST:
    """ComfyUI's class of flow models."""


class Flow:
    """A model as ComfyUI's samplers see it, exact for data of mean 0.5 and deviation 0.3."""

    def __init__(self):
        self.inner_model = self.model_patcher = self

    def get_model_object(self, name):
        assert name == "model_sampling"
        return CONST()

    def __call__(self, x, sigma):
        sigma = sigma[:, None]
        alpha = 1 - sigma
        return 0.5 + alpha * 0.09 / (alpha**2 * 0.09 + sigma**2) * (x - alpha * 0.5)


class Predictor(Flow):
    """The same in Forge."""

    prediction_type = "const"

    def __init__(self):
        self.inner_model, self.predictor = self, self


@pytest.mark.parametrize("kind", [Flow, Predictor])
@pytest.mark.parametrize("name", [*STOCHASTIC, *CHURNED])
def test_noise_for_a_flow_model_is_the_flows(name, kind):
    options = {"s_churn": 10.0} if name in CHURNED else {}
    torch.manual_seed(0)
    sigmas = torch.linspace(1, 0, 61) ** 1.5
    x = SAMPLERS[name](kind(), torch.randn(20_000, 1), sigmas, disable=True, **options)
    assert float(x.mean()) == pytest.approx(0.5, abs=0.02)
    assert float(x.std()) == pytest.approx(0.3, rel=0.06)


def test_plms_sde_for_a_flow_model_is_the_librarys():
    flow, levels = NoiseSchedule.rectified_flow(), [1.0, 0.8, 0.5, 0.2, 0.1]
    plan = PLMSSolver(flow, tau=1.0).plan_on(Grid(flow, tuple(map(flow.level, levels)), False))
    x = torch.from_numpy(start([1.0]))
    expected = plan.run(Flow(), x, prediction="sample", seed=3, noise="brownian")

    class Seeded(Flow):
        def __call__(self, x, sigma, seed):
            return super().__call__(x, sigma)

    found = SAMPLERS["plms_sde"](Seeded(), x, torch.tensor(levels, dtype=torch.float64), {"seed": 3}, disable=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_churn_of_a_flow_model_begins_at_the_raised_level(monkeypatch):
    """In part of a run, as in image-to-image: x's picture shrinks as its noise grows, and the first call sees both."""
    calls, monkeyed = [], torch.ones(2, 1, dtype=torch.float64)
    monkeypatch.setattr(torch, "randn_like", lambda x: monkeyed)

    class Watched(Flow):
        def __call__(self, x, sigma):
            calls.append((x, sigma))
            return super().__call__(x, sigma)

    x = torch.full((2, 1), 0.7, dtype=torch.float64)
    SAMPLERS["euler"](Watched(), x, torch.tensor([0.5, 0.2], dtype=torch.float64), s_churn=0.25, disable=True)
    raised = 1.25 / 2.25
    assert float(calls[0][1][0]) == pytest.approx(raised)
    scale = (1 - raised) / 0.5
    expected = scale * 0.7 + math.sqrt(raised**2 - (scale * 0.5) ** 2)
    assert float(calls[0][0][0]) == pytest.approx(expected)


# ----------------------------------------------------------------------- refused


def test_options_of_no_run_are_refused():
    x = torch.from_numpy(start(EVEN))
    for name, options, message in (
        ("euler", {"s_churn": -1.0}, "s_churn is -1; it must be a number from 0"),
        ("euler_ancestral", {"eta": -0.5}, "eta is -0.5; it must be a number from 0"),
        ("dpmpp_2m_sde", {"eta": -0.5}, "eta is -0.5; it must be a number from 0"),
        ("dpmpp_sde", {"r": 0.0}, r"r is 0; it must be a number in \(0, 1\]"),
        ("plms_sde", {"s_noise": -1.0}, "s_noise is -1; it must be a number from 0"),
        ("dpmpp_2m_sde", {"solver_type": "other"}, "solver_type is 'other'; known are 'midpoint', 'heun'"),
    ):
        with pytest.raises(ValueError, match=message):
            run(name, EVEN, x, **options)
    rising = [0.1, 1.0, 5.0]
    with pytest.raises(ValueError, match="s_churn is 1, but sigmas rise"):
        run("euler", rising, s_churn=1.0)
    for name in STOCHASTIC:
        with pytest.raises(ValueError, match="a stochastic solver runs from noise to data"):
            run(name, rising)
