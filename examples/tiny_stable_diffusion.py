"""The parts of a Stable Diffusion pipeline, tiny and with random weights: no download, a few seconds.

For a checkpoint on disk, `StableDiffusionPipeline.from_pretrained(folder)` replaces this file.
"""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH, TOKENS = 16, 16


def parts(seed: int = 0, channels: int = 4) -> dict[str, Any]:
    """The parts of StableDiffusionPipeline and related pipelines, for pictures of 16×16 and latents of 8×8.

    `channels` is the number of input channels of the UNet: 4, or 9 for inpainting.
    """
    words = ["<|startoftext|>", "<|endoftext|>", *string.ascii_lowercase, *(c + "</w>" for c in string.ascii_lowercase)]
    tokenizer = CLIPTokenizer({word: i for i, word in enumerate(words)}, model_max_length=TOKENS)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[8, WIDTH],
            norm_num_groups=8,
            sample_size=16,
        )
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=channels,
            down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"],
            up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
            block_out_channels=[8, WIDTH],
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=2,
            cross_attention_dim=WIDTH,
        )
        encoder = CLIPTextModel(text)
    return {
        "tokenizer": tokenizer,
        "text_encoder": encoder.eval(),
        "vae": vae.eval(),
        "unet": unet.eval(),
        # The scheduler of the checkpoints of Stable Diffusion 1.
        "scheduler": PNDMScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
        ),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
