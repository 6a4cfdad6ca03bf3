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
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache, partial
from numbers import Real
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
# Which arguments are paths.
PLACES = ("path", "checkpoint")
SIGNATURE = r"unexpected keyword|missing \d+ required|positional argument|multiple values"


class ModelError(Exception):
    """Raised by a model of the pool: the caller's own error, which must come through as it is."""


def refuse(*_: Any) -> Any:
    raise ModelError


def model(x: Any, t: Any) -> Any:
    return 0.5 * x


def poison(x: Any, t: Any) -> Any:
    return x * math.nan


def overwrite(x: Any, t: Any) -> Any:
    """Writes into what it was handed, and answers with that same memory."""
    x *= 0
    return x


def scribble(step: Any) -> None:
    """A callback that writes into what it is shown."""
    for shown in (step if isinstance(step, dict) else vars(step)).values():
        if isinstance(shown, (np.ndarray, torch.Tensor)):
            shown *= 0


X, TENSOR = np.linspace(-1, 1, 12).reshape(2, 2, 3), torch.linspace(-1, 1, 12).reshape(2, 2, 3)
NAN = np.full((2, 2, 3), np.nan)
LINEAR = ps.NoiseSchedule.linear()
PLAN, NOISY = ps.DDIMSolver(LINEAR).plan(3), ps.DDPMSolver(LINEAR).plan(3)
STATE = PLAN.start(X)
ROW = ps.Row(500.0, 0.6, 0.8, ((0, 1.5),), ((0, -0.5),))


@dataclass(frozen=True)
class Fresh:
    """A path in a folder that each call has for itself, so that none sees the file of another."""

    name: str
    kind: str  # "new" where a file can be written, "file" where one is that can be replaced, "state" where it is ours
    make: Callable[[Path], Any]

    def __repr__(self) -> str:
        return f"<{self.name}>"


def holding(data: Callable[[], bytes]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "run").write_bytes(data())
        return folder / "run"

    return make


@cache
def saved(kind: str = "numpy", rows: int = 1) -> bytes:
    """The bytes of a file that `State.save` wrote after some rows of a plan."""
    state = NOISY.start(X if kind == "numpy" else TENSOR, seed=1)
    for _ in range(rows):
        state = NOISY.advance(state, model(state.x, state.t))
    with tempfile.TemporaryDirectory() as folder:
        state.save(Path(folder) / "run")
        return (Path(folder) / "run").read_bytes()


