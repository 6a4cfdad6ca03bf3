"""Small networks on which the benchmarks measure solvers: this script trains and lists them, and `load` loads them.

What each of them is stands in network_recipes.py. The training is plain on purpose: mean squared error, integer times,
no running mean of the weights. The flaws of such networks are what the benchmarks measure.

    python benchmarks/networks.py                           trains every network whose weights are missing
    python benchmarks/networks.py moons-cosine-v spirals    trains these anew

A run uses one thread, so that its seed determines every bit on one machine; two terminals use two cores. A run
that was interrupted or killed goes on when it is started again, and ends with the same bits.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from network_recipes import DATA, GIVEN, NETWORKS, Recipe, network_data
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from pndm_solvers import NoiseSchedule, Prediction
from pndm_solvers.prediction import PREDICTIONS
from pndm_solvers.schedules import SCHEDULES

WEIGHTS = Path(__file__).parent / "weights"
CACHE = Path(__file__).parent / ".cache"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHECKPOINT_SECONDS = 10
HIDDEN_LABELS = 0.1  # the share of labels replaced by the null class (Ho and Salimans, 2022)
HELD_OUT = 6  # every sixth digit judges the classifier of digits; Fashion-MNIST has test images of its own

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
