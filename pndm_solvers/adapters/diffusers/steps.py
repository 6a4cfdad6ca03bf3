"""Steps of diffusers' interface: each is one row of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from pndm_solvers.adapters.diffusers.draws import Draw, mean_log_prob
from pndm_solvers.adapters.diffusers.runs import Position, Runs
from pndm_solvers.arrays import check_state, check_together, combine, library
from pndm_solvers.latents import converted
from pndm_solvers.noise import NoiseSource
from pndm_solvers.plan import Plan, State
from pndm_solvers.prediction import Prediction
from pndm_solvers.schedule import Level
from pndm_solvers.sde import remaining
from pndm_solvers.solver import Solver

__all__ = ["Generators", "SchedulerOutput", "StepResult", "Steps"]

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class SchedulerOutput(BaseOutput):
    """The result of a step.

    Attributes
    ----------
    prev_sample:
        `(B, …)`, the sample for the next model call.
    pred_original_sample:
        `(B, …)`, the picture x̂_0 that the network sees in this step's sample, clipped where the options say so.
    log_prob:
        `(B,)`, the logarithm of the density of `prev_sample`, a mean over all dimensions but the batch; None unless it
        was asked for. See `DDIMScheduler.step`.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor
    log_prob: Tensor | None = None


# What a step returns: the output, or its entries without a log_prob that is None.
StepResult = SchedulerOutput | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


