"""A fitted plan gives the same samples in diffusers, in k-diffusion and in a pipeline as in the core."""

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import assert_refused

from pndm_solvers import NoiseSchedule, Plan, PLMSSolver, initial_noise
from pndm_solvers.adapters.diffusers import DDIMScheduler, FittedScheduler
from pndm_solvers.adapters.diffusers.pipelines import PNDMPipeline
from pndm_solvers.adapters.k_diffusion import FittedSampler
from pndm_solvers.fit import FittedSolver
from pndm_solvers.reference import PLANS, load_network


@pytest.fixture(scope="module")
def network():
    return load_network("digits")


@pytest.fixture(scope="module")
def noise(network):
    return torch.from_numpy(initial_noise((4, *network.shape), 3)).float()


@pytest.fixture(scope="module")
def samples(network, noise):
    with torch.no_grad():
        return network.fitted().plan(8).run(network, noise)


PATHS = sorted(map(str, PLANS.glob("digits-1-*.json")))


def drawn(scheduler, network, noise, steps=8):
    scheduler.set_timesteps(steps)
    x = noise
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
    return x


def test_in_a_scheduler_and_in_its_copy_from_a_file(network, noise, samples, tmp_path):
    scheduler = FittedScheduler.from_config(DDIMScheduler().config, plans=PATHS)
    assert torch.equal(drawn(scheduler, network, noise), samples)
    scheduler.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert [Plan.from_json(text).model_calls for text in config["plans"]] == [10, 15, 20, 4, 5, 6, 8]
    again = FittedScheduler.from_pretrained(tmp_path)
    assert torch.equal(drawn(again, network, noise), samples)
    one = FittedScheduler(plans=f"{PLANS}/digits-1-5.json")
    assert drawn(one, network, noise, 5).shape == samples.shape


def test_a_copy_and_a_pickle_go_on_with_the_run(network, noise, samples):
    for again in (copy.deepcopy, lambda scheduler: pickle.loads(pickle.dumps(scheduler))):
        scheduler = FittedScheduler(plans=PATHS)
        assert torch.equal(drawn(again(scheduler), network, noise), samples)
        assert drawn(scheduler, network, noise, 4).shape == samples.shape
    flow = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    assert_refused([(lambda: FittedScheduler.from_config(flow, plans=PATHS), ValueError, "a plan of another schedule")])


def test_in_a_pipeline(network, samples):
    pipe = PNDMPipeline(network, FittedScheduler(plans=PATHS))
    pipe.set_progress_bar_config(disable=True)
    image = pipe(batch_size=2, num_inference_steps=8, output_type="np", generator=torch.Generator().manual_seed(0))
    assert image.images.shape == (2, 8, 8, 1)
    assert isinstance(pipe.scheduler, FittedScheduler)


def test_a_run_that_begins_further_down_goes_on_at_the_times_left(network, noise):
    scheduler = FittedScheduler(plans=PATHS)
    scheduler.set_timesteps(8)
    times = scheduler.timesteps[3:]
    x = scheduler.add_noise(torch.zeros_like(noise), noise, times[:1])
    begun = x
    with torch.no_grad():
        for t in times:
            x = scheduler.step(network(x, t.expand(len(x))), t, x).prev_sample
        plan = PLMSSolver(scheduler.schedule).plan(timesteps=[float(t) for t in scheduler._runs.current.plan.times[3:]])
        expected = plan.run(network, begun)
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-5)


def test_in_k_diffusion_s_variables(network, noise, samples):
    """The model answers x_0 at x/α, and the plan's ε-network is below it."""
    sampler = FittedSampler(f"{PLANS}/digits-1-8.json")

    def denoised(x, sigma):
        alpha = 1 / (1 + sigma.double() ** 2).sqrt()
        t = torch.from_numpy(network.schedule.time_at(-2 * np.log(sigma.double().numpy()))).float()
        return x - sigma[:, None, None, None] * network((x * alpha[:, None, None, None].float()), t)

    x = noise * (1 + sampler.sigmas[0] ** 2) ** 0.5  # noise of deviation 1, as x/α
    result = sampler(denoised, x, sampler.sigmas, disable=True)
    torch.testing.assert_close(result, samples, rtol=1e-4, atol=1e-4)


def test_a_flow_s_plan_stays_as_it_is_on_sigmas():
    schedule = NoiseSchedule.rectified_flow()
    plan = PLMSSolver(schedule).plan(6, prediction="flow")

    def flow(x, t):
        return x * 0.5 - t.reshape(-1, 1)

    def denoised(x, sigma):
        return x - sigma.reshape(-1, 1) * flow(x, sigma)

    x = torch.from_numpy(initial_noise((3, 2), 1))
    sampler = FittedSampler(plan)
    assert sampler.sigmas[0] == 1
    result = sampler(denoised, x, sampler.sigmas.double(), disable=True)
    torch.testing.assert_close(result, plan.run(flow, x, prediction="flow"), rtol=1e-6, atol=1e-6)


def test_what_does_not_belong_is_refused(network, noise, tmp_path):
    plan = network.fitted().plan(8)
    of_v = replace(plan, fitted=replace(plan.fitted, prediction="v_prediction"))
    (tmp_path / "v.json").write_text(of_v.to_json())
    scheduler, sampler = FittedScheduler(plans=PATHS), FittedSampler(plan)
    at_pure_noise = PLMSSolver(NoiseSchedule.linear().rescale_zero_terminal_snr()).plan(5, prediction="v_prediction")
    cases = [
        (lambda: FittedScheduler(), ValueError, "plans is empty"),
        (lambda: FittedScheduler(plans=str(tmp_path / "none.json")), OSError, "none.json"),
        (lambda: FittedScheduler(plans=PATHS, beta_schedule="scaled_linear"), ValueError, "another schedule"),
        (lambda: FittedScheduler(plans=PATHS, prediction_type="v_prediction"), ValueError, "fitted to"),
        (lambda: FittedScheduler(plans=str(tmp_path / "v.json")), ValueError, "predicts 'v_prediction'"),
        (lambda: scheduler.set_timesteps(7), ValueError, "4, 5, 6, 8, 10"),
        (lambda: scheduler.set_timesteps(timesteps=[900, 100]), ValueError, "its own levels"),
        (lambda: scheduler.set_timesteps(sigmas=[9.0, 1.0, 0.0]), ValueError, "its own levels"),
        (lambda: sampler(network, noise, torch.tensor([14.6, 3.0, 0.0])), ValueError, "sampler.sigmas"),
        (lambda: FittedSampler(at_pure_noise), ValueError, "α = 0"),
        (lambda: FittedSolver.load(NoiseSchedule.cosine(), PATHS[0]), ValueError, "another schedule"),
    ]
    assert_refused(cases)
