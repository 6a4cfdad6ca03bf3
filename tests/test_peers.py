"""diffusers' schedulers as an oracle, on the paths where they are right, in float64."""

import numpy as np
import pytest
import torch
from conftest import SCHEDULES
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler

from pndm_solvers import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver

LINEAR = SCHEDULES["linear"]
START = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ALPHAS_CUMPROD = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)


def model(x, t):
    return torch.sin(x + t[:, None, None] / 300)


def theirs(scheduler, steps):
    """Their loop, with their table made again in float64."""
    scheduler.alphas_cumprod = ALPHAS_CUMPROD
    scheduler.final_alpha_cumprod = (
        torch.tensor(1.0, dtype=torch.float64) if scheduler.config.get("set_alpha_to_one", True) else ALPHAS_CUMPROD[0]
    )
    scheduler.set_timesteps(steps)
    x = START
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(len(x))), t, x).prev_sample
    return x


# N that divide 1000: elsewhere their step reads t − T//N, not its own grid.
@pytest.mark.parametrize("steps", [2, 10, 50, 100, 1000])
def test_ddim(steps):
    expected = theirs(DDIMScheduler(beta_schedule="linear", clip_sample=False), steps)
    result = DDIMSolver(LINEAR).sample(model, START, steps, spacing="leading")
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-11)


# N that divide 1000 into even parts: at an odd one they ask the network at one time, t − ⌈δ/2⌉, and
# transfer to another, t − ⌊δ/2⌋.
@pytest.mark.parametrize("steps", [4, 10, 20, 50, 100])
@pytest.mark.parametrize("final", ["clean", "first"])
def test_f_pndm(steps, final):
    scheduler = PNDMScheduler(beta_schedule="linear", set_alpha_to_one=final == "clean")
    result = PNDMSolver(LINEAR).sample(model, START, steps, spacing="leading", final=final)
    torch.testing.assert_close(result, theirs(scheduler, steps), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("steps", [3, 10, 27, 50, 100])
@pytest.mark.parametrize("final", ["clean", "first"])
def test_plms(steps, final):
    scheduler = PNDMScheduler(beta_schedule="linear", skip_prk_steps=True, set_alpha_to_one=final == "clean")
    solver = PLMSSolver(LINEAR, starter="heun", weights="classical")
    result = solver.sample(model, START, steps, spacing="leading", final=final)
    torch.testing.assert_close(result, theirs(scheduler, steps), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_the_mean_of_ddpm(variance, steps):
    """Their posterior mean and variance at each step, without the draw."""
    scheduler = DDPMScheduler(beta_schedule="linear", clip_sample=False, variance_type=variance)
    scheduler.alphas_cumprod = ALPHAS_CUMPROD
    scheduler.set_timesteps(steps)
    plan = DDPMSolver(LINEAR, variance).plan(steps, spacing="leading")
    for row, t in zip(plan.rows, scheduler.timesteps, strict=True):
        answer = model(START, t.expand(2))
        generator = torch.Generator().manual_seed(0)
        stepped = scheduler.step(answer, t, START, generator=generator).prev_sample
        z = torch.randn(START.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ours = row.states[0][1] * START + row.answers[0][1] * answer + row.noise * z
        torch.testing.assert_close(ours, stepped, rtol=1e-8, atol=1e-8)


def test_tables():
    for name, theirs_name in (("linear", "linear"), ("cosine", "squaredcos_cap_v2")):
        table = DDPMScheduler(beta_schedule=theirs_name).alphas_cumprod.numpy()
        np.testing.assert_allclose(SCHEDULES[name].alpha(np.arange(1000)) ** 2, table, rtol=2e-4)
