"""What becomes of calls with wrong arguments, over the whole public surface?

Each call is a good one with one or two of its arguments replaced by something out of a pool of wrong things. It must
raise one of the library's own errors, by a `raise` of ours whose message names an argument, or give the right answer:
finite, without a warning, the replacement being of a kind that the argument takes, and the same as with the plain
value that the replacement stands for. Prints the count of each kind of outcome, and how to repeat each failure.

    python benchmarks/bad_calls.py [COUNT [SEED]]
"""

from __future__ import annotations

import ast
import inspect
import math
import os
import random
import re
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

import pndm_solvers as ps
from pndm_solvers.adapters import diffusers as ours
from pndm_solvers.adapters.k_diffusion import SAMPLERS
from pndm_solvers.schedule import SCHEDULES
from pndm_solvers.solvers import SOLVERS

PACKAGE = str(Path(ps.__file__).parent)
SECONDS = 5
ERRORS = (TypeError, ValueError, FloatingPointError, ImportError, OSError)
# What a message may call an argument by, besides its name.
NOUNS = "model|state|betas|batch|schedule|wanted|sample|plan|JSON|format|tableau|Level|clip|threshold|order|times"
# Where a function of the caller's is called.
CALLER = r"\b(model|callback|make|conditional|unconditional)\((state\.x|x, |schedule|Step|\{)"
SIGNATURE = r"unexpected keyword|missing \d+ required|positional argument|multiple values"


class ModelError(Exception):
    """Raised by a model of the pool: the caller's own error, which must come through as it is."""


def refuse(x: Any, t: Any) -> Any:
    raise ModelError


def model(x: Any, t: Any) -> Any:
    return 0.5 * x


def poison(x: Any, t: Any) -> Any:
    return x * math.nan


X, TENSOR = np.linspace(-1, 1, 12).reshape(2, 2, 3), torch.linspace(-1, 1, 12).reshape(2, 2, 3)
NAN = np.full((2, 2, 3), np.nan)
POOL: list[Any] = [
    math.nan, math.inf, -math.inf, -1, 0, 1, 2, 7, 2.5, 3.0, -0.5, 0.3, 1e300, -1e300, 5e-324, 10**12, 2**70, -(2**70),
    "10", "nan", "", "epsilon", "plms", None, True, False, 1j, b"1", [], (), {}, set(), [1], [1, 2], [1, 2, 3],
    [[1.0]], [0.5, "a"], [None], [math.nan, 0.1], [[1], [2, 3]], range(3), object(), slice(3), Ellipsis, int, len,
    np.float32(0.25), np.int64(5), np.bool_(True), np.array(4), np.array(0.5), np.array([3]), np.array(True),
    np.array("x"), np.array([0.9, 0.5, 0.1]), np.array([9, 5, 1], np.uint8), np.eye(2), np.zeros(0), np.array([1j]),
    np.array([True, False]), np.array([None, 1], object), np.array(["a"]), np.array(1e300), np.float64(math.nan),
    X, X[:1], X[0], X.astype(int), X.astype(complex), X > 0, NAN, X.astype(np.float16), X.astype(object), X[:0],
    TENSOR, TENSOR[:1], TENSOR.int(), TENSOR > 0, TENSOR.to(torch.complex64), torch.tensor(3), torch.tensor(0.5),
    torch.tensor(True), torch.tensor([]), torch.tensor([900, 500, 100]), TENSOR.bfloat16(), TENSOR * math.nan,
    TENSOR.clone().requires_grad_(), torch.float32, np.random.default_rng(0), torch.Generator(),
    np.random.RandomState(), [np.random.default_rng(0)], [np.random.default_rng(0), np.random.default_rng(1)],
    [torch.Generator(), 3],
    model, refuse, poison, lambda: 0, lambda x, t: None, lambda x, t: x[:1], lambda x, t: x[0], lambda x, t: x.tolist(),
    lambda x, t: x > 0, lambda x, t: torch.zeros(x.shape) if isinstance(x, np.ndarray) else x.detach().numpy(),
    lambda *_: [999, 500, 500], lambda *_: "abc", lambda *_: np.eye(2), lambda *_: None, lambda *_: [math.nan],
    ps.NoiseSchedule.linear(10), ps.NoiseSchedule.vp(), ps.Prediction("sample"), ps.TABLEAUX["heun"],
    ps.Level(500.0, 0.6, 0.8), ps.Level(math.nan, 0.6, 0.8), ps.Level(1.0, "a", None), ps.NoiseSchedule, ps.PLMSSolver,
]  # fmt: skip


