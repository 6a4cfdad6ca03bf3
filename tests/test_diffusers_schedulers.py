"""Our schedulers in diffusers' hands: which run a step belongs to, where runs begin, what configs mean."""

import copy

import diffusers
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from test_known_defects import LINEAR, PICTURE, curved, level, loop, noise

from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.diffusers.config import NETWORK_OPTIONS

SCHEDULERS = [ours.PNDMScheduler, ours.PLMSScheduler, ours.DDIMScheduler, ours.DDPMScheduler]
every = pytest.mark.parametrize("kind", SCHEDULERS, ids=lambda kind: kind.__name__)


def ready(kind=ours.PLMSScheduler, steps=10, **options):
    scheduler = kind(**options)
    scheduler.set_timesteps(steps)
    return scheduler


# ------------------------------------------------------------------ runs


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_a_slice_of_the_times_outlives_other_times(guard):
    """Another pipeline gives the scheduler other times, before and amidst an image-to-image run."""
    with guard():
        scheduler = ready(timestep_spacing="leading")
        expected = loop(scheduler, noise(), curved, scheduler.timesteps[5:])
        scheduler.set_timesteps(10)
        x, times = noise(), scheduler.timesteps[5:]
        for t in times:
            scheduler.set_timesteps(20)
            x = scheduler.step(curved(x, t), t, x * 1.0).prev_sample
        assert torch.equal(x, expected)


def test_a_run_begins_where_it_is_said_to():
    """Also where an earlier one was left standing."""
    scheduler = ready(timestep_spacing="leading")
    loop(scheduler, noise(1), curved, scheduler.timesteps[:5])
    scheduler.set_begin_index(5)
    result = loop(scheduler, noise(2), curved, scheduler.timesteps[5:])
    scheduler.set_timesteps(10)
    assert torch.equal(result, loop(scheduler, noise(2), curved, scheduler.timesteps[5:]))
    with pytest.raises(ValueError, match="begin_index is 10"):
        scheduler.set_begin_index(10)


def test_a_copy_of_an_earlier_sample_is_not_taken_for_a_new_run():
    scheduler = ready(timestep_spacing="leading")
    x = loop(scheduler, noise(), curved, scheduler.timesteps[:5])
    loop(scheduler, x, curved, scheduler.timesteps[5:])
    with pytest.raises(ValueError, match="a new run begins at 900"):
        loop(scheduler, x.clone(), curved, scheduler.timesteps[5:])


@every
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("clips", [False, True])
def test_what_a_step_was_handed_may_be_written_over(kind, prediction, clips):
    """As a network does that answers into one buffer again and again, and a loop that draws on its old samples."""
    options = {"prediction_type": prediction, "clip_sample": clips, "rescale_betas_zero_snr": prediction != "epsilon"}
    scheduler = ready(kind, timestep_spacing="trailing", **options)
    buffer, results = noise(), []
    for written in (False, True):
        random = {"generator": torch.Generator().manual_seed(0)} if kind is ours.DDPMScheduler else {}
        x = noise()
        for t in scheduler.timesteps:
            answer = buffer.copy_(curved(x, t)) if written else curved(x, t)
            step = scheduler.step(answer, t, x, **random)
            if written:
                x.zero_()
                step.pred_original_sample.zero_()
            x = step.prev_sample
        results.append(x)
    assert torch.equal(*results)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_go_on_by_themselves(copied):
    scheduler = ready(timestep_spacing="leading")
    x = loop(scheduler, noise(), curved, scheduler.timesteps[:5])
    twin = copied(scheduler)
    expected = loop(scheduler, x.clone(), curved, scheduler.timesteps[5:])
    assert torch.equal(loop(twin, x.clone(), curved, twin.timesteps[5:]), expected)


@pytest.mark.parametrize("begin", [1, 2, 3, 4, 6, 11])
@pytest.mark.parametrize("skip", [False, True])
def test_every_look_is_at_the_time_it_is_at(begin, skip):
    """Within Runge–Kutta steps times come twice: each sample lies where the network is asked, and its preview too."""
    scheduler = ready(ours.PNDMScheduler, skip_prk_steps=skip, set_alpha_to_one=True)
    begin = min(begin, 8) if skip else begin
    x = None
    for t in scheduler.timesteps[begin:]:
        alpha, sigma = level(t)
        x = alpha * PICTURE + sigma * noise() if x is None else x
        assert (x - alpha * PICTURE - sigma * noise()).abs().max() < 1e-9
        x, x0 = scheduler.step(noise(), t, x, return_dict=False)
        assert (x0 - PICTURE).abs().max() < 1e-9
    assert (x - PICTURE).abs().max() < 1e-9


def test_one_time_for_the_batch():
    scheduler = ready(ours.DDIMScheduler)
    t, x = scheduler.timesteps[2], noise()
    expected = scheduler.step(x, t, x).prev_sample
    assert torch.equal(scheduler.step(x, t.expand(2), x).prev_sample, expected)
    for times in (scheduler.timesteps[2:4], torch.tensor([700, 600])):
        with pytest.raises(ValueError, match="the one time of the whole batch"):
            scheduler.step(x, times, x)
    with pytest.raises(TypeError, match="timestep is None"):
        scheduler.step(x, None, x)


def test_a_batch_keeps_its_size():
    scheduler = ready(timestep_spacing="leading")
    x = scheduler.step(noise(), 900, noise()).prev_sample
    with pytest.raises(ValueError, match="keep to one batch"):
        scheduler.step(x[:1], 800, x[:1])


