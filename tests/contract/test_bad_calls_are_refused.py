"""What is refused, how, and with which words: the table from which docs/errors.md is made.

    python tests/test_errors.py

writes the page anew.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import pndm_solvers
from pndm_solvers import analytic
from pndm_solvers.adapters import diffusers, k_diffusion

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "errors.md"


class Case(NamedTuple):
    """A call as the page shows it, its error, what the message must say, and the row's word on what to do."""

    call: str
    error: type[Exception]
    message: str
    remedy: str


NAMES: dict[str, Any] = {
    **vars(pndm_solvers),
    "np": np,
    "torch": torch,
    "nan": float("nan"),
    "schedule": pndm_solvers.NoiseSchedule.linear(),
    "flow": pndm_solvers.NoiseSchedule.rectified_flow(),
    "solver": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear()),
    "plan": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear()).plan(4),
    "noisy": pndm_solvers.DDPMSolver(pndm_solvers.NoiseSchedule.linear()).plan(4),
    "zero_snr": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear().rescale_zero_terminal_snr()).plan(4),
    "x": np.zeros((2, 3)),
    "model": lambda x, t: 0.5 * x,
    "small_model": lambda x, t: x[:1],
    "silent_model": lambda x, t: None,
    "sample_plms": k_diffusion.sample_plms,
    "PLMSScheduler": diffusers.PLMSScheduler,
    "Gaussian": analytic.Gaussian,
}

