"""SDE-DPM-Solver and SA-Solver equal diffusers' own from identical inputs and the same noise, where theirs are right.

In float64 SA-Solver is the same to 1e-11. DPM-Solver's class computes in float32 alone. There, as in the test of the
other exponential schedulers, a result that differs by more than 1e-5 is compared with our run in float64: in noise
space a run from α_T multiplies roundings by 1/α_T, and SA-Solver's closed forms cancel from order 2 on.
"""

import copy
import pickle
from itertools import product

import diffusers
import numpy as np
import pytest
import torch
from published_stochastic import sde_dpm_solver

from pndm_solvers.adapters import diffusers as ours

SPACINGS = ["linspace", "leading", "trailing"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
DPM, SA = "DPMSolverMultistepScheduler", "SASolverScheduler"
pytestmark = [
    pytest.mark.filterwarnings("ignore:this plan begins:UserWarning"),  # one step of leading spacing
    pytest.mark.filterwarnings("ignore:none of this plan's:UserWarning"),  # few steps on even times
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # their algorithm_type "sde-dpmsolver"
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs, of NumPy
]


def model(x, t):
    return torch.sin(x + t.to(x.dtype) / 300)


def timeless(x, t):
    return torch.sin(x)


def pair(name, **options):
    """Their scheduler and ours. Theirs has the table in float64: in float32, 1 − ᾱ_0 is wrong in its fourth digit."""
    theirs, mine = getattr(diffusers, name)(**options), getattr(ours, name)(**options)
    theirs.alphas_cumprod = torch.from_numpy(mine.schedule.alpha(np.arange(1000)) ** 2)
    return theirs, mine


def set_both(theirs, mine, steps):
    theirs.set_timesteps(steps)
    mine.set_timesteps(steps)
    assert torch.equal(theirs.timesteps, mine.timesteps)


def run(scheduler, dtype, ask=model, begin=0, steps=None):
    """A run with generators in one state. Noise is drawn in float32, as their DPM-Solver does, for every step."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    for t in scheduler.timesteps[begin:steps]:
        z = torch.randn(x.shape, generator=generator)
        if type(scheduler).__module__.startswith("diffusers") and isinstance(scheduler, diffusers.SASolverScheduler):
            x = with_noise(scheduler, z.to(dtype), ask(x, t), t, x)
        else:
            x = scheduler.step(ask(x, t), t, x, variance_noise=z.to(dtype), return_dict=False)[0]
    return x


def with_noise(theirs, z, answer, t, x):
    """Their SA-Solver's step, which has no argument for the noise itself."""
    module = diffusers.schedulers.scheduling_sasolver
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *arguments, **options: z)
        return theirs.step(answer, t, x, return_dict=False)[0]


def distance(one, other):
    """The largest difference, relative to the largest number of `other`."""
    return float((one - other).abs().max() / other.abs().max())


def agrees(theirs, mine, steps, **options):
    """Whether the two agree in float32: to 1e-5, and in noise space as nearly as theirs and our run in float64."""
    set_both(theirs, mine, steps)
    result, expected = run(mine, torch.float32, **options), run(theirs, torch.float32, **options)
    if distance(result, expected) <= 1e-5 or mine.plan.rows[0].space == "sample":
        return distance(result, expected) <= 1e-5
    exact = run(mine, torch.float64, **options)
    return distance(result, exact) <= 2 * distance(expected, exact) < 1e-3


@pytest.mark.parametrize("algorithm", ["sde-dpmsolver++", "sde-dpmsolver"])
def test_dpm_solver_in_every_option_that_they_share(algorithm):
    ends = ["zero", "sigma_min"] if algorithm.endswith("++") else ["sigma_min"]
    for number, (spacing, order, kind, end, lower, steps) in enumerate(
        product(SPACINGS, [1, 2], ["midpoint", "heun"], ends, [True, False], [1, 2, 3, 10, 27])
    ):
        options = {"solver_order": order, "solver_type": kind, "final_sigmas_type": end, "lower_order_final": lower}
        options |= {"timestep_spacing": spacing, "prediction_type": PREDICTIONS[number % 3]}
        assert agrees(*pair(DPM, algorithm_type=algorithm, **options), steps), (steps, options)


@pytest.mark.parametrize("grid", ["use_karras_sigmas", "use_exponential_sigmas", "use_lu_lambdas"])
def test_dpm_solver_on_other_sigmas(grid):
    """With a network that does not look at the time, which theirs rounds."""
    for order, steps in product([1, 2], [3, 10]):
        options = {"algorithm_type": "sde-dpmsolver++", "solver_order": order, grid: True}
        theirs, mine = pair(DPM, prediction_type="v_prediction", **options)
        for scheduler in (theirs, mine):
            scheduler.set_timesteps(steps)
        result, expected = (run(scheduler, torch.float32, timeless) for scheduler in (mine, theirs))
        assert distance(result, expected) < 1e-5, (order, steps)