class Steps:
    """What turns a network's answers into the next sample, on the plan of a scheduler."""

    config: Any
    _runs: Runs

    @property
    def prediction(self) -> Prediction:
        """What the network's answers mean, and how the picture is kept in range."""
        raise NotImplementedError

    def _take_edited_sigmas(self) -> None:
        raise NotImplementedError

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool = True,
        *,
        generator: Generators = None,
    ) -> StepResult:
        """The next sample, from the network's answer at `sample` `(B, …)` and `timestep`, the next of `timesteps`.

        `generator` is for callers that pass it to every scheduler; nothing is drawn from it.

        Raises ValueError for another time than the run's next, naming it, and for an answer of another shape.
        """
        return self._step(model_output, timestep, sample, return_dict)

    def _step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        return_dict: bool,
        draw: Draw = Draw(),  # noqa: B008 — a value, never changed
        solver: Solver | None = None,
        epsilon_as_answered: bool = False,
    ) -> StepResult:
        """One row of the plan of `solver`, by default the scheduler's own.

        With `epsilon_as_answered` a clipped picture is combined with the network's own ε, not with one derived anew.
        """
        ours = library(sample)
        if not (
            type(sample) is Tensor and sample.layout is torch.strided and sample.is_floating_point() and sample.ndim
        ):
            check_state("sample", sample)  # only then, since it takes as long as a sum
        self._take_edited_sigmas()
        if self._runs.is_one_each(timestep, sample):
            check_together("model_output", self._epsilon_channels(model_output, sample), "sample", sample)
            return self._step_of_each(model_output, timestep, sample, return_dict, draw, solver, epsilon_as_answered)
        at = self._runs.position(timestep, sample, solver)
        table, states, answers = at.table, at.states, at.answers
        plan, rows = table.plan_from(at.begin, at.solver)
        row = rows[at.entry - at.begin]
        output = self._epsilon_channels(model_output, sample)
        if not ours.alike(output, sample):
            check_together(f"model_output at t = {table.asked[at.entry]:g}", output, "sample", sample)
        if at.shape is not None and at.shape != sample.shape:
            raise ValueError(f"the sample is of shape {tuple(sample.shape)}, its run so far was not; keep to one batch")
        number = plan.times.index(table.plan.times[at.entry]) if row is None else row
        here, space, deviation = plan.levels[number], plan.rows[number].space, plan.rows[number].noise
        output, prediction = self._preconditioned(output, sample, here), self.prediction
        clips = prediction.clip is not None or prediction.threshold is not None
        x0 = converted(ours, prediction, "sample", sample, output, here)
        noise = self._noise(at, model_output, sample, draw.noise) if deviation else draw.noise
        draw.check(noise, deviation, sample, table.asked[at.entry])
        log_prob, wide = None, ours.wide_dtype(sample)  # the mean has this dtype where a probability is asked for
        if row is None:
            following = sample.clone()
        elif clips and epsilon_as_answered:
            epsilon = converted(ours, Prediction(prediction.type), "epsilon", sample, output, here)
            if draw.prev_sample is None:
                z = noise.draw(row, sample) if deviation else None
                following = _ddim_step(plan, row, x0, epsilon, z, sample.dtype)
            else:
                following = draw.prev_sample.to(sample.dtype, copy=True)
            if draw.log_prob:
                mean = _ddim_step(plan, row, x0, epsilon, None, wide)
                log_prob = mean_log_prob(row, mean, deviation, noise, following)
        else:
            # A clipped picture counts as the network's prediction.
            prediction, output = (Prediction("sample"), x0) if clips else (prediction, output)
            answer = converted(ours, prediction, space, sample, output, here)
            # Copies of what later rows need, since the caller may write into its own tensors.
            dead_states, dead_answers = plan.last_uses[row]
            if row not in dead_answers and (answer is model_output or answer is x0):
                answer = answer.clone()
            kept = sample if row in dead_states else sample.clone()
            before = State(plan, row, {**states, row: kept}, answers, prediction, noise, sample.dtype, ours)
            after = before.combined(answer, draw.prev_sample)
            following = after.states[after.row]
            if draw.log_prob:
                mean = before.at(row, {**before.states, row: ours.cast(kept, wide)}, answers).mean(answer)
                log_prob = mean_log_prob(row, mean, deviation, noise, following)
            states, answers = {i: x for i, x in after.states.items() if i != after.row}, after.answers
        table.stepped = at.entry + 1
        if not table.memoryless:
            keeps = sample.shape if states or answers else None
            at = Position(table, at.solver, at.begin, at.entry + 1, states, answers, at.run, keeps)
            self._runs.remember(following, at, draw.prev_sample)
        if return_dict:
            return SchedulerOutput(following, x0, log_prob)
        return (following, x0) if log_prob is None else (following, x0, log_prob)

    def _step_of_each(
        self, model_output: Tensor, times: Tensor, sample: Tensor, return_dict: bool, draw: Draw, *more: Any
    ) -> StepResult:
        """A step with a time for each sample: those that share a time take it together."""
        on_host = times.detach().cpu()
        distinct = on_host.unique()
        groups = [(on_host == t).nonzero().flatten().to(sample.device) for t in distinct]
        steps = [
            self._step(model_output[index], t, sample[index], False, own, *more)
            for t, index, own in zip(distinct.tolist(), groups, draw.picked(groups, sample), strict=True)
        ]
        back = torch.cat(groups).argsort()
        result = SchedulerOutput(*(torch.cat(parts)[back] for parts in zip(*steps, strict=True)))
        return result if return_dict else result.to_tuple()

    def _noise(self, at: Position, model_output: Tensor, sample: Tensor, noise: NoiseSource) -> NoiseSource:
        """The noise of the step at `at`, made from the caller's `noise`."""
        return noise

    def _epsilon_channels(self, model_output: Tensor, sample: Tensor) -> Tensor:
        """The answer without the channels of a learned variance, which DDPM alone uses."""
        variance = self.config.get("variance_type")
        # Not a view, which would keep the others in memory.
        learned = variance in ("learned", "learned_range")
        return model_output[:, : sample.shape[1]].clone() if learned else model_output

    def _preconditioned(self, answer: Tensor, sample: Tensor, here: Level) -> Tensor:
        """The answer as `prediction` has it: EDM's as the picture, a flow towards the picture as one from it.

        Karras et al. (2022), eq. (7), where the network's input is the sample: c_skip·x/c_in = σ_data²·α·x, and c_out =
        σ_data·σ in units of the sample. diffusers changes its sign for a v-prediction.
        """
        if self.config.timestep_type == "edm":
            data, sign = self.config.sigma_data, -1.0 if self.config.prediction_type == "v_prediction" else 1.0
            return combine([sample, answer], [data**2 * here.alpha, sign * data * here.sigma])
        return -answer if self.config.invert_sigmas else answer


def _ddim_step(plan: Plan, row: int, x0: Tensor, epsilon: Tensor, z: Tensor | None, dtype: torch.dtype) -> Tensor:
    """DDIM's eq. (12) for a picture and an ε that do not make up the sample: two answers, where a row has one.

    Without the noise `z` it is the mean of the step.
    """
    there, deviation = plan.levels[row + 1], plan.rows[row].noise
    parts, weights = [x0, epsilon], [there.alpha, remaining(there.sigma, deviation)]
    if z is not None:
        parts, weights = [*parts, z], [*weights, deviation]
    return combine(parts, weights, dtype=dtype)
