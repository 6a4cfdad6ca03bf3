"""Diffusers' pipelines of FLUX, Stable Diffusion 3 and Wan on ours: tiny, with random weights."""

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusion3InpaintPipeline,
)
from PIL import Image

from pndm_solvers.adapters.diffusers import DDIMScheduler, PLMSScheduler, UniPCMultistepScheduler

EXAMPLES = Path(__file__).parents[2] / "examples"
tiny = runpy.run_path(str(EXAMPLES / "tiny_flow_models.py"))
PICTURE = Image.fromarray(np.uint8(np.add.outer(range(0, 128, 4), range(32)))).convert("RGB")
IMAGE_TO_IMAGE = {"FLUX": FluxImg2ImgPipeline, "Stable Diffusion 3": StableDiffusion3Img2ImgPipeline}
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@cache
def made(name):
    return tiny["pipeline"](name)


def drawn(pipe, prompt, scheduler, **options):
    """The latents that a pipeline draws, and how many times it asks its network, at which times."""
    pipe.scheduler, times = scheduler, []
    hook = pipe.transformer.register_forward_hook(
        lambda _, args, kwargs, output: times.append(float(kwargs["timestep"].flatten()[0])), with_kwargs=True
    )
    try:
        generator = torch.Generator().manual_seed(0)
        latents = pipe(**prompt, generator=generator, output_type="latent", return_dict=False, **options)[0]
    finally:
        hook.remove()
    return latents, times


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("name", tiny["MODELS"])
def test_text_to_image(name, steps):
    """DDIM draws what Euler draws, at its times; and every method asks as often."""
    pipe, prompt = made(name)
    config = pipe.scheduler.config
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    if name == "FLUX":
        theirs = FlowMatchEulerDiscreteScheduler.from_config(config)
    expected, times = drawn(pipe, prompt, theirs, num_inference_steps=steps)
    latents, own = drawn(pipe, prompt, DDIMScheduler.from_config(theirs.config), num_inference_steps=steps)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert own == pytest.approx(times, rel=1e-5)
    for kind in (PLMSScheduler, UniPCMultistepScheduler):
        latents, own = drawn(pipe, prompt, kind.from_config(theirs.config), num_inference_steps=steps)
        assert latents.isfinite().all()
        assert len(own) == len(times) == steps


@pytest.mark.parametrize("strength", np.arange(1, 11) / 10)
@pytest.mark.parametrize("name", IMAGE_TO_IMAGE)
def test_image_to_image(name, strength):
    pipe, prompt = made(name)
    parts = {key: value for key, value in pipe.components.items() if key not in ("image_encoder", "feature_extractor")}
    again = IMAGE_TO_IMAGE[name](**parts)
    again.set_progress_bar_config(disable=True)
    theirs = FlowMatchEulerDiscreteScheduler.from_config(pipe.scheduler.config, shift=3.0)
    options = {"image": PICTURE, "strength": float(strength), "num_inference_steps": 10}
    expected, times = drawn(again, prompt, theirs, **options)
    latents, own = drawn(again, prompt, DDIMScheduler.from_config(theirs.config), **options)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert own == pytest.approx(times, rel=1e-5)
    latents, own = drawn(again, prompt, PLMSScheduler.from_config(theirs.config), **options)
    assert own == pytest.approx(times, rel=1e-5)
    assert latents.isfinite().all()


def test_inpainting():
    pipe, prompt = made("Stable Diffusion 3")
    again = StableDiffusion3InpaintPipeline(
        **{key: value for key, value in pipe.components.items() if key not in ("image_encoder", "feature_extractor")}
    )
    again.set_progress_bar_config(disable=True)
    mask = Image.fromarray(np.uint8(255 * (np.add.outer(range(32), range(32)) < 30)))
    options = {"image": PICTURE, "mask_image": mask, "strength": 0.6, "num_inference_steps": 8}
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected, times = drawn(again, prompt, theirs, **options)
    latents, own = drawn(again, prompt, DDIMScheduler.from_config(theirs.config), **options)
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-4)
    assert own == pytest.approx(times, rel=1e-5)
    assert drawn(again, prompt, PLMSScheduler.from_config(theirs.config), **options)[0].isfinite().all()


def test_two_pipelines_share_a_scheduler():
    """As each alone, bit for bit, also where their runs interleave."""
    pipe, prompt = made("Stable Diffusion 3")
    other, _ = tiny["pipeline"]("Stable Diffusion 3", 1)
    config = pipe.scheduler.config
    alone = [
        drawn(p, prompt, PLMSScheduler.from_config(config), num_inference_steps=steps)[0]
        for p, steps in ((pipe, 6), (other, 4))
    ]
    shared, inner = PLMSScheduler.from_config(config), []

    def another(*_):
        inner.append(drawn(other, prompt, shared, num_inference_steps=4)[0])
        return {}

    interrupted = drawn(
        pipe,
        prompt,
        shared,
        num_inference_steps=6,
        callback_on_step_end=lambda _, i, *rest: another() if i == 2 else {},
    )[0]
    assert torch.equal(inner[0], alone[1])
    assert torch.equal(interrupted, alone[0])


def test_times_are_refused_with_the_pipelines_words():
    """`retrieve_timesteps` asks the signature of `set_timesteps` for `sigmas`."""
    pipe, prompt = made("Stable Diffusion 3")
    scheduler = PLMSScheduler.from_config(pipe.scheduler.config)
    latents, times = drawn(pipe, prompt, scheduler, sigmas=[1.0, 0.6, 0.2])
    assert len(times) == 3
    assert scheduler.sigmas.tolist() == pytest.approx([1.0, 1.8 / 2.2, 0.6 / 1.4, 0.0])
    assert latents.isfinite().all()
