"""Is a plan fitted as a black box as good as one that gradient descent finds through the network, and at what cost?

The digits network, at 5, 8 and 10 calls. Adam moves every number of a non-stationary method, as in Bespoke
Non-Stationary solvers (Shaul et al., arXiv 2403.01329): x_{k+1} = a·x_k + Σ b_j·ε_j over the whole history, and all
inner levels. It minimises the mean over the samples of log MSE, from the default's numbers, on batches of 32 out of 512
fine runs, at the better of two learning rates, until a hundred steps gain less than 0.1 dB. Then it does so from our
plan's numbers. PSNR is 10·log10(4/MSE) in the mean over 192 other starts, for pictures in [-1, 1]. A cost is counted in
sample-calls: the network called for one sample is one, a backward pass two. Ours includes the pilot.

With --means Adam begins at the shipped plans of both bundled networks, and minimises the mean error: how far do means
still fall, on other starts?

    python benchmarks/against_gradients.py
    python benchmarks/against_gradients.py --means
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import networks
import numpy as np
import torch
from fitted_plans import pilot_of, plan_of, shipped
from sets import bundled
from tables import heading, table
from torch import Tensor, nn
from tqdm import tqdm

from pndm_solvers import NoiseSchedule, Plan, PLMSSolver, initial_noise
from pndm_solvers.reference import load_network

CALLS = (5, 8, 10)
RATES = (3e-3, 1e-2)
BATCH, TRAINING, JUDGES = 32, 512, 192
LEAST, MOST_ROUNDS = 0.1, 40  # dB that a hundred steps must gain; hundreds of steps
SIZES = {"digits": (512, 192), "fashion": (256, 96)}  # of --means: the starts of Adam, and those that judge


class NonStationary(nn.Module):
    """Every number of a multistep method, from a plan's, for a network that predicts ε or v."""

    def __init__(self, plan: Plan, schedule: NoiseSchedule, prediction: str = "epsilon") -> None:
        super().__init__()
        self.v = prediction == "v_prediction"
        ratios = [level.ratio for level in plan.levels]
        self.first = ratios[0]
        self.logs = nn.Parameter(torch.tensor(np.log(ratios[1:-1])).float())
        scales, weights = torch.ones(len(plan.rows)), torch.zeros(len(plan.rows), len(plan.rows))
        alphas = [level.alpha for level in plan.levels]
        for k, row in enumerate(plan.rows):
            ((_, a),) = row.states
            scales[k] = a * alphas[k] / alphas[k + 1]
            for j, b in row.answers:
                weights[k, j] = b / alphas[k + 1] / (ratios[k + 1] - ratios[k])
        self.scales, self.weights = nn.Parameter(scales), nn.Parameter(weights)
        times = np.linspace(schedule.t_min, schedule.t_max, 8000)
        self.register_buffer("times", torch.from_numpy(times).float())
        self.register_buffer("at", torch.from_numpy(-schedule.log_snr(times) / 2).float())

    def forward(self, network: Any, x: Tensor) -> Tensor:
        """The samples of starts `x` at the first level."""
        ratios = torch.cat([torch.tensor([self.first]), self.logs.exp(), torch.zeros(1)])
        y, answers = x * (1 + ratios[0] ** 2).sqrt(), []
        for k in range(len(ratios) - 1):
            log = ratios[k].log()
            i = torch.searchsorted(self.at, log.detach()).clamp(1, len(self.at) - 1)
            share = (log - self.at[i - 1]) / (self.at[i] - self.at[i - 1])
            t = self.times[i - 1] + share * (self.times[i] - self.times[i - 1])
            size = (1 + ratios[k] ** 2).sqrt()
            answer = network(y / size, t.expand(len(x)))
            answers.append((ratios[k] * y / size + answer) / size if self.v else answer)  # ε = σ·x + α·v
            mean = sum(weight * answer for weight, answer in zip(self.weights[k], answers, strict=False))
            y = self.scales[k] * y + (ratios[k + 1] - ratios[k]) * mean
        return y


def psnr(result: Tensor, ends: Tensor) -> Tensor:
    return 10 * torch.log10(4 / (result - ends).square().flatten(1).mean(1))


def nearness(result: Tensor, ends: Tensor) -> Tensor:
    """The mean error of the batch in dB, for all its samples: Adam then lowers the mean, not the typical error."""
    return -20 * torch.log10((result - ends).square().flatten(1).mean(1).sqrt().mean()).expand(len(ends))


