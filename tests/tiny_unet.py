"""A network of diffusers that is small enough for tests."""

import diffusers
import torch


def tiny_unet(**options):
    """With small random weights: large answers would turn rounding errors into another picture."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        **{"sample_size": 8, "in_channels": 3, "out_channels": 3, **options},
        block_out_channels=(8, 16),
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    ).eval()
    unet.conv_out.weight.data *= 0.1
    return unet
