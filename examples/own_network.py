"""Your own nn.Module: it learns a ring of points in a few seconds, then draws new points with 10 model calls each."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from pndm_solvers import DDIMSolver, NoiseSchedule, PLMSSolver, add_noise, alpha_sigma, training_target

torch.manual_seed(0)
schedule = NoiseSchedule.linear()


class Network(nn.Module):
    """Predicts v = α·ε − σ·x_0 from x `(B, 2)` at the times t `(B,)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(schedule, t, x)
        log_snr = (alpha / sigma).log() / 2
        return self.layers(torch.cat([x, log_snr, log_snr.cos()], dim=1))


def ring(n: int) -> Tensor:
    """Points `(n, 2)` at radius 1, with a standard deviation of 0.05."""
    turn, radius = 2 * math.pi * torch.rand(n, 1), 1 + 0.05 * torch.randn(n, 1)
    return radius * torch.cat([turn.cos(), turn.sin()], dim=1)


network = Network()
optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
for _ in range(1500):
    x0, noise, t = ring(512), torch.randn(512, 2), 999 * torch.rand(512)
    target = training_target(schedule, x0, noise, t, "v_prediction")
    loss = (network(add_noise(schedule, x0, noise, t), t) - target).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()

figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True)
start = torch.randn(2000, 2)
for axis, solver in zip(axes, (DDIMSolver(schedule), PLMSSolver(schedule)), strict=True):
    with torch.no_grad():
        points = solver.sample(network, start, num_inference_steps=10, prediction="v_prediction")
    print(f"{solver.name}: {(points.norm(dim=1) - 1).abs().mean():.3f} off the ring on average")
    axis.scatter(*points.T, s=2)
    axis.set(title=solver.name, aspect="equal")
figure.savefig("ring.png")
