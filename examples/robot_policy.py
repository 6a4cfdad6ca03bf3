"""A diffusion policy as in robot learning: paths around an obstacle, 100 calls by DDPM and 10 by PLMS.

The policy keeps a scheduler, and steps it with a generator: as in lerobot and in "Diffusion Policy" (Chi et al. 2023).
"""

import torch
from diffusers import DDPMScheduler

from pndm_solvers.adapters.diffusers import PLMSScheduler

HORIZON = 16


def demonstrations(count):
    """Paths `(B, 16, 2)` from a height seen on the left to a goal, above or below an obstacle; and what was seen."""
    seen = torch.rand(count, 1) - 0.5
    way = torch.linspace(0, 1, HORIZON)
    side = torch.where(torch.rand(count, 1) < 0.5, 1.0, -1.0)
    height = seen * (1 - way) + 0.6 * side * torch.sin(torch.pi * way)
    return torch.stack([(2 * way - 1).expand(count, -1), height], -1), seen


class Policy(torch.nn.Module):
    """ε of a path, given what the robot sees."""

    def __init__(self, noise_scheduler, width=256):
        super().__init__()
        self.noise_scheduler = noise_scheduler
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2 * HORIZON + 3, width),
            torch.nn.SiLU(),
            torch.nn.Linear(width, width),
            torch.nn.SiLU(),
            torch.nn.Linear(width, width),
            torch.nn.SiLU(),
            torch.nn.Linear(width, 2 * HORIZON),
        )

    def forward(self, paths, t, seen):
        angle = t[:, None] / 100 * torch.pi / 2
        known = [paths.flatten(1), torch.sin(angle), torch.cos(angle), seen]
        return self.layers(torch.cat(known, 1)).reshape(paths.shape)

    def loss(self, paths, seen):
        noise, t = torch.randn_like(paths), torch.randint(0, 100, (len(paths),))
        return (self(self.noise_scheduler.add_noise(paths, noise, t), t, seen) - noise).square().mean()

    @torch.no_grad()
    def conditional_sample(self, seen, steps, generator):
        paths = torch.randn(len(seen), HORIZON, 2, generator=generator)
        self.noise_scheduler.set_timesteps(steps)
        for t in self.noise_scheduler.timesteps:
            answer = self(paths, t.expand(len(seen)), seen)
            paths = self.noise_scheduler.step(answer, t, paths, generator=generator).prev_sample
        return paths


torch.manual_seed(0)
policy = Policy(DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=True))
optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
for step in range(2000):
    optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 2000)
    optimizer.zero_grad()
    policy.loss(*demonstrations(256)).backward()
    optimizer.step()

_, seen = demonstrations(512)
fast = PLMSScheduler.from_config(policy.noise_scheduler.config, timestep_spacing="default")
for scheduler, steps in ((policy.noise_scheduler, 100), (fast, 10)):
    policy.noise_scheduler = scheduler
    paths = policy.conditional_sample(seen, steps, torch.Generator().manual_seed(1))
    way = torch.linspace(0, 1, HORIZON)
    known = torch.stack([seen * (1 - way) + 0.6 * side * torch.sin(torch.pi * way) for side in (1, -1)])
    off = (paths[..., 1] - known).square().mean(-1).min(0).values.sqrt().median()
    above = (paths[:, HORIZON // 2, 1] > 0).float().mean()
    print(f"{type(scheduler).__name__}, {steps} calls: {off:.3f} off a demonstrated path, {above:.0%} above")