# ------------------------------------------------------------ which kinds an argument takes

Takes = Callable[[Any], bool]


def plain(value: Any) -> Any:
    """The plain Python value that a 0-d array stands for."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def number(value: Any) -> bool:
    value = plain(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)


def count(value: Any) -> bool:
    return number(value) and float(plain(value)).is_integer()


def text(value: Any) -> bool:
    return isinstance(value, str)


def flag(value: Any) -> bool:
    return isinstance(value, (bool, np.bool_))


def real_array(value: Any) -> bool:
    try:
        return np.asarray(value.detach() if isinstance(value, torch.Tensor) else value).dtype.kind in "iuf"
    except (TypeError, ValueError):
        return False


def floating(value: Any) -> bool:
    return isinstance(value, (np.ndarray, torch.Tensor)) and str(value.dtype).removeprefix("torch.") in (
        "float16",
        "bfloat16",
        "float32",
        "float64",
    )


def one_or_each(kind: Takes) -> Takes:
    """One, or one for each of the two samples."""
    return lambda value: kind(value) or (sequence(value) and len(value) == 2 and all(map(kind, value)))


def generator(value: Any) -> bool:
    return isinstance(value, (np.random.Generator, torch.Generator))


def sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) and not isinstance(value, (str, bytes, type))


def is_a(*kinds: Any) -> Takes:
    return lambda value: isinstance(value, kinds)


def optional(takes: Takes) -> Takes:
    return lambda value: value is None or takes(value)


def either(*several: Takes) -> Takes:
    return lambda value: any(takes(value) for takes in several)


TAKES: dict[str, Takes] = {
    name: takes
    for takes, names in (
        (optional(number), "num_inference_steps max_model_calls tolerance start stop clip threshold"),
        (count, "num_train_timesteps steps_offset order multistep_order"),
        (number, "beta_start beta_end offset max_beta beta_min beta_max t_min sigma_min sigma_max eta scale ratio"),
        (number, "alpha sigma threshold_max sample_max_value clip_sample_range dynamic_thresholding_ratio timestep"),
        (text, "final variance starter weights type wanted beta_schedule timestep_spacing name"),
        (text, "prediction_type variance_type"),
        (flag, "progress trajectory thresholding clip_sample set_alpha_to_one return_dict skip_prk_steps"),
        (flag, "rescale_betas_zero_snr use_clipped_model_output use_karras_sigmas use_exponential_sigmas"),
        (optional(flag), "check_finite disable"),
        (real_array, "betas alphas_cumprod t log_snr"),
        (optional(real_array), "timesteps sigmas trained_betas"),
        (floating, "x x_T x0 noise epsilon answer like sample model_output original_samples"),
        (callable, "model conditional unconditional"),
        (optional(callable), "callback"),
        (either(text, callable), "spacing"),
        (either(text, is_a(ps.Prediction)), "prediction"),
        (either(text, is_a(ps.ButcherTableau)), "tableau"),
        (is_a(ps.NoiseSchedule), "schedule"),
        (is_a(ps.Level), "here there"),
        (optional(one_or_each(count)), "seed"),
        (optional(one_or_each(generator)), "generator"),
        (either(text, is_a(torch.dtype, type, type(None))), "state_dtype"),
        (optional(is_a(Mapping)), "extra_args"),
        (sequence, "shape a b c"),
        (either(text, is_a(Mapping)), "config"),
        (is_a(ps.State), "state"),
        (either(text, is_a(bytes)), "text"),
        (either(text, is_a(torch.device, int, type(None))), "device"),
    )
    for name in names.split()
}
OF_KIND = {name: [value for value in POOL if takes(value)] or POOL for name, takes in TAKES.items()}


# ------------------------------------------------------------ the good calls


@dataclass(frozen=True)
class Good:
    """A call that works: what is called, and with which arguments."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


LINEAR = ps.NoiseSchedule.linear()
SETTLED = {"progress": False, "trajectory": False, "check_finite": False, "seed": 1, "prediction": "epsilon"}
SETTLED |= {"callback": None, "state_dtype": None}
GRID = {"spacing": "trailing", "start": 900, "stop": 100, "final": "clean"}


