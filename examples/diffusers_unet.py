"""A UNet2DModel of diffusers: the error of its pictures at few model calls."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver

torch.manual_seed(0)
# For a checkpoint on disk: UNet2DModel.from_pretrained(folder), NoiseSchedule.from_config(folder of the scheduler), and
# the `prediction=` of that scheduler. The random network here draws no picture, but its exact answer is well defined.
unet = UNet2DModel(
    sample_size=16,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    attention_head_dim=4,
).eval()
schedule = NoiseSchedule.linear()


def model(x, t):
    return unet(x, t).sample  # diffusers wraps its answers


@torch.no_grad()
def draw(solver, calls):
    return solver.sample(model, noise, calls, prediction="v_prediction")


noise = torch.randn(2, 3, 16, 16)
plms, ddim = PLMSSolver(schedule), DDIMSolver(schedule)
right = draw(plms, 100)
print("calls     DDIM     PLMS   root-mean-square distance from the pictures of 100 calls")
for calls in (5, 10, 20):
    errors = [(draw(solver, calls) - right).square().mean().sqrt() for solver in (ddim, plms)]
    print(f"{calls:5} {errors[0]:8.5f} {errors[1]:8.5f}")