SECTIONS: dict[str, list[Case]] = {
    "Schedules": [
        Case("NoiseSchedule.linear('1000')", TypeError, "num_train_timesteps is '1000'", "pass the number"),
        Case("NoiseSchedule.linear(2.5)", ValueError, "num_train_timesteps is 2.5.*whole", "round it yourself"),
        Case("NoiseSchedule.linear(-3)", ValueError, "-3.*at least 1", "count the levels of the table"),
        Case("NoiseSchedule.linear(10**12)", ValueError, "at most 100000", "a table lies in memory"),
        Case("NoiseSchedule.linear(beta_end=2.0)", ValueError, r"betas must lie in \(0, 1\)", "betas are variances"),
        Case("NoiseSchedule.linear(beta_end=nan)", ValueError, "beta_end is nan", "look where it comes from"),
        Case("NoiseSchedule.cosine(offset=-1)", ValueError, "offset is -1", "leave it out"),
        Case("NoiseSchedule.from_betas([0.1, nan])", ValueError, r"betas\[1\] is not", "repair the table"),
        Case("NoiseSchedule.from_betas([0.1, -0.1])", ValueError, r"betas\[1\] is -0.1", "repair the table"),
        Case("NoiseSchedule.from_betas(['0.1'])", TypeError, "betas is .*real numbers", "convert texts to numbers"),
        Case("NoiseSchedule.from_alphas_cumprod([0.1, 0.9])", ValueError, "reverse it", "order it from data to noise"),
        Case("NoiseSchedule.from_config(5)", TypeError, "config is a int", "pass a dict or a path"),
        Case("NoiseSchedule.from_config('no.json')", FileNotFoundError, "config names no.json", "look at the path"),
        Case("NoiseSchedule.from_config({'beta_schedule': 'sigmoid'})", ValueError, "known are", "use `from_betas`"),
        Case("NoiseSchedule.from_config({'rescale_betas_zero_snr': 'no'})", TypeError, "True or False", "no text"),
        Case("NoiseSchedule.ve(2.0, 1.0)", ValueError, "sigma_min < sigma_max", "exchange them"),
        Case("NoiseSchedule.vp(t_min='0')", TypeError, "t_min is '0'", "pass the number"),
        Case("flow.rescale_zero_terminal_snr()", TypeError, "is continuous", "flow begins at α = 0 as it is"),
    ],
    "Times": [
        Case("schedule.alpha(1000)", ValueError, "t is 1000, outside the trained range", "0 to 999 for 1000 levels"),
        Case("flow.alpha(500)", ValueError, r"outside the trained range \[0.001, 1\]", "its times are 0.001 to 1"),
        Case("flow.sigma(nan)", ValueError, "t is nan, outside", "look where it comes from"),
        Case("schedule.log_snr([5, -2])", ValueError, "t is -2, outside", "clip the times yourself"),
        Case("schedule.rates('5')", TypeError, "t is '5'", "pass the number"),
        Case("schedule.alpha([True, False])", TypeError, "t is .*real numbers", "a mask is no time"),
        Case("schedule.level_at(0)", ValueError, "ratio is 0", "`schedule.clean` is the level"),
        Case("schedule.time_at(nan)", ValueError, "log_snr has entries that are not a number", "remove them"),
        Case("solver.plan(timesteps=[1, 2, 3])", ValueError, "timesteps must fall strictly", "reverse them"),
        Case("solver.plan(timesteps=[1200, 5])", ValueError, "a time of timesteps is 1200, outside", "0 to 999"),
        Case("solver.plan(timesteps=np.array([9, 9, 1], np.uint8))", ValueError, "fall strictly", "take each once"),
        Case("solver.plan(timesteps=['9', '5'])", TypeError, "timesteps is .*real numbers", "convert them"),
        Case("solver.plan(timesteps=[])", ValueError, "timesteps must give a non-empty", "at least one time"),
        Case("solver.plan(5, start=5000)", ValueError, "start is 5000, outside", "a time of the schedule"),
        Case("solver.plan(5, start='600')", TypeError, "start is '600'", "pass the number"),
        Case("solver.plan(5, stop=True)", TypeError, "stop is True", "pass a time"),
        Case("solver.plan(5, stop=999)", ValueError, "pass start= too", "give both for a run upwards"),
    ],
    "Methods and plans": [
        Case("DDIMSolver('linear')", TypeError, "schedule is a str", "make the schedule first"),
        Case("DDIMSolver(schedule, eta=nan)", ValueError, "eta is nan", "0 to 1"),
        Case("DDIMSolver(schedule, eta=1.5)", ValueError, r"eta is 1.5.*\[0, 1\]", "0 to 1"),
        Case("DDIMSolver(schedule, eta='0')", TypeError, "eta is '0'", "pass the number"),
        Case("DDPMSolver(schedule, 'learned')", ValueError, "variance is 'learned'", "one of the two"),
        Case("PLMSSolver(schedule, order=5)", ValueError, "order is 5.*at most 4", "1 to 4"),
        Case("PLMSSolver(schedule, order=True)", ValueError, "order is True", "1 to 4"),
        Case("PLMSSolver(schedule, starter=['rk4'])", TypeError, "starter is", "the name alone"),
        Case("PRKSolver(schedule, 'rk5')", ValueError, "tableau is 'rk5'", "make a `ButcherTableau`"),
        Case("ButcherTableau('own', [0, nan], [[], [1]], [0, 1])", ValueError, "c holds nan", "finite fractions"),
        Case("ButcherTableau('own', [0, 'x'], [[], [1]], [0, 1])", ValueError, "c holds 'x'", "'2/3', say"),
        Case("ButcherTableau('own', 0, [[]], [1])", TypeError, "c is 0", "a list of nodes"),
        Case("solver.plan()", ValueError, "exactly one of .* got none", "say how long the run is"),
        Case("solver.plan(5, max_model_calls=9)", ValueError, "exactly one of", "leave one out"),
        Case("solver.plan(0)", ValueError, "num_inference_steps is 0", "at least 1"),
        Case("solver.plan(2.5)", ValueError, "num_inference_steps is 2.5", "round it yourself"),
        Case("solver.plan('10')", TypeError, "num_inference_steps is '10'", "pass the number"),
        Case("solver.plan(10**9)", ValueError, "at most 100000", "a plan lies in memory"),
        Case("solver.plan(1001, spacing='leading')", ValueError, "1000 integer levels", "use another spacing"),
        Case("solver.plan(5, spacing='cubic')", ValueError, "spacing is 'cubic'", "one of `SPACINGS`"),
        Case("solver.plan(5, spacing=3)", TypeError, "spacing is 3", "a name, or a function"),
        Case("solver.plan(5, spacing=lambda *_: 'abc')", TypeError, "spacing is 'abc'", "return times"),
        Case("solver.plan(5, final=None)", TypeError, "final is None", "'clean' or 'first'"),
        Case("solver.plan(5, steps_offset=-1, spacing='leading')", ValueError, "steps_offset is -1", "0 or 1, mostly"),
        Case("solver.plan(5, steps_offset=1)", ValueError, "belongs to spacing='leading'", "leave it out"),
        Case("solver.plan(5, step_offset=1)", TypeError, "unexpected keyword", "look at the spelling"),
        Case("solver.plan_within('1', model, x)", TypeError, "tolerance is '1'", "pass the number"),
        Case("solver.plan_within(nan, model, x)", ValueError, "tolerance is nan", "0.01, say"),
        Case("solver.plan_within(0.1, model, x, timesteps=[5])", ValueError, "timesteps fix the length", "a spacing"),
        Case("solver.sample(model, x, 5, tolerance=0.1)", ValueError, "tolerance and num_inf", "leave one out"),
        Case("Plan(plan.rows, (0, 1, 0))", TypeError, "end is a tuple", "`Level(0, 1, 0)`"),
        Case("Plan([Row(5, '0.5', 0.5, [(0, 1)], [])], plan.end)", TypeError, "^alpha is '0.5'", "the number"),
        Case("Plan([Row(5, 0.5, 0.5, [(1, 1)], [])], plan.end)", ValueError, "states must name rows 0", "as it says"),
        Case("Plan.from_json('{}')", ValueError, "not the JSON of a plan", "`Plan.to_json()` writes one"),
        Case("make_grid('linear', 5)", TypeError, "schedule is a str", "make the schedule first"),
    ],
    "Running": [
        Case("plan.run(model, [[0.0]])", TypeError, "not a list", "`np.array(…)` of it"),
        Case("plan.run(model, np.zeros((2, 3), np.uint8))", TypeError, "uint8.*about", "`image / 127.5 - 1`"),
        Case("plan.run(model, torch.zeros(2, 3).to_sparse())", TypeError, "a dense array", "`.to_dense()`"),
        Case("plan.run(model, np.ma.array(x, mask=x > 0))", TypeError, "not a MaskedArray", "`.filled(…)`"),
        Case("plan.run(model, np.array(0.5))", ValueError, "batch first", "`x[None]`"),
        Case("plan.run(small_model, x)", ValueError, r"answered shape \(1, 3\)", "answer for the whole batch"),
        Case("plan.run(silent_model, x)", ValueError, "answered a NoneType", "return the answer"),
        Case("plan.run(lambda x, t: x > 0, x)", ValueError, "numbers of dtype bool", "answer floating numbers"),
        Case("plan.run(lambda x, t: torch.zeros(2, 3), x)", ValueError, "answered a Tensor", "`.numpy()`"),
        Case("plan.run(lambda x, t: x * nan, x)", FloatingPointError, "sample is not finite", "`check_finite=True`"),
        Case("plan.run(lambda x, t: x * nan, x, check_finite=True)", FloatingPointError, "at row 0", "see the message"),
        Case("plan.run(model, x, prediction='eps')", ValueError, "known are 'epsilon'", "one of the five"),
        Case("plan.run(model, x, prediction=5)", TypeError, "prediction is 5", "a name, or a `Prediction`"),
        Case("noisy.run(model, x, seed=1.5)", ValueError, "seed is 1.5", "a whole number"),
        Case("noisy.run(model, x, seed='1')", TypeError, "seed is '1'", "a whole number"),
        Case("noisy.run(model, x, seed=-1)", ValueError, "seed is -1.*at least 0", "0 or more"),
        Case("noisy.run(model, x, seed=[1, 2, 3])", ValueError, "3 entries for a batch of 2", "one for each sample"),
        Case("noisy.run(model, x, seed=1, generator=torch.Generator())", ValueError, "not both", "leave one out"),
        Case("noisy.run(model, x, generator=torch.Generator())", TypeError, "numpy.random.Generator", "as it says"),
        Case("noisy.run(model, x, generator=[np.random.default_rng(0)])", ValueError, "1 entries", "one for each"),
        Case("noisy.run(model, x, generator=[np.random.default_rng(0), None])", TypeError, "a NoneType", "two"),
        Case("zero_snr.run(model, x)", ValueError, "at t = 999: prediction is 'epsilon'", "`prediction=` as trained"),
        Case("plan.run(model, x, check_finite=1)", TypeError, "True, False or None", "`True`"),
        Case("plan.run(model, x, checkpoint=5)", TypeError, "checkpoint is 5.*path", "a file's name"),
        Case("plan.run(model, torch.ones(2, 3).requires_grad_(), checkpoint='a')", ValueError, "no_grad", "as it says"),
        Case("State.load('')", ValueError, "path is empty", "a file's name"),
        Case("State.load('~nobody-here/run')", ValueError, "no home is known", "the whole path"),
        Case("State.load('no.safetensors')", FileNotFoundError, "No such file", "look at the path"),
        Case("plan.run(model, x, callback=ErrorEstimate)", TypeError, "callback is the class", "`ErrorEstimate()`"),
        Case("advance_together(model, plan.start(x))", TypeError, "states is a State", "`[plan.start(x)]`"),
        Case("plan.advance(noisy.start(x), x)", ValueError, "the state is of", "its own plan"),
        Case("plan.advance(plan.start(x), x[:1])", ValueError, r"answered shape \(1, 3\)", "the whole batch"),
    ],
    "Predictions and noise": [
        Case("Prediction(['sample'])", TypeError, "prediction is", "the name alone"),
        Case("Prediction(clip=True)", TypeError, "clip is True", "1.0, say"),
        Case("Prediction(clip=-1)", ValueError, "clip is -1", "above 0"),
        Case("Prediction(threshold=nan)", ValueError, "threshold is nan", "0.995, say"),
        Case("Prediction('flow').convert('sample', x, x[:1], 0.6, 0.8)", ValueError, "answer is of shape", "alike"),
        Case("Prediction('flow').weights('picture', 0.6, 0.8)", ValueError, "wanted is 'picture'", "one of the two"),
        Case("plan.run(model, x, prediction=Prediction('epsilon', threshold=2))", ValueError, "threshold is 2", "to 1"),
        Case("classifier_free_guidance(model, None, 3.0)", TypeError, "unconditional is None", "pass both models"),
        Case("classifier_free_guidance(model, model, '3')", TypeError, "scale is '3'", "pass the number"),
        Case("classifier_free_guidance(model, small_model, 3.0)(x, 5)", ValueError, "unconditional's answer", "alike"),
        Case("schedule.add_noise(x, x[:1], 600)", ValueError, "noise is of shape", "noise for each sample"),
        Case("schedule.add_noise(x, torch.zeros(2, 3), 600)", TypeError, "arrays of one library", "convert one"),
        Case("schedule.add_noise(x.astype(int), x, 600)", TypeError, "x0 is of dtype int64", "`image / 127.5 - 1`"),
        Case("transfer(x, x, 900, 100)", TypeError, "here is a int.*schedule.level", "`schedule.level(900)`"),
        Case("slerp(x, x, '0.5')", TypeError, "weight is '0.5'", "pass the number"),
        Case("slerp(x, x[:1], 0.5)", ValueError, "b is of shape", "latents of one shape"),
        Case("initial_noise(5, seed=1)", TypeError, "shape is 5", "`(5,)`"),
        Case("initial_noise((2, 2.5), seed=1)", ValueError, "a length in shape is 2.5", "whole numbers"),
        Case("initial_noise((2, 3), seed=None)", TypeError, "seed is None", "a whole number"),
        Case("initial_noise((2, 3), 1, like=x[:1])", ValueError, "like has", "like's own shape"),
    ],
    "Ecosystems": [
        Case("sample_plms(model, x, torch.ones(1))", TypeError, "x is a ndarray", "`torch.from_numpy(x)`"),
        Case("sample_plms(model, torch.ones(2, 3), [2.0, 0.0])", TypeError, "sigmas is a list", "`torch.tensor(…)`"),
        Case("sample_plms(model, torch.ones(2, 3), torch.tensor([1.0, nan]))", ValueError, r"sigmas\[1\]", "repair it"),
        Case("sample_plms(None, torch.ones(2, 3), torch.tensor([1.0, 0.0]))", TypeError, "model is None", "a function"),
        Case("PLMSScheduler().set_timesteps(-3)", ValueError, "num_inference_steps is -3", "at least 1"),
        Case("PLMSScheduler(prediction_type='flow')", ValueError, "prediction_type is 'flow'", "one of the three"),
        Case("PLMSScheduler(beta_end=2.0)", ValueError, "betas must lie in", "betas are variances"),
        Case("PLMSScheduler().step(torch.ones(2, 3), 5, torch.ones(2, 3))", ValueError, "set_timesteps", "as it says"),
        Case("Gaussian([0, nan], [1, 1])", ValueError, "mean must be finite", "repair it"),
    ],
}  # fmt: skip