NEW, SAVED = Fresh("a new path", "new", lambda folder: folder / "run"), Fresh("a state's file", "state", holding(saved))
PATHS = [
    NEW, SAVED,
    Fresh("a new path as text", "new", lambda folder: str(folder / "run")),
    Fresh("a path in another alphabet", "new", lambda folder: folder / "σ ε \udcff \n"),
    Fresh("a dangling link", "new", lambda folder: [(folder / "run").symlink_to(folder / "end"), folder / "run"][1]),
    Fresh("a done torch state's file", "state", holding(lambda: saved("torch", 3))),
    Fresh("a state's file cut short", "file", holding(lambda: saved()[:-5])),
    Fresh("a state's header cut short", "file", holding(lambda: saved()[:100])),
    Fresh("a state's file with a bit turned", "file", holding(lambda: saved()[:-1] + bytes([saved()[-1] ^ 1]))),
    Fresh("an empty file", "file", holding(bytes)),
    Fresh("a text file", "file", holding(lambda: b"not a state, but long enough to hold a header's length\n")),
    Fresh("a file of the largest header", "file", holding(lambda: b"\xff" * 16)),
    Fresh("the path as bytes", "", lambda folder: bytes(folder / "run")),
    Fresh("a folder", "", lambda folder: folder),
    Fresh("the folder as text, with a slash", "", lambda folder: f"{folder}/"),
    Fresh("a path in no folder", "", lambda folder: folder / "none" / "run"),
    Fresh("a path below a file", "", lambda folder: holding(bytes)(folder) / "run"),
    Fresh("a path with a zero in it", "", lambda folder: str(folder / "r\0n")),
    Fresh("too long a name", "", lambda folder: folder / ("n" * 300)),
    Fresh("no one's home", "", lambda folder: "~nobody-of-that-name/run"),
    Fresh("a link to itself", "file", lambda folder: [(folder / "run").symlink_to(folder / "run"), folder / "run"][1]),
]  # fmt: skip
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
    Fraction(1, 2), Decimal("0.5"), np.str_("epsilon"), "1", np.array(["1"]), [True, False], [[True]], (True,),
    -X, X * 1e100, X * 1e-100, X.astype(">f8"), X[:, ::-1], np.ma.masked_greater(X, 0.5), -TENSOR, TENSOR * 1e15,
    TENSOR.double(), TENSOR.to("meta"), TENSOR.to_sparse(), TENSOR.transpose(1, 2), "cpu", "meta", "cuda:99", "torch",
    torch.device("cpu"), torch.device("meta"), overwrite, scribble, ps.ErrorEstimate(), ps.ErrorEstimate,
    STATE, NOISY.start(X, seed=3), PLAN.start(TENSOR), PLAN, NOISY, [STATE], (STATE, STATE), [STATE, None], {STATE},
    [STATE, PLAN.start(TENSOR)], [STATE, PLAN.start(X.astype(np.float32))], [STATE, PLAN.start(X[:, :1])],
    [STATE, PLAN.start(X, prediction="sample")], [NOISY.start(X[:1], seed=3), STATE], [PLAN.start(X * 1e100)],
    ROW, [ROW], (ROW, ROW), [ROW, None], [ps.Level(500.0, 0.6, 0.8)], ((500.0, 0.6, 0.8, ((0, 1.0),), ()),),
    [[0, 1.0]], ((0, 1),), ((0, "1"),), ((0, True),), ((True, 1.0),), ((0.0, 1.0),), ((0.5, 1.0),), ((1, 1.0),),
    ((-1, 1.0),), ((0, 1.0), (0, 2.0)), ((0, math.nan),), ((0, 10**400),), ((0,),), ((0, 1.0, 2.0),), ("ab",),
    ((np.int64(0), np.float32(0.5)),), ((None, 1.0),), ((0, 1j),), {0: 1.0}, *PATHS,
]  # fmt: skip


# ------------------------------------------------------------ which kinds an argument takes

Takes = Callable[[Any], bool]


def plain(value: Any) -> Any:
    """The plain Python value that a 0-d array stands for."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def number(value: Any) -> bool:
    value = plain(value)
    return isinstance(value, Real) and not isinstance(value, bool) and value == value


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
        ">f8",
    )


def one_or_each(kind: Takes) -> Takes:
    """One, or one for each of the two samples."""
    return lambda value: kind(value) or (sequence(value) and len(value) == 2 and all(map(kind, value)))


def generator(value: Any) -> bool:
    return isinstance(value, (np.random.Generator, torch.Generator))


def sequence(value: Any) -> bool:
    return hasattr(value, "__len__") and getattr(value, "ndim", 1) and not isinstance(value, (str, bytes, type))


def list_of(kind: Takes) -> Takes:
    return lambda value: isinstance(value, (list, tuple)) and all(map(kind, value))


def term(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and count(value[0]) and number(value[1])


def path(*kinds: str) -> Takes:
    """A text is a path in the folder of the call."""
    return lambda value: isinstance(value, str) or (isinstance(value, Fresh) and value.kind in kinds)


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
        (real_array, "betas alphas_cumprod log_snr"),
        (either(number, real_array), "t"),
        (optional(real_array), "timesteps sigmas trained_betas"),
        (floating, "x x_T x0 noise epsilon answer like sample model_output original_samples"),
        (callable, "model conditional unconditional"),
        # A class that is made where it was to be called tells nothing: its parentheses were forgotten.
        (lambda value: value is None or (callable(value) and value is not ps.ErrorEstimate), "callback"),
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
        (is_a(ps.Step), "step"),
        (list_of(is_a(ps.State)), "states"),
        (optional(path("new")), "checkpoint"),
        # What a name means in one function alone.
        (path("new", "file", "state"), "State.save.path"),
        (path("state"), "State.load.path"),
        (optional(is_a(np.ndarray, np.generic, torch.Tensor)), "State.load.like"),
        (optional(floating), "initial_noise.like"),
        (floating, "slerp.a slerp.b"),
        (number, "slerp.weight Row.t Row.noise Level.t Level.alpha Level.sigma"),
        (list_of(term), "Row.states Row.answers"),
        (flag, "Row.stage Plan.integer_times"),
        (list_of(is_a(ps.Row)), "Plan.rows"),
        (is_a(ps.Level), "Plan.end"),
    )
    for name in names.split()
}


def kind_of(good: Good, name: str) -> str:
    """Under which name an argument stands in `TAKES`: with its function's before it, where it means something else."""
    return own if (own := f"{good.name.partition('(')[0]}.{name}") in TAKES else name


