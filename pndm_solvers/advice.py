"""Every warning of the core: calls that are allowed, but rarely give good samples."""

from __future__ import annotations

import math
import re
import sys
import warnings
from typing import Any

import numpy as np

from pndm_solvers.arrays import library
from pndm_solvers.schedule import Level, Schedule
from pndm_solvers.table import Table

__all__ = [
    "advice_on_plan",
    "advise_on_first_answer",
    "advise_on_noise",
    "advise_on_pilot",
    "advise_on_reference",
    "advise_on_samples",
    "advise_on_sets",
    "advise_on_size",
    "advise_on_times",
    "note_on_call",
    "raised_here",
    "warn",
]

# Between these σ/α noise becomes a picture, on data of about unit range. The lower one sinks with smaller data.
DECISIVE = (0.1, 2.0)

# Only variance-exploding schedules have a σ above this. There a state may be smaller than its noise by this factor.
LOUD = 3.0

# A start may leave out this share of the data's deviation, and of all numbers together as much as the noise of one.
MISSING, MISSING_NORM = 0.1, 1.0

# Data reach about one to two deviations. Samples whose deviation is larger than this many times the range that was said
# are those of larger data, or garbage.
WIDE = 3.0

# Noise drowns data from this many times their range on.
DROWNS = 3.0

# Samples of a fine run larger than this are most likely those of a network that was taken for another kind.
HUGE = 100.0

# So are those of a pilot, larger than this many times the range that was said.
LARGE = 20.0

# From this σ/α on a state is noise alone. A network's picture of it holds less than this share of that noise.
ALONE, ECHOED = 5.0, 0.5

# Fewer samples than this do not tell distributions apart.
FEW = 100

# A share of the samples' size that no fine run should err by.
ROUGH = 0.03


def warn(message: str) -> None:
    """Warns at the caller's line: the nearest one outside of this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("pndm_solvers"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def advice_on_plan(
    plan: Table,
    schedule: Schedule,
    *,
    start: Any = None,
    stop: Any = None,
    timesteps: Any = None,
    data_range: float = 1.0,
    fewest: int = 5,
) -> list[str]:
    """What to warn of: times that rarely give good samples. The options are those with which the plan was made.

    A plan of fewer than `fewest` steps is coarse on any grid, so it may leap over the decisive levels unwarned.
    """
    first, ratios = plan.levels[0], [level.ratio for level in plan.levels[:-1]]
    steps = sum(not row.stage for row in plan.rows)
    low, high = data_range * DECISIVE[0], max(data_range, 1.0) * DECISIVE[1]
    leaps = ratios[:1] > [high] and plan.end.ratio < low and not any(low <= ratio <= high for ratio in ratios)
    # One or two times alone may be the last ones of a run, and these may lie there.
    messages: list[str] = []
    fractions = start is not None or (timesteps is not None and len(timesteps) > 2)
    if fractions and stop is None and schedule.num_train_timesteps and 0 < first.t < 1:
        messages.append(
            f"this plan begins at t = {first.t:g}, between the two lowest levels of a table; times of a table "
            f"are 0 to {schedule.t_max:g}, not fractions of 1"
        )
    from_noise = timesteps is None and start is None
    if from_noise and first.ratio < min(data_range, 1.0):
        messages.append(
            f"this plan begins at t = {first.t:g}, where a state is mostly picture; pass start={first.t:g} if "
            f"yours is, else more steps or a spacing that begins at pure noise, such as 'trailing'"
        )
    top = schedule.level(schedule.t_max).ratio
    if from_noise and data_range > 1 and top < DROWNS * data_range:
        messages.append(
            f"data that reach ±{data_range:g} show through the noise of the schedule's highest level, σ/α = {top:.3g}, "
            f"so no run can begin at noise alone. Train on smaller numbers, or with a schedule that ends higher"
        )
    if timesteps is None and leaps and steps >= fewest:
        messages.append(
            f"none of this plan's {len(ratios)} model calls is at a level between σ/α = {high:g} and {low:g}, "
            f"where noise becomes a picture; use spacing='default', or more steps"
        )
    return messages


def advise_on_times(times: Any, schedule: Schedule) -> None:
    """Warns of a batch's times that are most likely fractions of 1, on a table whose times are its indices.

    In a run all samples have one time, which may well lie below 1.
    """
    if schedule.num_train_timesteps and times.size > 3 and 0 < times.min() < times.max() < 1:
        span = f"{times.min():.2g} to {times.max():.2g}"
        warn(f"t lies in {span}; times of a table are 0 to {schedule.t_max:g}, not fractions of 1")


def advise_on_size(x: Any, here: Level) -> None:
    """Warns of a state `x` at the level `here` that is far smaller than the noise of that level.

    On a variance-exploding schedule noise of deviation 1 is that small, and so is a picture without noise. On other
    schedules the size says nothing, so no number is read: that would wait for the device. Zeros are no mistake.
    """
    ours = library(x)
    if here.sigma <= LOUD or math.prod(x.shape) < 32 or not ours.has_numbers(x):
        return
    size = ours.namespace(x).mean(ours.wide(x) ** 2) ** 0.5
    try:
        small = bool((size > 0) & (size < min(here.sigma / LOUD, 1e38)))  # a bound that float32 holds
    except Exception:  # each library's own, for numbers that cannot be read, as within jax.grad's backward pass
        return
    if small:
        warn(
            f"the state x has a root mean square of {float(size):.2g}, but begins at t = {here.t:g}, "
            f"where its noise alone has σ = {here.sigma:g}; multiply noise by σ there, and pass a picture through "
            f"add_noise"
        )


def advise_on_noise(x: Any, top: Level) -> None:
    """Warns of starts `x` of a pilot that are not of the size of the schedule's pure noise."""
    ours, wanted = library(x), math.hypot(top.alpha, top.sigma)
    size = float((ours.numbers(x) ** 2).mean() ** 0.5)
    if math.prod(x.shape) >= 64 and not wanted / 1.5 < size < 1.5 * wanted:
        warn(
            f"x_T has a root mean square of {size:.3g}, and pure noise of this schedule {wanted:.3g}; pass noise of "
            f"that size, or with start= states of that level"
        )


