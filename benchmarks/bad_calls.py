"""What happens to calls with wrong arguments, over the whole public surface?

Each call is a good one with one or two arguments replaced by a value of `POOL`; half of the replacements are of a kind
that the parameter takes. The call passes in one of two ways:

- It raises one of `ERRORS`, by a `raise` in the package, with a message that names an argument.
- It returns the right answer: finite, without a warning, for a value of a kind that the parameter takes, and equal to
  the answer for the plain value (2 for `np.array(2)`).

    python benchmarks/bad_calls.py [COUNT [SEED]]
"""

from __future__ import annotations

import inspect
import io
import math
import os
import random
import re
import signal
import sys
import tempfile
import traceback
import typing
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass, is_dataclass
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import pndm_solvers as ps
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.k_diffusion import SAMPLERS
from pndm_solvers.methods import SOLVERS
from pndm_solvers.rule import Rule
from pndm_solvers.schedules import SCHEDULES

PACKAGE = str(Path(ps.__file__).parent)
SECONDS = 5
ERRORS = (TypeError, ValueError, FloatingPointError, ImportError, OSError)
# What a message may call an argument, besides its name.
NOUNS = "x|model|states?|betas|batch|schedule|wanted|sample|plan|JSON|tableau|Level|clip|threshold|order|times?|steps"
# Python's own errors for calls that a signature refuses.
SIGNATURE = r"unexpected keyword|missing \d+ required|positional argument|multiple values"


def model(x: Any, t: Any) -> Any:
    return 0.5 * x


X, TENSOR = np.linspace(-1, 1, 12).reshape(2, 2, 3), torch.linspace(-1, 1, 12).reshape(2, 2, 3)
LINEAR = ps.NoiseSchedule.linear()
PLAN, NOISY = ps.DDIMSolver(LINEAR).plan(3), ps.DDPMSolver(LINEAR).plan(3)
STATE, ROW = PLAN.start(X), PLAN.rows[0]