def good_calls() -> Iterator[Good]:
    """Made anew for each bad call, so that none sees what another left behind."""
    new = ps.NoiseSchedule
    for name, arguments in {
        "linear": {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1},
        "scaled_linear": {"num_train_timesteps": 100, "beta_start": 1e-3, "beta_end": 0.1},
        "cosine": {"num_train_timesteps": 100, "offset": 0.01, "max_beta": 0.99},
        "from_betas": {"betas": [0.1, 0.2, 0.3]},
        "from_alphas_cumprod": {"alphas_cumprod": [0.9, 0.5, 0.1]},
        "from_config": {"config": {"num_train_timesteps": 50}},
        "vp": {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-3},
        "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
        "rectified_flow": {"t_min": 1e-3},
    }.items():
        yield Good(f"NoiseSchedule.{name}", getattr(new, name), arguments)
    fields = {"num_train_timesteps": 100, "beta_schedule": "linear", "beta_start": 1e-3, "beta_end": 0.1}
    fields |= {"trained_betas": None, "rescale_betas_zero_snr": False}
    yield Good("NoiseSchedule.from_config(fields)", lambda **config: new.from_config(config), fields)
    for name, schedule in SCHEDULE.items():
        middle = (schedule.t_min + schedule.t_max) / 2
        for method in ("alpha", "sigma", "log_snr", "rates", "level"):
            yield Good(f"{name}.{method}", getattr(schedule, method), {"t": middle})
        yield Good(f"{name}.time_at", schedule.time_at, {"log_snr": 0.5})
        yield Good(f"{name}.level_at", schedule.level_at, {"ratio": 0.5})
        yield Good(f"{name}.add_noise", schedule.add_noise, {"x0": X, "noise": X + 1, "t": middle})
        steps = {"num_inference_steps": 5, "spacing": "trailing", "final": "clean", "start": None, "stop": None}
        yield Good(f"make_grid({name})", ps.make_grid, {"schedule": schedule, **steps})
    for name, make in SOLVERS.items():
        solver = make(LINEAR)
        options = {key: getattr(solver, key) for key in vars(solver) if key != "tableau" or "prk" not in name}
        yield Good(type(solver).__name__, type(solver), options)
        steps = {"num_inference_steps": 10}
        lengths: Sequence[dict[str, Any]] = (steps, {"max_model_calls": 20}, {"timesteps": [900, 500, 100]})
        for length in lengths:
            cut = {"final": "clean"} if "timesteps" in length else GRID
            yield Good(f"{name}.plan", solver.plan, length | cut)
            yield Good(f"{name}.sample", solver.sample, {"model": model, "x_T": X} | length | cut | SETTLED)
        if solver.convergence_order:
            # ε = x is what data of unit variance have, for which few calls do.
            pilot = {"tolerance": 0.5, "model": lambda x, t: x, "x": X, "prediction": "epsilon", "max_model_calls": 64}
            yield Good(f"{name}.plan_within", solver.plan_within, pilot | GRID)
            settled = {"model": lambda x, t: x, "x_T": X, "tolerance": 0.5} | SETTLED
            yield Good(f"{name}.sample(tolerance)", solver.sample, settled)
        plan = solver.plan(4)
        yield Good(f"{name}: Plan.run", plan.run, {"model": model, "x": X} | SETTLED)
        yield Good(f"{name}: Plan.run(torch)", plan.run, {"model": model, "x": TENSOR, "generator": torch.Generator()})
        begin = {"x": X, "prediction": "epsilon", "seed": 1, "state_dtype": None}
        yield Good(f"{name}: Plan.start", plan.start, begin)
        yield Good(f"{name}: Plan.advance", plan.advance, {"state": plan.start(X, seed=1), "answer": X})
        yield Good(f"{name}: Plan.from_json", plan.from_json, {"text": plan.to_json()})
    prediction = {"type": "v_prediction", "clip": 1.5, "threshold": 0.9, "threshold_max": 3.0}
    yield Good("Prediction", ps.Prediction, prediction)
    at = {"wanted": "epsilon", "alpha": 0.6, "sigma": 0.8}
    yield Good("Prediction.weights", ps.Prediction("flow").weights, at)
    yield Good("Prediction.convert", ps.Prediction("flow").convert, {**at, "x": X, "answer": X})
    yield Good("classifier_free_guidance", guided, {"conditional": model, "unconditional": model, "scale": 3.0, "x": X})
    yield Good("initial_noise", ps.initial_noise, {"shape": (2, 2, 3), "seed": [1, 2], "like": X})
    tableau = {"name": "own", "c": [0, 0.5], "a": [[], [0.5]], "b": [0, 1]}
    yield Good("ButcherTableau", ps.ButcherTableau, tableau)
    levels = {"here": LINEAR.level(900), "there": LINEAR.level(100)}
    yield Good("transfer", ps.transfer, {"x": X, "epsilon": X, **levels})
    for name, sampler in SAMPLERS.items():
        run = {"model": model, "x": TENSOR, "sigmas": torch.tensor([5.0, 2.0, 0.5, 0.0]), "extra_args": None}
        yield Good(f"sample_{name}", sampler, run | {"callback": None, "disable": True})
    for name in ("PNDMScheduler", "PLMSScheduler", "DDIMScheduler", "DDPMScheduler"):
        kind = getattr(ours, name)
        parameters = inspect.signature(kind.__init__).parameters
        own = {key: p.default for key, p in parameters.items() if key not in ("self", "trained_betas")}
        yield Good(name, kind, own | {"num_train_timesteps": 100, "trained_betas": None})
        scheduler = kind()
        yield Good(f"{name}.set_timesteps", times_of(scheduler), {"num_inference_steps": 5, "device": None})
        yield Good(f"{name}.set_timesteps", times_of(scheduler), {"timesteps": [900, 500, 100]})
        noised = {"original_samples": TENSOR, "noise": TENSOR, "timesteps": torch.tensor([5, 9])}
        yield Good(f"{name}.add_noise", scheduler.add_noise, noised)
        started = kind()
        started.set_timesteps(5)
        step = {"model_output": TENSOR, "timestep": started.timesteps[0], "sample": TENSOR, "return_dict": True}
        if name == "DDIMScheduler":
            step |= {"eta": 0.5, "use_clipped_model_output": True, "generator": torch.Generator()}
        elif name == "DDPMScheduler":
            step |= {"generator": torch.Generator()}
        yield Good(f"{name}.step", started.step, step)