def advise_on_pilot(size: float, error: float, prediction: str, data_range: float) -> None:
    """Warns of a pilot that is no reference: ends of an unlikely `size`, or too large an `error`."""
    if not size <= LARGE * data_range or error > ROUGH * size:
        warn(
            f"the pilot ends at samples with a root mean square of {size:.3g} and errs by about {error:.1e} itself; "
            f"unless the data are like that, the network does not predict {prediction!r}, so pass its prediction=, the "
            f"schedule is another, or the pilot needs more levels"
        )


def advise_on_first_answer(state: Any, slope: Any, here: Level, prediction: str) -> None:
    """Warns of a network whose picture of pure noise is that noise again, as of one that predicts something else.

    `state` `(B, …)` is x/√(α² + σ²), of deviation 1 there, and `slope` its v. Where noise drowns the data, the picture
    E[x_0 | x] hardly depends on x.
    """
    if here.ratio < ALONE or state.size < 64:
        return
    picture = (here.alpha * state - here.sigma * slope) / math.hypot(here.alpha, here.sigma)
    share = float(((picture - picture.mean(0)) * state).mean() / (state**2).mean())
    if abs(share) > ECHOED:
        warn(
            f"at σ/α = {here.ratio:.3g} the network got noise alone, and the picture that it drew is {share:.2g} times "
            f"this noise, where it should hold next to nothing of it. The network does not predict {prediction!r}; "
            f"pass its prediction=. Or the schedule is not the one that it was trained with, or the data reach far "
            f"beyond ±1; then pass data_range="
        )


