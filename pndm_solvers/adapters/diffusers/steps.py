"""Steps of diffusers' interface: each is one row of a plan."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils.outputs import BaseOutput
from torch import Tensor

from pndm_solvers.adapters.diffusers.compiled import COMPILES, apart, compiled_step
from pndm_solvers.adapters.diffusers.configured import LEARNED
from pndm_solvers.adapters.diffusers.draws import PLAIN, Draw, mean_log_prob
from pndm_solvers.adapters.diffusers.lines import Arrays
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

KINDS = frozenset([torch.float16, torch.bfloat16, torch.float32, torch.float64])
Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(init=False)
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

    def __init__(self, prev_sample: Tensor, pred_original_sample: Tensor, log_prob: Tensor | None = None) -> None:
        # As BaseOutput would, whose own way through `__setattr__` takes as long as the sums of a small sample.
        entries = {"prev_sample": prev_sample, "pred_original_sample": pred_original_sample, "log_prob": log_prob}
        vars(self).update(entries)
        for name, value in entries.items():
            if value is not None:
                OrderedDict.__setitem__(self, name, value)


# What a step returns: the output, or its entries without a log_prob that is None.
StepResult = SchedulerOutput | tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor]


class Steps:
    """What turns a network's answers into the next sample, on the plan of a scheduler."""

    config: Any
    _runs: Runs
    _number: int  # see `compiled`

    @property
    def prediction(self) -> Prediction:
        """What the network's answers mean, and how the picture is kept in range."""
        raise NotImplementedError

    def _reading(self) -> tuple[Prediction, bool]:
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
        draw: Draw = PLAIN,
        solver: Solver | None = None,
        epsilon_as_answered: bool = False,
    ) -> StepResult:
        """One row of the plan of `solver`, by default the scheduler's own.

        With `epsilon_as_answered` a clipped picture is combined with the network's own ε, not with one derived anew.
        """
        if torch.compiler.is_compiling() and COMPILES:
            if draw is not PLAIN or solver is not None or _recorded(sample, model_output):
                step = model_output, timestep, sample, return_dict, draw, solver, epsilon_as_answered
                return apart(self._step, *step)
            following, x0 = compiled_step(self._number, model_output, timestep, sample, epsilon_as_answered)
            return SchedulerOutput(following, x0) if return_dict else (following, x0)
        alike = _are_alike(sample, model_output)
        if not alike:
            check_state("sample", sample)
        self._take_edited_sigmas()
        if self._runs.is_one_each(timestep, sample):
            check_together("model_output", self._epsilon_channels(model_output, sample), "sample", sample)
            return self._step_of_each(model_output, timestep, sample, return_dict, draw, solver, epsilon_as_answered)
        at = self._runs.position(timestep, sample, solver)
        table, log_prob = at.table, None
        prediction, as_it_is = self._reading()
        line = at.course.line(at.entry, prediction.type) if as_it_is and alike and draw is PLAIN else None
        if line is not None and (at.shape is None or (at.shape == sample.shape and at.dtype is sample.dtype)):
            following, x0, states, answers = line.step(sample, model_output, at.states, at.answers)
            dtype = sample.dtype
        else:
            following, x0, states, answers, log_prob = self._made(at, model_output, sample, draw, epsilon_as_answered)
            dtypes = {x.dtype for x in (*states.values(), *answers.values())}
            dtype = dtypes.pop() if len(dtypes) == 1 else None
        table.stepped = at.entry + 1
        if not table.memoryless:
            keeps = sample.shape if states or answers else None
            at = Position(table, at.course, at.entry + 1, states, answers, at.run, keeps, dtype)
            self._runs.remember(following, at, draw.prev_sample)
        if return_dict:
            return SchedulerOutput(following, x0, log_prob)
        return (following, x0) if log_prob is None else (following, x0, log_prob)

    def _made(
        self, at: Position, model_output: Tensor, sample: Tensor, draw: Draw, epsilon_as_answered: bool
    ) -> tuple[Tensor, Tensor, Arrays, Arrays, Tensor | None]:
        """The next sample, x̂_0, what later rows need, and the log-probability if it was asked for."""
        ours, table, states, answers = library(sample), at.table, at.states, at.answers
        plan, row = at.course.plan, at.course.rows[at.entry - at.course.begin]
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
            return sample.clone(), x0, states, answers, None
        if clips and epsilon_as_answered:
            epsilon = converted(ours, Prediction(prediction.type), "epsilon", sample, output, here)
            if draw.prev_sample is None:
                z = noise.draw(row, sample) if deviation else None
                following = _ddim_step(plan, row, x0, epsilon, z, sample.dtype)
            else:
                following = draw.prev_sample.to(sample.dtype, copy=True)
            if draw.log_prob:
                mean = _ddim_step(plan, row, x0, epsilon, None, wide)
                log_prob = mean_log_prob(row, mean, deviation, noise, following)
            return following, x0, states, answers, log_prob
        # A clipped picture counts as the network's prediction.
        prediction, output = (Prediction("sample"), x0) if clips else (prediction, output)
        answer = x0 if space == "sample" else converted(ours, prediction, space, sample, output, here)
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
        return following, x0, {i: x for i, x in after.states.items() if i != after.row}, after.answers, log_prob

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
        # Not a view, which would keep the others in memory.
        learned = self.config.get("variance_type") in LEARNED
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


def _recorded(*arrays: Tensor) -> bool:
    """Whether torch records a step of these arrays, to differentiate it later."""
    return torch.is_grad_enabled() and any(array.requires_grad for array in arrays)


def _are_alike(sample: Any, answer: Any) -> bool:
    """Whether a sample and an answer surely go together, with one of the usual dtypes."""
    if not (type(sample) is type(answer) is Tensor and (dtype := sample.dtype) is answer.dtype and dtype in KINDS):
        return False
    shape, strided = sample.shape, sample.layout is answer.layout is torch.strided
    here = (sample.is_cpu and answer.is_cpu) or sample.device == answer.device
    return here and strided and len(shape) > 0 and shape == answer.shape


def _ddim_step(plan: Plan, row: int, x0: Tensor, epsilon: Tensor, z: Tensor | None, dtype: torch.dtype) -> Tensor:
    """DDIM's eq. (12) for a picture and an ε that do not make up the sample: two answers, where a row has one.

    Without the noise `z` it is the mean of the step.
    """
    there, deviation = plan.levels[row + 1], plan.rows[row].noise
    parts, weights = [x0, epsilon], [there.alpha, remaining(there.sigma, deviation)]
    if z is not None:
        parts, weights = [*parts, z], [*weights, deviation]
    return combine(parts, weights, dtype=dtype)
