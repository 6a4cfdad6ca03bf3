"""The peers: samplers of diffusers and of k-diffusion for the probability-flow ODE, on every grid that they offer.

Both know one kind of schedule, a table of variance-preserving levels. `View` shows them any `NoiseSchedule` as such a
table, cut where the run begins, so that a peer's own rule spreads its times over what is left. The states of any
schedule are variance-preserving once they are divided by √(α² + σ²). The view also converts what the network answers,
with its clipping.

`python benchmarks/check_peers.py` runs every peer, and checks what they must be equal to.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffusers
import k_diffusion_peers
import numpy as np
import torch
from k_diffusion_peers import Sampler

from pndm_solvers import NoiseSchedule
from pndm_solvers.arrays import library
from pndm_solvers.prediction import Prediction, conversion

__all__ = ["PEERS", "Peer", "Run", "View", "run", "traced_run"]

Model = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

# Schedulers whose state is x/α, at the noise level σ/α.
EXPLODING = (diffusers.EulerDiscreteScheduler, diffusers.HeunDiscreteScheduler, diffusers.LMSDiscreteScheduler)
# Schedulers that step between places of the table, not between sigmas.
INTEGRAL = (diffusers.DDIMScheduler, diffusers.PNDMScheduler)

# Answers of these kinds reach diffusers as ε, all others as v: PNDM accepts no pictures.
AS_EPSILON = ("epsilon", "score")


@dataclass(frozen=True)
class Run:
    """A peer's run, in the schedule's own times and states.

    Attributes
    ----------
    result:
        The end of the run, `(B, …)`.
    start, start_t:
        The state with which the run began, and the time of that level. A peer's own rule may begin below the level
        that it was given. The state is then the noise given, taken as that of the lower level.
    end_t, final:
        The time of the level where the run ended, and whether that is noise-free: "clean" or "first". A run that
        ends "first" ends at the lowest trained level, unless `end_t` differs from the schedule's t_min: some of
        diffusers' integer grids end a few places above it.
    calls:
        How many model calls were made.
    """

    result: torch.Tensor
    start: torch.Tensor
    start_t: float
    end_t: float
    final: str
    calls: int


class View:
    """A schedule and a network as diffusers and k-diffusion see them: a table of T levels up to the time `start`.

    The times of the table are even. A continuous schedule has 1,000 of them. On a table of levels they are its own
    integers, or, where `start` is none, lie as near to one apart as lets the last be `start`.
    """

    def __init__(
        self,
        schedule: NoiseSchedule,
        model: Model,
        prediction: str | Prediction = "epsilon",
        start: float | None = None,
    ) -> None:
        self.schedule, self.model, self.prediction = schedule, model, Prediction.of(prediction)
        self.start, self.calls = schedule.t_max if start is None else schedule.level(start, "start").t, 0
        size = schedule.num_train_timesteps
        self.size = 1000 if size is None else max(round(self.start - schedule.t_min), 1) + 1
        self.times = np.linspace(schedule.t_min, self.start, self.size)
        log_snrs = schedule.log_snr(self.times)
        self.ratios, self.alphas_cumprod = np.exp(-log_snrs / 2), np.exp(-np.logaddexp(0, -log_snrs))

    @cached_property
    def betas(self) -> list[float]:
        return (1 - self.alphas_cumprod / np.append(1, self.alphas_cumprod[:-1])).tolist()

    @property
    def native(self) -> str:
        """The prediction type that diffusers receives."""
        return "epsilon" if self.prediction.type in AS_EPSILON else "v_prediction"

    def time(self, place: float) -> float:
        """The schedule's time at a place of the table, a real number."""
        return float(np.interp(place, np.arange(self.size), self.times))

    def time_of_ratio(self, ratio: float) -> float:
        """The schedule's time where σ/α is `ratio`, and the nearest place's where that differs by rounding alone."""
        t = self.schedule.level_at(ratio).t
        near = self.times[np.abs(self.times - t).argmin()]
        return float(near) if abs(near - t) < 0.02 * (self.times[1] - self.times[0]) else t

    def scale(self, t: float) -> float:
        """√(α² + σ²): the schedule's states divided by it are variance-preserving."""
        _, alpha, sigma = self.schedule.level(t)
        return math.hypot(alpha, sigma)

    def answer(self, x: torch.Tensor, t: float, wanted: str) -> torch.Tensor:
        """The network's answer at the schedule's state x, clipped as the prediction says, and converted."""
        self.calls += 1
        _, alpha, sigma = self.schedule.level(t)
        given, kind, arrays = self.model(x, torch.full((len(x),), t, dtype=x.dtype)), self.prediction.type, library(x)

        def convert(answer: torch.Tensor, kind: str, wanted: str) -> torch.Tensor:
            p, q = conversion(kind, wanted, alpha, sigma)
            return q * answer + p * x if p else q * answer

        if self.prediction.threshold is not None:
            bounds = self.prediction.threshold, self.prediction.bound, self.prediction.threshold_max
            given, kind = arrays.dynamic_threshold(convert(given, kind, "sample"), *bounds), "sample"
        elif self.prediction.clip is not None:
            given, kind = arrays.clip(convert(given, kind, "sample"), self.prediction.bound), "sample"
        return convert(given, kind, wanted)

    def native_answer(self, x: torch.Tensor, place: float) -> torch.Tensor:
        """What diffusers' network of kind `native` answers at its state x, of variance α² + σ² = 1."""
        t = self.time(place)
        scale = self.scale(t)
        answer = self.answer(x * scale, t, self.native)
        return answer / scale if self.native == "v_prediction" else answer

    def denoised(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """k-diffusion's model: the denoised picture at x = x_0 + σ·ε, for one sigma of the batch."""
        at = self.schedule.level_at(float(sigma[0]))
        return self.answer(x * at.alpha, at.t, "sample")

    def finished(self, result: torch.Tensor, x: torch.Tensor, start_t: float, end_t: float | None) -> Run:
        """The run of variance-preserving states from x to `result`; `end_t` is None at the clean level."""
        end, final = (self.schedule.clean.t, "clean") if end_t is None else (end_t, "first")
        return Run(result * self.scale(end), x * self.scale(start_t), start_t, end, final, self.calls)


@dataclass(frozen=True)
class Peer(ABC):
    """A sampler with its grid and options; the name contains them."""

    name: str

    @abstractmethod
    def run(self, view: View, x: torch.Tensor, calls: int) -> Run:
        """The run from the variance-preserving state x, in at most `calls` calls; ValueError where none fits."""


# ------------------------------------------------------------------ diffusers


class IPNDM:
    """diffusers' IPNDM on a schedule.

    It has no schedule: its `trained_betas` are the σ of the steps of one run, its times are angles, and it predicts v.
    """

    grids: Mapping[str, Callable[[NoiseSchedule, int], Any]] = {
        # Its own grid, clipped to the trained levels.
        "sine": lambda schedule, steps: np.clip(
            np.sin(np.linspace(1, 0, steps + 1)[:-1] * math.pi / 2) ** 2, *schedule.sigma([0, schedule.t_max])
        ),
        "linspace": lambda schedule, steps: schedule.sigma(np.linspace(schedule.t_max, 0, steps)),
    }

    def __init__(self, trained_betas: list[float], prediction_type: str, grid: str, num_train_timesteps: int) -> None:
        self.schedule, self.prediction_type = NoiseSchedule.from_betas(trained_betas), prediction_type
        self.grid = self.grids[grid]

    def set_timesteps(self, steps: int) -> None:
        sigmas = np.append(self.grid(self.schedule, steps), 0)
        self.sigmas = sigmas / np.sqrt(1 - sigmas**2)  # σ/α, before float32 rounds σ
        self.inner = diffusers.IPNDMScheduler(trained_betas=sigmas.tolist())
        self.inner.set_timesteps(steps)
        self.inner.set_begin_index(0)
        angles = self.inner.timesteps.double().numpy() * math.pi / 2
        self.timesteps = torch.from_numpy(self.schedule.time_at(-2 * np.log(np.tan(angles))))

    def step(self, answer: torch.Tensor, t: Any, x: torch.Tensor) -> Any:
        index = self.inner.step_index or 0
        alpha, sigma = self.inner.alphas[index], self.inner.betas[index]
        v = answer if self.prediction_type == "v_prediction" else (answer - sigma * x) / max(alpha, 1e-8)
        return self.inner.step(v, self.inner.timesteps[index], x)


@dataclass(frozen=True)
class DiffusersPeer(Peer):
    """A scheduler of diffusers with its options."""

    scheduler: Callable[..., Any]
    options: Mapping[str, Any]

    def prepared(self, view: View, calls: int) -> Any:
        """The scheduler with the most steps within the budget; it makes one model call for each of its times."""
        for steps in range(min(calls, view.size), 0, -1):
            scheduler = self.scheduler(
                trained_betas=view.betas, num_train_timesteps=view.size, prediction_type=view.native, **self.options
            )
            try:
                scheduler.set_timesteps(steps)
            except ValueError:  # PNDM's start of Runge–Kutta needs four steps
                continue
            if len(scheduler.timesteps) <= calls:
                if hasattr(scheduler, "set_begin_index"):
                    # Otherwise a time that rounding repeats is found at its second place, and a step is lost.
                    scheduler.set_begin_index(0)
                return scheduler
        raise ValueError(f"no number of steps makes at most {calls} model calls; raise the budget")

    def ends(self, view: View, scheduler: Any) -> tuple[float, float | None]:
        """The times where the run begins and ends, by the scheduler's own tables; None for the clean end."""
        if not isinstance(scheduler, INTEGRAL):
            first, last = float(scheduler.sigmas[0]), float(scheduler.sigmas[-1])
            return view.time_of_ratio(first), view.time_of_ratio(last) if last else None
        place = int(scheduler.timesteps[-1]) - view.size // scheduler.num_inference_steps
        clean = place < 0 and scheduler.final_alpha_cumprod == 1
        return view.time(int(scheduler.timesteps[0])), None if clean else view.time(max(place, 0))

    def run(self, view: View, x: torch.Tensor, calls: int) -> Run:
        scheduler = self.prepared(view, calls)
        exploding, noise = isinstance(scheduler, EXPLODING), x
        if exploding:
            x = x * math.hypot(1, scheduler.sigmas[0])
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t) if exploding else x
            x = scheduler.step(view.native_answer(seen, float(t)), t, x).prev_sample
        if exploding:
            x = x / math.hypot(1, scheduler.sigmas[-1])
        return view.finished(x, noise, *self.ends(view, scheduler))


