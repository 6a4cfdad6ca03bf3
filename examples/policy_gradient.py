"""A policy gradient: a network learns to draw what a reward likes, by the log-probability of its own steps (DDPO)."""

import torch
from torch import nn

from pndm_solvers import NoiseSchedule, PLMSSolver, add_noise

torch.manual_seed(0)
schedule = NoiseSchedule.cosine()
angles = torch.linspace(0, 2 * torch.pi, 9)[:-1]
modes = 0.8 * torch.stack([angles.cos(), angles.sin()], dim=1)  # eight modes on a ring


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2))

    def forward(self, x, t):
        phase = (t / 1000).to(x.dtype)[:, None]
        return self.layers(torch.cat([x, phase, phase.sqrt()], dim=1))


network = Network()
optimizer = torch.optim.Adam(network.parameters(), 2e-3)
for _ in range(1500):  # pretraining: ε of the ring
    x0 = modes[torch.randint(8, (256,))] + 0.1 * torch.randn(256, 2)
    noise, t = torch.randn(256, 2), torch.randint(1000, (256,))
    loss = (network(add_noise(schedule, x0, noise, t), t) - noise).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def reward(x):
    return x[:, 0]  # to the right


# Ten calls, nine of them draws: τ = 1 is the reverse SDE.
plan = PLMSSolver(schedule, order=2, tau=1.0).plan(10)
optimizer = torch.optim.Adam(network.parameters(), 3e-4)
for update in range(61):
    with torch.no_grad():
        points = plan.run(network, torch.randn(256, 2), trajectory=True)
    value = reward(points[-1])
    if update % 15 == 0:
        print(f"update {update}: mean reward {value.mean():.2f}")
    advantage = (value - value.mean()) / value.std()
    loss = -(advantage * plan.log_prob(network, points).sum(0)).mean()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
