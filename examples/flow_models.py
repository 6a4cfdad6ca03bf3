"""Flow models in diffusers' pipelines: any solver in one line, with the model's own levels and shift."""

import torch
from tiny_flow_models import MODELS, pipeline

from pndm_solvers.adapters.diffusers import PLMSScheduler

for name in MODELS:
    pipe, prompt = pipeline(name)
    pipe.scheduler = PLMSScheduler.from_config(pipe.scheduler.config)

    calls: list[float] = []
    pipe.transformer.register_forward_hook(lambda *_, calls=calls: calls.append(1))
    generator = torch.Generator().manual_seed(0)
    pipe(**prompt, num_inference_steps=10, generator=generator, output_type="latent")

    levels = ", ".join(f"{sigma:.3f}" for sigma in pipe.scheduler.sigmas.tolist())
    print(f"{name}: {len(calls)} calls at σ = {levels}")