OF_KIND = {name: [value for value in POOL if takes(value)] or POOL for name, takes in TAKES.items()}
# Of these most values of the right kind are wrong ones.
OF_KIND |= {name: [*PATHS, "run", ""] for name in ("checkpoint", "State.save.path", "State.load.path")}
TUPLES = [value for value in POOL if isinstance(value, (list, tuple))]
OF_KIND |= dict.fromkeys(("states", "Row.states", "Row.answers", "Plan.rows"), TUPLES)


# ------------------------------------------------------------ the good calls


@dataclass(frozen=True)
class Good:
    """A call that works: what is called, and with which arguments."""

    name: str
    function: Callable[..., Any]
    arguments: dict[str, Any]


SETTLED = {"progress": False, "trajectory": False, "check_finite": False, "seed": 1, "prediction": "epsilon"}
SETTLED |= {"callback": None, "state_dtype": None}
SETTLED |= {"generator": None, "checkpoint": None}
# Options of schedulers that are checked when one is made.
CHECKED_BY_SCHEDULERS = [
    *("beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing"),
    *("multistep_order", "starter", "weights", "variance_type"),
]
GRID = {"spacing": "trailing", "start": 900, "stop": 100, "final": "clean", "steps_offset": 0}


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
            sample = {"model": model, "x_T": X} | length | cut | SETTLED
            yield Good(f"{name}.sample", solver.sample, sample)
        yield Good(f"{name}.sample(checkpoint)", solver.sample, sample | {"checkpoint": NEW})
        if solver.convergence_order:
            # ε = x is what data of unit variance have, for which few calls do.
            pilot = {"tolerance": 0.5, "model": lambda x, t: x, "x": X, "prediction": "epsilon", "max_model_calls": 64}
            yield Good(f"{name}.plan_within", solver.plan_within, pilot | GRID | {"timesteps": None})
            settled = {"model": lambda x, t: x, "x_T": X, "tolerance": 0.5, "checkpoint": NEW, "timesteps": None}
            yield Good(f"{name}.sample(tolerance)", solver.sample, SETTLED | settled | GRID)
        plan = solver.plan(4)
        yield Good(f"{name}: Plan.run", plan.run, {"model": model, "x": X} | SETTLED)
        yield Good(f"{name}: Plan.run(torch)", plan.run, {"model": model, "x": TENSOR, "generator": torch.Generator()})
        kept = SETTLED | {"model": model, "x": TENSOR, "checkpoint": NEW}
        yield Good(f"{name}: Plan.run(torch, checkpoint)", plan.run, kept)
        yield Good(f"{name}: Plan.run(resumed)", resumed(plan), kept | {"x": X})
        yield Good(f"{name}: Plan.run(taken up)", taken_up(plan), kept | {"x": X})
        if not plan.is_stochastic:
            estimate = {"model": model, "x": X, "state_dtype": None, "callback": ps.ErrorEstimate()}
            yield Good(f"{name}: ErrorEstimate", estimated(plan), estimate)
        begin = {"x": X, "prediction": "epsilon", "seed": 1, "state_dtype": None}
        yield Good(f"{name}: Plan.start", plan.start, begin)
        yield Good(f"{name}: Plan.advance", plan.advance, {"state": plan.start(X, seed=1), "answer": X})
        yield Good(f"{name}: Plan.from_json", plan.from_json, {"text": plan.to_json()})
        for x in (X, TENSOR):
            begun = plan.start(x, seed=1)
            begun = plan.advance(begun, model(begun.x, begun.t))
            yield Good("State.save", saves(begun), {"path": NEW})
            together = {"model": model, "states": [begun, PLAN.start(begun.x[:1])]}
            yield Good("advance_together", ps.advance_together, together)
        yield Good("Plan", whole_plan, {"rows": plan.rows, "end": plan.end, "integer_times": False, "name": "own"})
        yield Good("Row", plan_of_row, {key: getattr(plan.rows[0], key) for key in vars(plan.rows[0])})
        yield Good("Level", plan_to_level, plan.end._asdict())
    prediction = {"type": "v_prediction", "clip": 1.5, "threshold": 0.9, "threshold_max": 3.0}
    yield Good("Prediction", ps.Prediction, prediction)
    at = {"wanted": "epsilon", "alpha": 0.6, "sigma": 0.8}
    yield Good("Prediction.weights", ps.Prediction("flow").weights, at)
    yield Good("Prediction.convert", ps.Prediction("flow").convert, {**at, "x": X, "answer": X})
    yield Good("classifier_free_guidance", guided, {"conditional": model, "unconditional": model, "scale": 3.0, "x": X})
    yield Good("initial_noise", ps.initial_noise, {"shape": (2, 2, 3), "seed": [1, 2], "like": X})
    tableau = {"name": "own", "c": [0, 0.5], "a": [[], [0.5]], "b": [0, 1]}
    yield Good("ButcherTableau", ps.ButcherTableau, tableau)
    yield Good("State.load", ps.State.load, {"path": SAVED, "device": None, "like": None})
    yield Good("State.load(torch)", ps.State.load, {"path": SAVED, "device": "cpu", "like": TENSOR})
    for x in (X, TENSOR):
        yield Good("slerp", ps.slerp, {"a": x, "b": x + 1, "weight": 0.3})
    steps: list[ps.Step] = []
    PLAN.run(model, X, callback=steps.append)
    yield Good("ErrorEstimate", lambda step: ps.ErrorEstimate()(step), {"step": steps[0]})
    levels = {"here": LINEAR.level(900), "there": LINEAR.level(100)}
    yield Good("transfer", ps.transfer, {"x": X, "epsilon": X, **levels})
    for name, sampler in SAMPLERS.items():
        run = {"model": model, "x": TENSOR, "sigmas": torch.tensor([5.0, 2.0, 0.5, 0.0])}
        yield Good(f"sample_{name}", partial(sampler, disable=True), run)
    for name in ("PNDMScheduler", "PLMSScheduler", "DDIMScheduler", "DDPMScheduler"):
        kind = getattr(ours, name)
        parameters = inspect.signature(kind.__init__).parameters
        own = {key: parameters[key].default for key in CHECKED_BY_SCHEDULERS if key in parameters}
        yield Good(name, kind, own | {"num_train_timesteps": 100, "trained_betas": None})
        scheduler = kind()
        yield Good(f"{name}.set_timesteps", times_of(scheduler), {"num_inference_steps": 5})
        yield Good(f"{name}.set_timesteps", times_of(scheduler), {"timesteps": [900, 500, 100]})
        add_noise = partial(scheduler.add_noise, timesteps=torch.tensor([5, 9]))
        yield Good(f"{name}.add_noise", add_noise, {"original_samples": TENSOR, "noise": TENSOR})
        started = kind()
        started.set_timesteps(5)
        step = {"model_output": TENSOR, "timestep": started.timesteps[0], "sample": TENSOR}
        if name == "DDIMScheduler":
            step |= {"eta": 0.5, "generator": torch.Generator()}
        elif name == "DDPMScheduler":
            step |= {"generator": torch.Generator()}
        yield Good(f"{name}.step", started.step, step)


