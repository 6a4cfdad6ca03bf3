"""DPM-Solver, DEIS and UniPC equal diffusers' own, in float32 and from identical inputs, wherever theirs are right.

The exceptions, each with a test below:

- In noise space a run from α_T multiplies every rounding by 1/α_T: 157 on linear, 20,291 on cosine. There the two
  differ by their roundings. Against the same run in float64 ours is as near as theirs, and mostly nearer. So it is with
  DEIS 3 on fine grids, where their closed form of ∫ log²ρ dρ cancels in float32.
- UniPC's formulas have h = ∞ in the step to σ = 0, where theirs are nan: with B(h) = h, in noise space, and with an
  order above 1. The limit is the picture itself, and ours ends there.
- With Karras', exponential and Lu's sigmas theirs call the network at a rounded time. Ours calls it at the time of the
  level. A network that does not look at the time makes the two one.
- At zero terminal SNR theirs put ᾱ_T = 2^−24 in the place of 0. From order 2 on, their second step gives the first
  answer a weight of about h/(λ_1 − λ_T), which that number decides: it falls as 1/log ᾱ_T. Ours is the limit.
"""

from contextlib import suppress
from itertools import product

import diffusers
import numpy as np
import pytest
import torch

from pndm_solvers.adapters import diffusers as ours

STEPS = [1, 2, 3, 5, 10, 27, 50]
BETAS = ["linear", "scaled_linear", "squaredcos_cap_v2"]
SPACINGS = ["linspace", "leading", "trailing"]
ORDERS = [1, 2, 3]
FLAGS = [True, False]
ENDS = ["zero", "sigma_min"]

OPTIONS = {
    "DPMSolverMultistepScheduler": [
        {"algorithm_type": "dpmsolver++", "final_sigmas_type": end, **more}
        for end in ENDS
        for more in (
            {"solver_type": "midpoint"},
            {"solver_type": "heun", "lower_order_final": False},
            {"lower_order_final": False, "euler_at_final": True},
        )
    ]
    + [
        {
            "algorithm_type": "dpmsolver",
            "final_sigmas_type": "sigma_min",
            "solver_type": kind,
            "lower_order_final": lower,
        }
        for kind, lower in (("midpoint", True), ("heun", False))
    ],
    "DEISMultistepScheduler": [{"lower_order_final": lower} for lower in FLAGS],
    "UniPCMultistepScheduler": [
        {"solver_type": kind, "predict_x0": data, "final_sigmas_type": end, **more}
        for kind, data, end in product(("bh1", "bh2"), FLAGS, ENDS)
        for more in ({}, {"lower_order_final": False}, {"disable_corrector": [0, 2]})
    ],
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:this plan begins:UserWarning"),  # one step of leading spacing
    pytest.mark.filterwarnings("ignore:none of this plan's:UserWarning"),  # few steps on even times
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # their algorithm_type "dpmsolver"
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # theirs, of NumPy
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # theirs, at h = ∞
]


def start(dtype=torch.float32):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def model(x, t):
    return torch.sin(x + t.to(x.dtype) / 300)


def timeless(x, t):
    return torch.sin(x)


def pair(name, **options):
    """Their scheduler and ours. Theirs has the table in float64: in float32, 1 − ᾱ_0 is wrong in its fourth digit."""
    theirs, mine = getattr(diffusers, name)(**options), getattr(ours, name)(**options)
    if not options.get("rescale_betas_zero_snr"):
        theirs.alphas_cumprod = torch.from_numpy(mine.schedule.alpha(np.arange(1000)) ** 2)
    return theirs, mine


def run(scheduler, x, ask=model, begin=0):
    for t in scheduler.timesteps[begin:]:
        x = scheduler.step(ask(x, t), t, x, return_dict=False)[0]
    return x


def distance(one, other):
    """The largest difference, relative to the largest number of `other`."""
    return float((one - other).abs().max() / other.abs().max())


def averages_noise(scheduler):
    return scheduler.plan.rows[0].space == "epsilon"


def at_infinity(mine, options):
    """Whether their formulas meet h = ∞: in UniPC's step to σ = 0."""
    unusual = options.get("solver_type") == "bh1" or not options.get("predict_x0", True)
    high = not options.get("lower_order_final", True) and options["solver_order"] > 1
    return mine.plan.end.sigma == 0 and isinstance(mine, ours.UniPCMultistepScheduler) and (unusual or high)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("name", OPTIONS)
