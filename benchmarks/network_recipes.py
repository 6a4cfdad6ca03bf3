"""What the small networks of networks.py are: their data, their architectures, and the recipe of each by its name.

The set "choosing" may guide the choice of a default, and "sizes" what it makes of data far from unit range. The set
"large", of pictures of 64×64, has a say in runs of few calls. The set "testing" differs in data, architecture and
schedule, and has no say in any of these. The classifiers of the set "features" turn images into 32 numbers for a
Fréchet distance.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.append(str(Path(__file__).parents[1] / "training"))
import network_data

from pndm_solvers.reference.unet import UNet

# ------------------------------------------------------------------------ data

Data = tuple[np.ndarray, np.ndarray | None]  # values (K, …) float32, labels (K,) int64


def moons() -> Data:
    """Two half circles, standardised."""
    from sklearn.datasets import make_moons

    x, labels = make_moons(n_samples=2000, noise=0.05, random_state=0)
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), labels.astype(np.int64)


def spirals() -> Data:
    """Two spiral arms with deviation 1 on each axis, around the mean (3, −2)."""
    generator = np.random.default_rng(1)
    turn = np.sqrt(generator.uniform(0.04, 1, 4000))
    angle = 2 * math.pi * turn + math.pi * generator.integers(2, size=4000)
    x = (turn * np.stack([np.cos(angle), np.sin(angle)])).T + 0.02 * generator.standard_normal((4000, 2))
    return ((x - x.mean(0)) / x.std(0) + [3, -2]).astype(np.float32), None


def audio() -> Data:
    """Signals of 64 samples: one to three damped sinusoids of random onset, pitch and decay; peak 0.5 to 1."""
    generator, count, parts = np.random.default_rng(2), 4000, 3
    onset, pitch, decay, loudness = (
        generator.uniform(low, high, (count, parts, 1)) for low, high in ((0, 32), (0.03, 0.2), (6, 30), (0.3, 1))
    )
    audible = np.arange(parts)[:, None] < generator.integers(1, parts + 1, (count, 1, 1))
    after = np.arange(64) - onset
    tones = loudness * np.exp(-after.clip(0) / decay) * np.sin(2 * math.pi * pitch * after)
    x = np.where(audible & (after > 0), tones, 0).sum(1, keepdims=True)
    return (x / np.abs(x).max(2, keepdims=True) * generator.uniform(0.5, 1, (count, 1, 1))).astype(np.float32), None


def trajectories() -> Data:
    """Paths of 16 way-points from left to right, around a disc of radius 0.35 at the origin, on either side."""
    generator, count = np.random.default_rng(3), 4000
    begin = math.pi + generator.uniform(-0.7, 0.7, (count, 1))
    side = generator.choice([-1, 1], (count, 1))
    turn = side * math.pi + generator.uniform(-0.7, 0.7, (count, 1))
    first, last = generator.uniform(0.7, 0.95, (2, count, 1))
    clearance = generator.uniform(0.4, 0.5, (count, 1))
    place = np.linspace(0, 1, 16)
    place = place**2 * (3 - 2 * place)  # starts and stops gently
    straight = first + place * (last - first)
    radius = straight - (straight - clearance) * np.sin(math.pi * place) ** 2
    angle = begin + place * turn
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).astype(np.float32), None


def spectra() -> Data:
    """Spectra of 64 bins: a smooth continuum with one to three lines, in emission or absorption."""
    generator, count, lines = np.random.default_rng(8), 20_000, 3
    bins = np.linspace(-1, 1, 64)
    height, slope, bend = (generator.normal(0, deviation, (count, 1)) for deviation in (0.3, 0.3, 0.2))
    place, width, strength = (
        generator.uniform(low, high, (count, lines, 1)) for low, high in ((-0.9, 0.9), (0.04, 0.2), (-0.8, 0.8))
    )
    present = np.arange(lines)[:, None] < generator.integers(1, lines + 1, (count, 1, 1))
    shapes = strength * present * np.exp(-(((bins - place) / width) ** 2) / 2)
    return (height + slope * bins + bend * (3 * bins**2 - 1) / 2 + shapes.sum(1)).astype(np.float32), None


def galaxies() -> Data:
    """Pictures of 64×64 in three colours: one to three galaxies, blurred, in noise; deviation 0.5 around mean 0."""
    generator, count, parts, side = np.random.default_rng(9), 1000, 3, 64
    wide = (count, parts, 1, 1)
    down, across = np.meshgrid(*2 * [np.linspace(-1, 1, side)], indexing="ij")
    y, x = (generator.uniform(-1, 1, wide) * np.where(np.arange(parts) == 0, 0.1, 0.9)[:, None, None] for _ in range(2))
    angle, ratio = generator.uniform(0, math.pi, wide), generator.uniform(0.3, 1, wide)
    size, index = np.exp(generator.uniform(math.log(0.05), math.log(0.2), wide)), generator.uniform(0.5, 1.6, wide)
    present = np.arange(parts)[:, None, None] < generator.integers(1, parts + 1, (count, 1, 1, 1))
    flux = present * np.exp(generator.normal(0, 0.8, wide)) * np.where(np.arange(parts) == 0, 1, 0.4)[:, None, None]
    colour = np.exp(generator.normal(0, 0.4, (count, parts, 3)))
    along = (across - x) * np.cos(angle) + (down - y) * np.sin(angle)
    beside = (down - y) * np.cos(angle) - (across - x) * np.sin(angle)
    radius = np.sqrt(along**2 + (beside / ratio) ** 2 + 0.03**2) / size
    light = np.einsum("npc,npij->ncij", colour, flux * np.exp(1 - radius ** (1 / index)))
    values = np.arcsinh(5 * (light + 0.01 * generator.standard_normal(light.shape)))
    return ((values - values.mean()) / (2 * values.std())).astype(np.float32), None


def clouds() -> Data:
    """Pictures of 64×64: random fields whose power falls as a power of the wave number, bent; deviation 0.5."""
    generator, count, side = np.random.default_rng(10), 3000, 64
    waves = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    steep = generator.uniform(1, 2, (count, 1, 1))
    spectrum = np.fft.rfft2(generator.standard_normal((count, side, side))) * np.where(waves, waves, math.inf) ** -steep
    values = np.fft.irfft2(spectrum, s=(side, side))
    values = np.tanh(values / values.std((1, 2), keepdims=True) + generator.normal(0, 0.5, (count, 1, 1)))
    return (values[:, None] / (2 * values.std())).astype(np.float32), None


def times(factor: float, data: Callable[[], Data]) -> Data:
    """The same values, multiplied."""
    values, labels = data()
    return (factor * values).astype(np.float32), labels


DATA: dict[str, Callable[[], Data]] = {
    "digits": network_data.digits,
    "fashion": network_data.fashion,
    **{function.__name__: function for function in (moons, spirals, spectra, galaxies, clouds, audio, trajectories)},
    "small-moons": partial(times, 0.1, moons),
    "large-moons": partial(times, 8.0, moons),
    "small-digits": partial(times, 0.25, network_data.digits),
}


def noisy(deviation: float, x: Tensor, generator: torch.Generator) -> Tensor:
    return x + deviation * torch.randn(x.shape, generator=generator)


def upper_half(x: Tensor, generator: torch.Generator) -> Tensor:
    return x[:, : x.shape[1] // 2]


def every_second(x: Tensor, generator: torch.Generator) -> Tensor:
    return x[:, ::2]


# A restoration network draws a sample, given a noisy or partial copy. These make the copies of samples `(B, D)`.
GIVEN: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise 0.05": partial(noisy, 0.05),
    "noise 0.02": partial(noisy, 0.02),
    "upper half": upper_half,
    "every second": every_second,
}

# --------------------------------------------------------------- architectures
# Each is made from the shape of a sample, the number of classes and the arguments in a recipe, and answers
# `network(x, t)` for states `(B, *shape)` at times `(B,)`.


def sinusoids(t: Tensor, like: Tensor) -> Tensor:
    """16 sines and 16 cosines of the times, `(B, 32)`, from a period of 2π steps towards one of 2π · 10,000."""
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * torch.arange(16, device=t.device) / 16)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


class Mlp(nn.Module):
    """Layers with SiLU on the state, the time and, where there are classes, the label; None is the null class."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, layers: int, label_width: int = 16) -> None:
        super().__init__()
        size, self.classes = math.prod(shape), classes
        self.embed_label = nn.Embedding(classes + 1, label_width) if classes else None
        widths = [size + 32 + (label_width if classes else 0)] + layers * [width]
        self.hidden = nn.ModuleList(nn.Linear(*pair) for pair in itertools.pairwise(widths))
        self.last = nn.Linear(width, size)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        parts = [x.flatten(1), sinusoids(t, x)]
        if self.embed_label is not None:
            parts.append(self.embed_label(torch.full_like(t, self.classes).long() if label is None else label))
        h = torch.cat(parts, dim=1)
        for layer in self.hidden:
            h = functional.silu(layer(h))
        return self.last(h).reshape(x.shape)


