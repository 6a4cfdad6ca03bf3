"""Flow models in diffusers: the levels, the steps and the callers of `FlowMatchEulerDiscreteScheduler`, on ours."""

import copy
import pickle
from itertools import product

import diffusers
import numpy as np
import pytest
import torch
from conftest import assert_refused
from loops import SCHEDULERS, loop

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver
from pndm_solvers.adapters.diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PLMSScheduler, PNDMScheduler
from pndm_solvers.problems import exact_problem

Theirs = diffusers.FlowMatchEulerDiscreteScheduler
PLAIN = {}
DYNAMIC = {"use_dynamic_shifting": True}
STEPS = (1, 2, 4, 10, 28, 50)


def start(dtype=torch.float32):
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=dtype)


def velocity(x, t):
    """A network whose answers depend on where and when it is called."""
    return torch.sin(3 * x + torch.as_tensor(t, dtype=torch.float32) / 300)


def pair(kind=DDIMScheduler, **config):
    theirs = Theirs(**config)
    return theirs, kind.from_config(theirs.config)


def run(scheduler, x=None, **times):
    scheduler.set_timesteps(**times)
    return loop(scheduler, start() if x is None else x, velocity)


# ------------------------------------------------------------------ the levels and the steps of theirs


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_ddim_is_their_euler(steps, shift):
    for config, mu in (
        ({"shift": shift}, {}),
        ({"shift": shift, **DYNAMIC}, {"mu": 0.8}),
        ({"shift": shift, "time_shift_type": "linear", **DYNAMIC}, {"mu": 2.5}),
        ({"shift": shift, "shift_terminal": 0.1}, {}) if steps > 1 else ({}, {}),
    ):
        theirs, mine = pair(**config)
        expected = run(theirs, num_inference_steps=steps, **mu)
        torch.testing.assert_close(run(mine, num_inference_steps=steps, **mu), expected, rtol=1e-6, atol=1e-6)
        assert torch.allclose(mine.timesteps, theirs.timesteps, rtol=3e-7)
        assert torch.allclose(mine.sigmas, theirs.sigmas, rtol=3e-7)