def advise_on_samples(samples: Any, plan: Table, schedule: Schedule, data_range: float | None) -> None:
    """Warns of samples `(B, C, …)` that say that their run was made for data of another mean or size.

    Noise around 0 at σ/α = ρ lacks what noise around the mean has: mean/ρ, in units of the noise. It is compared with
    the deviation, each channel by itself. All numbers together lack the mean's norm over ρ, and where a run begins
    below the schedule's highest level, by choice, that is compared with the noise in one direction, which is 1. The
    deviation is compared with `data_range`, None where that had no say.
    """
    ours, ratio = library(samples), plan.levels[0].ratio
    if samples.ndim < 2 or math.prod(samples.shape) < max(32 * samples.shape[1], 1) or not ours.has_numbers(samples):
        return
    xp = ours.namespace(samples)
    with ours.unrecorded():
        x = ours.wide(samples)
        axes = tuple(axis for axis in range(x.ndim) if axis != 1)
        mean, deviation = xp.mean(x, axis=axes), xp.std(x, axis=axes)
    lowered = ratio < (1 - 1e-6) * schedule.level(schedule.t_max).ratio
    try:
        worst = int(xp.argmax(xp.abs(mean) - MISSING * ratio * deviation))
        missing = float(xp.abs(mean)[worst]) > MISSING * ratio * float(deviation[worst])
        norm = math.sqrt(float(xp.sum(mean**2)) * math.prod(samples.shape[2:]))
        missing = missing or (lowered and norm > MISSING_NORM * ratio)
        size = math.sqrt(float(xp.mean(deviation**2)))
    except Exception:  # each library's own, for numbers that cannot be read
        return
    if data_range is not None and size > WIDE * data_range:
        warn(
            f"the samples have a deviation of {size:.3g}, but their run was made for data that reach about "
            f"±{data_range:g}; pass data_range=, one to two deviations of the data. If the data are not that large, "
            f"the network, its prediction= or its schedule is at fault"
        )
    if missing:
        means = [float(f"{value:.2g}") for value in ours.numbers(mean).tolist()]
        shown = f"{means}" if len(means) <= 4 else f"up to {means[worst]}"
        warn(
            f"the samples' means by channel are {shown}, with a deviation of {float(deviation[worst]):.2g}, but their "
            f"run began at σ/α = {ratio:.3g} from noise around 0, which leaves out a part of that; pass the data's "
            f"mean as data_mean=, where channels differ an array that broadcasts to the samples. If they have no such "
            f"mean, the network, its prediction= or its schedule is at fault"
        )


def note_on_call(error: Exception, x: Any, t: Any, *, integer: bool) -> None:
    """Adds to an error of a network what it was called with, and where it looks times up, what to do.

    An error that this library raises says so itself. NumPy, torch and JAX all say that an index, or indices, must be of
    an integer type. Notes need Python 3.11.
    """
    if raised_here(error) or not hasattr(error, "add_note"):
        return
    note = f"pndm_solvers called the network with x {tuple(x.shape)} {x.dtype} and t {tuple(t.shape)} {t.dtype}"
    if not integer and re.search(r"ind(ex|ic).*\bint", str(error), re.IGNORECASE | re.DOTALL):
        note += (
            ", at times between the integers. If it looks times up in a table, round them: in torch "
            "`lambda x, t: network(x, t.round().long())`"
        )
    in_torch = any(name.partition(".")[0] == "torch" for name in _modules(error))
    if in_torch and not isinstance(x, np.ndarray) and "dtype" in str(error):
        note += ". If the network has another dtype, pass noise of that: `x.float()`"
    if in_torch and isinstance(x, np.ndarray):
        note += ", NumPy arrays both. If it is a network of torch, pass tensors: `torch.from_numpy(x).float()`"
    error.add_note(note)  # type: ignore[attr-defined]


def raised_here(error: Exception) -> bool:
    """Whether it was this library that raised an error, and not a caller's function."""
    return any(name.startswith("pndm_solvers.") for name in _modules(error)[-1:])


def _modules(error: Exception) -> list[str]:
    """The modules through which an error came, its own last."""
    modules, raised = [], error.__traceback__
    while raised:
        modules.append(str(raised.tb_frame.f_globals.get("__name__")))
        raised = raised.tb_next
    return modules


def advise_on_reference(name: str, size: float, prediction: str) -> None:
    """Warns of a fine run whose samples have a root mean square `size` far above that of data."""
    if size > HUGE:
        warn(
            f"the fine run of {name} ends at samples with a root mean square of {size:.3g}; unless the data are that "
            f"large, the network does not predict {prediction!r}, or the schedule is not the one it was trained with"
        )


def advise_on_sets(count: int) -> None:
    """Warns of sets of samples that are too small for their distance to mean something."""
    if count < FEW:
        warn(f"distributions are compared by {count} samples, where chance dominates; pass some hundred starts")