class ResidualMlp(nn.Module):
    """Residual blocks h + W·SiLU(LayerNorm(h) + time), on the state and `given` numbers of a condition."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, blocks: int, given: int = 0) -> None:
        super().__init__()
        size = math.prod(shape)
        self.time, self.first, self.last = nn.Linear(32, width), nn.Linear(size + given, width), nn.Linear(width, size)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))

    def forward(self, x: Tensor, t: Tensor, given: Tensor | None = None) -> Tensor:
        known = x.flatten(1) if given is None else torch.cat([x.flatten(1), given], dim=1)
        shift, h = self.time(sinusoids(t, x)), self.first(known)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            h = h + block(functional.silu(norm(h) + shift))
        return self.last(h).reshape(x.shape)


class Convolutional(nn.Module):
    """Residual blocks of two convolutions, over signals `(C, L)` or images `(C, H, W)`, without attention."""

    def __init__(self, shape: tuple[int, ...], classes: int, width: int, dilations: list[int]) -> None:
        super().__init__()
        kind = {2: nn.Conv1d, 3: nn.Conv2d}[len(shape)]
        self.first, self.last = kind(shape[0], width, 3, padding=1), kind(width, shape[0], 3, padding=1)
        self.times = nn.ModuleList(nn.Linear(32, width) for _ in dilations)
        self.norms = nn.ModuleList(nn.GroupNorm(4, width) for _ in dilations)
        self.wide = nn.ModuleList(kind(width, width, 3, padding=d, dilation=d) for d in dilations)
        self.narrow = nn.ModuleList(kind(width, width, 3, padding=1) for _ in dilations)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        embedded, h = sinusoids(t, x), self.first(x)
        for time_layer, norm, wide, narrow in zip(self.times, self.norms, self.wide, self.narrow, strict=True):
            shift = time_layer(embedded).reshape(len(x), -1, *(1,) * (x.ndim - 2))
            h = h + narrow(functional.silu(wide(functional.silu(norm(h) + shift))))
        return self.last(functional.silu(h))


class Classifier(nn.Module):
    """Strided convolutions, 32 features, and a linear layer that turns these into logits. Calls return features."""

    def __init__(self, shape: tuple[int, ...], classes: int, widths: list[int], strides: list[int]) -> None:
        super().__init__()
        pairs = zip(itertools.pairwise([shape[0], *widths]), strides, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(*pair, 3, stride, padding=1) for pair, stride in pairs)
        size = math.prod(-(-side // math.prod(strides)) for side in shape[1:])
        self.features, self.last = nn.Linear(widths[-1] * size, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = functional.silu(convolution(x))
        return functional.silu(self.features(x.flatten(1)))


class AddedUNet(nn.Module):
    """The architecture of the bundled networks, whose answer is added to the state: near pure noise that is ε."""

    def __init__(self, shape: tuple[int, ...], classes: int, **arguments: Any) -> None:
        super().__init__()
        self.unet = UNet(shape[1], shape[0], classes=classes, **arguments)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x + self.unet(x, t)


ARCHITECTURES = {kind.__name__: kind for kind in (Mlp, ResidualMlp, Convolutional, Classifier, AddedUNet)}

# --------------------------------------------------------------------- recipes


@dataclass(frozen=True)
class Recipe:
    """What a network is and how it is trained. The file of its weights holds these facts as JSON."""

    set: str
    data: str
    shape: tuple[int, ...]
    architecture: tuple[str, dict[str, Any]]  # a name of ARCHITECTURES, and arguments
    classes: int = 0
    schedule: str | None = None  # a name of SCHEDULES; None for a classifier
    prediction: str | None = None
    clip: float | None = None
    steps: int = 6000
    batch: int = 512
    rate: float = 2e-3
    one_cycle: bool = False  # AdamW and OneCycleLR with its peak at `rate`, instead of Adam from `rate` to 0
    seed: int = 0
    given: str | None = None  # a name of GIVEN

    def build(self) -> nn.Module:
        kind, arguments = self.architecture
        return ARCHITECTURES[kind](self.shape, self.classes, **arguments)


MLP = ("Mlp", {"width": 128, "layers": 3})
UNET = ("AddedUNet", {"width": 16, "multipliers": [1, 2, 4], "patch": 2})
RESIDUAL_MLP = ("ResidualMlp", {"width": 384, "blocks": 3})
PREDICTED = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
PAIRS = ("linear", "epsilon"), ("cosine", "v")
ON_TWO = ("linear", "epsilon"), ("scaled_linear", "epsilon")

NETWORKS: dict[str, Recipe] = {
    **{
        f"moons-{betas}-{short}": Recipe("choosing", "moons", (2,), MLP, 2, betas, prediction)
        for betas in ("linear", "cosine") for short, prediction in PREDICTED.items()
    },
    **{
        f"digits-mlp-{betas}-{short}": Recipe(
            "choosing", "digits", (64,), RESIDUAL_MLP, 0, betas, prediction, steps=1600, batch=256, one_cycle=True
        )
        for betas in ("linear", "cosine") for short, prediction in PREDICTED.items()
    },
    **{
        f"{name}-{data}-{betas}-{short}": Recipe(
            "choosing", data, (64,), ("ResidualMlp", {"width": 256, "blocks": 3, "given": size}), 0, betas,
            PREDICTED[short], steps=1600 if data == "digits" else 6000, batch=256, one_cycle=True, given=given,
        )
        for data, name, given, size, pairs in (
            ("digits", "restored", "noise 0.05", 64, (*ON_TWO, ("cosine", "v"))),
            ("digits", "sharp", "noise 0.02", 64, ON_TWO),
            ("digits", "filled", "upper half", 32, (ON_TWO[0], ("cosine", "epsilon"))),
            ("spectra", "restored", "noise 0.05", 64, PAIRS),
            ("spectra", "upsampled", "every second", 32, (*ON_TWO, ("cosine", "epsilon"))),
        )
        for betas, short in pairs
    },
    **{
        f"{size}-moons-{betas}-{short}": Recipe("sizes", f"{size}-moons", (2,), MLP, 2, betas, PREDICTED[short])
        for size in ("small", "large") for betas, short in PAIRS
    },
    **{
        f"small-digits-{betas}-{short}": Recipe(
            "sizes", "small-digits", (64,), RESIDUAL_MLP, 0, betas, PREDICTED[short], steps=1600, batch=256,
            one_cycle=True,
        )
        for betas, short in PAIRS
    },
    **{
        f"{data}-linear-epsilon": Recipe(
            "large", data, (channels, 64, 64), UNET, 0, "linear", "epsilon", batch=16, rate=1e-3, one_cycle=True
        )
        for data, channels in (("galaxies", 3), ("clouds", 1))
    },
    "spirals": Recipe("testing", "spirals", (2,), MLP, 0, "cosine", "epsilon", seed=1),
    "audio": Recipe(
        "testing", "audio", (1, 64), ("Convolutional", {"width": 32, "dilations": [1, 2, 4, 8, 16]}),
        0, "linear", "v_prediction", steps=3000, batch=64, seed=2,
    ),
    "trajectories": Recipe(
        "testing", "trajectories", (16, 2), ("Mlp", {"width": 256, "layers": 3}),
        0, "cosine", "epsilon", clip=1.0, batch=256, seed=3,
    ),
    "digits-conv": Recipe(
        "testing", "digits", (1, 8, 8), ("Convolutional", {"width": 32, "dilations": [1, 2, 1]}),
        0, "scaled_linear", "epsilon", steps=2500, batch=64, seed=4,
    ),
    "classifier-digits": Recipe(
        "features", "digits", (1, 8, 8), ("Classifier", {"widths": [32, 64], "strides": [1, 2]}),
        10, steps=1000, batch=128, seed=5,
    ),
    "classifier-fashion": Recipe(
        "features", "fashion", (1, 28, 28), ("Classifier", {"widths": [16, 32, 64], "strides": [2, 2, 2]}),
        10, steps=1500, batch=128, seed=6,
    ),
}  # fmt: skip
