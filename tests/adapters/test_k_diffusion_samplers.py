"""Samplers with k-diffusion's signature keep its contract, and equal its Euler and the library's own solvers."""

import inspect
import pickle
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import SCHEDULES
from diffusers import EulerDiscreteScheduler

from pndm_solvers import (
    DDIMSolver,
    DEISSolver,
    DPMMultistepSolver,
    DPMSinglestepSolver,
    Level,
    NoiseSchedule,
    PLMSSolver,
    PNDMSolver,
    PRKSolver,
    UniPCSolver,
)
from pndm_solvers.adapters.k_diffusion import SAMPLERS, sample_ddim, sample_pndm
from pndm_solvers.problems import random_mixture

LINEAR = SCHEDULES["linear"]
NOISE = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SOLVERS = {
    "plms": PLMSSolver(LINEAR),
    "plms_classical": PLMSSolver(LINEAR, weights="classical", starter="heun"),
    "pndm": PNDMSolver(LINEAR),
    "ddim": DDIMSolver(LINEAR),
    "euler": DDIMSolver(LINEAR),
    "heun": PRKSolver(LINEAR, "heun", "ratio"),
    "dpm_2": DPMSinglestepSolver(LINEAR, 2, "epsilon"),
    "dpmpp_2s": DPMSinglestepSolver(LINEAR),
    "lms": PLMSSolver(LINEAR, coordinate="ratio"),
    "deis": DEISSolver(LINEAR, lower_order_final=False),
    "dpmpp_2m": DPMMultistepSolver(LINEAR, lower_order_final=False),
    "dpmpp_3m": DPMMultistepSolver(LINEAR, 3, lower_order_final=False),
    "uni_pc": UniPCSolver(LINEAR, 2, "bh1", lower_order_final=False),
    "uni_pc_bh2": UniPCSolver(LINEAR, 2, lower_order_final=False),
}
# Those that draw noise unless told otherwise have tests of their own: test_k_diffusion_stochastic.py.
STOCHASTIC = [name for name in SAMPLERS if "noise_sampler" in inspect.signature(SAMPLERS[name]).parameters]
DETERMINISTIC = {name: sample for name, sample in SAMPLERS.items() if name not in STOCHASTIC}
EVERY = pytest.mark.parametrize("sample", SAMPLERS.values(), ids=SAMPLERS)
EACH_DETERMINISTIC = pytest.mark.parametrize("sample", DETERMINISTIC.values(), ids=DETERMINISTIC)


def falling(steps, first=14.6, last=0.03, zero=True):
    """Sigmas in the manner of Karras et al. (2022), eq. (5)."""
    sigmas = torch.linspace(first ** (1 / 7), last ** (1 / 7), steps + (not zero), dtype=torch.float64) ** 7
    return torch.cat([sigmas, sigmas.new_zeros(1)]) if zero else sigmas


GRIDS = {
    "to zero": falling(9),
    "one step": falling(1),
    "two steps": falling(2),
    "not to zero": falling(9, zero=False),
    "cut": falling(20)[-6:],
    "repeated": falling(6).repeat_interleave(2),
    "rising": falling(9, last=1e-4, zero=False).flip(0),
    "zero terminal SNR": torch.cat([torch.tensor([4518.0], dtype=torch.float64), falling(9)]),
}


