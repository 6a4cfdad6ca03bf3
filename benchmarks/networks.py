"""Small networks on which the benchmarks measure solvers: this script trains and lists them, and `load` loads them.

The set "choosing" may guide the choice of a default, and "sizes" what it makes of data far from unit range. The set
"testing" differs in data, architecture and schedule, and has no say in either. The classifiers of the set "features"
turn images into 32 numbers for a Fréchet distance.

The training is plain on purpose: mean squared error, integer times, no running mean of the weights. The flaws of such
networks are what the benchmarks measure.

    python benchmarks/networks.py                           trains every network whose weights are missing
    python benchmarks/networks.py moons-cosine-v spirals    trains these anew

A run uses one thread, so that its seed determines every bit on one machine; two terminals use two cores. A run
that was interrupted or killed goes on when it is started again, and ends with the same bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from pndm_solvers import NoiseSchedule, Prediction
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.schedules import SCHEDULES

sys.path.append(str(Path(__file__).parents[1] / "training"))
import network_data

WEIGHTS = Path(__file__).parent / "weights"
CACHE = Path(__file__).parent / ".cache"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHECKPOINT_SECONDS = 10
HIDDEN_LABELS = 0.1  # the share of labels replaced by the null class (Ho and Salimans, 2022)
HELD_OUT = 6  # every sixth digit judges the classifier of digits; Fashion-MNIST has test images of its own

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


def times(factor: float, data: Callable[[], Data]) -> Data:
    """The same values, multiplied."""
    values, labels = data()
    return (factor * values).astype(np.float32), labels


DATA: dict[str, Callable[[], Data]] = {
    "digits": network_data.digits,
    "fashion": network_data.fashion,
    **{function.__name__: function for function in (moons, spirals, audio, trajectories)},
    "small-moons": partial(times, 0.1, moons),
    "large-moons": partial(times, 8.0, moons),
    "small-digits": partial(times, 0.25, network_data.digits),
}


def noisy(deviation: float, x: Tensor, generator: torch.Generator) -> Tensor:
    return x + deviation * torch.randn(x.shape, generator=generator)


def upper_half(x: Tensor, generator: torch.Generator) -> Tensor:
    return x[:, : x.shape[1] // 2]


# A restoration network draws a sample, given a noisy or partial copy. These make the copies of samples `(B, D)`.
GIVEN: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "noise 0.05": partial(noisy, 0.05),
    "noise 0.02": partial(noisy, 0.02),
    "upper half": upper_half,
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


ARCHITECTURES = {kind.__name__: kind for kind in (Mlp, ResidualMlp, Convolutional, Classifier)}

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
RESIDUAL_MLP = ("ResidualMlp", {"width": 384, "blocks": 3})
PREDICTED = {"epsilon": "epsilon", "v": "v_prediction", "sample": "sample"}
PAIRS = ("linear", "epsilon"), ("cosine", "v")

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
        f"{name}-digits-{betas}-{short}": Recipe(
            "choosing", "digits", (64,), ("ResidualMlp", {"width": 256, "blocks": 3, "given": size}), 0, betas,
            PREDICTED[short], steps=1600, batch=256, one_cycle=True, given=given,
        )
        for name, given, size, pairs in (
            ("restored", "noise 0.05", 64, (("linear", "epsilon"), ("scaled_linear", "epsilon"), ("cosine", "v"))),
            ("sharp", "noise 0.02", 64, (("linear", "epsilon"), ("scaled_linear", "epsilon"))),
            ("filled", "upper half", 32, (("linear", "epsilon"), ("cosine", "epsilon"))),
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

# -------------------------------------------------------------------- training


def objective(recipe: Recipe) -> Callable[[nn.Module, torch.Generator], Tensor]:
    """The loss of a network on a random batch."""
    values, classes = DATA[recipe.data]()
    x = torch.from_numpy(values).reshape(-1, *recipe.shape)
    labels = torch.from_numpy(classes) if recipe.classes else None

    def classifying(network: nn.Module, generator: torch.Generator) -> Tensor:
        kept = torch.arange(len(x))
        if recipe.data == "digits":
            kept = kept[kept % HELD_OUT > 0]
        chosen = kept[torch.randint(len(kept), (recipe.batch,), generator=generator)]
        return functional.cross_entropy(network.last(network(x[chosen])), labels[chosen])

    if recipe.schedule is None:
        return classifying
    schedule = SCHEDULES[recipe.schedule]()
    times = np.arange(schedule.num_train_timesteps)
    levels = [torch.from_numpy(np.float32(f(times))) for f in (schedule.alpha, schedule.sigma)]

    def denoising(network: nn.Module, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(x), (recipe.batch,), generator=generator)
        t = torch.randint(len(times), (recipe.batch,), generator=generator)
        x0, noise = x[chosen], torch.randn(recipe.batch, *recipe.shape, generator=generator)
        alpha, sigma = (table[t].reshape(-1, *(1,) * len(recipe.shape)) for table in levels)
        a, b = PREDICTIONS[recipe.prediction](alpha, sigma)
        condition = {}
        if recipe.classes:
            hidden = torch.rand(recipe.batch, generator=generator) < HIDDEN_LABELS
            condition["label"] = torch.where(hidden, recipe.classes, labels[chosen])
        if recipe.given:
            condition["given"] = GIVEN[recipe.given](x0, generator)
        return functional.mse_loss(network(alpha * x0 + sigma * noise, t, **condition), a * x0 + b * noise)

    return denoising


def train(name: str, weights: Path, cache: Path) -> bool:
    """Train one network to the end and write its weights; False after Ctrl-C, which leaves a checkpoint."""
    recipe, checkpoint, out = NETWORKS[name], cache / f"{name}.ckpt", weights / f"{name}.safetensors"
    facts, loss_of = json.dumps(dataclasses.asdict(recipe)), objective(recipe)
    torch.manual_seed(recipe.seed)
    network = recipe.build()
    if recipe.one_cycle:
        optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.rate)
        decay = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps)
    else:
        optimizer = torch.optim.Adam(network.parameters(), lr=recipe.rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    parts, done, mean, seconds = (network, optimizer, decay), 0, math.nan, 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["facts"] != facts:
            raise SystemExit(f"{checkpoint} belongs to another recipe of {name!r}; delete it to start anew")
        for part, state in zip(parts, saved["parts"], strict=True):
            part.load_state_dict(state)
        done, mean, seconds = saved["done"], saved["loss"], saved["seconds"]

    def save() -> None:
        state = {"parts": [part.state_dict() for part in parts], "facts": facts, "done": done, "loss": mean}
        state["seconds"] = seconds + time.monotonic() - started
        _replace(checkpoint, lambda path: torch.save(state, path))

    interrupts: list[int] = []  # checked between two steps, so that a checkpoint holds whole steps
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    started = saved_at = time.monotonic()
    with tqdm(total=recipe.steps, initial=done, unit="step", desc=name, mininterval=1) as progress:
        while done < recipe.steps and not interrupts:
            # Each step has its own generator, so that a resumed run draws the same numbers as an unbroken one.
            loss = loss_of(network, torch.Generator().manual_seed(recipe.seed * 1_000_003 + done))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            decay.step()
            mean = loss.item() if math.isnan(mean) else mean + 0.005 * (loss.item() - mean)
            done += 1
            progress.set_postfix(loss=f"{mean:.4f}", refresh=False)
            progress.update()
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                save()
                saved_at = time.monotonic()
    signal.signal(signal.SIGINT, before)
    if done < recipe.steps:
        save()
        print(f"stopped after {done} steps; run the same command again to go on")
        return False
    seconds += time.monotonic() - started
    metadata = {"network": json.dumps({**json.loads(facts), "loss": round(mean, 5)})}
    half = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    _replace(out, lambda path: save_file(half, path, metadata=metadata))
    checkpoint.unlink(missing_ok=True)
    held_out = "" if recipe.schedule else f", held-out accuracy {accuracy(name, weights):.4f}"
    print(f"{name}: {seconds:.0f} s, loss {mean:.4f}{held_out}")
    return True


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def accuracy(name: str, weights: Path = WEIGHTS) -> float:
    """The share of the held-out images that a classifier names rightly."""
    recipe, network = _read(name, weights)
    if recipe.data == "fashion":
        images, labels = network_data.fashion(split="t10k")
    else:
        images, labels = (part[::HELD_OUT] for part in network_data.digits())
    return float(np.mean(network.last(network(torch.from_numpy(images))).argmax(1).numpy() == labels))


# --------------------------------------------------------------------- loading


@dataclass(frozen=True)
class Trained:
    """A trained network, with all that sampling needs. `shape` is that of one sample."""

    name: str
    set: str  # "choosing" or "testing"
    network: nn.Module = field(repr=False)  # network(x, t), or network(x, t, label=label) where there are classes
    schedule: NoiseSchedule
    prediction: Prediction
    shape: tuple[int, ...]
    classes: int  # 0: unconditional
    given: str | None  # a name of GIVEN

    def data(self) -> np.ndarray:
        """The training data, `(K, *shape)` float32."""
        return DATA[NETWORKS[self.name].data]()[0].reshape(-1, *self.shape)

    def labels(self) -> np.ndarray | None:
        """The labels of the data, `(K,)`, where the network has classes."""
        return DATA[NETWORKS[self.name].data]()[1] if self.classes else None

    def condition(self, count: int) -> dict[str, Tensor] | None:
        """Of so many samples: the classes in turn, or copies of data in turn."""
        if self.given:
            x = torch.from_numpy(self.data()[np.arange(count) * 7 % len(self.data())])
            return {"given": GIVEN[self.given](x, torch.Generator().manual_seed(7))}
        return {"label": torch.arange(count) % self.classes} if self.classes else None


def load(name: str) -> Trained:
    """The denoising network of that name, from the folder of weights."""
    recipe, network = _read(name)
    if recipe.schedule is None:
        raise ValueError(f"{name!r} is a classifier; load_features loads it")
    prediction = Prediction(recipe.prediction, clip=recipe.clip)
    schedule, own = SCHEDULES[recipe.schedule](), (recipe.shape, recipe.classes, recipe.given)
    return Trained(name, recipe.set, network, schedule, prediction, *own)


def accelerated(network: nn.Module) -> Callable[..., Tensor]:
    """The network on the accelerator, where there is one. What it takes and what it returns lies on the CPU."""
    if DEVICE.type == "cpu":
        return network
    torch.backends.cudnn.allow_tf32 = False  # full float32, as on the CPU
    network.to(DEVICE)

    def model(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        return network(x.to(DEVICE), t.to(DEVICE), **{key: v.to(DEVICE) for key, v in condition.items()}).cpu()

    return model


def load_features(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """The features `(B, 32)`, float64, of images `(B, …)` in [-1, 1]: "digits" of 64 pixels or "fashion" of 784."""
    recipe, network = _read(f"classifier-{name}")

    def features(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.asarray(images, np.float32).reshape(-1, *recipe.shape))
        return torch.cat([network(part) for part in pixels.split(1000)]).double().numpy()

    return features


def _read(name: str, weights: Path = WEIGHTS) -> tuple[Recipe, nn.Module]:
    path = weights / f"{name}.safetensors"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; `python benchmarks/networks.py {name}` trains that network")
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["network"])
        state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 — no mapping
    del facts["loss"]
    recipe = Recipe(**{**facts, "shape": tuple(facts["shape"])})
    network = recipe.build().eval().requires_grad_(False)
    network.load_state_dict(state)
    return recipe, network


# ----------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="networks to train anew (default: the missing ones)")
    parser.add_argument("--list", action="store_true", help="print the networks and train none")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="the folder of the weights")
    parser.add_argument("--cache", type=Path, default=CACHE, help="the folder of the checkpoints")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in NETWORKS]:
        parser.error(f"unknown: {', '.join(unknown)}; the networks are {', '.join(NETWORKS)}")
    trained = {name: (options.weights / f"{name}.safetensors").exists() for name in NETWORKS}
    if options.list:
        row = "{:28}{:10}{:14}{:15}{:14}{:>10}  {}".format
        print(row("name", "set", "data", "betas", "prediction", "parameters", "trained"))
        for name, recipe in NETWORKS.items():
            count = sum(parameter.numel() for parameter in recipe.build().parameters())
            facts = recipe.set, recipe.data, recipe.schedule or "—", recipe.prediction or "—", count
            print(row(name, *facts, "yes" if trained[name] else "no"))
        return
    torch.set_num_threads(1)
    for name in options.names or [name for name in NETWORKS if not trained[name]]:
        if not train(name, options.weights, options.cache):
            break


if __name__ == "__main__":
    main()
