"""The architecture of the bundled networks: one small UNet, readable in one sitting.

It follows Ho et al., "Denoising Diffusion Probabilistic Models" (2020), appendix B: residual blocks with group
normalisation, conditioned on a sinusoidal embedding of the time, and self-attention at the lowest resolution. Blocks of
`patch × patch` pixels are folded into channels first: fewer pixels leave time for a wider network on a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 8


def _zeroed(convolution: nn.Conv2d) -> nn.Conv2d:
    """Set the weights to 0: a block starts as the identity, so depth does not slow the first steps of training."""
    for parameter in convolution.parameters():
        nn.init.zeros_(parameter)
    return convolution


class ResidualBlock(nn.Module):
    """Norm, SiLU and convolution, twice. The condition scales and shifts the second norm."""

    def __init__(self, channels_in: int, channels_out: int, condition: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.condition = nn.Linear(condition, 2 * channels_out)
        self.norm2 = nn.GroupNorm(GROUPS, channels_out)
        self.conv2 = _zeroed(nn.Conv2d(channels_out, channels_out, 3, padding=1))
        self.skip = nn.Identity() if channels_in == channels_out else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(functional.silu(h))


class SelfAttention(nn.Module):
    """Multi-head attention between all pixels."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(1)
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return x + self.out(attended.reshape(batch, channels, height, width))


class UNet(nn.Module):
    """A UNet `model(x, t, label=None)` over square images.

    Parameters
    ----------
    size, channels:
        The images are `(B, channels, size, size)`, with values about [-1, 1].
    width, multipliers:
        Channels of each resolution: `width · m` for each m in `multipliers`. Each resolution is half of the one before.
    blocks:
        Residual blocks of each resolution on the way down, and as many on the way up.
    patch:
        Blocks of `patch × patch` pixels are folded into channels before the first convolution.
    classes:
        0 for an unconditional network. Otherwise labels run from 0 to `classes - 1`, and the
        label `classes` is the null class: the unconditional answer that guidance needs.
    """

    def __init__(
        self,
        size: int,
        channels: int = 1,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        patch: int = 1,
        classes: int = 0,
    ) -> None:
        super().__init__()
        self.size, self.channels, self.patch, self.classes = size, channels, patch, classes
        condition = 4 * width
        self.frequencies = width
        self.embed_time = nn.Sequential(nn.Linear(2 * width, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.embed_label = nn.Embedding(classes + 1, condition) if classes else None

        folded = channels * patch**2
        self.first = nn.Conv2d(folded, width, 3, padding=1)
        widths = [width * m for m in multipliers]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        c, skips = width, []
        for w in widths:
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(ResidualBlock(c, w, condition))
                c = w
                skips.append(c)
            self.down.append(level)
        self.middle1 = ResidualBlock(c, c, condition)
        self.attention = SelfAttention(c)
        self.middle2 = ResidualBlock(c, c, condition)
        for w in reversed(widths):
            level = nn.ModuleList()
            for _ in range(blocks):
                level.append(ResidualBlock(c + skips.pop(), w, condition))
                c = w
            self.up.append(level)
        self.last_norm = nn.GroupNorm(GROUPS, c)
        self.last = _zeroed(nn.Conv2d(c, folded, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's answer, of x's shape, for states `x` `(B, C, H, W)` at times `t` `(B,)`.

        `label` is `(B,)` integers; None stands for the null class.
        """
        # Sinusoids from a period of 2π steps up to one of 2π · 10,000 (Vaswani et al., 2017).
        decay = torch.arange(self.frequencies, device=x.device, dtype=torch.float32) / self.frequencies
        angles = t.float()[:, None] * torch.exp(-math.log(10_000) * decay)
        condition = self.embed_time(torch.cat([angles.sin(), angles.cos()], dim=1).to(x.dtype))
        if self.embed_label is not None:
            if label is None:
                label = torch.full_like(t, self.classes, dtype=torch.long)
            condition = condition + self.embed_label(label)
        condition = functional.silu(condition)

        h = self.first(functional.pixel_unshuffle(x, self.patch))
        skips = []
        for depth, level in enumerate(self.down):
            if depth:
                h = functional.avg_pool2d(h, 2)
            for block in level.children():
                h = block(h, condition)
                skips.append(h)
        h = self.middle2(self.attention(self.middle1(h, condition)), condition)
        for height, level in enumerate(self.up):
            if height:
                h = functional.interpolate(h, scale_factor=2.0, mode="nearest")
            for block in level.children():
                h = block(torch.cat([h, skips.pop()], dim=1), condition)
        return functional.pixel_shuffle(self.last(functional.silu(self.last_norm(h))), self.patch)