class Model:
    """Not linear; it records its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, x, sigma, shift=0.1):
        self.calls.append((x, sigma))
        sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return torch.sin(x / (1 + sigma**2).sqrt() + shift)


# ------------------------------------------------------------- against others


def test_ddim_is_the_formula_of_k_diffusions_euler():
    for name, sigmas in GRIDS.items():
        if name == "repeated":
            continue  # their formula calls the model again at each
        model = Model()
        expected = start = NOISE * sigmas[0]
        for here, there in pairwise(sigmas):
            expected = expected + (expected - model(expected, here.expand(3))) / here * (there - here)
        torch.testing.assert_close(sample_ddim(model, start, sigmas, disable=True), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, of NumPy
def test_ddim_is_the_euler_of_diffusers_in_float32():
    for steps in (1, 2, 7, 50):
        scheduler, model = EulerDiscreteScheduler(prediction_type="sample", timestep_spacing="linspace"), Model()
        scheduler.set_timesteps(steps)
        expected = start = NOISE.float() * scheduler.sigmas[0]
        for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
            scheduler.scale_model_input(expected, t)  # else they warn
            expected = scheduler.step(model(expected, sigma.expand(3)), t, expected).prev_sample
        result = sample_ddim(model, start, scheduler.sigmas, disable=True)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def their_heun(model, x, sigmas):
    for here, there in pairwise(sigmas):
        d = (x - model(x, here.expand(3))) / here
        y = x + d * (there - here)
        if there > 0:
            d = (d + (y - model(y, there.expand(3))) / there) / 2
        x = x + d * (there - here)
    return x


def their_dpm_2(model, x, sigmas):
    for here, there in pairwise(sigmas):
        d = (x - model(x, here.expand(3))) / here
        if there == 0:
            x = x + d * (there - here)
        else:
            middle = (here.log() + (there.log() - here.log()) / 2).exp()
            y = x + d * (middle - here)
            x = x + (y - model(y, middle.expand(3))) / middle * (there - here)
    return x


def their_dpmpp_2s(model, x, sigmas):
    """`sample_dpmpp_2s_ancestral` with eta = 0: t = −log σ, h = t_next − t, r = 1/2."""
    for here, there in pairwise(sigmas):
        denoised = model(x, here.expand(3))
        if there == 0:
            x = denoised
            continue
        h = here.log() - there.log()
        middle = (-(-here.log() + h / 2)).exp()
        y = middle / here * x - (-h / 2).expm1() * denoised
        x = there / here * x - (-h).expm1() * model(y, middle.expand(3))
    return x


def their_dpmpp_2m(model, x, sigmas):
    old = None
    for i, (here, there) in enumerate(pairwise(sigmas)):
        denoised = model(x, here.expand(3))
        h = here.log() - there.log()
        mean = denoised
        if old is not None and there > 0:
            r = (sigmas[i - 1].log() - here.log()) / h
            mean = (1 + 1 / (2 * r)) * denoised - 1 / (2 * r) * old
        x = there / here * x - torch.expm1(-h) * mean
        old = denoised
    return x


def their_lms(model, x, sigmas):
    """`linear_multistep_coeff`: Lagrange's polynomials in σ through the last four slopes."""
    slopes = []
    for i, (here, there) in enumerate(pairwise(sigmas)):
        slopes.insert(0, (x - model(x, here.expand(3))) / here)
        slopes = slopes[:4]
        nodes = [float(sigmas[i - k]) for k in range(len(slopes))]
        for k, slope in enumerate(slopes):
            others = np.atleast_1d(np.poly([node for node in nodes if node != nodes[k]]))
            integral = np.polyint(others / np.polyval(others, nodes[k]))
            x = x + float(np.polyval(integral, float(there)) - np.polyval(integral, float(here))) * slope
    return x


THEIRS = {
    "heun": their_heun,
    "dpm_2": their_dpm_2,
    "dpmpp_2s": their_dpmpp_2s,
    "dpmpp_2m": their_dpmpp_2m,
    "lms": their_lms,
}


@pytest.mark.parametrize("name", THEIRS)
def test_a_sampler_is_k_diffusions_formula(name):
    for grid in ("to zero", "one step", "two steps", "not to zero", "cut"):
        sigmas = GRIDS[grid]
        start = NOISE * sigmas[0]
        result, expected = SAMPLERS[name](Model(), start, sigmas, disable=True), THEIRS[name](Model(), start, sigmas)
        torch.testing.assert_close(result, expected, rtol=1e-10, atol=1e-10)


# Not F-PNDM: halfway in σ is another level than halfway in t.
@pytest.mark.parametrize("name", [name for name in DETERMINISTIC if name != "pndm"])
def test_a_sampler_is_its_solver_on_a_variance_preserving_schedule(name):
    """x/α and σ/α of one are x and σ of the other, and the steps depend on nothing else."""
    for options in ({}, {"stop": 20.0}, {"start": 500.0}, {"start": 30.0, "stop": 900.0}):
        assert_same_as_solver(name, options)