def descend(
    method: NonStationary,
    network: Callable[[Tensor], Any],
    x: Tensor,
    ends: Tensor,
    rate: float,
    measure: Callable[[Tensor, Tensor], Tensor] = psnr,
) -> tuple[float, int]:
    """(the last hundred steps' measure on their batches, steps); `network(rows)` is that of some samples."""
    descent = torch.optim.Adam(method.parameters(), rate)
    generator, before, steps = torch.Generator().manual_seed(0), -np.inf, 0
    for _ in tqdm(range(MOST_ROUNDS), desc=f"Adam, rate {rate:g}"):
        found = []
        for _ in range(100):
            chosen = torch.randint(len(x), (BATCH,), generator=generator)
            gained = measure(method(network(chosen), x[chosen]), ends[chosen]).mean()
            descent.zero_grad()
            (-gained).backward()
            nn.utils.clip_grad_norm_(method.parameters(), 10.0)
            descent.step()
            found.append(float(gained))
            steps += 1
        now = float(np.mean(found))
        if now - before < LEAST:
            break
        before = now
    return now, steps


def means(name: str, calls: int) -> list[Any]:
    """The mean error of a shipped plan, and of what Adam makes of it."""
    network, (training, judges) = load_network(name), SIZES[name]
    network.unet.requires_grad_(False)
    plan, ends = shipped(name, calls), {}
    level = plan.levels[0]
    fine = PLMSSolver(network.schedule, order=2).plan(192, start=level.t)

    def of(rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        label = {"label": rows % len(network.labels)} if network.labels else {}
        return lambda x, t: network.unet(x, t, **label)

    everything = {count: torch.arange(count) for count in (training, judges)}
    for count, seed in ((training, 4242), (judges, 101)):
        x = torch.from_numpy(initial_noise((count, *network.shape), seed)).float()
        with torch.no_grad():
            parts = zip(x.split(32), everything[count].split(32), strict=True)
            found = [
                fine.run(of(rows), part, prediction=network.prediction)
                for part, rows in tqdm(list(parts), desc=f"{name}, fine runs")
            ]
        ends[count] = x, torch.cat(found)

    def judge(method: NonStationary) -> float:
        x, right = ends[judges]
        with torch.no_grad():
            return float((method(of(everything[judges]), x) - right).square().flatten(1).mean(1).sqrt().mean())

    method = NonStationary(plan, network.schedule, network.prediction)
    before = judge(method)
    _, steps = descend(method, of, *ends[training], 1e-3, nearness)
    after = judge(method)
    return [name, calls, f"{before:.2e}", f"{after:.2e} ({steps} steps)", f"{after / before:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--means", nargs="*", choices=SIZES, help="how far means still fall, of these networks")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(heading("torch"), flush=True)
    if arguments.means is not None:
        heads = "network", "calls", "mean error, shipped plan", "Adam from it", "ratio"
        cells = [(name, calls) for name in arguments.means or SIZES for calls in arguments.calls]
        print(table(heads, [means(*cell) for cell in cells]))
        return
    network = load_network("digits")
    network.unet.requires_grad_(False)
    folder = networks.CACHE / "fitted"
    folder.mkdir(parents=True, exist_ok=True)
    judged = bundled("digits", JUDGES, 1, saved=folder / "digits-192.npz", calls=512)
    first = plan_of(judged, 8).levels[0]
    reference = judged.reference(first.t)
    starts, ends = judged.starts(first.t), reference.ends
    x = torch.from_numpy(initial_noise((TRAINING, *network.shape), 4242)).float()
    with torch.no_grad():
        fine = PLMSSolver(network.schedule, order=2).plan(192, sample_shape=network.shape)
        x = x * float(np.hypot(first.alpha, first.sigma))
        trained_ends = fine.run(network, x)
    rows = []
    for calls in arguments.calls:
        with torch.no_grad():
            pilot = pilot_of(judged, 64)
            fit = pilot.fit(network, calls)
        mine = fit.calls + 64 * pilot.plan.model_calls
        default = plan_of(judged, calls)

        def judge(method: NonStationary, starts: Tensor = starts, ends: Tensor = ends) -> float:
            with torch.no_grad():
                return float(psnr(method(network, starts), ends).mean())

        before, ours = (judge(NonStationary(plan, network.schedule)) for plan in (default, fit.plan))
        found = {}
        for name, plan, rates in (("default", default, RATES), ("ours", fit.plan, (1e-3,))):
            tried = []
            for rate in rates:
                method = NonStationary(plan, network.schedule)
                gained, steps = descend(method, lambda rows: network, x, trained_ends, rate)
                tried.append((gained, judge(method), steps, rate))
            found[name] = max(tried)
        _, adam, steps, rate = found["default"]
        spent = 3 * BATCH * calls * steps
        row = [calls, f"{before:.1f}", f"{ours:.1f}", f"{adam:.1f} ({steps} steps at {rate:g})", f"{ours - adam:+.1f}"]
        row += [f"{mine:,}", f"{spent:,}", f"{mine / spent:.2f}", f"{found['ours'][1]:.1f} ({found['ours'][2]} steps)"]
        rows.append(row)
        print(row, flush=True)
    heads = "calls", "default, dB", "ours, dB", "Adam, dB", "ours − Adam", "ours, sample-calls", "Adam's", "share"
    print(table((*heads, "Adam from ours, dB"), rows))


if __name__ == "__main__":
    main()