def test_every_spacing_order_and_option_that_they_share(name, betas):
    wrong, compared, rounded = [], 0, []
    for spacing, order, (turn, more), steps in product(SPACINGS, ORDERS, enumerate(OPTIONS[name]), STEPS):
        if steps > 10 and SPACINGS[turn % 3] != spacing:  # long runs take long: each option has them on one spacing
            continue
        options = {"beta_schedule": betas, "timestep_spacing": spacing, "solver_order": order, **more}
        options |= {"prediction_type": ("epsilon", "sample", "v_prediction")[compared % 3]}
        if betas == "squaredcos_cap_v2" and spacing != "leading":
            options["prediction_type"] = "v_prediction"  # ε at α = 5e-5 has no picture in float32
        theirs, mine = pair(name, **options, **({"steps_offset": 1} if spacing == "leading" else {}))
        mine.set_timesteps(steps)
        theirs.set_timesteps(steps)
        assert torch.equal(theirs.timesteps, mine.timesteps)
        if at_infinity(mine, options):
            continue
        compared += 1
        result, expected = run(mine, start()), run(theirs, start())
        if distance(result, expected) <= 1e-5:
            continue
        exact = run(mine, start(torch.float64))
        rounded.append((distance(result, exact), distance(expected, exact)))
        if rounded[-1][0] > (2 * rounded[-1][1] if averages_noise(mine) else 1e-5):
            wrong.append((steps, options, *rounded[-1]))
    assert compared > 100
    assert not wrong, f"{len(wrong)} of {compared}: {wrong[:5]}"
    assert not rounded or np.median([own / other for own, other in rounded]) < 1


def test_where_their_step_is_infinite_ours_ends_at_its_limit():
    """The picture: UniPC to σ = 0 in every option. The run up to the last step is one that ends at σ_min."""
    for kind, data, order, lower in product(("bh1", "bh2"), FLAGS, ORDERS, FLAGS):
        options = {"solver_type": kind, "predict_x0": data, "solver_order": order, "lower_order_final": lower}
        theirs, mine = pair("UniPCMultistepScheduler", **options)
        mine.set_timesteps(5)
        assert run(mine, start()).isfinite().all()
        last = mine.plan.rows[-1]
        if data:
            assert (last.space, last.states, dict(last.answers)) == ("sample", (), {4: 1.0})
        if at_infinity(mine, options):
            theirs.set_timesteps(5)
            with suppress(RuntimeError):  # of their linear system
                assert not run(theirs, start()).isfinite().all()


@pytest.mark.parametrize("name", OPTIONS)
def test_sigmas_of_karras_and_of_even_logarithms(name):
    """With a network that does not look at the time. DEIS repeats its last sigma: a call without a step."""
    grids = ["use_karras_sigmas", "use_exponential_sigmas"]
    grids += ["use_lu_lambdas"] if name == "DPMSolverMultistepScheduler" else []
    for grid, order, steps in product(grids, ORDERS, [2, 3, 5, 10, 27, 50]):
        if name == "DEISMultistepScheduler":
            continue
        theirs, mine = pair(name, solver_order=order, prediction_type="v_prediction", **{grid: True})
        mine.set_timesteps(steps)
        theirs.set_timesteps(steps)
        ratios = [level.ratio for level in mine.plan.levels]
        np.testing.assert_allclose(ratios, theirs.sigmas, rtol=1e-5)
        assert distance(run(mine, start(), timeless), run(theirs, start(), timeless)) < 1e-5, (grid, order, steps)


@pytest.mark.parametrize("name", OPTIONS)
def test_thresholds(name):
    for order, ratio, most in product(ORDERS, (0.9, 0.995), (1.0, 1.5)):
        options = {"thresholding": True, "dynamic_thresholding_ratio": ratio, "sample_max_value": most}
        theirs, mine = pair(name, solver_order=order, timestep_spacing="leading", **options)
        for scheduler in (theirs, mine):
            scheduler.set_timesteps(10)
        assert distance(run(mine, start()), run(theirs, start())) < 1e-5


def test_a_table_that_is_cut_at_a_lambda():
    for spacing, steps in product(SPACINGS, STEPS):
        options = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1, "timestep_spacing": spacing}
        theirs, mine = pair("DPMSolverMultistepScheduler", **options)
        for scheduler in (theirs, mine):
            scheduler.set_timesteps(steps)
        assert torch.equal(theirs.timesteps, mine.timesteps)
        assert distance(run(mine, start()), run(theirs, start())) < 1e-5


def test_times_of_ones_own():
    theirs, mine = pair("DPMSolverMultistepScheduler", solver_order=3)
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(timesteps=[900, 700, 400, 200, 100, 30])
    assert distance(run(mine, start()), run(theirs, start())) < 1e-5


