"""The times of our schedulers: σ/α of the user's own, and what is no time."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler as Theirs
from loops import LINEAR, SCHEDULERS, noise, ready

from pndm_solvers import NoiseSchedule, PLMSSolver, initial_noise
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.analytic import Gaussian

every = pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)


@every
def test_sigmas_are_exact_and_within_the_trained_range(kind):
    scheduler = kind()
    times = [900, 500, 100]
    scheduler.set_timesteps(sigmas=[*(LINEAR.level(t).ratio for t in times), 0])
    rows = scheduler.plan.rows
    points = [row.t for k, row in enumerate(rows) if k == 0 or not rows[k - 1].stage]
    assert points[:3] == pytest.approx(times, abs=1e-9)
    for wrong in ([500.0, 1.0, 0.0], [100.0, 1.0, 1e-4], [1.0], [1.0, float("nan")], [1.0, 3.0]):
        with pytest.raises(ValueError, match="sigmas must be two or more falling"):
            scheduler.set_timesteps(sigmas=wrong)


def test_levels_belong_to_floating_pictures_and_one_time_each():
    for kind in SCHEDULERS.values():
        scheduler = kind()
        for make in (scheduler.add_noise, scheduler.get_velocity):
            with pytest.raises(TypeError, match="convert it to a floating one"):
                make(torch.full((1, 2), 100), torch.ones(1, 2), torch.tensor([500]))
            with pytest.raises(ValueError, match="timesteps are 2 for a batch of 3"):
                make(torch.ones(3, 2), torch.ones(3, 2), torch.tensor([500, 10]))
            with pytest.raises(ValueError, match=r"noise lies on the device meta and \w+ on cpu; move one"):
                make(torch.ones(3, 2), torch.ones(3, 2, device="meta"), torch.tensor([5]))


def test_a_negative_offset_leads_to_a_time_that_does_not_exist():
    with pytest.raises(ValueError, match="steps_offset is -1"):
        ready(ours.DDIMScheduler, 50, steps_offset=-1)


def test_noise_of_the_callers_own_is_of_the_samples_shape():
    scheduler, x = ready(ours.DDIMScheduler), noise()
    with pytest.raises(ValueError, match="variance_noise is of shape"):
        scheduler.step(x, 900, x, eta=1.0, variance_noise=x[:1])
    with pytest.raises(ValueError, match="generator or variance_noise, not both"):
        scheduler.step(x, 900, x, variance_noise=x, generator=torch.Generator())


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_is_half_of_the_channels(variance):
    scheduler, x = ready(ours.DDPMScheduler, variance_type=variance), noise()
    with pytest.raises(ValueError, match=r"twice the channels of its sample, \(B, 6, …\), not \(2, 3, 4, 4\)"):
        scheduler.step(x, 900, x)


def test_the_previous_timestep_is_where_a_step_ends():
    scheduler = ready(ours.DDPMScheduler)
    assert [int(scheduler.previous_timestep(t)) for t in scheduler.timesteps] == [*range(800, -1, -100), -1]


def test_the_times_of_f_pndm_are_those_of_its_two_methods():
    for skip, runge_kutta in ((False, 12), (True, 0)):
        scheduler = ready(ours.PNDMScheduler, skip_prk_steps=skip)
        assert len(scheduler.prk_timesteps) == runge_kutta
        assert torch.equal(torch.cat([scheduler.prk_timesteps, scheduler.plms_timesteps]), scheduler.timesteps)


# ------------------------------------------------------------------ data far from zero


def test_noise_of_small_data_is_that_of_the_first_level_alone():
    """A pipeline multiplies its noise by `init_noise_sigma`, after `set_timesteps`, as `sample` does by itself."""
    model = Gaussian(np.zeros(64), np.full(64, 0.01)).model(NoiseSchedule.linear())
    draws = torch.randn(200, 64, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    scheduler = ours.PLMSScheduler(data_range=0.2)
    assert scheduler.init_noise_sigma == 1
    scheduler.set_timesteps(12)
    x = draws * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(torch.from_numpy(model(x.numpy(), np.full(len(x), float(t)))), t, x).prev_sample
    solver = PLMSSolver(NoiseSchedule.linear())
    expected = solver.sample(model, draws.numpy(), 12, data_range=0.2, sample_shape=None)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-6, atol=1e-8)  # times are float32
    large = ours.PLMSScheduler(data_range=5.0)
    large.set_timesteps(12)
    assert large.init_noise_sigma == 1


def test_noise_around_the_datas_mean_is_where_a_run_begins():
    """Noise around 0 would leave out 0.3 of the mean, more than half of the deviation."""
    scheduler = ours.PLMSScheduler()
    mean = torch.tensor([3.0, -1.0])
    model = Gaussian(mean.numpy(), 0.25 * np.eye(2)).model(scheduler.schedule)
    draws = torch.from_numpy(initial_noise((2000, 2), seed=1))
    scheduler.set_timesteps(10)
    x = scheduler.noise_around(mean, draws)
    for t in scheduler.timesteps:
        x = scheduler.step(torch.from_numpy(model(x.numpy(), np.full(len(x), float(t)))), t, x).prev_sample
    assert x.mean(0).numpy() == pytest.approx(mean.numpy(), abs=4 * 0.5 / np.sqrt(2000))
    with pytest.raises(ValueError, match="does not broadcast"):
        scheduler.noise_around(torch.zeros(3), draws)
    with pytest.raises(ValueError, match="call set_timesteps first"):
        ours.PLMSScheduler().noise_around(mean, draws)


# ------------------------------------------------------------------ what callers found missing


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if "set_alpha_to_one" in SCHEDULERS[name]().config])
def test_there_is_a_time_for_each_step(name):
    """Also where the last time is the run's end, t = 0 without `set_alpha_to_one`: pipelines count on it."""
    for steps in (5, 10):
        scheduler = ready(SCHEDULERS[name], steps, set_alpha_to_one=False, timestep_spacing="leading")
        assert len(scheduler.timesteps) == steps + (9 if name == "PNDMScheduler" else 0)
        assert scheduler.timesteps[-1] == 0
    scheduler = ready(ours.DDIMScheduler, 2, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_begin_index(1)
    x = noise()
    assert torch.equal(scheduler.step(x, scheduler.timesteps[1], x).prev_sample, x)


def test_pictures_and_noise_broadcast():
    """As in diffusers, whose pipelines add several noises to one picture."""
    picture, noises = torch.rand(1, 4, 8, 8), torch.randn(3, 4, 8, 8)
    for t in (torch.tensor([500]), torch.tensor([500, 10, 3])):
        for make in ("add_noise", "get_velocity"):
            mine, theirs = (getattr(kind(), make)(picture, noises, t) for kind in (ours.DDIMScheduler, Theirs))
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="it must broadcast with original_samples"):
        ours.DDIMScheduler().add_noise(torch.rand(2, 4), torch.rand(3, 4), torch.tensor([5]))


