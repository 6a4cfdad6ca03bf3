"""Reported defects of today's schedulers, one test for each, with the mathematics of what is right instead.

Most tests use a single picture. Where the data are a single point m, the noise in x_t = α·m + σ·ε is the same ε all
along the way. Every solver that transfers from each time to the next is then exact on any grid, and each sample along
the way is α_t·m + σ_t·ε. Numbers behind a # are diffusers' issues.
"""

import subprocess
import sys
from itertools import pairwise

import diffusers
import numpy as np
import pytest
import torch
from conftest import assert_refused
from torch.utils._python_dispatch import TorchDispatchMode

from pndm_solvers import (
    DDIMSolver,
    DDPMSolver,
    NoiseSchedule,
    PLMSSolver,
    PNDMSolver,
    initial_noise,
    problems,
)
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.methods.adams import exact_weights

LINEAR = NoiseSchedule.linear()
MULTISTEP = {
    "F-PNDM": lambda **options: ours.PNDMScheduler(**options),
    "latent diffusion's PLMS": lambda **options: ours.PNDMScheduler(skip_prk_steps=True, **options),
    "PLMS": lambda **options: ours.PLMSScheduler(**options),
}
ALL = MULTISTEP | {
    "DDIM": lambda **options: ours.DDIMScheduler(clip_sample=False, **options),
    # Its runs end at the picture, whatever that option says in another class's config.
    "DDPM": lambda set_alpha_to_one=True, **options: ours.DDPMScheduler(clip_sample=False, **options),
}
multistep = pytest.mark.parametrize("make", MULTISTEP.values(), ids=MULTISTEP)
every = pytest.mark.parametrize("make", ALL.values(), ids=ALL)
pytestmark = pytest.mark.filterwarnings("ignore:this plan begins:UserWarning")  # one step of leading spacing


def noise(seed=0, shape=(2, 3, 4, 4)):
    return torch.from_numpy(initial_noise(shape, seed))


PICTURE = torch.linspace(-0.9, 0.9, 48, dtype=torch.float64).reshape(1, 3, 4, 4)


def level(t):
    """α and σ at a time of a scheduler's list, which may be float32."""
    return LINEAR.level(min(float(t), LINEAR.t_max))[1:]


def one_picture(x, t, prediction="epsilon"):
    """The exact network of data that consist of PICTURE alone."""
    alpha, sigma = level(t)
    epsilon = (x - alpha * PICTURE) / sigma
    return {"epsilon": epsilon, "v_prediction": alpha * epsilon - sigma * PICTURE, "sample": PICTURE + 0 * x}[
        prediction
    ]


def curved(x, t):
    """A network whose answers depend on the state and on the time."""
    return torch.sin(x + torch.as_tensor(t, dtype=torch.float64) / 300)


def loop(scheduler, x, model=one_picture, times=None, **extra):
    for t in scheduler.timesteps if times is None else times:
        x = scheduler.step(model(x, t), t, x, **extra).prev_sample
    return x


def relative(result, expected):
    return ((result - expected).abs().max() / expected.abs().max()).item()


@multistep
def test_state_in_the_scheduler_object(make):
    """#3672, #5749, #9833: two runs may interleave on one scheduler, and a second one needs no reset."""
    scheduler = make()
    scheduler.set_timesteps(8)
    a, b = noise(1), noise(2)
    alone = [loop(scheduler, x, curved) for x in (a, b, a)]  # without a reset in between
    assert torch.equal(alone[0], alone[2])
    for t in scheduler.timesteps:
        a = scheduler.step(curved(a, t), t, a).prev_sample
        b = scheduler.step(curved(b, t), t, b).prev_sample
    assert torch.equal(a, alone[0])
    assert torch.equal(b, alone[1])


def test_interleaved_runs_with_different_times():
    """A second pipeline may give the scheduler other times while a run is half-way."""
    scheduler = ours.PLMSScheduler()
    scheduler.set_timesteps(9)
    x, times = noise(1), scheduler.timesteps
    expected = loop(scheduler, x, curved)
    for i, t in enumerate(times):
        if i == 4:
            scheduler.set_timesteps(5)
            loop(scheduler, noise(2), curved)
        x = scheduler.step(curved(x, t), t, x).prev_sample
    assert torch.equal(x, expected)