CASES = [case for section in SECTIONS.values() for case in section]

HEAD = """# Errors

What is wrong with a call is said by the call itself, before any model is asked where that can be known. Each message
names the argument, what came, what is allowed, and what to do. The wrong kind of thing is a `TypeError`, a wrong value
of the right kind a `ValueError`, a sample that is not finite a `FloatingPointError`, an optional dependency that is
not installed an `ImportError` with the command that installs it, a file that is not there an `OSError`. What a model
or another function of the caller's raises comes through as it is. A single step of arithmetic (`advance`, `add_noise`,
`transfer`) hands on a NaN that it is handed; a whole run (`run`, `sample`) refuses to return one. What is only likely
to be wrong is a warning: a plan that begins near the data or leaps over the levels that decide, times that look like
fractions of 1 on a table, and on a variance-exploding schedule a state far smaller than its noise.

Here `schedule` is `NoiseSchedule.linear()`, `flow` is `NoiseSchedule.rectified_flow()`, `plan` a plan of `PLMSSolver`,
`noisy` one of `DDPMSolver`, `zero_snr` one for zero terminal SNR, and `x` is `np.zeros((2, 3))`. This page is made by
`python tests/test_errors.py`.
"""


def raised(case: Case) -> Exception:
    with pytest.raises(case.error) as told:
        eval(case.call, dict(NAMES))
    return told.value