POOL: dict[str, list[Any]] = {
    "none": [None],
    "flag": [True, False, np.bool_(True)],
    "count": [-3, 0, 1, 2, 7, 3.0, 10**12, 2**70, 1e300, -1e300, np.int64(5), np.array(4), torch.tensor(3)],
    "number": [
        math.inf, -math.inf, 0.3, 2.5, -0.5, 5e-324, np.float32(0.25), np.array(0.5), torch.tensor(0.5), Fraction(1, 2),
        Decimal("0.5"),
    ],
    "nan": [math.nan, np.float64(math.nan), np.array(math.nan)],
    "text": ["", "10", "nan", "epsilon", "plms", "clean", "ratio", "linear", np.str_("epsilon"), ".", "none/run"],
    "table": [
        [0.9, 0.5, 0.1], [900, 500, 100], [1, 2, 3], [1, 2], [0.5], [1200, 5], [0.1, math.nan], [[1.0]], range(3),
        np.array([9, 9, 1], np.uint8), torch.tensor([900, 500, 100]), np.array([3, 4]),
    ],
    "empty": [[]],
    "list": [[None], ["9", "5"], [0.5, "a"], [True, False], [[1], [2, 3]], [STATE, None], {STATE}, [ROW, None]],
    "mapping": [{}, {"beta_schedule": "linear"}, {"beta_schedule": "cubic"}, {"num_train_timesteps": "9"}],
    "array": [
        X, X[:1], X[0], X[:0], -X, X * 1e100, X * 1e-100, X * math.nan, X.astype(np.float16), X.astype(">f8"),
        np.eye(2), X[:, ::-1],
    ],
    "tensor": [
        TENSOR, TENSOR[:1], TENSOR * math.nan, TENSOR * 1e15, TENSOR.bfloat16(), TENSOR.double(),
        TENSOR.transpose(1, 2), TENSOR.to("meta"), TENSOR.clone().requires_grad_(),
    ],
    "no state": [np.ma.masked_greater(X, 0.5), X.astype(int), TENSOR.int()],
    "function": [
        model, lambda x, t: x * math.nan, lambda: 0, lambda x, t: None, lambda x, t: x[:1], lambda x, t: x[0],
        lambda x, t: x > 0, lambda x, t: x.tolist(), lambda *_: [999, 500, 500], lambda *_: "abc",
        lambda x, t: torch.zeros(x.shape) if isinstance(x, np.ndarray) else x.detach().numpy(), ps.Observer(),
        lambda *_: [math.nan], ps.ErrorEstimate(), type("Forgetful", (ps.Observer,), {"begin": lambda *_: None})(),
    ],
    "callbacks": [[ps.Observer()], (ps.Observer(), ps.ErrorEstimate()), [ps.Observer(), None], [ps.Observer]],
    "schedule": [LINEAR, ps.NoiseSchedule.linear(10), ps.NoiseSchedule.vp()],
    "level": [LINEAR.level(500), ps.Level(math.nan, 0.6, 0.8)],
    "prediction": [ps.Prediction("sample"), ps.Prediction("flow", clip=1.0)],
    "tableau": [ps.TABLEAUX["heun"]],
    "restarts": [[ps.Restart(100, 300, 3)], (ps.Restart(100, 300, 3), None)],
    "rule": [Rule(), Rule(knee=0.5, orders=((0.0, 3),))],
    "state": [STATE, NOISY.start(X, seed=3), PLAN.start(TENSOR)],
    "states": [[STATE], (STATE, STATE), [STATE, PLAN.start(TENSOR)], [NOISY.start(X[:1], seed=3)]],
    "rows": [[ROW], (ROW, ROW)],
    "terms": [((0, 1),), [[0, 1.0]], ((1, 1.0),), ((-1, 1.0),), ((0, math.nan),), ((0, 1.0), (0, 2.0))],
    "broken terms": [((0,),), ((0, True),), ((0, 10**400),)],
    "generator": [np.random.default_rng(0), torch.Generator(), [np.random.default_rng(0), np.random.default_rng(1)]],
    "dtype": [torch.float32, torch.float16, np.dtype("float64")],
    "path": [Path("run"), Path("σ ε \udcff \n")],
    "other": [
        1j, object(), Ellipsis, slice(3), np.array("x"), np.array([1j]), {1}, np.array([None, 1], object), b"1", PLAN,
        np.array(True), X > 0, X.astype(complex), X.astype(object), TENSOR > 0, ps.ErrorEstimate,
        TENSOR.to(torch.complex64), ROW, ps.Level(1.0, "a", None), np.random.RandomState(), [torch.Generator()],
    ],
}  # fmt: skip

# The kinds of value that a parameter takes, by its name, after the function's name where it means something else there.
NUMERIC = "count, number, empty, table, array, tensor, no state, terms, broken terms, level"
TAKES: dict[str, set[str]] = {
    name: set(kinds.split(", "))
    for names, kinds in {
        "num_inference_steps max_model_calls start stop clip threshold Solver.sample.tolerance": "none, count, number",
        "tolerance scale ratio alpha sigma timestep slerp.weight Row.t Row.noise": "count, number",
        "t betas alphas_cumprod log_snr PlanScheduler.add_noise.timesteps": NUMERIC,
        "timesteps sigmas trained_betas": f"none, {NUMERIC}",
        "restarts": "restarts, empty",
        "tau": "count, number, text, function",
        "Plan.run.noise Plan.start.noise Solver.sample.noise": "text",
        "to": "none, array, tensor",
        "wanted name": "text",
        "check_finite disable": "none, flag",
        "x x_T x0 noise epsilon answer slerp.a slerp.b": "array, tensor",
        "sample model_output original_samples": "tensor",
        "like variance_noise": "none, array, tensor",
        "model conditional unconditional": "function",
        "callback": "none, function",
        "Plan.run.callback Solver.sample.callback": "none, function, callbacks, empty",
        "spacing": "text, function",
        "prediction": "text, prediction",
        "tableau": "text, tableau",
        "here there end": "level",
        "states": "states, empty",
        "Row.states Row.answers": "terms, table, empty",
        "seed": "none, count, table, empty",
        "generator": "none, generator",
        "state_dtype": "none, dtype, text",
        "shape b c": "table, list, terms, empty",
        "a": "terms, broken terms",
        "config": "text, mapping",
        "disable_corrector": "empty, table",
        "checkpoint": "none, path, text",
    }.items()
    for name in names.split()
}  # fmt: skip
# Parameters whose values of another kind are left to the errors of Python, of torch and of diffusers.
UNGUARDED = [
    "Plan.name", "Plan.rows", "ButcherTableau.*", "PLMSSolver.rule", "Schedule.level.name", "add_noise.schedule",
    "*.state_dtype", "*.step.return_dict", "*.step.sample", "*.step.model_output", "*.use_clipped_model_output",
    "*.original_samples", "*.device", "sample_*.callback", "*.extra_args", "*.disable", "*Scheduler.steps_offset",
    "*Scheduler.clip_sample_range", "*Scheduler.sample_max_value", "*Scheduler.dynamic_thresholding_ratio",
]  # fmt: skip
# By the type of a parameter's default, where its name does not stand above; else the kind is called as the parameter.
BY_DEFAULT = {bool: {"flag"}, int: {"count"}, float: {"count", "number"}, str: {"text"}, type(None): {"none"}}


