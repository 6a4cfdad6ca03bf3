"""Runs on one scheduler do not disturb each other: to which run a step belongs, and where runs begin."""

import copy
import inspect
from itertools import product

import pytest
import torch
from loops import PICTURE, SCHEDULERS, curved, level, loop, noise, ready

from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.diffusers.runs import Runs


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_a_slice_of_the_times_outlives_other_times(guard):
    """Another pipeline gives the scheduler other times, before and during an image-to-image run."""
    with guard():
        scheduler = ready(timestep_spacing="leading")
        expected = loop(scheduler, noise(), curved, scheduler.timesteps[5:])
        scheduler.set_timesteps(10)
        x, times = noise(), scheduler.timesteps[5:]
        for t in times:
            scheduler.set_timesteps(20)
            x = scheduler.step(curved(x, t), t, x * 1.0).prev_sample
        assert torch.equal(x, expected)


def test_a_run_begins_at_the_begin_index():
    """Even where an earlier run has not ended."""
    scheduler = ready(timestep_spacing="leading")
    loop(scheduler, noise(1), curved, scheduler.timesteps[:5])
    scheduler.set_begin_index(5)
    result = loop(scheduler, noise(2), curved, scheduler.timesteps[5:])
    scheduler.set_timesteps(10)
    assert torch.equal(result, loop(scheduler, noise(2), curved, scheduler.timesteps[5:]))
    with pytest.raises(ValueError, match="begin_index is 10; it must be from 0 to 9"):
        scheduler.set_begin_index(10)


def test_a_copy_of_an_earlier_sample_is_no_new_run():
    scheduler = ready(timestep_spacing="leading")
    x = loop(scheduler, noise(), curved, scheduler.timesteps[:5])
    loop(scheduler, x, curved, scheduler.timesteps[5:])
    with pytest.raises(ValueError, match="a new run begins at 900"):
        loop(scheduler, x.clone(), curved, scheduler.timesteps[5:])


@pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)
def test_the_caller_may_write_into_the_tensors_of_a_step(kind):
    """A network may answer into one buffer again and again, and a loop may draw on its old samples."""
    for prediction, clips in product(("epsilon", "v_prediction", "sample"), (False, True)):
        assert torch.equal(*runs_with_and_without_writing(kind, prediction, clips))


def runs_with_and_without_writing(kind, prediction, clips):
    clipping = "clip_sample" if "clip_sample" in inspect.signature(kind.__init__).parameters else "thresholding"
    options = {"prediction_type": prediction, clipping: clips, "rescale_betas_zero_snr": prediction != "epsilon"}
    scheduler = ready(kind, timestep_spacing="trailing", **options)
    buffer, results = noise(), []
    for written in (False, True):
        random = (
            {"generator": torch.Generator().manual_seed(0)}
            if kind in (ours.DDPMScheduler, ours.SASolverScheduler)
            else {}
        )
        x = noise()
        for t in scheduler.timesteps:
            answer = buffer.copy_(curved(x, t)) if written else curved(x, t)
            step = scheduler.step(answer, t, x, **random)
            if written:
                x.zero_()
                step.pred_original_sample.zero_()
            x = step.prev_sample
        results.append(x)
    return results


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_go_on_independently(copied):
    scheduler = ready(timestep_spacing="leading")
    x = loop(scheduler, noise(), curved, scheduler.timesteps[:5])
    twin = copied(scheduler)
    expected = loop(scheduler, x.clone(), curved, scheduler.timesteps[5:])
    assert torch.equal(loop(twin, x.clone(), curved, twin.timesteps[5:]), expected)


@pytest.mark.parametrize("skip", [False, True])
def test_a_run_from_any_time_is_at_each_time_that_it_is_called_at(skip):
    """Within Runge–Kutta steps times come twice. Each sample, and its picture, belongs to the time of its call."""
    for begin in (1, 2, 3, 4, 6, 8 if skip else 11):
        scheduler = ready(ours.PNDMScheduler, skip_prk_steps=skip, set_alpha_to_one=True)
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
    for times in (scheduler.timesteps[2:5], torch.tensor([[700, 600]])):
        with pytest.raises(ValueError, match="the one time of the whole batch"):
            scheduler.step(x, times, x)
    multistep = ready(ours.PLMSScheduler)
    with pytest.raises(ValueError, match="the one time of the whole batch, or, where the method needs no earlier"):
        multistep.step(x, multistep.timesteps[:2], x)
    with pytest.raises(TypeError, match="timestep is None"):
        scheduler.step(x, None, x)


def test_a_batch_keeps_its_size():
    scheduler = ready(timestep_spacing="leading")
    x = scheduler.step(noise(), 900, noise()).prev_sample
    with pytest.raises(ValueError, match="keep to one batch"):
        scheduler.step(x[:1], 800, x[:1])


def test_times_of_two_threads_are_registered_each_as_its_own():
    """A second thread sets its times in the middle of the first one's; both runs go on."""
    scheduler, theirs = ours.PLMSScheduler(), []

    class Interrupted(Runs):
        @property
        def lay_down(self):
            if not theirs:
                theirs.append(None)  # once
                scheduler.set_timesteps(6)
                theirs[:] = [scheduler.timesteps]
            return super().lay_down

    scheduler._runs = Interrupted()
    scheduler.set_timesteps(6)
    first = scheduler.timesteps
    for times in (theirs[0], first):
        x, alone = torch.ones(2, 3), ours.PLMSScheduler()
        alone.set_timesteps(6)
        y = x
        for t, same in zip(times, alone.timesteps, strict=True):
            x = scheduler.step(x.sin(), t, x).prev_sample
            y = alone.step(y.sin(), same, y).prev_sample
        assert torch.equal(x, y)
    assert scheduler._runs._tables.get(theirs[0]) is not scheduler._runs._tables.get(first)