@pytest.mark.parametrize("name", OPTIONS)
def test_a_run_that_begins_further_down(name):
    """Image-to-image: the history begins anew, and the numbers in `disable_corrector` go on counting from the top."""
    extra = [{"disable_corrector": [0, 6]}] if name == "UniPCMultistepScheduler" else []
    for more, steps in product([{}, *extra], (10, 20)):
        theirs, mine = pair(name, solver_order=3, **more)
        results = []
        for scheduler in (theirs, mine):
            scheduler.set_timesteps(steps)
            scheduler.set_begin_index(4)
            results.append(run(scheduler, start(), begin=4))
        assert distance(results[1], results[0]) < 1e-5


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_zero_terminal_snr(name):
    """Theirs tend to ours: with 2^−48 in the place of their 2^−24, λ_T doubles, and of order 1 nothing is left."""
    for order, steps in product(ORDERS, (5, 10, 50)):
        options = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
        distances = []
        for power in (24, 48):
            theirs, mine = pair(name, solver_order=order, **options)
            theirs.alphas_cumprod = torch.from_numpy(mine.schedule.alpha(np.arange(1000)) ** 2)
            theirs.alphas_cumprod[-1] = 2.0**-power
            for scheduler in (theirs, mine):
                scheduler.set_timesteps(steps)
            assert mine.plan.rows[0].alpha == 0
            distances.append(distance(run(mine, start()), run(theirs, start())))
        assert distances[1] < (1e-5 if order == 1 else distances[0] / 1.5), (order, steps, distances)


# ------------------------------------------------------------------ configs


@pytest.mark.parametrize("name", OPTIONS)
def test_options_that_are_not_offered_are_refused_by_name(name):
    kind, theirs = getattr(ours, name), getattr(diffusers, name)
    refused = {"solver_p": theirs()} if name == "UniPCMultistepScheduler" else {}
    for option, value in refused.items():
        with pytest.raises(ValueError, match=f"{option}="):
            kind.from_config({**theirs().config, option: value})
        with pytest.raises(TypeError, match=option):
            kind(**{option: value})
    assert set(theirs().config) - set(kind().config) == set(refused)


def test_a_stochastic_method_is_refused_with_a_remedy():
    config = diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++").config
    with pytest.raises(ValueError, match=r"algorithm_type is 'sde-dpmsolver.*take DPMSolverMultistepScheduler"):
        ours.DEISMultistepScheduler.from_config(config)


def test_a_method_of_a_sister_class_becomes_the_own_default():
    """As in diffusers: a DEIS config makes DPM-Solver++ of type midpoint, and UniPC with bh2."""
    for source, target in product(OPTIONS, OPTIONS):
        theirs = getattr(diffusers, target).from_config(getattr(diffusers, source)().config)
        mine = getattr(ours, target).from_config(getattr(diffusers, source)().config)
        for option in ("algorithm_type", "solver_type"):
            assert mine.config.get(option) == theirs.config.get(option), (source, target)
    with pytest.raises(ValueError, match="solver_type is 'bh3'"):
        ours.UniPCMultistepScheduler(solver_type="bh3")
    with pytest.raises(ValueError, match="final_sigmas_type is 'none'"):
        ours.UniPCMultistepScheduler(final_sigmas_type="none")


@pytest.mark.filterwarnings("ignore:.*has no such options:UserWarning")
def test_options_that_a_class_lacks_do_not_count():
    """A config keeps the options of the class that it came from, for the way back."""
    named = {"final_sigmas_type": "zero", "use_lu_lambdas": True, "lambda_min_clipped": -3.0}
    config = diffusers.DPMSolverMultistepScheduler(**named).config
    for name in ("DEISMultistepScheduler", "UniPCMultistepScheduler"):
        theirs, mine = (getattr(library, name).from_config(config) for library in (diffusers, ours))
        for scheduler in (theirs, mine):
            scheduler.set_timesteps(5)
        assert torch.equal(theirs.timesteps, mine.timesteps)
        ratios = [level.ratio for level in mine.plan.levels]
        np.testing.assert_allclose(ratios, theirs.sigmas, rtol=1e-3)
        assert mine.config.use_lu_lambdas


def test_karras_sigmas_come_before_lus():
    theirs, mine = pair("DPMSolverMultistepScheduler", use_karras_sigmas=True, use_lu_lambdas=True)
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(10)
    np.testing.assert_allclose([level.ratio for level in mine.plan.levels], theirs.sigmas, rtol=1e-5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'linspace' spacing has 999 distinct times at most"):
        ours.UniPCMultistepScheduler().set_timesteps(1000)
    ours.UniPCMultistepScheduler(timestep_spacing="trailing").set_timesteps(1000)
    with pytest.raises(ValueError, match=r"^solver_order is 4; it must be a whole number of at most 3"):
        ours.DPMSolverMultistepScheduler(solver_order=4)
    with pytest.raises(ValueError, match=r"solver_p=a DPMSolverMultistepScheduler, which UniPC"):
        ours.UniPCMultistepScheduler.from_config(
            {**diffusers.UniPCMultistepScheduler().config, "solver_p": diffusers.DPMSolverMultistepScheduler()}
        )
    ours.UniPCMultistepScheduler(disable_corrector=None).set_timesteps(5)
