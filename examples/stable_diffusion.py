"""A StableDiffusionPipeline with our PLMS: 20 steps, 20 calls of the UNet."""

from __future__ import annotations

import torch
from diffusers import StableDiffusionPipeline
from tiny_stable_diffusion import parts

from pndm_solvers.adapters.diffusers import PLMSScheduler

pipe = StableDiffusionPipeline(**parts())  # or StableDiffusionPipeline.from_pretrained(folder)

pipe.scheduler = PLMSScheduler.from_config(pipe.scheduler.config, timestep_spacing="default")  # the one line

calls = []
pipe.unet.register_forward_hook(lambda *_: calls.append(1))
image = pipe("a lighthouse", num_inference_steps=20, generator=torch.Generator().manual_seed(0)).images[0]
print(f"{len(calls)} calls of the UNet, a picture of {image.size[0]}×{image.size[1]}")
image.save("lighthouse.png")  # random weights: nothing to recognise
