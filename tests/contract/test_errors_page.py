"""Wrong calls, their errors and the remedies: the table from which docs/reference/errors.md is made.

    python tests/contract/test_errors_page.py

writes the page.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import pndm_solvers
from pndm_solvers import analytic, measure
from pndm_solvers.adapters import diffusers, k_diffusion

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"


class Case(NamedTuple):
    """A call as the page shows it, its error, a pattern in the message, and the remedy that the page gives."""

    call: str
    error: type[Exception]
    message: str
    remedy: str


class Forgetful(pndm_solvers.Observer):
    def begin(self, state):
        pass

    def __repr__(self):
        return "<Forgetful>"


NAMES: dict[str, Any] = {
    **{name: getattr(pndm_solvers, name) for name in pndm_solvers.__all__},
    "np": np,
    "torch": torch,
    "nan": float("nan"),
    "schedule": pndm_solvers.NoiseSchedule.linear(),
    "flow": pndm_solvers.NoiseSchedule.rectified_flow(),
    "solver": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear()),
    "plan": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear()).plan(4),
    "noisy": pndm_solvers.DDPMSolver(pndm_solvers.NoiseSchedule.linear()).plan(4),
    "zero_snr": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear().rescale_zero_terminal_snr()).plan(
        4, start="top"
    ),
    "x": np.zeros((2, 3)),
    "model": lambda x, t: 0.5 * x,
    "small_model": lambda x, t: x[:1],
    "silent_model": lambda x, t: None,
    "forgetful": Forgetful(),
    "sample_plms": k_diffusion.sample_plms,
    "PLMSScheduler": diffusers.PLMSScheduler,
    "Gaussian": analytic.Gaussian,
    "compare": measure.compare,
    "skipping": lambda schedule, steps, end: [999.0, 950.0, 900.0, 5.0, 2.0],
    "noise": pndm_solvers.initial_noise((200, 2), seed=1),
    "cosine": pndm_solvers.NoiseSchedule.cosine(),
    "centred": analytic.Gaussian([0.0, 0.0], [[0.3, 0.1], [0.1, 0.2]]).model(pndm_solvers.NoiseSchedule.linear()),
    "bright": analytic.Gaussian([4.0, 0.0], [[0.3, 0.1], [0.1, 0.2]]).model(pndm_solvers.NoiseSchedule.linear()),
    "pictures": pndm_solvers.initial_noise((4, 1, 16, 16), seed=1),
    "dark": analytic.Gaussian(np.full(256, -3.0), np.full(256, 2.0)).model(pndm_solvers.NoiseSchedule.linear()),
    "large": analytic.Gaussian([0.0, 0.0], [64.0, 64.0]).model(pndm_solvers.NoiseSchedule.linear()),
    "ve": pndm_solvers.NoiseSchedule.ve(0.01, 50.0),
    "exploding": analytic.Gaussian([0.0, 0.0], [1.0, 1.0]).model(pndm_solvers.NoiseSchedule.ve(0.01, 50.0)),
    "latents": pndm_solvers.PLMSSolver(pndm_solvers.NoiseSchedule.linear()).sample(
        analytic.Gaussian([4.0, 0.0], [[0.3, 0.1], [0.1, 0.2]]).model(pndm_solvers.NoiseSchedule.linear()),
        np.array([[4.3, 0.2], [3.7, -0.1]]),
        20,
        start=0.0,
        stop=999.0,
    ),
}

SECTIONS: dict[str, list[Case]] = {
    "Schedules": [
        Case("NoiseSchedule.linear('1000')", TypeError, "num_train_timesteps is '1000'", "pass a number"),
        Case("NoiseSchedule.linear(beta_end=2.0)", ValueError, r"betas must lie in \(0, 1\)", "betas are variances"),
        Case("NoiseSchedule.from_betas([0.1, nan])", ValueError, r"betas\[1\] is nan", "find the NaN"),
        Case(
            "NoiseSchedule.from_alphas_cumprod([0.1, 0.9])",
            ValueError,
            "reverse it",
            "order the table from data to noise",
        ),
        Case("NoiseSchedule.from_config('no.json')", FileNotFoundError, "config names no.json", "check the path"),
        Case("NoiseSchedule.from_config({'beta_schedule': 'cubic'})", ValueError, "known are", "use `from_betas`"),
        Case(
            "NoiseSchedule.from_config({'rescale_betas_zero_snr': 'no'})",
            TypeError,
            "True or False",
            "pass True or False",
        ),
        Case("NoiseSchedule.ve(2.0, 1.0)", ValueError, "sigma_min < sigma_max", "swap them"),
        Case("flow.rescale_zero_terminal_snr()", TypeError, "is continuous", "rectified flow starts at α = 0 already"),
    ],
    "Times": [
        Case("schedule.alpha(1000)", ValueError, "t is 1000, outside the trained range", "pass 0 to 999"),
        Case("flow.alpha(500)", ValueError, r"outside the trained range \[0.001, 1\]", "pass 0.001 to 1"),
        Case("schedule.level_at(0)", ValueError, "ratio is 0", "use `schedule.clean`"),
        Case("solver.plan(timesteps=[1, 2, 3])", ValueError, "timesteps must fall strictly", "reverse the list"),
        Case("solver.plan(timesteps=[])", ValueError, "timesteps must give a non-empty", "pass at least one time"),
        Case("solver.plan(5, start=5000)", ValueError, "start is 5000, outside", "pass a time of the schedule"),
        Case("solver.plan(5, stop=999)", ValueError, "pass start= too", "pass both `start` and `stop`"),
    ],
    "Methods and plans": [
        Case("DDIMSolver('linear')", TypeError, "schedule is a str", "make the schedule first"),
        Case("DDIMSolver(schedule, eta=1.5)", ValueError, r"eta is 1.5.*\[0, 1\]", "pass 0 to 1"),
        Case("PNDMSolver(schedule, order=3)", ValueError, "order is 3", "use `PLMSSolver` for other orders"),
        Case("PRKSolver(schedule, 'rk5')", ValueError, "tableau is 'rk5'", "make a `ButcherTableau`"),
        Case(
            "ButcherTableau('own', [0, 'x'], [[], [1]], [0, 1])",
            ValueError,
            "c holds 'x'",
            "pass a number, or a text such as '2/3'",
        ),
        Case("solver.plan()", ValueError, "exactly one of .* got none", "pass one of the three"),
        Case("solver.plan(5, max_model_calls=9)", ValueError, "exactly one of", "leave one out"),
        Case("solver.plan(0)", ValueError, "num_inference_steps is 0", "pass 1 or more"),
        Case("solver.plan(2.5)", ValueError, "num_inference_steps is 2.5", "round it"),
        Case("solver.plan(10**9)", ValueError, "at most 100000", "pass fewer steps"),
        Case("solver.plan(1001, spacing='leading')", ValueError, "1000 integer levels", "use another spacing"),
        Case("solver.plan(5, data_range=0)", ValueError, "data_range is 0; it must be", "one to two deviations"),
        Case("solver.plan(5, data_range=1e-9)", ValueError, "drowns such data", "one to two deviations"),
        Case("solver.plan(5, spacing='cubic')", ValueError, "spacing is 'cubic'", "one of `SPACINGS`"),
        Case("solver.plan(5, spacing=lambda *_: 'abc')", TypeError, "spacing is 'abc'", "return the times"),
        Case("solver.plan(5, spacing=np.array([900, 500]))", TypeError, "or one of default", "pass `timesteps=`"),
        Case("solver.plan(5, steps_offset=1)", ValueError, "belongs to spacing='leading'", "leave it out"),
        Case("solver.plan(5, step_offset=1)", TypeError, "unexpected keyword", "check the spelling"),
        Case("solver.plan_within(nan, model, x)", ValueError, "tolerance is nan", "pass a number such as 0.01"),
        Case(
            "solver.plan_within(0.1, model, x, timesteps=[5])",
            ValueError,
            "timesteps fix the length",
            "pass a spacing instead",
        ),
        Case(
            "Plan([Row(5, 0.5, 0.5, [(1, 1)], [])], plan.end)",
            ValueError,
            "states must name rows 0",
            "name earlier rows only",
        ),
        Case("Plan.from_json('{}')", ValueError, "not the JSON of a plan", "pass the text of `Plan.to_json()`"),
    ],
    "Running": [
        Case("plan.run(model, [[0.0]])", TypeError, r"is \[\[0.0\]\], a list", "pass `np.array(…)`"),
        Case("plan.run(model, np.zeros((2, 3), np.uint8))", TypeError, "uint8.*about", "pass `image / 127.5 - 1`"),
        Case("plan.run(model, torch.zeros(2, 3).to_sparse())", TypeError, "a dense floating", "pass `x.to_dense()`"),
        Case("plan.run(model, np.array(0.5))", ValueError, "batch first", "pass `x[None]`"),
        Case(
            "plan.run(small_model, x)",
            ValueError,
            r"answer .* of shape \(1, 3\)",
            "answer for the whole batch",
        ),
        Case("plan.run(silent_model, x)", TypeError, "at t = 885.45, the model's answer is None", "return the answer"),
        Case(
            "plan.run(lambda x, t: torch.zeros(2, 3), x)",
            TypeError,
            "at t = 885.45, the model's answer is a Tensor",
            "return an array of x's library",
        ),
        Case(
            "plan.run(lambda x, t: x * nan, x)",
            FloatingPointError,
            "sample is not finite",
            "find the row with `check_finite=True`",
        ),
        Case("plan.run(model, x, prediction='eps')", ValueError, "known are 'epsilon'", "pass one of the five names"),
        Case("noisy.run(model, x, seed=-1)", ValueError, "seed is -1.*at least 0", "pass 0 or more"),
        Case("noisy.run(model, x, seed=[1, 2, 3])", ValueError, "3 entries for a batch of 2", "one for each sample"),
        Case("noisy.run(model, x, seed=1, generator=torch.Generator())", ValueError, "not both", "leave one out"),
        Case(
            "noisy.run(model, x, generator=torch.Generator())",
            TypeError,
            "numpy.random.Generator",
            "pass a NumPy generator",
        ),
        Case(
            "zero_snr.run(model, x)",
            ValueError,
            "at t = 999: prediction is 'epsilon'",
            "pass the `prediction=` of the network",
        ),
        Case(
            "plan.run(model, x, condition={'label': np.zeros(3)})",
            ValueError,
            "condition 'label' is of shape",
            "one row for each sample",
        ),
        Case("plan.run(model, x, checkpoint=5)", TypeError, "checkpoint is 5.*path", "pass a path"),
        Case("State.load('no.safetensors')", FileNotFoundError, "No such file", "check the path"),
        Case("plan.run(model, x, callback=ErrorEstimate)", TypeError, "callback is the class", "`ErrorEstimate()`"),
        Case(
            "plan.run(model, x, callback=forgetful)",
            TypeError,
            "begin .* returned None",
            "end `begin` with `return state`",
        ),
        Case("advance_together(model, plan.start(x))", TypeError, "states is a State", "pass `[plan.start(x)]`"),
        Case("Batcher(model, 8).submit(plan)", TypeError, "it must be what plan.start", "pass `plan.start(x)`"),
        Case("Batcher(model, 1).submit(plan.start(x))", ValueError, "a batch of 2, and a call at most", "split it"),
        Case(
            "Batcher(model, 8, batch_sizes=[4])", ValueError, "the largest of batch_sizes is 4", "end with max_samples"
        ),
        Case("plan.advance(noisy.start(x), x)", ValueError, "the state is of", "advance it with its own plan"),
    ],
    "Predictions and noise": [
        Case("Prediction(clip=-1)", ValueError, "clip is -1", "pass a number above 0"),
        Case(
            "convert(Prediction('flow'), 'sample', x, x[:1], 0.6, 0.8)",
            ValueError,
            "answer is of shape",
            "pass arrays of one shape",
        ),
        Case("convert('flow', 'score', x, x, 0.6, 0.8)", ValueError, "wanted is 'score'", "'epsilon' or 'sample'"),
        Case(
            "plan.run(model, x, prediction=Prediction('epsilon', threshold=2))",
            ValueError,
            "threshold is 2",
            "pass a fraction up to 1",
        ),
        Case(
            "classifier_free_guidance(model, None, 3.0)",
            TypeError,
            "unconditional is None",
            "pass what the model receives without a condition",
        ),
        Case("add_noise(schedule, x, x[:1], 600)", ValueError, "noise is of shape", "pass noise of the shape of x0"),
        Case("transfer(x, x, 900, 100)", TypeError, "here is a int.*schedule.level", "pass `schedule.level(900)`"),
        Case("initial_noise(5, seed=1)", TypeError, "shape is 5", "pass `(5,)`"),
    ],
    "Ecosystems": [
        Case("sample_plms(model, x, torch.ones(1))", TypeError, "x is a ndarray", "pass `torch.from_numpy(x)`"),
        Case(
            "sample_plms(model, torch.ones(2, 3), torch.tensor([1.0, nan]))", ValueError, r"sigmas\[1\]", "find the NaN"
        ),
        Case("sample_plms(None, torch.ones(2, 3), torch.tensor([1.0, 0.0]))", TypeError, "model is None", "a function"),
        Case(
            "PLMSScheduler(clip_sample='false')",
            TypeError,
            "clip_sample is 'false'",
            "pass True or False",
        ),
        Case(
            "PLMSScheduler(prediction_type='flow')",
            ValueError,
            "prediction_type is 'flow'",
            "pass one of the three names",
        ),
        Case(
            "PLMSScheduler().add_noise(torch.ones(2, 3), torch.ones(2, 3), 500)",
            TypeError,
            "timesteps is 500",
            "pass `torch.tensor([500])`",
        ),
        Case(
            "PLMSScheduler().step(torch.ones(2, 3), 5, torch.ones(2, 3))",
            ValueError,
            "set_timesteps",
            "call `set_timesteps` first",
        ),
        Case("Gaussian([0, nan], [1, 1])", ValueError, "mean must be finite", "find the NaN"),
    ],
}

# Allowed, but rarely meant: the call, a pattern in the warning, and the remedy.
WARNED = [
    ("solver.sample(bright, noise, 10)", r"means by channel are \[3.7, .*data_mean=", "`data_mean=[4.0, 0.0]`"),
    ("solver.sample(dark, pictures, 10)", r"means by channel are \[-2.8\].*data_mean=", "`data_mean=-3`"),
    ("solver.sample(large, noise, 10)", r"deviation of 6\.\d+, .*±1; pass data_range=", "`data_range=8`"),
    ("solver.plan(10, data_range=100)", "show through the noise", "numbers up to 50, or a variance-exploding schedule"),
    ("solver.plan(10, start=0.5)", "not fractions of 1", "times of the table, 0 to 999"),
    ("solver.plan(1, spacing='leading')", "mostly picture", "`spacing='trailing'`, or the default"),
    ("solver.plan(5, spacing=skipping)", "where noise becomes a picture", "the default spacing"),
    ("PLMSSolver(ve).sample(lambda x, t: 0 * x, noise, 10)", "multiply noise by σ", "`50 * noise`"),
    (
        "compare(Problem.exact(Gaussian([0, 0], np.eye(2)), schedule, 50), 'plms', calls=5, measure='frechet')",
        "where chance dominates",
        "some hundred starts",
    ),
    (
        "fit_plan(Gaussian([1, 1], [0, 0]).model(schedule), schedule, noise, 4, levels=16, data_mean=np.ones(2))",
        "nothing fitted was better than the default",
        "the default, or more samples",
    ),
    (
        "fit_plan(centred, schedule, noise, 4, levels=16, prediction='v_prediction')",
        "does not predict 'v_prediction'",
        "`prediction='epsilon'`",
    ),
]

# Right as they are: no warning.
SILENT = [
    ("solver.sample(centred, noise, 10)", "centred data"),
    ("solver.sample(bright, noise, 10, data_mean=np.array([4.0, 0.0]))", "a mean that is said"),
    ("solver.sample(dark, pictures, 10, data_mean=-3)", "one that all numbers of a picture share"),
    ("solver.sample(large, noise, 10, data_range=8)", "a size that is said"),
    ("solver.sample(bright, noise, 20, start='top')", "from the top no mean is missed"),
    ("solver.sample(bright, latents, 20, start='top')", "latents of an inversion"),
    ("solver.sample(bright, noise[:8], 10)", "too few samples for a mean to be known"),
    ("solver.sample(bright, noise, 10, check_finite=None)", "the caller wants no look at the samples"),
    ("solver.sample(centred, noise, 4)", "few calls"),
    ("solver.sample(centred, noise, 10, spacing='trailing')", "a named spacing"),
    ("PLMSSolver(cosine).sample(lambda x, t: x, noise, 10)", "cosine betas, whose highest σ/α is 20,000"),
    ("PLMSSolver(flow).sample(lambda x, t: x, noise, 10, prediction='flow')", "a flow network from pure noise"),
    ("PLMSSolver(ve).sample(exploding, 50 * noise, 10)", "scaled noise on a variance-exploding schedule"),
    ("PNDMSolver(schedule).sample(centred, noise, 20)", "the paper's method"),
    ("solver.sample(centred, noise, tolerance=0.01)", "a pilot's coarse runs"),
    ("Pilot.record(centred, schedule, noise, levels=64)", "a pilot of a network as it is"),
]

CASES = [case for section in SECTIONS.values() for case in section]

HEAD = """# Errors