def page() -> str:
    lines = [HEAD]
    for section, cases in SECTIONS.items():
        lines += [f"## {section}\n", "| passed | raised | what it says | what to do |", "|---|---|---|---|"]
        for case in cases:
            message = str(raised(case)).replace("|", "\\|")
            lines.append(f"| `{case.call}` | {case.error.__name__} | `{message}` | {case.remedy} |")
        lines.append("")
    return "\n".join(lines)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.call)
def test_bad_input_is_refused_in_words(case):
    error = raised(case)
    assert type(error) is case.error
    assert re.search(case.message, str(error))
    assert "\n" not in str(error)


def test_the_page_is_what_the_calls_say():
    """Written anew by `python tests/test_errors.py`."""
    assert PAGE.read_text(encoding="utf-8") == page()


def bad_calls():
    spec = importlib.util.spec_from_file_location("bad_calls", ROOT / "benchmarks" / "bad_calls.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bad_calls"] = module  # where its dataclass looks it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="judge")
def _judge():
    return bad_calls()


def test_no_bad_call_passes_in_silence(judge):
    """Some hundred of the 10,000 of benchmarks/bad_calls.py."""
    assert judge.main(300, seed=5)["FAILED"] == 0


def test_the_judge_of_bad_calls_condemns(judge):
    """What it must not let pass: a raw error, NaN, a warning, silence, another answer, a call without end."""
    good = judge.Good("double", lambda eta: eta * 2, {"eta": 0.5})

    def verdict(function, eta):
        return judge.outcome(judge.Good("f", function, {"eta": 0.5}), {"eta": eta})

    assert judge.outcome(good, {"eta": np.array(0.25)}) == "the right answer"
    assert verdict(lambda eta: eta * 2, "0.5").startswith("FAILED: accepted in silence")
    assert verdict(lambda eta: 1 / eta, 0.0).startswith("FAILED")
    assert verdict(lambda eta: eta * float("inf") * 0, 1.0).startswith("FAILED: not finite")
    assert verdict(lambda eta: np.log(np.float64(eta)), 0.0).startswith("FAILED: no more than a warning")
    assert verdict(lambda eta: isinstance(eta, float), np.array(0.5)).startswith("FAILED: another answer")
    assert verdict(lambda eta: float(eta), "abc").startswith("FAILED: raw")
    judge.SECONDS = 0.05
    try:
        assert verdict(lambda eta: [None for _ in iter(int, 1)], 1.0).startswith("FAILED: over")
    finally:
        judge.SECONDS = 5


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
