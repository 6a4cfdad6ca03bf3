"""Pipelines of FLUX, Stable Diffusion 3 and Wan, tiny and with random weights: no download, a few seconds.

For a checkpoint on disk, `FluxPipeline.from_pretrained(folder)` and its like replace this file. The text encoders are
left out: `PROMPT` holds random embeddings, which the pipelines take in the place of a prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)

WIDTH, TOKENS, SIZE = 32, 8, 32


def random(*shape: int) -> torch.Tensor:
    """Embeddings of a prompt."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def autoencoder(channels: int) -> AutoencoderKL:
    """Of pictures of 32×32 to latents of 16×16."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 16],
        norm_num_groups=8,
        latent_channels=channels,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.36,
        shift_factor=0.1,
        sample_size=SIZE,
    ).eval()


def flux() -> dict[str, Any]:
    """The parts of FluxPipeline. FLUX.1-dev's scheduler, whose shift depends on the size of the picture."""
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    encoders = dict.fromkeys(("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return {"transformer": transformer.eval(), "vae": autoencoder(4), "scheduler": scheduler, **encoders}


def stable_diffusion_3() -> dict[str, Any]:
    """The parts of StableDiffusion3Pipeline, with the scheduler of SD 3 medium."""
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=16,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        caption_projection_dim=WIDTH,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        out_channels=16,
        pos_embed_max_size=16,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    names = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    return {"transformer": transformer.eval(), "vae": autoencoder(16), "scheduler": scheduler, **dict.fromkeys(names)}


def wan() -> dict[str, Any]:
    """The parts of WanPipeline, with Wan 2.1's scheduler, UniPC with flow sigmas."""
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=WIDTH,
        freq_dim=16,
        ffn_dim=WIDTH,
        num_layers=1,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    encoders = {"text_encoder": None, "tokenizer": None}
    return {"transformer": transformer.eval(), "vae": vae.eval(), "scheduler": scheduler, **encoders}


# What every call takes in the place of a prompt, and the size of what it draws.
PROMPT = {"prompt_embeds": random(1, TOKENS, WIDTH), "height": SIZE, "width": SIZE}
POOLED = {"pooled_prompt_embeds": random(1, WIDTH)}

# name: (the pipeline, its parts, the arguments of its call)
MODELS: dict[str, tuple[type, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "FLUX": (FluxPipeline, flux, PROMPT | POOLED),
    "Stable Diffusion 3": (StableDiffusion3Pipeline, stable_diffusion_3, PROMPT | POOLED | {"guidance_scale": 1.0}),
    "Wan": (WanPipeline, wan, PROMPT | {"guidance_scale": 1.0, "num_frames": 5}),
}


def pipeline(name: str, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """A pipeline by its name in `MODELS`, and the arguments of its call that stand for a prompt."""
    kind, parts, arguments = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        pipe = kind(**parts())
    pipe.set_progress_bar_config(disable=True)
    return pipe, arguments