SCHEDULE = {name: make() for name, make in SCHEDULES.items()}


def guided(conditional: Any, unconditional: Any, scale: Any, x: Any) -> Any:
    plan = ps.DDIMSolver(LINEAR).plan(3)
    return plan.run(ps.classifier_free_guidance(conditional, unconditional, scale), x)


class KilledError(Exception):
    """Raised by a callback of ours, for a process that is killed."""


def interrupt(step: ps.Step) -> None:
    if step.row == 1:
        raise KilledError


def resumed(plan: ps.Plan) -> Callable[..., Any]:
    """A run that is interrupted and resumed by the same call; it must end as one that is not."""

    def run(checkpoint: Any, **arguments: Any) -> Any:
        with suppress(KilledError):
            plan.run(checkpoint=checkpoint, **{**arguments, "callback": interrupt})
        result = plan.run(checkpoint=checkpoint, **arguments)
        return agreed(result, plan.run(**arguments))

    return run


def taken_up(plan: ps.Plan) -> Callable[..., Any]:
    """The file of a good run, and a call that goes on from it: as another run's, or to the same end."""

    def run(checkpoint: Any, **arguments: Any) -> Any:
        with suppress(KilledError):
            plan.run(model, X, seed=1, checkpoint=checkpoint, callback=interrupt)
        result = plan.run(checkpoint=checkpoint, **arguments)
        # Of the model the file knows nothing.
        return agreed(result, plan.run(**arguments)) if arguments["model"] is model else result

    return run