@dataclass(frozen=True)
class Good:
    """A call that works: a function and its arguments."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]

    def takes(self, parameter: str) -> set[str]:
        named = TAKES.get(f"{self.name}.{parameter}", TAKES.get(parameter))
        return named or BY_DEFAULT.get(type(self.arguments[parameter]), {parameter})


# Values of the parameters without a default.
VALUES: dict[str, Any] = {
    "prediction": "flow", "schedule": LINEAR, "betas": [0.1, 0.2, 0.3], "alphas_cumprod": [0.9, 0.5, 0.1],
    "log_snr": 0.5, "ratio": 0.5, "config": {"num_train_timesteps": 50}, "x": X, "x_T": X, "x0": X, "noise": X + 1,
    "epsilon": X, "answer": X, "model": model, "conditional": model, "unconditional": model, "scale": 3.0,
    "state": STATE, "states": [STATE], "text": PLAN.to_json(), "rows": PLAN.rows, "end": PLAN.end, "t": 500.0,
    "alpha": 0.6, "sigma": 0.8, "answers": ((0, -0.5),), "wanted": "epsilon", "shape": (2, 2, 3), "seed": 1,
    "name": "own", "c": [0, 0.5], "a": [[], [0.5]], "b": [0, 1], "weight": 0.3, "here": LINEAR.level(900),
    "there": LINEAR.level(100), "tolerance": 0.5, "timestep": 1, "original_samples": TENSOR, "model_output": TENSOR,
    "sample": TENSOR, "sigmas": torch.tensor([5.0, 2.0, 0.5, 0.0]), "timesteps": torch.tensor([5, 9]),
}  # fmt: skip
# Values of the parameters that `**options` stands for.
OPTIONS: dict[str, Any] = {"max_model_calls": None}
for taker in (ps.make_grid, ps.Plan.start, ps.Plan.run):
    OPTIONS |= {name: parameter.default for name, parameter in inspect.signature(taker).parameters.items()}


def good(function: Callable[..., Any], **given: Any) -> Good:
    """A call with the given arguments where it has them, and with default or known values for its other parameters."""
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            (options,) = typing.get_args(typing.get_type_hints(function, include_extras=True)[name])
            arguments |= {key: OPTIONS[key] for key in options.__annotations__}
        else:
            arguments[name] = VALUES[name] if parameter.default is parameter.empty else parameter.default
    arguments |= {name: value for name, value in given.items() if name in arguments}
    return Good(getattr(function, "__qualname__", "call"), function, arguments)


def good_calls() -> Iterator[Good]:
    """Made anew every hundred bad calls, since schedulers have state."""
    new = ps.NoiseSchedule
    for make in (*SCHEDULES.values(), new.from_betas, new.from_alphas_cumprod, new.from_config):
        yield good(make)
    for schedule in (make() for make in SCHEDULES.values()):
        for name in ("alpha", "sigma", "log_snr", "rates", "level", "level_at", "time_at"):
            yield good(getattr(schedule, name), t=(schedule.t_min + schedule.t_max) / 2)
        yield good(ps.make_grid, schedule=schedule, num_inference_steps=5)
    for solver in (make(LINEAR) for make in SOLVERS.values()):
        plan, cut = solver.plan(4), {"spacing": "trailing", "start": 900, "stop": 100}
        yield good(type(solver))
        for length in (cut | {"num_inference_steps": 9}, cut | {"max_model_calls": 20}, {"timesteps": [900, 5]}):
            yield good(solver.plan, **length)
            yield good(solver.sample, seed=1, **length)
        if solver.convergence_order:
            yield good(solver.plan_within, model=lambda x, t: x, max_model_calls=64, **cut)
        yield good(plan.run, seed=1, checkpoint="run")
        yield good(plan.run, x=TENSOR, generator=torch.Generator())
        yield good(plan.start, seed=1)
        yield good(plan.advance, state=plan.start(X, seed=1))
    for function in (
        ps.Plan, ps.Plan.from_json, ps.ButcherTableau, ps.advance_together, ps.transfer,
        ps.classifier_free_guidance, ps.initial_noise, ps.add_noise, ps.convert,
    ):  # fmt: skip
        yield good(function)
    yield good(ps.Row, states=((0, 1.5),))
    yield good(ps.Prediction, clip=1.5, threshold=0.9, threshold_max=3.0)
    yield good(ps.slerp, a=X, b=X + 1)
    for sampler in SAMPLERS.values():
        yield good(sampler, x=TENSOR, disable=True)
    for kind in (ours.PNDMScheduler, ours.PLMSScheduler, ours.DDIMScheduler, ours.DDPMScheduler):
        started = kind()
        started.set_timesteps(5)
        yield good(kind)
        yield good(kind().set_timesteps, num_inference_steps=5)
        yield good(kind().add_noise, noise=TENSOR)
        yield good(started.step, timestep=started.timesteps[0], generator=torch.Generator())


class TooSlow(BaseException):
    pass


def too_slow(*_: Any) -> None:
    raise TooSlow


def call(good: Good, arguments: dict[str, Any]) -> Any:
    """The call in a folder of its own, so that a text which is taken for a path does no harm; without progress bars."""
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        os.chdir(folder)
        try:
            return good.function(**arguments)
        finally:
            os.chdir(here)


def outcome(good: Good, wrong: dict[str, Any], strange: bool = False) -> str:
    """The outcome of the call with the `wrong` arguments; a failure begins with "FAILED".

    `strange` is whether an argument is of a kind that its parameter does not take, so that only an error will do.
    """
    arguments = {**good.arguments, **wrong}
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        signal.signal(signal.SIGALRM, too_slow)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            result = call(good, arguments)
        except TooSlow:
            return f"FAILED: over {SECONDS} s"
        except Exception as error:
            return judged(error, arguments, wrong)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    foreign = [str(warning.message) for warning in shown if not issubclass(warning.category, UserWarning)]
    if foreign:
        return f"FAILED: no more than a warning: {foreign[0]}"
    if strange:
        return "FAILED: accepted in silence"
    infinite = not all(map(math.isfinite, numbers(result)))
    if infinite and not (good.name.endswith(".log_snr") and not any(map(math.isnan, numbers(result)))):
        poisoned = not all(map(math.isfinite, numbers(list(arguments.values()))))
        poisoned |= any(map(callable, wrong.values()))
        # A whole run checks its sample, unless `check_finite=None` turns the check off.
        checked = "model" in arguments and good.name != "advance_together" and arguments.get("check_finite") is not None
        if checked or not poisoned:
            return f"FAILED: not finite: {str(result)[:80]}"
        return "non-finite numbers handed on by one step of arithmetic"
    straight = {name: value if name in ("like", "timesteps") else plain(value) for name, value in wrong.items()}
    drawn = any(given.get("generator") or given.get("seed", 0) is None for given in (arguments, good.arguments))
    if not drawn and any(straight[name] is not wrong[name] for name in wrong):
        try:
            again = list(numbers(call(good, {**good.arguments, **straight})))
        except ERRORS:
            again = None
        if again is None or not np.array_equal(again, list(numbers(result))):
            return "FAILED: another answer than for the plain value"
    return "the right answer"


def judged(error: Exception, arguments: dict[str, Any], wrong: dict[str, Any]) -> str:
    frame, kind, message = traceback.extract_tb(error.__traceback__)[-1], type(error).__name__, str(error)
    where = f"{frame.filename.removeprefix(PACKAGE)}:{frame.lineno}: {kind}: {message[:160]}"
    if isinstance(error, TypeError) and re.search(SIGNATURE, message):
        return "TypeError of Python's own, for a call that the signature refuses"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{kind} of the system's own, with the path"
    if not isinstance(error, ERRORS) or not (frame.filename.startswith(PACKAGE) and frame.line.startswith("raise ")):
        return f"FAILED: raw, {where}"
    names = [*arguments, *(key for value in wrong.values() if isinstance(value, Mapping) for key in value)]
    named = re.search(rf"\b({'|'.join(re.escape(str(name)) for name in names)}|{NOUNS})\b", message)
    return kind if named else f"FAILED: names no argument, {where}"


def plain(value: Any) -> Any:
    """The plain Python value of a 0-d array."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def numbers(result: Any) -> Iterator[float]:
    """Every number that a result holds."""
    if isinstance(result, torch.Tensor):
        known = not result.is_complex() and not result.is_meta
        yield from result.detach().to_dense().double().flatten().tolist() if known else ()
    elif isinstance(result, np.ndarray | np.generic):
        yield from np.asarray(result, np.float64).ravel().tolist() if result.dtype.kind in "iufb" else ()
    elif isinstance(result, int | float):
        yield float(result) if abs(result) < 1e308 or isinstance(result, float) else 1e308
    elif isinstance(result, list | tuple | Mapping):
        for part in result.values() if isinstance(result, Mapping) else result:
            yield from numbers(part)
    elif is_dataclass(result) and not isinstance(result, ps.Prediction):
        yield from numbers(vars(result))