def test_dpm_solver_with_thresholds_on_cosine_and_half_way():
    options = {"algorithm_type": "sde-dpmsolver++", "thresholding": True, "sample_max_value": 1.5}
    assert agrees(*pair(DPM, **options), 10)
    assert agrees(*pair(DPM, algorithm_type="sde-dpmsolver++", beta_schedule="squaredcos_cap_v2",
                        prediction_type="v_prediction"), 10)  # fmt: skip
    theirs, mine = pair(DPM, algorithm_type="sde-dpmsolver++")
    set_both(theirs, mine, 10)
    for scheduler in (theirs, mine):
        scheduler.set_begin_index(4)
    assert distance(*(run(scheduler, torch.float32, begin=4) for scheduler in (mine, theirs))) < 1e-5


def test_order_3_has_the_right_sign_where_theirs_has_not():
    """Ours is k-diffusion's dpmpp_3m_sde, and theirs has the last term with −1/2 in the place of +1/2."""
    theirs, mine = pair(DPM, algorithm_type="sde-dpmsolver++", solver_order=3)
    set_both(theirs, mine, 20)
    alphas, sigmas = zip(*[(level.alpha, level.sigma) for level in mine.plan.levels], strict=True)
    times = dict(zip(sigmas, mine.timesteps, strict=False))

    def denoise(x, sigma):
        return (x - sigma * model(x, times[sigma])) / alphas[sigmas.index(sigma)]

    generator = torch.Generator().manual_seed(1)
    zs = [torch.randn(2, 3, 4, 4, generator=generator).double() for _ in mine.timesteps]
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    published = {
        third: sde_dpm_solver(denoise, x, sigmas, lambda k, kind: zs[k], alphas=alphas, order=3, third=third)
        for third in ("diffusers", "k-diffusion")
    }
    assert distance(run(mine, torch.float64), published["k-diffusion"]) < 1e-10
    assert distance(run(theirs, torch.float32), published["diffusers"]) < 1e-4
    assert distance(published["diffusers"], published["k-diffusion"]) > 1e-2


def test_noise_space_has_order_3_where_theirs_breaks_off():
    theirs, mine = pair(DPM, algorithm_type="sde-dpmsolver", solver_order=3, final_sigmas_type="sigma_min")
    set_both(theirs, mine, 20)
    with pytest.raises(UnboundLocalError):
        run(theirs, torch.float32)
    assert run(mine, torch.float32).isfinite().all()