A wrong call raises an error where it is made, before the first model call where that is possible. Each message names
the argument, the value met, what is allowed, and the remedy.

| the error | the mistake |
|---|---|
| `TypeError` | an argument is of the wrong type |
| `ValueError` | an argument is of the right type, but its value is not allowed |
| `FloatingPointError` | a sample is not finite |
| `ImportError` | an optional dependency is not installed; the message gives the command that installs it |
| `OSError` | a file does not exist or cannot be read or written |

Errors that a model or a callback raises reach the caller unchanged. `run` and `sample` refuse to return NaN; a single
step of arithmetic (`advance`, `add_noise`, `transfer`) passes on a NaN of its input.

A call that is only likely to be wrong gives a warning. Warnings are few; the last section lists which runs warn and
which do not.

The tables show one row for each kind of mistake. In them `schedule` is `NoiseSchedule.linear()`, `flow` is
`NoiseSchedule.rectified_flow()`, `solver` is `PLMSSolver(schedule)`, `plan` is one of its plans, `noisy` is a plan of
`DDPMSolver`, `zero_snr` is a plan for zero terminal SNR, `forgetful` is an `Observer` whose `begin` returns nothing,
and `x` is `np.zeros((2, 3))`. In the last section `noise` are 200 draws, `centred` and `bright` are exact ε-models of
data with mean (0, 0) and (4, 0), and `large` one of deviation 8. `pictures` are four draws of 16×16, and `dark` is a
model of such data with mean −3. `skipping` is a grid without levels between σ/α = 2 and 0.1, `cosine` and `ve` are such
schedules, `exploding` is a model on `ve`, and `latents` come from an inversion.
`python tests/contract/test_errors_page.py` writes this page.
"""


def raised(case: Case) -> Exception:
    with pytest.raises(case.error) as caught:
        eval(case.call, dict(NAMES))
    return caught.value


def page() -> str:
    lines = [HEAD]
    for section, cases in SECTIONS.items():
        lines += [f"## {section}\n", "| call | error | message | remedy |", "|---|---|---|---|"]
        for case in cases:
            # The names in a registry grow; the page shows that a message lists them.
            message = re.sub(r"(known are|not bound to integers:) .*", r"\1 …", str(raised(case))).replace("|", "\\|")
            lines.append(f"| `{case.call}` | {case.error.__name__} | `{message}` | {case.remedy} |")
        lines.append("")
    lines += ["## Warnings\n", "Allowed, but rarely meant:\n", "| call | warning | remedy |", "|---|---|---|"]
    lines += [f"| `{call}` | `{warnings_of(call)[0]}` | {remedy} |" for call, _, remedy in WARNED]
    lines += ["", "Right as they are, and silent:\n", "| call | why |", "|---|---|"]
    lines += [f"| `{call}` | {what} |" for call, what in SILENT]
    return "\n".join(lines) + "\n"


def warnings_of(call: str) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eval(call, dict(NAMES))
    return [str(warning.message).replace("|", "\\|") for warning in caught]


@pytest.mark.parametrize(("call", "pattern", "remedy"), WARNED)
def test_a_call_that_is_rarely_meant_warns_once(call, pattern, remedy):
    (message,) = warnings_of(call)
    assert re.search(pattern, message)


@pytest.mark.parametrize(("call", "what"), SILENT)
def test_a_right_run_is_silent(call, what):
    assert warnings_of(call) == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.call)
def test_a_wrong_call_raises_one_clear_line(case):
    error = raised(case)
    assert type(error) is case.error
    assert re.search(case.message, str(error))
    assert "\n" not in str(error)


def test_the_page_shows_what_the_calls_raise():
    """`python tests/contract/test_errors_page.py` writes the page."""
    assert PAGE.read_text(encoding="utf-8") == page()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