def main(total: int = 10_000, seed: int = 0) -> Counter[str]:
    """Make `total` bad calls; returns the count of each outcome, and prints each failure."""
    choose, found, calls = random.Random(seed), Counter(), []
    for n in range(total):
        if n % 100 == 0:
            calls = list(good_calls())
        work = choose.choice(calls)
        wrong, strange = {}, False
        for name in choose.sample(sorted(work.arguments), min(len(work.arguments), choose.choice((1, 1, 1, 2)))):
            unguarded = any(fnmatchcase(f"{work.name}.{name}", pattern) for pattern in UNGUARDED)
            right = unguarded or choose.random() < 0.5
            kind = choose.choice(sorted(work.takes(name)) if right else list(POOL))
            wrong[name] = choose.choice(POOL[kind])
            strange |= kind not in work.takes(name)
        if choose.random() < 0.02:
            wrong, strange = {"unknown_keyword": 1}, True
        result = outcome(work, wrong, strange)
        found[result.partition(":")[0]] += 1
        if result.startswith("FAILED"):
            passed = ", ".join(f"{name}={' '.join(repr(value).split())[:80]}" for name, value in wrong.items())
            print(f"call {n} of seed {seed}: {work.name}({passed})\n    {result}")
    return found


if __name__ == "__main__":
    counts = main(*map(int, sys.argv[1:]))
    print(*(f"{times:6d}  {outcome}" for outcome, times in counts.most_common()), sep="\n")
    print(f"{counts.total():6d}  calls, {counts['FAILED']} of them failed")
    sys.exit(counts["FAILED"] > 0)