# ------------------------------------------------------------------ times and levels


@every
def test_sigmas_are_exact_and_within_what_was_trained(kind):
    scheduler = kind(set_alpha_to_one=True)
    times = [900, 500, 100]
    scheduler.set_timesteps(sigmas=[*(LINEAR.level(t).ratio for t in times), 0])
    points = [
        row.t
        for row, before in zip(scheduler.plan.rows, [None, *scheduler.plan.rows], strict=False)
        if not (before and before.stage)
    ]
    assert points[:3] == pytest.approx(times, abs=1e-9)
    for wrong in ([500.0, 1.0, 0.0], [100.0, 1.0, 1e-4], [1.0], [1.0, float("nan")], [[3.0, 1.0]]):
        with pytest.raises(ValueError, match="sigmas must be two or more falling"):
            scheduler.set_timesteps(sigmas=wrong)


@every
def test_levels_of_pictures(kind):
    scheduler = kind()
    for make in (scheduler.add_noise, scheduler.get_velocity):
        with pytest.raises(TypeError, match="convert it to a floating one"):
            make(torch.full((1, 2), 100), torch.ones(1, 2), torch.tensor([500]))
        with pytest.raises(ValueError, match="timesteps are 2 for a batch of 3"):
            make(torch.ones(3, 2), torch.ones(3, 2), torch.tensor([500, 10]))


def test_a_negative_offset_would_ask_at_a_time_that_does_not_exist():
    with pytest.raises(ValueError, match="steps_offset is -1"):
        ready(ours.DDIMScheduler, 50, steps_offset=-1)


# ------------------------------------------------------------------ configs

# The first has no betas; the second takes a package more, and has options that others have too.
NOT_HERE = ("EDMEulerScheduler", "DPMSolverSDEScheduler")


@every
@pytest.mark.parametrize("name", [kind.name for kind in KarrasDiffusionSchedulers if kind.name not in NOT_HERE])
def test_what_diffusers_saved_loads_with_its_network(kind, name, tmp_path):
    """From memory and from the file alike: betas, prediction and length are the network's, whosever default."""
    theirs = getattr(diffusers, name)
    theirs = theirs()
    theirs.save_pretrained(tmp_path)
    for scheduler in (kind.from_config(theirs.config), kind.from_pretrained(tmp_path), kind.from_config(str(tmp_path))):
        for option in NETWORK_OPTIONS:
            if theirs.config.get(option) is not None:
                assert scheduler.config[option] == theirs.config[option]
        torch.testing.assert_close(scheduler.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=1e-6)


@every
def test_networks_on_other_levels_are_refused(kind):
    for name in ("CogVideoXDDIMScheduler", "IPNDMScheduler"):
        with pytest.raises(ValueError, match=r"snr_shift_scale=3\.0|names no betas"):
            kind.from_config(getattr(diffusers, name)().config)
    with pytest.raises(ValueError, match="pass one of them"):
        kind(use_karras_sigmas=True, use_exponential_sigmas=True)


@every
def test_defaults_of_ours_are_passed_on_without_a_word(kind, tmp_path, recwarn):
    for other in SCHEDULERS:
        other().save_pretrained(tmp_path)
        kind.from_pretrained(tmp_path)
    assert not [str(warning.message) for warning in recwarn]


def test_a_pipeline_rewrites_the_configuration():
    """As diffusers' do: clipping that is switched off afterwards is off."""
    scheduler = ready(ours.DDIMScheduler)
    scheduler.register_to_config(clip_sample=False)
    x = 9 * noise()
    assert scheduler.step(noise(), 900, x).pred_original_sample.abs().max() > 1


def test_times_that_are_none_are_refused():
    scheduler, x = ready(), noise()
    for device in ("cuda:99", "nowhere", -5, object()):
        with pytest.raises(ValueError, match=r"device is .*; it must be one of torch's"):
            scheduler.set_timesteps(5, device=device)
    nowhere, sparse = torch.tensor([900.0, 500.0], device="meta"), torch.tensor([900.0, 500.0]).to_sparse()
    for times in (nowhere, sparse):
        with pytest.raises(TypeError, match=r"timesteps is a tensor that is sparse, or on the meta device"):
            scheduler.set_timesteps(timesteps=times)
        with pytest.raises(TypeError, match=r"timesteps is a tensor that is sparse, or on the meta device"):
            scheduler.add_noise(x[:2], x[:2], times)
    for time in (False, "999", 1j, None, nowhere[:1]):
        with pytest.raises(TypeError, match=r"timestep is .*; it must be the next of the scheduler's timesteps"):
            scheduler.step(x, time, x)
    with pytest.raises(ValueError, match=r"noise and original_samples lie on meta and cpu; move one"):
        scheduler.add_noise(x, x.to("meta"), torch.tensor([5]))


def test_times_of_every_layout_add_the_same_noise():
    scheduler, x = ready(), torch.ones(3, 1, 2, 2, dtype=torch.float64)
    times = np.array([7, 400, 990])
    expected = scheduler.add_noise(x, -x, torch.from_numpy(times))
    for same in (times[::-1].copy()[::-1], times.astype(">i8"), times.astype(np.float32), times.tolist()):
        assert torch.equal(scheduler.add_noise(x, -x, same), expected)
