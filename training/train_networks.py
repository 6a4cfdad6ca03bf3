"""Training of the bundled networks: `python training/train_networks.py fashion`.

The training resumes from its own checkpoint, so it can be interrupted at any moment.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import network_data as data
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from pndm_solvers import add_noise, training_target
from pndm_solvers.reference.unet import UNet
from pndm_solvers.schedules import NoiseSchedule

# Written into the file of the weights: all that loading and sampling need.
NETWORKS: dict[str, dict[str, Any]] = {
    "digits": {
        "architecture": {"size": 8, "width": 24},
        "schedule": {"beta_schedule": "linear"},
        "prediction": "epsilon",
        "labels": [],
    },
    # v, not ε: near pure noise an error in ε becomes an error 1/α times as large in the picture, and a small network
    # spends its training on that. v is the picture there, and ε near the data.
    "fashion": {
        "architecture": {"size": 28, "width": 48, "patch": 2, "classes": 10},
        "schedule": {"beta_schedule": "linear"},
        "prediction": "v_prediction",
        "labels": [
            "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
        ],
    },
}  # fmt: skip
NULL_PROBABILITY = 0.1  # of hiding a label, which trains the null class (Ho and Salimans, 2022)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--steps", type=int, default=20_000, help="optimizer steps in all")
    parser.add_argument("--batch", type=int, default=128, help="images a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate; warm-up, then a cosine to 0")
    parser.add_argument("--average", type=float, default=0.999, help="decay of the running mean of the weights")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--data", type=Path, default=data.FASHION_FOLDER, help="the folder of Fashion-MNIST")
    parser.add_argument("--checkpoint", type=Path, help="default: NETWORK.ckpt; training resumes from an existing file")
    parser.add_argument("--out", type=Path, help="the weights' file (default: in this folder)")
    train(parser.parse_args())


def train(options: argparse.Namespace) -> None:
    """Train one network to the end and write its weights. Ctrl-C stops after a step and keeps a checkpoint."""
    facts = NETWORKS[options.network]
    checkpoint = options.checkpoint or Path(f"{options.network}.ckpt")
    out = options.out or Path(f"{options.network}.safetensors")
    device = torch.device(options.device)

    loaded = data.digits() if options.network == "digits" else data.fashion(options.data)
    images, labels = (torch.from_numpy(part).to(device) for part in loaded)
    schedule = NoiseSchedule.from_config(facts["schedule"])

    torch.manual_seed(options.seed)
    network = UNet(**facts["architecture"]).to(device)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.average))
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: relative_rate(n, options.steps))
    parts = {"network": network, "average": average, "optimizer": optimizer, "rate": rate}
    done, loss_mean, seconds = 0, float("nan"), 0.0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        done, loss_mean, seconds = saved["done"], saved["loss"], saved["seconds"]

    def save() -> None:
        state = {name: part.state_dict() for name, part in parts.items()}
        state |= {"done": done, "loss": loss_mean, "seconds": seconds + time.monotonic() - started}
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    interrupts: list[int] = []  # checked between two steps, so that a checkpoint holds whole steps
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    started = time.monotonic()
    progress = tqdm(total=options.steps, initial=done, unit="step", desc=options.network, mininterval=1)
    try:
        while done < options.steps and not interrupts:
            # Each step has its own generator, so that a resumed run draws the same numbers as an unbroken one.
            generator = torch.Generator().manual_seed(options.seed * 1_000_003 + done)
            x, t, label, target = training_batch(facts, schedule, images, labels, options.batch, generator)
            with torch.autocast(device.type, torch.bfloat16):
                answer = network(x, t, label)
            loss = torch.mean((answer.float() - target) ** 2)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            rate.step()
            average.update_parameters(network)

            done += 1
            progress.update()
            if done % 100 == 0:
                mean = loss.item() if math.isnan(loss_mean) else loss_mean
                loss_mean = mean + 0.05 * (loss.item() - mean)
                progress.set_postfix(loss=f"{loss_mean:.4f}")
            if done % 1000 == 0:
                save()
    finally:
        progress.close()
        signal.signal(signal.SIGINT, before)
    save()
    if interrupts:
        print(f"stopped after {done} steps; run the same command again to go on from {checkpoint}")
        return

    print(f"{done} steps, {seconds + time.monotonic() - started:.0f} s, loss {loss_mean:.4f}")
    weights = {name: value.half().contiguous().cpu() for name, value in average.module.state_dict().items()}
    save_file(weights, out, metadata={"network": json.dumps(facts)})
    print(f"wrote {out}")


def relative_rate(n: int, steps: int) -> float:
    """The learning rate of step n, of its peak: a warm-up, then a cosine to 0."""
    return min((n + 1) / min(500, steps // 10 + 1), 0.5 * (1 + math.cos(math.pi * n / steps)))


def training_batch(
    facts: dict[str, Any],
    schedule: NoiseSchedule,
    images: Tensor,
    labels: Tensor,
    batch: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """States x `(B, C, H, W)` at random times, the times `(B,)`, labels `(B,)` or None, and what to predict."""
    device = images.device
    chosen = torch.randint(len(images), (batch,), generator=generator)
    t = torch.rand(batch, generator=generator, dtype=torch.float64) * schedule.t_max
    noise = torch.randn(batch, *images.shape[1:], generator=generator).to(device)
    hidden = (torch.rand(batch, generator=generator) < NULL_PROBABILITY).to(device)
    x0 = images[chosen.to(device)]
    times = t.numpy()  # the levels in float64, wherever the images are
    x = add_noise(schedule, x0, noise, times)
    target = training_target(schedule, x0, noise, times, facts["prediction"])
    label = torch.where(hidden, len(facts["labels"]), labels[chosen.to(device)]) if facts["labels"] else None
    return x, t.float().to(device), label, target


if __name__ == "__main__":
    main()
