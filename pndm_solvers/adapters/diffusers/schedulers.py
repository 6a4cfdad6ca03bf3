"""The schedulers: PNDM, PLMS, DDIM and DDPM with diffusers' interface."""

from __future__ import annotations

import inspect
import math
from typing import Any, Literal, get_args

import diffusers
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler as Theirs
from torch import Tensor

from pndm_solvers.adapters.diffusers.draws import Draw, ScaledNoise
from pndm_solvers.adapters.diffusers.options import Shared, scheduler_options
from pndm_solvers.adapters.diffusers.runs import Position
from pndm_solvers.adapters.diffusers.scheduler import PlanScheduler
from pndm_solvers.adapters.diffusers.steps import Generators, StepResult
from pndm_solvers.arguments import choice
from pndm_solvers.latents import around
from pndm_solvers.methods import DDIMSolver, DDPMSolver, PLMSSolver, PNDMSolver
from pndm_solvers.methods.multistep import Starter
from pndm_solvers.noise import NoiseSource
from pndm_solvers.older import Unpack
from pndm_solvers.schedule import Level
from pndm_solvers.sde import forward_deviation, posterior_deviation
from pndm_solvers.solver import Solver
from pndm_solvers.spacings import DEFAULT_SPACING

__all__ = ["DDIMScheduler", "DDPMScheduler", "PLMSScheduler", "PNDMScheduler"]

VarianceType = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]

# Each `__init__` names the options that are its own, or whose default is; `scheduler_options` adds those of all.


class PNDMScheduler(PlanScheduler):
    """PNDM in the place of diffusers' `PNDMScheduler`: F-PNDM, or with `skip_prk_steps` latent diffusion's PLMS.

    It has the options and defaults of that class, and the options that it lacks: clipping, thresholding, sample
    prediction, zero terminal SNR, any spacing of `pndm_solvers.SPACINGS`, Karras' and exponential sigmas.

    F-PNDM takes N + 9 model calls for N steps, PLMS N + 1. `timesteps` holds the times of the Runge–Kutta or Heun
    stages too. A run that begins further down has one call for each time that is left: it starts with orders 1, 2, 3.
    Reference: Liu et al. (2022), eq. (9), (12) and (13); `pndm_solvers.PNDMSolver`.
    """

    @scheduler_options()
    def __init__(
        self,
        skip_prk_steps: bool = False,
        set_alpha_to_one: bool = False,
        timestep_spacing: str = "leading",
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        **shared: Unpack[Shared],
    ) -> None: ...

    def _solver(self) -> Solver:
        if self.config.skip_prk_steps:
            return PLMSSolver(self.schedule, starter="heun", weights="classical")
        return PNDMSolver(self.schedule)

    def _continuation(self, solver: Solver) -> Solver:
        return PLMSSolver(self.schedule, weights="classical")

    def step_prk(self, *arguments: Any, **options: Any) -> StepResult:
        """`step`, which finds by itself in which part of a run it is; the name is diffusers'."""
        return self.step(*arguments, **options)

    step_plms = step_prk

    @property
    def prk_timesteps(self) -> Tensor:
        """The part of `timesteps` for the Runge–Kutta steps: empty with `skip_prk_steps`."""
        return self.timesteps[: 0 if self.config.skip_prk_steps else 12]

    @property
    def plms_timesteps(self) -> Tensor:
        """The part of `timesteps` for the multistep method."""
        return self.timesteps[len(self.prk_timesteps) :]