def agreed(result: Any, other: Any) -> Any:
    if not np.array_equal(list(numbers(result)), list(numbers(other)), equal_nan=True):
        raise AssertionError("resumed, it ends elsewhere")
    return result


def estimated(plan: ps.Plan) -> Callable[..., Any]:
    def run(callback: Any, **arguments: Any) -> Any:
        sample = plan.run(callback=callback, **arguments)
        return [sample, callback.total] if isinstance(callback, ps.ErrorEstimate) else sample

    return run


def saves(state: ps.State) -> Callable[..., Any]:
    def save(path: Any) -> ps.State:
        state.save(path)
        return agreed(ps.State.load(path), state)

    return save


def whole_plan(**fields: Any) -> ps.Plan:
    """A plan that can be hashed, printed, and written as JSON and read again."""
    plan = ps.Plan(**fields)
    if ps.Plan.from_json(plan.to_json()) != plan or hash(plan) != hash(
        ps.Plan(plan.rows, plan.end, plan.integer_times)
    ):
        raise AssertionError("its JSON is of another plan")
    str(plan)
    return plan


def plan_of_row(**fields: Any) -> ps.Plan:
    return whole_plan(rows=[ps.Row(**fields)], end=PLAN.end)


def plan_to_level(**fields: Any) -> ps.Plan:
    return whole_plan(rows=PLAN.rows, end=ps.Level(**fields))


def times_of(scheduler: Any) -> Callable[..., Any]:
    def set_timesteps(**arguments: Any) -> Any:
        scheduler.set_timesteps(**arguments)
        return scheduler.plan

    return set_timesteps


# ------------------------------------------------------------ the judgement


class TooSlow(BaseException):
    pass


def call(good: Good, arguments: dict[str, Any]) -> Any:
    """In a folder of its own, so that a text that is taken for a path does no harm."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        made = {
            name: value.make(Path(tempfile.mkdtemp(dir=folder)))
            if name in PLACES and isinstance(value, Fresh)
            else value
            for name, value in arguments.items()
        }
        try:
            return good.function(**made)
        finally:
            if any(Path(folder).rglob(".*.partial")):
                raise AssertionError("half a file was left behind")


def outcome(good: Good, wrong: dict[str, Any]) -> str:
    """What the call with the `wrong` arguments does, in words; a failure begins with "FAILED"."""
    arguments = {**good.arguments, **wrong}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            result = call(good, arguments)
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
        if not TAKES.get(kind_of(good, name), lambda _: False)(value):
            return f"FAILED: accepted in silence: {name} = {value!r}"
    ends = good.name.endswith(".log_snr") and not any(math.isnan(n) for n in numbers(result))
    if not ends and not all(math.isfinite(n) for n in numbers(result)):
        # A whole run looks at its sample, unless it is told not to.
        whole = (
            "model" in arguments and good.name != "advance_together" and arguments.get("check_finite", 0) is not None
        )
        given = [math.nan] if any(v is poison for v in arguments.values()) else numbers(list(arguments.values()))
        if whole or all(map(math.isfinite, given)):
            return f"FAILED: not finite: {str(result)[:80]}"
        return "non-finite numbers handed on, one step of arithmetic"
    # `like` is an array for its library's sake, of any number of dimensions.
    straight = {name: value if name == "like" else plain(value) for name, value in wrong.items()}
    random = arguments.get("generator") is not None or arguments.get("seed", 0) is None
    if any(straight[name] is not wrong[name] for name in wrong) and not random:
        try:
            again = list(numbers(call(good, {**good.arguments, **straight})))
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
    if not re.search(rf"\b({'|'.join([*map(re.escape, arguments), NOUNS])})\b", message):
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
        known = not result.is_complex() and not result.is_meta
        yield from result.detach().to_dense().double().flatten().tolist() if known else ()
    elif isinstance(result, np.ndarray | np.generic) and result.dtype.kind in "iuf":
        yield from np.asarray(result, np.float64).ravel().tolist()  # of a masked array all of it
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
        wrong = {name: choose.choice(OF_KIND.get(kind_of(good, name), POOL) if fitting else POOL) for name in names}
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