SCHEDULE = {name: make() for name, make in SCHEDULES.items()}


def guided(conditional: Any, unconditional: Any, scale: Any, x: Any) -> Any:
    plan = ps.DDIMSolver(LINEAR).plan(3)
    return plan.run(ps.classifier_free_guidance(conditional, unconditional, scale), x)


def times_of(scheduler: Any) -> Callable[..., Any]:
    def set_timesteps(**arguments: Any) -> Any:
        scheduler.set_timesteps(**arguments)
        return scheduler.plan

    return set_timesteps


# ------------------------------------------------------------ the judgement


class TooSlow(BaseException):
    pass


def outcome(good: Good, wrong: dict[str, Any]) -> str:
    """What the call with the `wrong` arguments does, in words; a failure begins with "FAILED"."""
    arguments = {**good.arguments, **wrong}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            result = good.function(**arguments)
        except TooSlow:
            return f"FAILED: over {SECONDS} s"
        except ModelError:
            return "the model's own error"
        except Exception as error:
            verdict = _judged(error, arguments)
            # A class or a built-in function in the place of a model, called as one, has errors of its own.
            foreign = [v for v in wrong.values() if callable(v) and not inspect.isfunction(v)]
            frames = traceback.extract_tb(error.__traceback__)
            if verdict.startswith("FAILED") and foreign and any(re.search(CALLER, f.line or "") for f in frames):
                return "the caller's own function's error, as it is"
            return verdict
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    foreign = [str(w.message) for w in told if not issubclass(w.category, UserWarning)]
    if foreign:
        return f"FAILED: no more than a warning: {foreign[0]}"
    for name, value in wrong.items():
        if not TAKES.get(name, lambda _: False)(value):
            return f"FAILED: accepted in silence: {name} = {value!r}"
    ends = good.name.endswith(".log_snr") and not any(math.isnan(n) for n in numbers(result))
    if not ends and not all(math.isfinite(n) for n in numbers(result)):
        if all(math.isfinite(n) for value in arguments.values() for n in numbers(value)):
            return f"FAILED: not finite: {str(result)[:80]}"
        return "non-finite numbers handed on, one step of arithmetic"
    straight = {name: plain(value) for name, value in wrong.items()}
    if any(straight[name] is not wrong[name] for name in wrong) and "generator" not in arguments:
        try:
            again = list(numbers(good.function(**{**good.arguments, **straight})))
        except ERRORS:
            again = None
        if again is None or not np.array_equal(again, list(numbers(result))):
            return "FAILED: another answer than for the plain value"
    return "the right answer"


