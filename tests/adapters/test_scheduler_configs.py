"""Configs go from diffusers' schedulers to ours and back, with the network that they describe."""

import pickle

import diffusers
import pytest
import torch
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from loops import SCHEDULERS, noise, ready
from tiny_unet import tiny_unet

from pndm_solvers import NoiseSchedule
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.config import NETWORK

# The first has no betas. The second needs one package more, and has options that others have too.
NOT_HERE = ("EDMEulerScheduler", "DPMSolverSDEScheduler")
every = pytest.mark.parametrize("kind", SCHEDULERS.values(), ids=SCHEDULERS)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # theirs, of NumPy
@pytest.mark.parametrize("name", [kind.name for kind in KarrasDiffusionSchedulers if kind.name not in NOT_HERE])
def test_a_config_of_diffusers_loads_with_its_network(name, tmp_path):
    """From memory and from the file alike. Betas, prediction and length stay, even where they are a class's default."""
    theirs = getattr(diffusers, name)()
    theirs.save_pretrained(tmp_path)
    for kind in SCHEDULERS.values():
        for scheduler in (
            kind.from_config(theirs.config),
            kind.from_pretrained(tmp_path),
            kind.from_config(str(tmp_path)),
        ):
            for option in NETWORK:
                if theirs.config.get(option) is not None:
                    assert scheduler.config[option] == theirs.config[option]
            torch.testing.assert_close(scheduler.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=1e-6)


@every
def test_wrong_options_are_refused(kind):
    with pytest.raises(ValueError, match="use_karras_sigmas and use_exponential_sigmas are 2 spacings"):
        kind(use_karras_sigmas=True, use_exponential_sigmas=True)
    with pytest.raises(ValueError, match="timestep_spacing is 'cubic'"):
        kind(timestep_spacing="cubic")
    with pytest.raises(TypeError, match="has no option beta_strat; it has num_train_timesteps, beta_start"):
        kind.from_config(diffusers.DDIMScheduler().config, beta_strat=0.1)


@every
def test_defaults_of_ours_are_passed_on_without_a_warning(kind, tmp_path, recwarn):
    for other in SCHEDULERS.values():
        other().save_pretrained(tmp_path)
        kind.from_pretrained(tmp_path)
    assert not [str(warning.message) for warning in recwarn]


def test_a_pipeline_rewrites_the_configuration():
    """diffusers' pipelines do so. Clipping that is switched off afterwards is off."""
    scheduler = ready(ours.DDIMScheduler)
    scheduler.register_to_config(clip_sample=False)
    x = 9 * noise()
    assert scheduler.step(noise(), 900, x).pred_original_sample.abs().max() > 1


@every
def test_a_scheduler_can_be_pickled(kind):
    """Its class has the name under which users import it, and its times are known to the copy."""
    assert kind.__module__ == "pndm_solvers.adapters.diffusers"
    scheduler = ready(kind)
    copied = pickle.loads(pickle.dumps(scheduler))
    assert copied.config == scheduler.config
    t, x = copied.timesteps[0], noise()
    random = ({"generator": torch.Generator().manual_seed(0)} for _ in range(2) if kind is ours.DDPMScheduler)
    first, second = (each.step(x, t, x, **next(random, {})).prev_sample for each in (scheduler, copied))
    assert torch.equal(first, second)


def test_a_spacing_that_is_passed_turns_the_config_s_sigmas_off():
    """DPM-Solver and its kin take both, as diffusers has it, unless the spacing is one that diffusers lacks."""
    config = diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True).config
    for spacing in ("default", "trailing", "linspace"):
        scheduler = ours.PLMSScheduler.from_config(config, timestep_spacing=spacing)
        plain = ours.PLMSScheduler.from_config(diffusers.DDIMScheduler().config, timestep_spacing=spacing)
        for one in (scheduler, plain):
            one.set_timesteps(10)
        torch.testing.assert_close(scheduler.timesteps, plain.timesteps, rtol=0, atol=0)
    kept = ours.PLMSScheduler.from_config(config, timestep_spacing="trailing", use_karras_sigmas=True)
    assert kept.config.use_karras_sigmas
    assert ours.PLMSScheduler.from_config(config).config.use_karras_sigmas
    theirs = diffusers.DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing")
    same = ours.DPMSolverMultistepScheduler.from_config(config, timestep_spacing="trailing")
    for one in (theirs, same):
        one.set_timesteps(10)
    torch.testing.assert_close(same.timesteps.round().long(), theirs.timesteps)
    assert not ours.UniPCMultistepScheduler.from_config(config, timestep_spacing="default").config.use_karras_sigmas


def test_the_folder_of_a_pipeline_holds_a_schedule(tmp_path):
    pipeline = diffusers.DDPMPipeline(tiny_unet(), diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"))
    pipeline.save_pretrained(tmp_path)
    assert NoiseSchedule.from_config(tmp_path) == NoiseSchedule.from_config(tmp_path / "scheduler")
    assert NoiseSchedule.from_config(tmp_path) == NoiseSchedule.cosine()
    with pytest.raises(FileNotFoundError, match="scheduler_config"):
        NoiseSchedule.from_config(tmp_path / "unet")