def test_the_noise_comes_from_the_generators():
    for kind, options in ((DPM, {"algorithm_type": "sde-dpmsolver++"}), (SA, {"tau_func": one})):
        scheduler = getattr(ours, kind)(**options)
        scheduler.set_timesteps(5)
        x, t = torch.ones(2, 3), scheduler.timesteps[0]
        seeded = [[torch.Generator().manual_seed(seed) for seed in (1, 2)] for _ in range(2)]
        first, again = (scheduler.step(x, t, x, generator=generators).prev_sample for generators in seeded)
        assert torch.equal(first, again)
        assert not torch.equal(first, scheduler.step(x, t, x).prev_sample)
        z = torch.cat([torch.randn(1, 3, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
        assert torch.equal(first, scheduler.step(x, t, x, variance_noise=z).prev_sample)
        with pytest.raises(ValueError, match="variance_noise is of shape"):
            scheduler.step(x, t, x, variance_noise=z[:1])


# ------------------------------------------------------------------ SA-Solver


def one(t):
    return 1


@pytest.mark.parametrize("algorithm", ["data_prediction", "noise_prediction"])
def test_sa_solver_in_every_option_that_they_share(algorithm):
    """To 1e-11 in float64, where their sigmas are given in float64 too; in float32 as near as their closed forms."""
    options = {"algorithm_type": algorithm}
    for number, (predictor, corrector, spacing, lower) in enumerate(
        product([1, 2, 3, 4], [1, 2, 3, 4], SPACINGS, [True, False])
    ):
        options |= {"predictor_order": predictor, "corrector_order": corrector, "lower_order_final": lower}
        options |= {"timestep_spacing": spacing, "prediction_type": PREDICTIONS[number % 3]}
        options |= {"tau_func": (None, one, lambda t: 0.3 + float(t) / 2000)[number // 2 % 3]}
        theirs, mine = pair(SA, **options)
        set_both(theirs, mine, (1, 2, 5, 10, 20)[number % 5])
        theirs.sigmas = torch.tensor([level.ratio for level in mine.plan.levels], dtype=torch.float64)
        assert distance(run(mine, torch.float64), run(theirs, torch.float64)) < 1e-11, options
        single = run(mine, torch.float32)
        if algorithm == "data_prediction" and max(predictor, corrector) == 1:
            set_both(theirs, mine, (1, 2, 5, 10, 20)[number % 5])
            assert distance(single, run(theirs, torch.float32)) < 1e-5, options


def test_sa_solver_at_its_defaults():
    """In float32: 1e-5 from theirs."""
    for spacing, steps in product(SPACINGS, (5, 10, 20)):
        theirs, mine = pair(SA, timestep_spacing=spacing)
        set_both(theirs, mine, steps)
        assert distance(run(mine, torch.float32), run(theirs, torch.float32)) < 1e-5
        drawn = [number for number, row in enumerate(mine.plan.rows) if row.noise]
        assert drawn == [i for i, t in enumerate(mine.timesteps) if 200 <= t <= 800]


def test_sa_solver_half_way_and_with_thresholds():
    options = {"thresholding": True, "sample_max_value": 1.5}
    assert agrees(*pair(SA, **options), 10)
    theirs, mine = pair(SA, tau_func=one)
    set_both(theirs, mine, 10)
    for scheduler in (theirs, mine):
        scheduler.set_begin_index(4)
    assert distance(*(run(scheduler, torch.float32, begin=4) for scheduler in (mine, theirs))) < 1e-5


@pytest.mark.parametrize("grid", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_where_theirs_repeats_the_last_sigma_ours_makes_a_step(grid):
    """N calls are N steps here. Theirs makes N − 1 steps, and its last call only corrects."""
    theirs, mine = pair(SA, tau_func=one, prediction_type="v_prediction", **{grid: True})
    theirs.set_timesteps(6)
    mine.set_timesteps(5)
    assert theirs.sigmas[-1] == theirs.sigmas[-2]
    ratios = [level.ratio for level in mine.plan.levels]
    assert len(ratios) == len(mine.timesteps) + 1 == 6
    if grid != "use_beta_sigmas":
        np.testing.assert_allclose(ratios, theirs.sigmas[:-1], rtol=1e-4)
        theirs.config.lower_order_final = False  # which counts the call without a step
        mine = ours.SASolverScheduler.from_config(mine.config, lower_order_final=False)
        mine.set_timesteps(5)
        result, expected = run(mine, torch.float64, timeless), run(theirs, torch.float64, timeless, steps=5)
        assert distance(result, expected) < 1e-4


def test_a_flow_ends_at_the_picture():
    """Theirs repeats the last σ there too; up to it they are one."""
    options = {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0, "tau_func": one}
    options["lower_order_final"] = False
    theirs, mine = diffusers.SASolverScheduler(**options), ours.SASolverScheduler(**options)
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(10)
    assert mine.plan.end.sigma == 0
    np.testing.assert_allclose(mine.sigmas[:-1], theirs.sigmas[:-1], rtol=1e-5)
    results = [run(scheduler, torch.float64, timeless, steps=9) for scheduler in (mine, theirs)]
    assert distance(*results) < 1e-3  # their times are rounded, and so their σ in float32
    assert not mine.plan.rows[-1].noise


def test_configs_go_both_ways_and_mistakes_are_named():
    theirs = diffusers.SASolverScheduler(predictor_order=3, algorithm_type="noise_prediction", tau_func=one)
    mine = ours.SASolverScheduler.from_config(theirs.config)
    assert (mine.config.predictor_order, mine.config.algorithm_type) == (3, "noise_prediction")
    assert mine.config.tau_func is one
    assert diffusers.SASolverScheduler.from_config(mine.config).tau_func is one
    assert set(theirs.config) <= set(mine.config)
    for source in ("dpmsolver", "sde-dpmsolver++"):
        config = diffusers.DPMSolverMultistepScheduler(algorithm_type=source, final_sigmas_type="sigma_min").config
        assert ours.SASolverScheduler.from_config(config).config.algorithm_type == "data_prediction"
    assert ours.DPMSolverMultistepScheduler.from_config(diffusers.SASolverScheduler().config).config.algorithm_type == (
        "dpmsolver++"
    )
    with pytest.raises(ValueError, match="algorithm_type is 'data'"):
        ours.SASolverScheduler(algorithm_type="data")
    with pytest.raises(TypeError, match="tau_func is 1; it must be a function"):
        ours.SASolverScheduler(tau_func=1)
    with pytest.raises(ValueError, match=r"tau_func\(999\) is -1"):
        ours.SASolverScheduler(tau_func=lambda t: -1).set_timesteps(5)


def test_a_scheduler_can_be_saved_copied_and_pickled(tmp_path):
    scheduler = ours.SASolverScheduler(corrector_order=0)
    scheduler.set_timesteps(5)
    scheduler.save_pretrained(tmp_path)
    for kind in (ours.SASolverScheduler, diffusers.SASolverScheduler):
        assert kind.from_pretrained(tmp_path).config.corrector_order == 0
    function = ours.SASolverScheduler(tau_func=one)
    assert "tau_func" in repr(function)
    with pytest.raises(TypeError, match="tau_func is a function"):
        function.save_pretrained(tmp_path)
    assert copy.deepcopy(scheduler).plan == pickle.loads(pickle.dumps(scheduler)).plan == scheduler.plan
