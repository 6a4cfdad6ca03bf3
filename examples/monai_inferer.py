"""MONAI's `DiffusionInferer` with PLMS: training noise and sampling, on blobs in place of scans."""

import torch
from monai.inferers import DiffusionInferer

from pndm_solvers.adapters.diffusers import PLMSScheduler


class PairScheduler(PLMSScheduler):
    """MONAI takes a step's result apart: the next sample, and the picture."""

    def step(self, model_output, timestep, sample):
        return super().step(model_output, timestep, sample, return_dict=False)


def blobs(count, size=12):
    """Pictures `(B, 1, size, size)` in [−1, 1], each with one bright disc of the same radius."""
    centres = torch.rand(count, 2, 1, 1) * (size - 6) + 3
    rows, columns = torch.arange(size).reshape(1, -1, 1), torch.arange(size).reshape(1, 1, -1)
    distance = ((rows - centres[:, 0]) ** 2 + (columns - centres[:, 1]) ** 2).sqrt()
    return ((2.5 - distance).clamp(-1, 1))[:, None]


class Network(torch.nn.Module):
    """ε, called as MONAI calls its networks: `network(x, timesteps=…, context=…)`."""

    def __init__(self, width=32):
        super().__init__()
        layers = [torch.nn.Conv2d(2, width, 3, padding=1), torch.nn.SiLU()]
        for dilation in (1, 2, 4, 1):
            layers += [torch.nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation), torch.nn.SiLU()]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x, timesteps, context=None):
        t = (timesteps.float() / 500 - 1).reshape(-1, 1, 1, 1)
        return self.layers(torch.cat([x, t.expand(len(x), 1, *x.shape[2:])], 1))


torch.manual_seed(0)
network, scheduler = Network(), PairScheduler(timestep_spacing="default")
inferer = DiffusionInferer(scheduler)
optimizer = torch.optim.Adam(network.parameters(), 2e-3)
for _ in range(300):
    images, noise = blobs(64), torch.randn(64, 1, 12, 12)
    answer = inferer(images, network, noise, torch.randint(0, 1000, (64,)))
    optimizer.zero_grad()
    (answer - noise).square().mean().backward()
    optimizer.step()

print(f"data: a share of {(blobs(4096) > 0).float().mean():.3f} is bright")
for steps in (10, 20):
    scheduler.set_timesteps(steps)
    samples = inferer.sample(torch.randn(64, 1, 12, 12), network, scheduler, verbose=False)
    print(f"{steps} calls: a share of {(samples > 0).float().mean():.3f} is bright")