def test_runs_that_cannot_be_told_apart():
    """A changed sample goes on with the only run there is. With two runs it could be either one's, and is refused."""
    scheduler = ours.PLMSScheduler()
    scheduler.set_timesteps(4)
    first, second, *_ = scheduler.timesteps
    x = scheduler.step(noise(1), first, noise(1)).prev_sample
    scheduler.step(noise(1), second, x * 1.01)
    scheduler.step(noise(2), first, noise(2))
    with pytest.raises(ValueError, match="2 runs on this scheduler have not ended"):
        scheduler.step(noise(1), second, x * 1.01)


@multistep
def test_started_in_the_middle(make):
    """A multistep method begun half-way follows the plan of a run from there, and is nearer to the flow than DDIM."""
    problem = problems.exact_problem("ring", LINEAR, starts=16)
    scheduler = make(set_alpha_to_one=True)
    scheduler.set_timesteps(40)
    times = scheduler.timesteps[len(scheduler.timesteps) // 2 :]

    def model(x, t):
        return torch.from_numpy(problem.model(x.numpy(), np.full(len(x), float(t))))

    here = LINEAR.level(float(times[0]))
    distribution = problems.PROBLEMS["ring"]()
    middle = distribution.flow(problem.x, LINEAR.level(LINEAR.t_max), here)
    result = loop(scheduler, torch.from_numpy(middle), model, times)
    by_ddim = DDIMSolver(LINEAR).plan(timesteps=np.unique(times.numpy())[::-1]).run(problem.model, middle)
    assert np.median(problem.reference().errors(result)) < 0.5 * np.median(problem.reference().errors(by_ddim))


def test_v_prediction_is_converted_before_it_is_combined():
    """#14816: one network in the forms ε, x_0 and v draws one picture. Diffusers' PNDM is off by some percent."""
    for make in MULTISTEP.values():
        results = []
        for prediction in ("epsilon", "v_prediction", "sample"):
            scheduler = make(prediction_type=prediction, timestep_spacing="leading")  # whole times are exact in float32
            scheduler.set_timesteps(20)

            def model(x, t, prediction=prediction):
                alpha, sigma = level(t)
                epsilon = curved(x, t)
                x0 = (x - sigma * epsilon) / alpha
                return {"epsilon": epsilon, "sample": x0, "v_prediction": alpha * epsilon - sigma * x0}[prediction]

            results.append(loop(scheduler, noise(), model))
        assert relative(results[1], results[0]) < 1e-10
        assert relative(results[2], results[0]) < 1e-10
    theirs = diffusers.PNDMScheduler(prediction_type="v_prediction", skip_prk_steps=True, set_alpha_to_one=True)
    theirs.set_timesteps(20)
    # Their own DDIM, which converts first, finds the picture.
    ddim = diffusers.DDIMScheduler(prediction_type="v_prediction", clip_sample=False)
    ddim.set_timesteps(20)
    v = {"model": lambda x, t: one_picture(x, t, "v_prediction")}
    assert relative(loop(ddim, noise(), **v), PICTURE) < 1e-3
    assert relative(loop(theirs, noise(), **v), PICTURE) > 5e-3


def follow(make, spacing, steps):
    """A run on one picture; each sample lies at the time at which the network is asked, and the last is the picture."""
    scheduler = make(timestep_spacing=spacing, set_alpha_to_one=True)
    scheduler.set_timesteps(steps)
    x = noise()
    alpha, sigma = level(scheduler.plan.times[0])
    epsilon = (x - alpha * PICTURE) / sigma
    for at, t in zip(scheduler.plan.times, scheduler.timesteps, strict=True):
        alpha, sigma = level(at)
        if not isinstance(scheduler, ours.DDPMScheduler):
            assert relative(x, alpha * PICTURE + sigma * epsilon) < 1e-9, (spacing, steps)
        x = scheduler.step((x - alpha * PICTURE) / sigma, t, x).prev_sample
    assert relative(x, PICTURE.expand_as(x)) < 1e-9, (spacing, steps)


@every
def test_steps_end_at_the_next_of_the_times(make):
    """#12633, #11347: on any grid a step ends at the time at which the network is asked next."""
    for spacing in ("leading", "trailing", "linspace", "balanced", "karras"):
        for steps in (7, 27, 60):
            follow(make, spacing, steps)


def test_theirs_end_elsewhere():
    for spacing in ("linspace", "trailing"):
        theirs = diffusers.DDIMScheduler(timestep_spacing=spacing, clip_sample=False)
        theirs.set_timesteps(27)
        times, distances = theirs.timesteps.tolist(), set()
        for t, after in pairwise(times):
            distances.add(t - 1000 // 27 - after)
        assert distances - {0}


# N steps make N calls, and Runge–Kutta steps make three more each: F-PNDM has three of them, PLMS' Heun step makes one.
CALLS_BEYOND_STEPS = {"F-PNDM": 9, "latent diffusion's PLMS": 1}


@pytest.mark.parametrize("name", ALL)
def test_every_call_is_paid_for_and_used(name):
    """#1106, #9090: a scheduler makes the calls that it declares, and each answer has an effect."""
    scheduler = ALL[name](set_alpha_to_one=True)
    scheduler.set_timesteps(20)
    calls = 20 + CALLS_BEYOND_STEPS.get(name, 0)
    assert len(scheduler.timesteps) == scheduler.plan.model_calls == calls
    expected = loop(scheduler, noise(), curved, **seeded(scheduler))
    for k in range(calls):
        x = noise()
        for i, t in enumerate(scheduler.timesteps):
            x = scheduler.step(curved(x, t) + (i == k), t, x, **seeded(scheduler)).prev_sample
        assert not torch.equal(x, expected), f"the answer of call {k} has no effect"


def seeded(scheduler):
    """A generator for DDPM, so that every run draws the same noise."""
    stochastic = isinstance(scheduler, ours.DDPMScheduler)
    return {"generator": torch.Generator().manual_seed(0)} if stochastic else {}


@every
def test_few_steps(make):
    """One, two and three steps are exact. Diffusers' F-PNDM breaks off, and its PLMS of two steps is garbage."""
    for spacing in ("leading", "trailing", "linspace", "balanced", "karras"):
        # On the others, the first of two steps goes from t = 999 to 0. Each of its Runge–Kutta stages there multiplies
        # a rounding by σ/α = 157 at the one level and by α/σ = 100 at the other.
        for steps in (1, 2, 3) if spacing in ("leading", "trailing") else (1, 3):
            follow(make, spacing, steps)


def test_one_step_above_the_picture_is_heuns():
    """Latent diffusion's PLMS begins with improved Euler, so a run of one step makes two calls and has second order."""
    scheduler = ours.PNDMScheduler(skip_prk_steps=True, timestep_spacing="trailing", set_alpha_to_one=False)
    scheduler.set_timesteps(1)
    assert scheduler.plan.times == (999, 0)
    x, here, there = noise(), LINEAR.level(999), LINEAR.level(0)
    a, b = there.alpha / here.alpha, there.sigma - there.alpha / here.alpha * here.sigma
    stage = a * x + b * curved(x, 999)
    assert relative(loop(scheduler, x, curved), a * x + b * (curved(x, 999) + curved(stage, 0)) / 2) < 1e-12


@every
def test_custom_times(make):
    """#2165, #5310: every scheduler takes the caller's own times, or σ/α in their place."""
    own = [950, 600, 333, 100, 7]
    scheduler = make(set_alpha_to_one=True)
    scheduler.set_timesteps(timesteps=own)
    assert set(own) <= set(scheduler.timesteps.tolist())
    assert relative(loop(scheduler, noise()), PICTURE.expand(2, -1, -1, -1)) < 1e-9
    ratios = [LINEAR.level(t).ratio for t in own]
    scheduler.set_timesteps(sigmas=[*ratios, 0.0])
    assert set(np.float32(own)) <= set(np.round(scheduler.timesteps.numpy(), 3))
    scheduler.set_timesteps(sigmas=ratios)
    assert scheduler.plan.end.t == pytest.approx(7)


class Looked(BaseException):
    pass


class NoLooking(TorchDispatchMode):
    """Reading a number of a tensor raises Looked, since it would make the host wait for an accelerator."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default):
            raise Looked
        return function(*args, **kwargs or {})


@every
def test_the_host_never_waits(make):
    """#14589: times and samples lie on the device, and no number of theirs is read on the way."""
    scheduler = make()
    scheduler.set_timesteps(12, device="meta")  # this device holds no numbers at all
    x = torch.empty(2, 3, 4, 4, device="meta")
    noised = scheduler.add_noise(x, x, torch.empty(2, dtype=torch.int64, device="meta"))
    assert loop(scheduler, noised, lambda x, t: torch.sin(x) * t).shape == x.shape
    scheduler.set_timesteps(12)
    with NoLooking():
        loop(scheduler, noise(), curved)


def test_a_run_reads_only_its_sample_and_only_where_that_is_checked():
    with NoLooking():
        for solver in (PLMSSolver(LINEAR), PNDMSolver(LINEAR)):
            solver.plan(5).run(curved_batch, noise(), check_finite=None)
        with pytest.raises(Looked):
            PLMSSolver(LINEAR).plan(5).run(curved_batch, noise())


@pytest.mark.parametrize("make", [PLMSSolver, DDIMSolver, PNDMSolver])
def test_a_run_is_one_graph(make):
    """#9485: torch.compile finds no break in a whole run, also of a plan that was never run before."""
    plan, graphs = make(LINEAR).plan(4), []
    backend = lambda graph, _: graphs.append(graph) or graph.forward  # noqa: E731
    compiled = torch.compile(lambda x: plan.run(curved_batch, x), fullgraph=True, backend=backend)
    for _ in range(2):
        assert torch.equal(compiled(noise().float()), plan.run(curved_batch, noise().float()))
    assert len(graphs) == 1


FRESH = """
import torch
from pndm_solvers import NoiseSchedule, PLMSSolver

graphs, plan = [], PLMSSolver(NoiseSchedule.linear()).plan(12)
backend = lambda graph, _: graphs.append(graph) or graph.forward
run = lambda x: plan.run(lambda x, t: torch.sin(x + t[:, None]), x)
compiled = torch.compile(run, fullgraph=True, backend=backend)
x = torch.ones(2, 4)
assert torch.equal(compiled(x), run(x))
for scale in (0.5, 2.0):  # neither another input nor the runs between compile anew
    assert torch.equal(compiled(scale * x), run(scale * x))
assert len(graphs) == 1, len(graphs)
"""


def test_a_run_is_one_graph_in_a_fresh_process():
    """Nothing that an earlier run left behind is needed, and what runs leave behind compiles nothing anew."""
    subprocess.run([sys.executable, "-c", FRESH], check=True, capture_output=True, text=True)


def curved_batch(x, t):
    return torch.sin(x + t[:, None, None, None] / 300)


@multistep
def test_zero_terminal_snr(make):
    """#3851, #10003: from pure noise a v-network finds the picture, and ε, which does not determine it, is refused."""
    options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}
    schedule = LINEAR.rescale_zero_terminal_snr()
    scheduler = make(prediction_type="v_prediction", **options)
    scheduler.set_timesteps(20)
    assert scheduler.plan.rows[0].alpha == 0

    def model(x, t):
        _, alpha, sigma = schedule.level(float(t))
        # At α = 0 this is ε = x/σ.
        epsilon = (x - alpha * PICTURE) / sigma
        return alpha * epsilon - sigma * PICTURE

    assert relative(loop(scheduler, noise(), model), PICTURE.expand(2, -1, -1, -1)) < 1e-9
    with pytest.raises(ValueError, match=r"'epsilon', which does not determine .* at α = 0"):
        make(**options).set_timesteps(20)
    betas = 1 - (schedule.alpha(np.arange(1000)) / np.append(1, schedule.alpha(np.arange(999)))) ** 2
    theirs = diffusers.PNDMScheduler(
        trained_betas=betas, prediction_type="v_prediction", timestep_spacing="trailing", skip_prk_steps=True
    )
    theirs.set_timesteps(20)
    assert loop(theirs, noise(), model).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """#3005, #9004: noise is added at t = 0 and 1 too, and a run loses no more than its own roundings."""
    for t in (0, 1):
        zeros, z = torch.zeros(1, 4096), noise(shape=(1, 4096)).to(dtype)
        added = ours.DDIMScheduler().add_noise(zeros.to(dtype), z, torch.tensor([t])).float()
        assert added.std().item() == pytest.approx(LINEAR.level(t).sigma, rel=0.05)
    theirs = diffusers.DDIMScheduler().add_noise(zeros.bfloat16(), z.bfloat16(), torch.tensor([0]))
    assert not theirs.any()
    unit = torch.finfo(dtype).eps / 2
    for make in MULTISTEP.values():
        scheduler = make(set_alpha_to_one=True)
        scheduler.set_timesteps(20)
        half = loop(scheduler, noise().to(dtype), lambda x, t: one_picture(x.double(), t).to(x.dtype))
        assert half.dtype == dtype
        # Each answer, up to 4 in size, is rounded once, and the weights of the last step carry that on.
        assert (half.double() - PICTURE).abs().max() <= 32 * unit


def test_the_betas_count():
    """#990: iPNDM is PLMS with classical weights on the given schedule, where diffusers' has a schedule of its own."""
    errors = {}
    for betas in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        scheduler = ours.PLMSScheduler(weights="classical", beta_schedule=betas, timestep_spacing="leading")
        scheduler.set_timesteps(20)

        def model(x, t, schedule=scheduler.schedule):
            _, alpha, sigma = schedule.level(float(t))
            return (x - alpha * PICTURE) / sigma

        errors[betas] = relative(loop(scheduler, noise(), model), PICTURE.expand(2, -1, -1, -1))
    assert max(errors.values()) < 1e-9
    theirs = [diffusers.IPNDMScheduler.from_config(diffusers.DDIMScheduler(beta_end=b).config) for b in (0.01, 0.02)]
    for scheduler in theirs:
        scheduler.set_timesteps(20)
    assert torch.equal(theirs[0].timesteps, theirs[1].timesteps)


def test_noise_does_not_depend_on_the_batch():
    """#6222: the noise of a sample comes from its own seed, alone or in any batch."""
    plan = DDPMSolver(LINEAR).plan(10)
    x = noise(shape=(4, 3, 4, 4))
    together = plan.run(curved_batch, x, seed=[5, 6, 7, 8])
    for i, seed in enumerate([5, 6, 7, 8]):
        assert torch.equal(plan.run(curved_batch, x[i : i + 1], seed=[seed])[0], together[i])
    scheduler = ours.DDPMScheduler()
    scheduler.set_timesteps(10)
    both, alone = (
        loop(scheduler, x[:size], curved, generator=[torch.Generator().manual_seed(i) for i in range(size)])
        for size in (2, 1)
    )
    torch.testing.assert_close(both[:1], alone)


def test_samples_at_different_times_share_a_call():
    """#1784: each run is a value, so that two runs at different rows can share one model call."""
    plans = [PLMSSolver(LINEAR).plan(6), PNDMSolver(LINEAR).plan(6)]
    starts = [noise(1), noise(2)]
    states = [plan.start(x) for plan, x in zip(plans, starts, strict=True)]
    while not all(state.done for state in states):
        live = [i for i, state in enumerate(states) if not state.done]
        x, t = (torch.cat([getattr(states[i], name).double() for i in live]) for name in ("x", "t"))
        answers = curved_batch(x, t).split([len(states[i].x) for i in live])
        for i, answer in zip(live, answers, strict=True):
            states[i] = plans[i].advance(states[i], answer)
    for plan, x, state in zip(plans, starts, states, strict=True):
        torch.testing.assert_close(state.x, plan.run(curved_batch, x), rtol=1e-6, atol=1e-6)


@multistep
def test_the_picture_on_the_way(make):
    """#12079: PNDM returns x̂_0, and clips or thresholds it."""
    for options in (
        {},
        {"clip_sample": True, "clip_sample_range": 0.5},
        {"thresholding": True, "sample_max_value": 4.0},
    ):
        scheduler = make(**options)
        scheduler.set_timesteps(8)
        x = noise()
        for t in scheduler.timesteps:
            x, x0 = scheduler.step(one_picture(x, t), t, x, return_dict=False)
            bound = 0.5 if "clip_sample" in options else 1.0
            expected = PICTURE.clamp(-bound, bound).expand_as(x)
            assert relative(x0, expected) < 1e-3  # their times are float32
            assert x0.abs().max() <= bound


def test_inversion_undo_and_jumps():
    """#241, #1213, #5703: from data to noise and back, a step taken again, and a jump back with fresh noise."""
    problem = problems.exact_problem("gaussian", LINEAR, starts=8)
    solver = PLMSSolver(LINEAR)
    up, down = solver.plan(200, start=0, stop=999), solver.plan(200, start="top", final="first")
    assert np.sqrt(((up.run(problem.model, down.run(problem.model, problem.x)) - problem.x) ** 2).mean(1)).max() < 1e-4

    scheduler = ours.PLMSScheduler()
    scheduler.set_timesteps(10)
    x, seen = noise(), []
    for t in scheduler.timesteps:
        seen.append(x)
        x = scheduler.step(curved(x, t), t, x).prev_sample
    for begin in (7, 3):  # undo: the run goes on from any earlier sample as it did before
        again = seen[begin]
        for t in scheduler.timesteps[begin:]:
            again = scheduler.step(curved(again, t), t, again).prev_sample
        assert torch.equal(again, x)
    back = scheduler.add_noise(x, noise(3), scheduler.timesteps[4:5])
    scheduler.set_begin_index(4)
    jumped = loop(scheduler, back, curved, scheduler.timesteps[4:])
    expected = (
        PLMSSolver(LINEAR).plan(timesteps=scheduler.plan.times[4:]).run(lambda x, t: curved(x, t.float()[0]), back)
    )
    assert relative(jumped, expected) < 1e-6


def test_another_time_than_the_next_is_an_error():
    scheduler = ours.PLMSScheduler(timestep_spacing="leading")
    scheduler.set_timesteps(10)
    x = scheduler.step(noise(), 900, noise()).prev_sample
    with pytest.raises(ValueError, match="timestep is 700, but the run's next is 800"):
        scheduler.step(x, 700, x)
    with pytest.raises(ValueError, match="timestep is 799, which is none of this run's: 900, 800, … 0"):
        scheduler.step(x, 799, x)
    scheduler.step(noise(), 900, noise())  # a new run may always begin


BAD_INPUT = {
    "betas that are NaN or outside (0, 1)": [
        (lambda: ours.DDIMScheduler(trained_betas=[0.1, float("nan")]), ValueError, r"betas\[1\] is nan"),
        (lambda: ours.DDIMScheduler(trained_betas=[0.1, -0.1]), ValueError, r"betas must lie in \(0, 1\)"),
        (lambda: ours.DDIMScheduler(trained_betas=[0.1, 1.5]), ValueError, r"betas must lie in \(0, 1\)"),
    ],
    "lengths below 1 or above T": [
        (lambda: ours.PLMSScheduler().set_timesteps(-3), ValueError, "whole number of at least 1"),
        (lambda: ours.PNDMScheduler().set_timesteps(1001), ValueError, "1000 integer levels"),
        (lambda: ours.PLMSScheduler().set_timesteps(10, timesteps=[5]), ValueError, "exactly one of"),
        (lambda: ours.PLMSScheduler().step(noise(), 5, noise()), ValueError, "call set_timesteps first"),
    ],
    "times out of order or out of range": [
        (lambda: ours.PLMSScheduler().set_timesteps(timesteps=[500, 600]), ValueError, "timesteps"),
        (lambda: ours.PLMSScheduler().set_timesteps(timesteps=[1200, 600]), ValueError, "outside the trained range"),
        (
            lambda: ours.DDIMScheduler().add_noise(noise(), noise(), torch.tensor([1000])),
            ValueError,
            "timesteps is 1000, outside the trained range",
        ),
    ],
    "wrong shapes, dtypes and predictions": [
        (
            lambda: ours.DDPMScheduler().step(noise(shape=(2, 3, 4, 5)), 5, noise()),
            ValueError,
            "model_output at t = .* is of shape",
        ),
        (
            lambda: ours.DDPMScheduler().step(noise().int(), 5, noise().int()),
            TypeError,
            "convert it to a floating one",
        ),
        (lambda: ours.DDIMScheduler(prediction_type="flow"), ValueError, "prediction_type is 'flow'"),
    ],
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_never_taken_in_silence(what):
    assert_refused(BAD_INPUT[what])


def test_the_original_code():
    """t = 999 is a time like others, an answer of shape (B,) for (B, d) is refused, and the history is trimmed."""
    for solver in (PNDMSolver(LINEAR), PLMSSolver(LINEAR)):
        plan = solver.plan(timesteps=[999, 500])
        assert plan.times[0] == 999
        with pytest.raises(ValueError, match=r"shape \(2,\)"):
            plan.run(lambda x, t: x[:, 0], np.ones((2, 2)))
        assert solver.plan(1000, spacing="leading").max_stored <= 10


def test_order_4_on_even_steps():
    """iPNDM_v has 2.375 in the place of 55/24. Exact weights are Adams and Bashforth's where steps are even."""
    weights = exact_weights([5.0, 6.0, 7.0, 8.0], 5.0, 4.0, coordinate=lambda ratio: ratio)
    np.testing.assert_allclose(weights, np.array([55, -59, 37, -9]) / 24, rtol=1e-12)