def assert_same_as_solver(name, options):
    plan = SOLVERS[name].plan(11, **options)
    stages = [False, *(row.stage for row in plan.rows)]
    times = [row.t for row, stage in zip(plan.rows, stages, strict=False) if row.t and not stage]
    network = Model()
    expected = plan.run(network, NOISE)

    levels = [LINEAR.level(t) for t in dict.fromkeys(times)] + [plan.end]
    time_of = {level.ratio: level.t for level in levels}

    def denoiser(x, sigma):
        ratio = float(sigma[0])
        level = LINEAR.level(time_of[ratio]) if ratio in time_of else LINEAR.level_at(ratio)  # of a stage
        return x - level.ratio * network(level.alpha * x, torch.full((3,), level.t, dtype=torch.float64))

    sigmas = torch.tensor([level.ratio for level in levels], dtype=torch.float64)
    result = SAMPLERS[name](denoiser, NOISE / levels[0].alpha, sigmas, disable=True)
    torch.testing.assert_close(plan.end.alpha * result, expected, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------- the mathematics


@EACH_DETERMINISTIC
def test_the_model_of_one_picture_is_solved_exactly(sample):
    picture = torch.linspace(-1, 1, 4, dtype=torch.float64).expand(3, 2, 4)
    for sigmas in GRIDS.values():
        result = sample(lambda x, sigma: picture, picture + sigmas[0] * NOISE, sigmas, disable=True)
        # Rounding grows with σ on the way up, and with the first step from 4518, where LMS extrapolates far.
        atol = 1e-6 if sample is SAMPLERS["lms"] else 1e-9
        torch.testing.assert_close(result, picture + sigmas[-1] * NOISE, rtol=0, atol=atol)


MEAN, DEVIATION = 0.4, 0.3
SIGNAL = {"denoiser": torch.ones_like, "flow model": lambda sigma: 1 - sigma}  # α of x = α·x_0 + σ·ε


def gaussian_error(sample, alpha, first, last, steps):
    """The error of one run against the exact flow of Gaussian data, on a smoothly graded grid."""
    sigmas = torch.linspace(first**0.5, last**0.5, steps + 1, dtype=torch.float64) ** 2

    def variance(sigma):
        return alpha(sigma) ** 2 * DEVIATION**2 + sigma**2

    def model(x, sigma):
        sigma = sigma[:, None]
        return MEAN + alpha(sigma) * DEVIATION**2 / variance(sigma) * (x - alpha(sigma) * MEAN)

    start, end = ((alpha(s) * MEAN, variance(s) ** 0.5) for s in (sigmas[0], sigmas[-1]))
    z = torch.linspace(-2, 2, 8, dtype=torch.float64)[:, None]
    result = sample(model, start[0] + start[1] * z, sigmas, disable=True)
    return (result - (end[0] + end[1] * z)).abs().max()


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("alpha", SIGNAL.values(), ids=SIGNAL)
def test_observed_order(name, alpha):
    # With fewer steps the errors of order 3 and 4 of the corrected ramp are alike.
    budgets = (1280, 2560) if name == "plms" else (320, 640)
    for first, last in ((1.0, 0.02), (0.02, 1.0)):
        coarse, fine = (gaussian_error(SAMPLERS[name], alpha, first, last, steps) for steps in budgets)
        assert float(torch.log2(coarse / fine)) == pytest.approx(SOLVERS[name].convergence_order, abs=0.15)


def mixture_errors(sigmas):
    """The error of each sampler against the exact flow of a mixture."""
    mixture, z = random_mixture(4), NOISE.flatten(1)[:, :4] * sigmas[0]
    here, there = Level(float(sigmas[0]), 1.0, float(sigmas[0])), Level(1e-3, 1.0, 1e-3)
    exact = torch.from_numpy(mixture.flow(z.numpy(), here, there))

    def model(x, sigma):
        return torch.from_numpy(mixture.posterior(x.numpy(), 1.0, float(sigma[0]))[0])

    return {
        name: (sample(model, z, sigmas, disable=True) - exact).abs().max() for name, sample in DETERMINISTIC.items()
    }


def test_which_sampler_does_well_on_which_grid():
    errors = mixture_errors(falling(20))
    assert errors["plms"] < 0.1 * errors["ddim"]
    even = [NoiseSchedule.scaled_linear().level(t).ratio for t in np.linspace(999, 0, 20)]
    errors = mixture_errors(torch.tensor([*even, 0.0], dtype=torch.float64))
    assert errors["plms_classical"] < errors["plms"] < errors["ddim"]
    errors = mixture_errors(GRIDS["zero terminal SNR"])
    assert errors["plms"] < errors["ddim"] < 1 < min(errors["plms_classical"], errors["pndm"])


def test_a_run_in_two_parts_is_one_run():
    sigmas, model = falling(8), Model()
    middle = sample_ddim(model, NOISE * sigmas[0], sigmas[:4], disable=True)
    whole = sample_ddim(model, NOISE * sigmas[0], sigmas, disable=True)
    assert torch.equal(sample_ddim(model, middle, sigmas[3:], disable=True), whole)


# ----------------------------------------------------------------- the contract


@EVERY
def test_the_signature(sample):
    parameters = inspect.signature(sample).parameters
    assert list(parameters)[:6] == ["model", "x", "sigmas", "extra_args", "callback", "disable"]
    assert [p.default for p in parameters.values()][3:6] == [None] * 3
    for name in parameters:  # s_churn, s_tmin and s_tmax are explained together
        assert re.search(rf"\n    (\w+, )*{name}(, \w+)*:\n", sample.__doc__), name
    assert inspect.isfunction(sample)
    assert SAMPLERS[sample.__name__.removeprefix("sample_")] is sample
    assert pickle.loads(pickle.dumps(sample)) is sample


@pytest.mark.parametrize(
    ("name", "calls"),
    {
        "plms": [1, 2, 3, 4, 10],
        **{name: [1, 2, 3, 4, 10] for name in ("ddim", "euler", "euler_ancestral")},
        "plms_classical": [1, 3, 4, 5, 11],
        "pndm": [1, 5, 9, 13, 19],
        **{name: [1, 3, 5, 7, 19] for name in ("heun", "dpm_2", "dpmpp_2s", "dpm_2_ancestral", "dpmpp_2s_ancestral")},
        "dpmpp_sde": [1, 3, 5, 7, 19],
        **{name: [1, 2, 3, 4, 10] for name in ("dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "er_sde", "plms_sde")},
        **{name: [1, 2, 3, 4, 10] for name in ("lms", "deis", "dpmpp_2m", "dpmpp_3m", "uni_pc", "uni_pc_bh2")},
    }.items(),
)
def test_the_number_of_model_calls(name, calls):
    for steps, expected in zip([1, 2, 3, 4, 10], calls, strict=True):
        model = Model()
        SAMPLERS[name](model, NOISE, falling(steps), disable=True)
        assert len(model.calls) == expected


@EVERY
def test_the_callback_receives_each_step_once(sample):
    grids = ["to zero", "not to zero", "one step", *(["rising"] if sample in DETERMINISTIC.values() else [])]
    for name in grids:
        model, sigmas, received = Model(), GRIDS[name], []
        start = NOISE * sigmas[0]
        sample(model, start, sigmas, {"shift": 0.2}, received.append, disable=True)
        assert [step["i"] for step in received] == list(range(len(sigmas) - 1))
        assert torch.equal(received[0]["x"], start)
        for step in received:
            assert step.keys() == {"x", "i", "sigma", "sigma_hat", "denoised"}
            assert step["sigma"] == step["sigma_hat"] == sigmas[step["i"]]
            assert torch.equal(step["denoised"], model(step["x"], step["sigma"].expand(3), shift=0.2))


def test_the_callback_sees_points_of_the_solution_not_stages():
    """Along the flow of one picture each point is picture + σ·noise."""
    received, sigmas = [], falling(8)
    sample_pndm(lambda x, sigma: torch.zeros_like(x), NOISE * sigmas[0], sigmas, callback=received.append, disable=True)
    for step in received:
        torch.testing.assert_close(step["x"], NOISE * step["sigma"], rtol=1e-12, atol=1e-12)


@EVERY
def test_equal_neighbours_cost_nothing(sample):
    sigmas, model, received = GRIDS["repeated"], Model(), []
    once, alone = sigmas.unique_consecutive(), Model()
    torch.manual_seed(0)
    result = sample(model, NOISE, sigmas, callback=received.append, disable=True)
    torch.manual_seed(0)
    assert torch.equal(result, sample(alone, NOISE, once, disable=True))
    assert len(model.calls) == len(alone.calls)
    assert [step["i"] for step in received] == [1, 3, 5, 7, 9, 11]


@EVERY
def test_without_a_step_x_is_returned(sample):
    for sigmas in ([], [14.6], [3.0, 3.0, 3.0]):
        assert sample(None, NOISE, torch.tensor(sigmas)) is NOISE


@EACH_DETERMINISTIC
def test_in_every_floating_dtype(sample):
    sigmas = falling(12).float()
    exact = sample(Model(), NOISE * sigmas[0], sigmas, disable=True)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        model = Model()
        result = sample(model, (NOISE * sigmas[0]).to(dtype), sigmas, disable=True)
        assert result.dtype == dtype
        assert all(x.dtype == sigma.dtype == dtype and sigma.shape == (3,) for x, sigma in model.calls)
        torch.testing.assert_close(result.double(), exact, rtol=0, atol=16 * torch.finfo(dtype).eps + 1e-6)


class Watched(torch.Tensor):
    """Sigmas that record every function called on them."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        WATCHED.append(function.__name__)
        return super().__torch_function__(function, types, args, kwargs)


WATCHED = []


@EVERY
def test_the_sigmas_are_read_once_and_nothing_else_ever(sample):
    """A state on the meta device has no values to read."""
    sigmas = falling(6).as_subclass(Watched)
    WATCHED.clear()

    def model(x, sigma):
        assert WATCHED.count("tolist") == 1
        return x / 2

    result = sample(model, torch.empty(2, 3, device="meta"), sigmas, callback=lambda step: None, disable=True)
    assert result.shape == (2, 3)
    assert set(WATCHED) <= {
        "tolist",
        "__getitem__",
        "clone",
        "full_like",
        "__get__",
    }  # only the first reads numbers


@EVERY
def test_no_gradients_are_kept(sample):
    assert not sample(Model(), NOISE.clone().requires_grad_(), falling(3), disable=True).requires_grad


@EVERY
def test_the_progress_bar_counts_steps(sample, capsys):
    sample(Model(), NOISE, falling(5), disable=True)
    assert capsys.readouterr().err == ""
    sample(Model(), NOISE, falling(5), disable=False)
    assert "5/5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([[1.0, 0.0]], r"1-D, not of shape \(1, 2\)"),
        (2.0, r"1-D, not of shape \(\)"),
        ([float("inf"), 1.0], r"sigmas\[0\] is inf"),
        ([1.0, float("nan")], r"sigmas\[1\] is nan"),
        ([1.0, -1.0], r"sigmas\[1\] is -1"),
        ([5.0, 1.0, 2.0, 3.0, 0.0], "all the way"),
        ([1.0, 3.0, 0.0], "all the way"),
        ([5.0, 1.0, 5.0], "all the way"),
        ([0.0, 1.0, 5.0], "rise from 0"),
        ([5.0, 0.0, 1.0, 0.0], "rise from 0"),
    ],
)
def test_sigmas_of_no_run_are_refused(sigmas, message):
    for sample in SAMPLERS.values():
        with pytest.raises(ValueError, match=message):
            sample(Model(), NOISE, torch.tensor(sigmas))


def test_an_answer_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="the model's answer is of shape"):
        sample_ddim(lambda x, sigma: x[:, :1], NOISE, falling(3), disable=True)