class PLMSScheduler(PlanScheduler):
    """The library's default method in diffusers' pipelines: exact linear multistep, N model calls for N steps.

    `multistep_order`, `starter` and `weights` are the options of `pndm_solvers.PLMSSolver`; the others are as in
    `PNDMScheduler`. The default spacing, "default", has times between the integers, which networks with a sinusoidal
    embedding of time take. A config that names a spacing keeps it, unless `timestep_spacing="default"` is passed with
    the config. `data_range` is one to two deviations of the data: `pndm_solvers.grid.make_grid`.
    """

    @scheduler_options()
    def __init__(
        self,
        multistep_order: int = 4,
        starter: Starter = "ramp",
        weights: Literal["exact", "classical"] = "exact",
        set_alpha_to_one: bool = True,
        timestep_spacing: str = DEFAULT_SPACING,
        data_range: float = 1.0,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        **shared: Unpack[Shared],
    ) -> None: ...

    @classmethod
    def _understood(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Without an end that another class left behind: those that have no such option end at the picture."""
        origin = getattr(diffusers, str(config.get("_class_name")), None)
        foreign = origin is not None and "set_alpha_to_one" not in inspect.signature(origin.__init__).parameters
        return {key: value for key, value in config.items() if not (foreign and key == "set_alpha_to_one")}

    def _solver(self) -> Solver:
        config = self.config
        return PLMSSolver(self.schedule, config.multistep_order, config.starter, config.weights)

    def _continuation(self, solver: Solver) -> Solver:
        return PLMSSolver(self.schedule, self.config.multistep_order, "ramp", self.config.weights)

    @property
    def init_noise_sigma(self) -> float:  # type: ignore[override]
        """What pipelines multiply noise by: 1, or with a `data_range` below 1 the share of noise in the first level."""
        if self.config.data_range >= 1 or self.num_inference_steps is None:
            return 1.0
        first = self.plan.levels[0]
        return first.sigma / math.hypot(first.alpha, first.sigma)

    def noise_around(self, data_mean: Any, noise: Tensor) -> Tensor:
        """Where the run of the last `set_timesteps` begins on data far from 0: α·mean + σ·noise, like `noise` `(B, …)`.

        Pass it to a pipeline as `latents=`, with as many steps. The pipeline's own noise is around 0, which leaves out
        a part of the mean. `data_mean` is a number, or a tensor that broadcasts to `noise`; ValueError otherwise, and
        before `set_timesteps`.
        """
        return around(data_mean, noise, self.plan.levels[0])


class DDIMScheduler(PlanScheduler, Theirs):  # type: ignore[misc] — `config` as in `ForwardProcess`
    """DDIM in the place of diffusers' `DDIMScheduler`, with its options and defaults.

    A step needs no more than its own sample, so steps can be taken at any of `timesteps`, in any order. It is also an
    instance of diffusers' class, for which some programs ask.
    Reference: Song, Meng and Ermon (2021), eq. (12) and (16); `pndm_solvers.DDIMSolver`.
    """

    @scheduler_options()
    def __init__(
        self,
        clip_sample: bool = True,
        set_alpha_to_one: bool = True,
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        **shared: Unpack[Shared],
    ) -> None: ...

    def _solver(self, eta: float = 0.0) -> Solver:
        return DDIMSolver(self.schedule, eta)

    def step(  # type: ignore[override] — the class of the output
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        eta: float = 0.0,
        use_clipped_model_output: bool = False,
        generator: Generators = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
        *,
        prev_sample: Tensor | None = None,
        log_prob: bool = False,
    ) -> StepResult:
        """The next sample.

        Parameters
        ----------
        model_output, sample, timestep:
            The network's answer at `sample`, both `(B, …)`, and at `timestep`, any of `timesteps`, or a tensor `(B,)`
            with one for each sample.
        eta:
            How much of ε is replaced by fresh noise, 0 to 1.
        use_clipped_model_output:
            Where the picture is clipped, derive ε anew from it, as all solvers of this library do. Without it, as in
            diffusers, the network's own ε is combined with the clipped picture.
        generator, variance_noise:
            What the noise is drawn from, one generator or one for each sample; or the noise itself, `(B, …)`.
        return_dict:
            Whether to return a `SchedulerOutput`, or a tuple of its entries: two, and with `log_prob` three.
        prev_sample:
            A sample `(B, …)` of an earlier run, which takes the place of a draw; `log_prob` is then its own.
        log_prob:
            Whether the output has `log_prob` `(B,)`: the logarithm of the normal density of `prev_sample`, a mean over
            all dimensions but the batch, as DDPO's code has it. It holds the gradients of `model_output`, and the
            sample counts as a constant.

        Raises
        ------
        ValueError:
            For a time that is none of `timesteps`, an answer of another shape, an eta outside [0, 1], several of
            `generator`, `variance_noise` and `prev_sample`, and a log-probability of a step without noise.
        """
        draw = Draw.of(generator, variance_noise, prev_sample, log_prob)
        solver = None if type(eta) in (int, float) and eta == 0 else self._solver(eta)  # None for the table's own
        return self._step(model_output, timestep, sample, return_dict, draw, solver, not use_clipped_model_output)

    def _get_variance(self, timestep: Any, prev_timestep: Any) -> Tensor:
        """β̃ of the step between two times, the variance of DDIM's noise at η = 1; programs read it by this name."""
        here, there = (
            self.schedule.level(float(t)) if t >= 0 else Level(float(t), float(self.final_alpha_cumprod) ** 0.5, 0.0)
            for t in (timestep, prev_timestep)
        )
        there = there._replace(sigma=(1 - there.alpha**2) ** 0.5)
        return torch.tensor(posterior_deviation(here, there) ** 2, dtype=torch.float32)


class DDPMScheduler(PlanScheduler):
    """Ancestral sampling in the place of diffusers' `DDPMScheduler`, with its options and defaults.

    A step needs no more than its own sample, so steps can be taken at any of `timesteps`, in any order. Without
    `set_timesteps` the times are all that the network was trained for. The last step, to the picture, adds no noise.
    The `_log` variances are the same numbers; "learned" and "learned_range" take them from the second half of the
    network's channels. Reference: Ho, Jain and Abbeel (2020), eq. (6) and (7); Nichol and Dhariwal (2021), eq. (15);
    `pndm_solvers.DDPMSolver`.
    """

    @scheduler_options()
    def __init__(
        self,
        variance_type: VarianceType = "fixed_small",
        clip_sample: bool = True,
        clip_sample_range: float = 1.0,
        timestep_spacing: str = "leading",
        **shared: Unpack[Shared],
    ) -> None: ...

    def _end(self) -> Literal["clean", "first"]:
        return "clean"

    def _solver(self) -> Solver:
        choice("variance_type", self.config.variance_type, get_args(VarianceType))
        return DDPMSolver(self.schedule, "fixed_large" if "large" in self.config.variance_type else "fixed_small")

    def step(  # type: ignore[override] — the order of diffusers' arguments
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        *,
        prev_sample: Tensor | None = None,
        log_prob: bool = False,
    ) -> StepResult:
        """The next sample, from the network's answer at `sample` `(B, C, …)` and `timestep`, one of `timesteps`.

        With a learned variance the answer is `(B, 2C, …)`. `generator` is what the noise is drawn from, one or
        one for each sample. A time for each sample, `prev_sample` and `log_prob` are as in `DDIMScheduler.step`; a
        learned variance has its part in the density.

        Raises ValueError for a time that is none of `timesteps`, for an answer of another shape, and for a
        log-probability of a step without noise.
        """
        if self._runs.table is None:
            self.set_timesteps(timesteps=self.timesteps)
        draw = Draw.of(generator, None, prev_sample, log_prob)
        return self._step(model_output, timestep, sample, return_dict, draw)

    def previous_timestep(self, timestep: Any) -> Tensor:
        """Where the step from `timestep`, one of `timesteps`, ends: the next of them, or −1 after the last."""
        following = torch.cat([self.timesteps, self.timesteps.new_tensor([-1])])
        return following[1:][self.timesteps == timestep][0]

    def _noise(self, at: Position, model_output: Tensor, sample: Tensor, noise: NoiseSource) -> NoiseSource:
        """With a learned variance, noise of the network's own deviation: Nichol and Dhariwal (2021), eq. (15)."""
        plan, variance = at.table.plan, self.config.variance_type
        here, there, own = plan.levels[at.entry], plan.levels[at.entry + 1], plan.rows[at.entry].noise
        if not variance.startswith("learned"):
            return noise
        answered = model_output[:, sample.shape[1] :]
        if answered.shape != sample.shape:
            raise ValueError(
                f"variance_type is {variance!r}, for which the network answers twice the channels of its sample, "
                f"(B, {2 * sample.shape[1]}, …), not {tuple(model_output.shape)}; with another network choose "
                f"'fixed_small' or 'fixed_large'"
            )
        if variance == "learned":
            deviation = answered.sqrt() / own  # in units of the row's own
        else:  # between β̃, the row's own, and β of the step, in logarithms
            deviation = (forward_deviation(here, there) / own) ** ((answered + 1) / 2)
        return ScaledNoise(source=noise, scale=deviation)
