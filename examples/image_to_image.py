"""A StableDiffusionImg2ImgPipeline with our PLMS: the strength is the fraction of the steps that run, one call each."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline
from PIL import Image
from tiny_stable_diffusion import parts

from pndm_solvers.adapters.diffusers import PLMSScheduler

pipe = StableDiffusionImg2ImgPipeline(**parts())  # or StableDiffusionImg2ImgPipeline.from_pretrained(folder)

# The one line. With evenly spaced times a strength means the same as before: 0.5 begins at half of the schedule.
pipe.scheduler = PLMSScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")

pipe.set_progress_bar_config(disable=True)
calls = []
pipe.unet.register_forward_hook(lambda *_: calls.append(1))
picture = Image.fromarray(np.uint8(np.add.outer(range(0, 240, 15), range(16)))).convert("RGB")
for strength in (0.2, 0.5, 1.0):
    calls.clear()
    generator = torch.Generator().manual_seed(0)
    result = pipe("a lighthouse", picture, strength, num_inference_steps=20, generator=generator)
    print(f"strength {strength}: {len(calls)} calls, from t = {pipe.scheduler.timesteps[-len(calls)]}")
    result.images[0].save(f"lighthouse-{strength}.png")  # random weights: nothing to recognise