@pytest.mark.parametrize("name", ["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"])
def test_their_other_spacings(name):
    theirs, mine = pair(shift=3.0, **{name: True})
    torch.testing.assert_close(
        run(mine, num_inference_steps=8), run(theirs, num_inference_steps=8), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
def test_given_sigmas_come_back_to_the_last_bit(kind):
    sigmas = np.linspace(1.0, 0.037, 7, dtype=np.float32)
    mine = kind.from_config(Theirs().config)
    for given in (sigmas, sigmas.tolist(), torch.from_numpy(sigmas), [*sigmas.tolist(), 0.0]):
        mine.set_timesteps(sigmas=given)
        calls = mine.sigmas[torch.isin(mine.timesteps, torch.from_numpy(sigmas) * 1000).nonzero().flatten()]
        assert torch.equal(calls.unique(), torch.from_numpy(sigmas).unique())
        assert mine.sigmas[-1] == 0
        assert set((torch.from_numpy(sigmas) * 1000).tolist()) <= set(mine.timesteps.tolist())
    if kind is not PNDMScheduler:  # which calls within steps as well
        mine.set_timesteps(7, sigmas=sigmas)
        assert torch.equal(mine.timesteps, torch.from_numpy(sigmas) * 1000)


def test_levels_below_those_of_training_are_a_flows_too():
    mine = pair()[1]
    mine.set_timesteps(sigmas=[1.0, 0.5, 1e-4])
    assert mine.sigmas.tolist() == pytest.approx([1.0, 0.5, 1e-4, 0.0])


def test_times_may_differ_from_levels():
    """CogView4 asks its network at times that are not those of its shifted levels."""
    times, sigmas = np.array([1000.0, 700.0, 300.0]), np.array([1.0, 0.7, 0.3])
    theirs, mine = pair(**DYNAMIC)
    options = {"timesteps": times, "sigmas": sigmas, "mu": 0.5}
    torch.testing.assert_close(run(mine, **options), run(theirs, **options), rtol=1e-6, atol=1e-6)
    assert mine.timesteps.tolist() == times.tolist()
    noised = mine.scale_noise(torch.zeros(1, 2), mine.timesteps[1:2], torch.ones(1, 2))
    assert noised.unique().item() == pytest.approx(float(mine.sigmas[1]), rel=1e-6)
    low = PLMSScheduler.from_config(theirs.config)
    low.set_timesteps(**options)
    assert loop(low, start(), velocity, low.timesteps[1:]).isfinite().all()


def test_a_flow_towards_the_picture():
    """Mochi's network is asked at 1 − σ and answers x_0 − ε."""
    theirs, mine = pair(invert_sigmas=True)
    theirs.set_timesteps(6)
    mine.set_timesteps(6)
    assert torch.allclose(mine.timesteps, theirs.timesteps, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(loop(mine, start(), velocity), loop(theirs, start(), velocity), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        diffusers.UniPCMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
        ).config,
        diffusers.DPMSolverMultistepScheduler(
            use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
        ).config,
        diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0).config,
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    ],
    ids=["unipc", "dpmsolver", "heun", "minimal"],
)
@pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
def test_every_scheduler_takes_every_flow(kind, config, tmp_path):
    """And one loaded from its file goes on as the same."""
    mine = kind.from_config(config)
    assert mine.shift == config.get("flow_shift", config.get("shift"))
    assert mine.config.prediction_type == "flow_prediction"
    mine.save_pretrained(tmp_path)
    results = []
    for scheduler in (mine, kind.from_pretrained(tmp_path), pickle.loads(pickle.dumps(mine)), copy.deepcopy(mine)):
        scheduler.set_timesteps(6)
        generator = {"generator": torch.Generator().manual_seed(0)}
        results.append(loop(scheduler, start(), velocity, **generator))
    assert results[0].isfinite().all()
    assert all(torch.equal(other, results[0]) for other in results[1:])


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_their_multistep_methods_on_flows(name):
    """Theirs is asked at rounded times, and UniPC's begins a hair below pure noise: a network that ignores both."""
    from pndm_solvers.adapters import diffusers as ours

    theirs = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    mine = getattr(ours, name).from_config(theirs.config)
    ends = []
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(12)
        ends.append(loop(scheduler, start(torch.float64), lambda x, t: torch.sin(3 * x)))
    assert torch.allclose(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler"])
def test_the_levels_of_the_class_that_a_config_comes_from_stay(name, kind, tmp_path):
    """Wan's are UniPC's and Sana's DPM-Solver's, whatever the method that runs on them, in memory and from a file."""
    theirs = getattr(diffusers, name)(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    theirs.save_pretrained(tmp_path)
    theirs.set_timesteps(5)
    for mine in (kind.from_config(theirs.config), kind.from_pretrained(tmp_path), kind.from_config(str(tmp_path))):
        mine.set_timesteps(5)
        levels = mine.sigmas if kind is not PNDMScheduler else mine.sigmas.unique().flip(0)
        assert all(torch.isclose(levels, sigma, rtol=1e-5, atol=2e-6).any() for sigma in theirs.sigmas[:-1])
        assert kind is PNDMScheduler or mine.timesteps.max() < 1000


@pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_flow_that_was_made_here_is_the_same_from_its_file(kind, tmp_path):
    """Its levels are its class's own, which the file need not say."""
    mine = kind(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    mine.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    for scheduler in (mine, again):
        scheduler.set_timesteps(6)
    assert torch.equal(again.sigmas, mine.sigmas)


def test_a_spacing_that_is_asked_for_counts():
    flow = NoiseSchedule.rectified_flow(shift=3.0, num_train_timesteps=1000)
    for spacing in ("trailing", "leading", "linspace", "default", "karras"):
        mine = DDIMScheduler.from_config(Theirs(shift=3.0).config, timestep_spacing=spacing)
        mine.set_timesteps(6)
        expected = DDIMSolver(flow).plan(6, spacing=spacing, prediction="flow").times
        assert mine.timesteps.tolist() == pytest.approx(expected, rel=1e-6)


def test_what_pipelines_read_and_pass_beside():
    """`mu` is passed to static configs too; options that a pipeline reads stay, defaults or not."""
    plain, dynamic = pair(shift=3.0)[1], pair(**DYNAMIC)[1]
    plain.set_timesteps(5, mu=0.9)
    levels = plain.sigmas
    plain.set_timesteps(5)
    assert torch.equal(plain.sigmas, levels)
    assert (dynamic.config.base_shift, dynamic.config.base_image_seq_len) == (0.5, 256)
    assert DDIMScheduler.from_config(Theirs(shift=3.0).config, flow_shift=5.0).shift == 5.0


# ------------------------------------------------------------------ the library's own method


@pytest.mark.parametrize(("shift", "steps"), product((1.0, 3.0), (10, 20)))
def test_the_default_has_half_of_eulers_error_from_the_same_sigmas(shift, steps):
    problem = exact_problem("smooth-mixture", NoiseSchedule.rectified_flow(t_min=1e-5))
    exact = torch.from_numpy(problem.reference().ends)

    def model(x, t):
        return torch.from_numpy(problem.model(x.numpy(), np.full(len(x), float(t) / 1000)))

    errors = []
    for kind in (DDIMScheduler, PLMSScheduler):
        scheduler = kind.from_config(Theirs(shift=shift).config, prediction_type=problem.prediction.type)
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))
        errors.append(float((loop(scheduler, torch.from_numpy(problem.x), model) - exact).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0]


def test_the_librarys_own_grid_is_shifted():
    """σ/α of "default" is that of the unshifted grid, times the shift; the lowest level is that of training."""
    lowest = NoiseSchedule.rectified_flow(shift=3.0).share_of_time(1e-3)
    plain = PLMSSolver(NoiseSchedule.rectified_flow(t_min=lowest)).plan(8, prediction="flow")
    shifted = PLMSScheduler.from_config(Theirs(shift=3.0).config, timestep_spacing="default")
    shifted.set_timesteps(8)
    ratios = [level.ratio for level in shifted.plan.levels[1:-1]]
    assert ratios == pytest.approx([3 * level.ratio for level in plain.levels[1:-1]])
    dynamic = PLMSScheduler.from_config(Theirs(**DYNAMIC).config, timestep_spacing="default")
    dynamic.set_timesteps(8, mu=np.log(3))
    assert torch.allclose(dynamic.sigmas, shifted.sigmas, rtol=1e-6)
    plan = PLMSSolver(NoiseSchedule.rectified_flow(shift=3.0, num_train_timesteps=1000)).plan(8, prediction="flow")
    assert torch.allclose(shifted.timesteps, torch.tensor(plan.times, dtype=torch.float32))


def test_half_precision_costs_no_more_than_its_own_rounding():
    """A run in bfloat16 is off by its rounding, with the default as with Euler, though σ/α of its first step is 300."""
    errors = []
    for kind in (DDIMScheduler, PLMSScheduler):
        exact, half = (kind.from_config(Theirs(shift=3.0).config) for _ in range(2))
        x = start()
        for scheduler in (exact, half):
            scheduler.set_timesteps(28)
        full = loop(exact, x, lambda x, t: velocity(x, t) / 3)
        low = loop(half, x.bfloat16(), lambda x, t: (velocity(x.float(), t) / 3).bfloat16())
        assert low.dtype == torch.bfloat16
        errors.append(float((low.float() - full).square().mean().sqrt()))
    assert errors[1] < 3 * errors[0] + 1e-3


def test_an_answer_may_be_of_another_dtype_than_the_sample():
    mine = pair(PLMSScheduler)[1]
    mine.set_timesteps(4)
    x = loop(mine, start(), lambda x, t: velocity(x, t).bfloat16())
    assert x.dtype == torch.float32


# ------------------------------------------------------------------ what callers do


@pytest.mark.parametrize("kind", [DDIMScheduler, PLMSScheduler, DPMSolverMultistepScheduler])
def test_image_to_image_begins_at_its_strength(kind):
    """At N·strength of the times, by `begin_index` as pipelines set it; one call for each time that is left."""
    for steps in (1, 3, 10, 28):
        for strength in np.arange(1, 11) / 10:
            left = min(steps * strength, steps)
            begin = int(max(steps - left, 0))
            mine = kind.from_config(Theirs(shift=3.0).config)
            mine.set_timesteps(steps)
            if begin >= steps:
                with pytest.raises(ValueError, match="strength times its steps"):
                    mine.set_begin_index(begin)
                continue
            mine.set_begin_index(begin)
            times = mine.timesteps[begin:]
            x = mine.scale_noise(torch.full((1, 3, 4, 4), 0.3), times[:1], start()[:1])
            sigma = float(mine.sigmas[begin])
            torch.testing.assert_close(x, sigma * start()[:1] + (1 - sigma) * 0.3)
            assert loop(mine, x, velocity, times).isfinite().all()


def test_runs_on_one_scheduler_are_as_each_alone():
    mine = pair(PLMSScheduler, shift=3.0)[1]
    mine.set_timesteps(7)
    alone = [loop(mine, x, velocity) for x in (start(), -start())]
    states = [start(), -start()]
    for t in mine.timesteps:
        states = [mine.step(velocity(x, t), t, x, return_dict=False)[0] for x in states]
    assert all(map(torch.equal, states, alone))


def test_the_tables_of_training_are_there_from_the_start():
    theirs, mine = pair(shift=3.0)
    for name in ("timesteps", "sigmas"):
        assert torch.allclose(getattr(mine, name), getattr(theirs, name), rtol=3e-7), name
        assert torch.equal(getattr(copy.deepcopy(mine), name), getattr(mine, name))
    assert mine.shift == theirs.shift == 3.0
    for scheduler in (theirs, mine):
        scheduler.set_shift(5.0)
        scheduler.set_timesteps(5)
    assert torch.allclose(mine.sigmas, theirs.sigmas, rtol=3e-7)
    times = mine.timesteps
    assert [mine.index_for_timestep(t) for t in times] == list(range(5))
    assert not hasattr(mine, "alphas_cumprod")


def test_a_callers_own_times_and_levels_count():
    """Assigned, or written into: planned anew. Cosmos ends its runs at the lowest level that way."""
    mine, again = pair(PLMSScheduler, shift=3.0)[1], pair(PLMSScheduler)[1]
    mine.set_timesteps(6)
    mine.timesteps = torch.tensor([900.0, 500.0, 100.0])  # not shifted: these are the network's
    again.set_timesteps(timesteps=[900.0, 500.0, 100.0])
    torch.testing.assert_close(loop(mine, start(), velocity), loop(again, start(), velocity), rtol=1e-4, atol=1e-4)
    theirs, mine = pair()
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(6)
        scheduler.sigmas[-1] = scheduler.sigmas[-2]
    torch.testing.assert_close(loop(mine, start(), velocity), loop(theirs, start(), velocity), rtol=1e-6, atol=1e-6)
    assert torch.equal(mine.sigmas[-1:], mine.sigmas[-2:-1])


def test_wrong_times_of_a_flow_are_refused():
    plain, dynamic = pair()[1], pair(**DYNAMIC)[1]
    assert_refused(
        [
            (lambda: dynamic.set_timesteps(4), ValueError, "pass mu="),
            (lambda: dynamic.set_timesteps(4, mu=1000.0), ValueError, "mu is 1000; it must be a number up to 100"),
            (lambda: DDIMScheduler().set_timesteps(4, mu=1.0), ValueError, "mu is the shift of a flow"),
            (lambda: plain.set_timesteps(4, sigmas=[1.0, 0.5]), ValueError, "count 2, 4 steps"),
            (lambda: plain.set_timesteps(sigmas=[0.5, 1.0]), ValueError, r"^sigmas must fall strictly.*\[0.5 1. \]"),
            (
                lambda: plain.set_timesteps(sigmas=[2.0, 1.0]),
                ValueError,
                "^sigmas must fall .* from 1 to above 0",
            ),
            (lambda: plain.set_timesteps(sigmas=[]), ValueError, "sigmas is of shape"),
            (lambda: plain.step(start(), 999.0, start()), ValueError, "call set_timesteps first"),
            (lambda: DDIMScheduler.from_config(Theirs()), TypeError, r"pass its \.config"),
            (lambda: DDIMScheduler.from_config([1]), TypeError, "pass a dict, a folder or a file"),
            (lambda: DDIMScheduler(prediction_type=None), TypeError, "prediction_type is None; known are"),
            (lambda: DDIMScheduler(trained_betas="abc"), TypeError, "trained_betas is 'abc'"),
            (lambda: PLMSScheduler(timestep_spacin="default"), TypeError, "did you mean timestep_spacing"),
            (lambda: plain.set_timesteps(), ValueError, "got none"),
            (lambda: plain.set_shift(-1.0), ValueError, "shift is -1"),
            (lambda: DDIMScheduler(prediction_type="flow_prediction"), ValueError, "use_flow_sigmas=True"),
        ]
    )
    repaired = DDIMScheduler(prediction_type="flow_prediction", use_flow_sigmas=True)
    assert repaired.schedule == NoiseSchedule.rectified_flow(num_train_timesteps=1000)
    assert DDIMSolver(repaired.schedule).plan(3, prediction="flow").rows[0].space == "flow"