def diffusers_all() -> Iterator[Peer]:
    spacings = {name: {"timestep_spacing": name} for name in ("leading", "trailing", "linspace")}
    grids = spacings | {name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")}
    with_lu = grids | {"lu": {"use_lu_lambdas": True}}
    dpm, unipc = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
    orders, ends, lowest = [2, 3], ["zero", "sigma_min"], ["sigma_min"]
    # Grids of sigmas end at sigma_min already. The last step then has no length, and order 3 divides by it.
    safe = {"solver_order": orders, "final_sigmas_type": lowest, "euler_at_final": [True]}
    families = (
        (diffusers.DDIMScheduler, spacings, {"clip_sample": [False], "set_alpha_to_one": [True, False]}),
        (diffusers.PNDMScheduler, spacings, {"skip_prk_steps": [True, False], "set_alpha_to_one": [True, False]}),
        (IPNDM, {name: {"grid": name} for name in IPNDM.grids}, {}),
        (diffusers.DEISMultistepScheduler, grids, {"solver_order": [1, 2, 3]}),
        (dpm, with_lu, {"solver_order": orders, "final_sigmas_type": ends}),
        (dpm, with_lu, safe),
        (dpm, with_lu, {"solver_type": ["heun"]}),
        (dpm, with_lu, {"algorithm_type": ["dpmsolver"]} | safe),
        (unipc, grids, {"solver_order": orders, "final_sigmas_type": ends}),
        # Into σ = 0 bh1 is infinite.
        (unipc, grids, {"solver_order": orders, "solver_type": ["bh1"], "final_sigmas_type": lowest}),
        *((scheduler, grids, {}) for scheduler in EXPLODING),
    )
    for scheduler, times, choices in families:
        for values, grid in itertools.product(itertools.product(*choices.values()), times):
            options = dict(zip(choices, values, strict=True))
            words = [scheduler.__name__.removesuffix("Scheduler"), *(f"{k}={v}" for k, v in options.items()), grid]
            yield DiffusersPeer(" ".join(words), scheduler, options | times[grid])


# ------------------------------------------------------------------ k-diffusion


@dataclass(frozen=True)
class KDiffusionPeer(Peer):
    """A sampler of k-diffusion on one of its grids; without a grid it is `dpm_fast`, which makes its own."""

    sampler: Sampler
    grid: str | None

    def run(self, view: View, x: torch.Tensor, calls: int) -> Run:
        table = torch.from_numpy(view.ratios)
        if not table[-1].isfinite():
            raise ValueError(f"{self.name} has no grid that begins at σ/α = ∞")
        if self.grid is None:
            high, low = float(table[-1]), float(table[0])
            result = self.sampler.fast(view.denoised, x * math.hypot(1, high), low, high, calls)
            return view.finished(result / math.hypot(1, low), x, view.start, view.schedule.t_min)
        sigmas = k_diffusion_peers.GRIDS[self.grid](table, self.sampler.steps(calls)).to(x.dtype)
        first = float(sigmas[0])
        result = self.sampler(view.denoised, x * math.hypot(1, first), sigmas)
        return view.finished(result, x, view.time_of_ratio(first), None)


def k_diffusion_all() -> Iterator[Peer]:
    for (name, sampler), grid in itertools.product(k_diffusion_peers.SAMPLERS.items(), k_diffusion_peers.GRIDS):
        yield KDiffusionPeer(f"k-diffusion {name} {grid}", sampler, grid)
    yield KDiffusionPeer("k-diffusion dpm_fast eta=0", Sampler("dpm_fast"), None)


PEERS: dict[str, Peer] = {peer.name: peer for peer in (*diffusers_all(), *k_diffusion_all())}


def traced_run(
    peer: Peer,
    schedule: NoiseSchedule,
    model: Model,
    x: torch.Tensor,
    calls: int,
    prediction: str | Prediction = "epsilon",
    start: float | None = None,
) -> Run:
    """A peer's run in at most `calls` model calls, with the levels where it began and ended.

    Parameters
    ----------
    peer:
        One of `PEERS`.
    schedule, model, prediction:
        Any schedule of the library, and the network as for `Plan.run`; a `Prediction` may clip. The model receives x
        and `t` `(B,)`, real numbers in x's dtype.
    x:
        The noise `(B, …)`: the state at `start`.
    start:
        The schedule's time of the peer's highest level; the schedule's t_max if it is None.

    Raises
    ------
    ValueError:
        If no number of steps fits the budget. The peers raise errors of their own for levels that they lack.
    """
    view = View(schedule, model, prediction, start)
    return peer.run(view, x / view.scale(view.start), calls)


def run(
    peer: Peer,
    schedule: NoiseSchedule,
    model: Model,
    x: torch.Tensor,
    calls: int,
    prediction: str | Prediction = "epsilon",
    start: float | None = None,
) -> torch.Tensor:
    """The result of `traced_run` alone."""
    return traced_run(peer, schedule, model, x, calls, prediction, start).result