def _too_slow(*_: Any) -> None:
    raise TooSlow


def _judged(error: Exception, arguments: Iterable[str]) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    kind, message = type(error).__name__, str(error)
    if isinstance(error, TypeError) and re.search(SIGNATURE, message):
        return "TypeError of Python's own, for a call that the signature refuses"
    where = f"{frame.filename.removeprefix(PACKAGE)}:{frame.lineno}: {kind}: {message[:160]}"
    if not isinstance(error, ERRORS):
        return f"FAILED: {where}"
    if not frame.filename.startswith(PACKAGE) or frame.lineno not in _raises(frame.filename):
        return f"FAILED: raw, {where}"
    if not re.search("|".join([*map(re.escape, arguments), NOUNS]), message):
        return f"FAILED: names no argument, {where}"
    return kind


@cache
def _raises(path: str) -> frozenset[int]:
    """The lines of a file that stand in a `raise` statement."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return frozenset(line for node in nodes for line in range(node.lineno, (node.end_lineno or node.lineno) + 1))


def numbers(result: Any) -> Iterator[float]:
    """Every number that a result holds."""
    if isinstance(result, torch.Tensor):
        yield from result.detach().double().flatten().tolist() if not result.is_complex() else ()
    elif isinstance(result, np.ndarray | np.generic) and result.dtype.kind in "iuf":
        yield from result.astype(np.float64).ravel().tolist()
    elif isinstance(result, (int, float)):
        yield float(result) if abs(result) < 1e308 or not isinstance(result, int) else 1e308
    elif isinstance(result, ps.Plan):
        yield from (n for row in result.rows for n in (row.t, row.alpha, row.sigma, row.noise))
        yield from (w for row in result.rows for _, w in row.states + row.answers)
    elif isinstance(result, ps.State):
        yield from numbers(list(result.states.values()) + list(result.answers.values()))
    elif isinstance(result, ps.Grid):
        yield from numbers(result.levels)
    elif isinstance(result, ps.NoiseSchedule):
        times = np.linspace(result.t_min, result.t_max, 7)
        yield from numbers([result.alpha(times), result.sigma(times)])
    elif isinstance(result, Mapping):
        yield from numbers(list(result.values()))
    elif isinstance(result, (list, tuple)):
        for part in result:
            yield from numbers(part)


def main(total: int = 10_000, seed: int = 0) -> Counter[str]:
    """Makes `total` bad calls; returns how many had which outcome, and prints each failure."""
    choose, found, shown = random.Random(seed), Counter(), Counter()
    calls = list(good_calls())
    # Each function as often as the next, however many good calls it has.
    for n in range(total):
        if n % 100 == 0:
            calls = list(good_calls())
        good = choose.choice(calls)
        names = choose.sample(sorted(good.arguments), min(len(good.arguments), choose.choice((1, 1, 1, 2))))
        # Half of the time of the right kind, so that it is the value that is wrong.
        fitting = choose.random() < 0.5
        wrong = {name: choose.choice(OF_KIND.get(name, POOL) if fitting else POOL) for name in names}
        if choose.random() < 0.02 and "fields" not in good.name:  # a config may hold what is not of the schedule
            wrong = {"unknown_keyword": 1}
        result = outcome(good, wrong)
        found["FAILED" if result.startswith("FAILED") else result] += 1
        shown[result] += 1
        if result.startswith("FAILED") and shown[result] < 3:
            told = ", ".join(f"{name}={' '.join(repr(value).split())[:80]}" for name, value in wrong.items())
            print(f"call {n} of seed {seed}: {good.name}({told})\n    {result}")
    return found


if __name__ == "__main__":
    counts = main(*map(int, sys.argv[1:]))
    print()
    for kind, times in counts.most_common():
        print(f"{times:6d}  {kind}")
    print(f"{counts.total():6d}  calls, {counts['FAILED']} of them failed")
    sys.exit(counts["FAILED"] > 0)