def test_published_lists_are_taken_with_their_rounding():
    """Align Your Steps as diffusers has it, with 0.029 for the lowest level of 0.02917: #7760."""
    scheduler = ours.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    sigmas = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    scheduler.set_timesteps(sigmas=sigmas)
    assert scheduler.sigmas.tolist() == pytest.approx(sigmas, rel=6e-3)
    with pytest.raises(ValueError, match="as the network was trained"):
        scheduler.set_timesteps(sigmas=[14.615, 1.0, 0.02])


def test_assigned_times_make_a_new_plan():
    for kind in (ours.DDIMScheduler, ours.PLMSScheduler):
        scheduler, expected = ready(kind, timestep_spacing="trailing"), kind(timestep_spacing="trailing")
        scheduler.timesteps = torch.tensor([900, 600, 300, 0])
        expected.set_timesteps(timesteps=[900, 600, 300, 0])
        results = [noise().clamp(-1, 1)] * 2
        for i, one in enumerate((scheduler, expected)):
            for t in [900, 600, 300, 0]:
                results[i] = one.step(results[i] / 2, t, results[i]).prev_sample
        assert torch.equal(*results)
        # Moved, or a part of them: the plan stays.
        plan = scheduler.plan
        scheduler.timesteps = scheduler.timesteps.to(torch.float32)
        assert scheduler.plan is plan
        scheduler.timesteps = scheduler.timesteps[2:]
        assert scheduler.plan is plan
