"""Time grids: the levels that a run visits. The only place that rounds a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.arguments import choice, function, real, reals, shown, whole
from pndm_solvers.coordinates import COORDINATES, Coordinate
from pndm_solvers.prediction import Prediction
from pndm_solvers.rule import COUNT, RULE, Rule
from pndm_solvers.schedule import Level, Schedule
from pndm_solvers.spacings import DEFAULT_SPACING, SPACINGS, Spacing, default

__all__ = [
    "Grid",
    "GridOptions",
    "Restart",
    "default_start",
    "make_grid",
]


class GridOptions(TypedDict, total=False):
    """The times that a run visits: the arguments of `make_grid`."""

    timesteps: Sequence[float] | NDArray[Any] | None
    spacing: str | Spacing
    start: float | Literal["top"] | None
    stop: float | None
    final: str
    steps_offset: int
    prediction: str | Prediction
    data_range: float
    sample_shape: tuple[int, ...] | None
    restarts: Sequence[Restart]


class TooShortError(ValueError):
    """A grid with too few levels for a restart; more steps may mend that."""


@dataclass(frozen=True)
class Restart:
    """A run's way back up: at the level near `low` noise is added up to `high`, and the run falls again, in `steps`.

    `low` and `high` are times of the schedule. The run restarts `times` times, from that level of its grid which is
    nearest to `low` in σ/α, and comes back to it by levels even in (σ/α)^(1/7). Fresh noise makes earlier errors small.
    Reference: Xu et al. (2023), algorithm 1.
    """

    low: float
    high: float
    steps: int
    times: int = 1

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            object.__setattr__(self, name, real(f"{name} of a restart", getattr(self, name)))
        for name in ("steps", "times"):
            object.__setattr__(self, name, whole(f"{name} of a restart", getattr(self, name)))
        if self.low >= self.high:
            raise ValueError(f"low of a restart is {self.low:g}; it must be below high, {self.high:g}")


@dataclass(frozen=True)
class Grid:
    """The levels t_0, …, t_n of n steps.

    With `integral` the times are integers, and those of inner stages are rounded to integers too. The library's own
    weights are those for data of `data_range`. Where the levels of a run towards data rise, noise is added. ValueError
    where they rise first or last, or twice in a row.
    """

    schedule: Schedule
    levels: tuple[Level, ...]
    integral: bool
    data_range: float = 1.0

    def __post_init__(self) -> None:
        rises = self._rises
        if any(rises) and (rises[0] or rises[-1] or any(map(all, pairwise(rises)))):
            raise ValueError(
                f"levels fall, and may rise between two falls; σ/α of {[level.ratio for level in self.levels]} rises "
                f"at an end, or twice in a row"
            )

    @property
    def steps(self) -> Iterator[tuple[Level, Level]]:
        """Each step's first and last level."""
        return pairwise(self.levels)

    @property
    def parts(self) -> list[Grid]:
        """The parts between which levels rise; one where they all fall, or all rise as in an inversion."""
        edges = [0, *(i for i, rise in enumerate(self._rises, 1) if rise), len(self.levels)]
        if len(edges) == 2:
            return [self]
        return [replace(self, levels=self.levels[first:last]) for first, last in pairwise(edges)]

    @property
    def _rises(self) -> list[bool]:
        """For each step, whether it adds noise: none of an inversion's does."""
        steps = list(pairwise([level.ratio for level in self.levels]))
        inversion = not any(here > there for here, there in steps)
        return [here < there and not inversion for here, there in steps]

    def between(self, here: Level, there: Level, fraction: float, *, by: Coordinate | None = None) -> Level:
        """The level at a fraction of the step in time, or in a coordinate; on an integral grid rounded, halves to even.

        Were all halves rounded up, the middle of every odd step would lie too high.
        Where the coordinate is infinite at `here`, it is a fraction of the step in 1/ρ.
        """
        if fraction == 1:
            return there
        if by is None:
            t = here.t + fraction * (there.t - here.t)
        else:
            if not math.isfinite(first := by.of(here.ratio)):
                by, first = COORDINATES["inverse_ratio"], 0.0
            last = by.of(there.ratio)
            t = self.schedule.level_at(float(by.ratio(first + fraction * (last - first)))).t
        return self.schedule.level(round(t) if self.integral else t)


def make_grid(
    schedule: Schedule,
    num_inference_steps: int | None = None,
    *,
    timesteps: Sequence[float] | NDArray[Any] | None = None,
    spacing: str | Spacing = DEFAULT_SPACING,
    start: float | Literal["top"] | None = None,
    stop: float | None = None,
    final: str = "clean",
    steps_offset: int = 0,
    prediction: str | Prediction = "epsilon",
    data_range: float = 1.0,
    sample_shape: tuple[int, ...] | None = None,
    restarts: Sequence[Restart] = (),
    rule: Rule = RULE,
) -> Grid:
    """The grid of a named spacing with `num_inference_steps` steps, or of the caller's own `timesteps`.

    Parameters
    ----------
    schedule:
        The schedule of the levels.
    num_inference_steps:
        Steps of the named spacing over the whole schedule, before `start` and `stop` cut it.
    timesteps:
        The times t_0 > … > t_{n−1} at which steps begin; integers keep inner stages on integers.
        Rising times are an inversion, and need a `stop` above them.
    spacing:
        One of `SPACINGS`, or a callable `(schedule, steps, end) -> times`.
    start, stop:
        Cut the grid: the run begins exactly at `start`, visits the grid's times between, and ends
        exactly at `stop`. With `stop` above `start` it runs upwards, from data to noise. "top" is the highest level.
    final:
        Where a run without `stop` ends: "clean" (α = 1, σ = 0) or "first", the lowest trained level.
    steps_offset:
        Added to the times of "leading" spacing, as in diffusers.
    prediction, sample_shape:
        Where the grid "default" begins: see `default_start`.
    data_range:
        One to two deviations of the data around their mean; 1 for pictures in [−1, 1] and for numbers of deviation 1.
        The grid "default" and the library's own weights suit data of that size.
    restarts:
        Where the run goes back up: see `Restart`.
    rule:
        The numbers of the grid "default". Solvers pass on their own: with noise another grid does well.

    Raises
    ------
    ValueError:
        For times that are out of order, out of range or not finite.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError(f"schedule is a {type(schedule).__name__}; make a NoiseSchedule, NoiseSchedule.linear() say")
    choice("final", final, ("clean", "first"))
    leading_named = isinstance(spacing, str) and spacing == "leading"
    if whole("steps_offset", steps_offset, least=0) and (timesteps is not None or not leading_named):
        raise ValueError("steps_offset belongs to spacing='leading' alone")
    data_range = size_of_data(data_range)
    steps = whole("num_inference_steps", num_inference_steps) if timesteps is None else None
    lowered = default_start(schedule, prediction, data_range, sample_shape, rule, steps)
    if isinstance(start, str):
        choice("start", start, ("top",))
        start = schedule.t_max
    if steps is not None and isinstance(spacing, str) and spacing == DEFAULT_SPACING:
        below = start is None and lowered.ratio < schedule.level(schedule.t_max).ratio
        drowned = _drowned(data_range, sample_shape, rule.of(steps) if below else rule)
        spacing = partial(
            default, first=lowered if start is None else None, drowned=drowned, rule=rule.of_range(data_range)
        )
    if stop is not None:
        end = schedule.level(stop, "stop")
    else:
        end = schedule.clean if final == "clean" else schedule.level(schedule.t_min)
    if steps is not None:
        times = _spaced(schedule, steps, spacing, end) + steps_offset
        if stop is not None and start is None and end.t >= times[0]:
            raise ValueError(
                f"stop = {end.t:g} is not below t = {times[0]:g}, where this spacing begins; to run upwards, from data "
                f"to noise, pass start= too"
            )
        first = float(times[0]) if start is None else schedule.level(start, "start").t
    else:
        if not isinstance(spacing, str) or spacing != DEFAULT_SPACING:
            raise ValueError("spacing makes times, and timesteps are times of your own; pass one of them")
        if start is not None:
            raise ValueError("start cuts a named spacing; timesteps of your own begin where their first one says")
        times = _own(schedule, timesteps, end)
        first = float(times[0])

    low, high = sorted((first, end.t))
    # A time that differs from an end by its rounding alone would be a step, and a model call, of no length.
    apart = [np.abs(times - t) > 1e-12 * abs(t) for t in (first, end.t)]
    inside = (low < times) & (times < high) & apart[0] & apart[1]
    inner = np.sort(times[inside])[:: 1 if end.t > first else -1].tolist()
    whole_times = times.dtype.kind in "iu" and first.is_integer() and float(end.t).is_integer()
    integral = whole_times and schedule.num_train_timesteps is not None
    levels = _trained(schedule, (first, *inner), "spacing")
    # Where the run begins at its very end, as "leading" with one step and final="first" does, no step is left.
    grid = Grid(schedule, (*levels, end) if first != end.t else (end,), integral, data_range)
    if not isinstance(restarts, (list, tuple)) or not all(isinstance(restart, Restart) for restart in restarts):
        raise TypeError(f"restarts is {shown(restarts)}; it must be a list of Restart(low, high, steps, times)")
    return _restarted(grid, restarts) if restarts else grid


def default_start(
    schedule: Schedule,
    prediction: str | Prediction = "epsilon",
    data_range: float = 1.0,
    sample_shape: tuple[int, ...] | None = None,
    rule: Rule = RULE,
    steps: int | None = None,
) -> Level:
    """Where a run from pure noise begins on the default grid: the highest level, or a lower one.

    At σ/α = ρ an error δ of ε is one of δ·ρ in the picture. So networks that predict ε or a score are not asked far
    above the level where the data drown in noise: ρ = 10·unit·max(1, √D/6). The unit is the data's range, and its root
    below 1. Noise has to drown the data's widest direction, and in D numbers of one range that is up to √D wide. With
    few steps such errors outweigh what a lower start leaves out. So runs of 6 steps or fewer begin at ρ = 85·unit at
    most, unless their steps have noise.

    Networks that predict v, x_0 or a flow are accurate at pure noise, and begin there. So does every run where pure
    noise of the lower level would have another deviation, as on variance-exploding schedules: a caller's noise is that
    of the highest level.

    Parameters
    ----------
    schedule:
        The schedule of the levels.
    prediction:
        What the network predicts.
    data_range:
        One to two deviations of the data: see `make_grid`.
    sample_shape:
        Of one sample, without the batch; None counts as 1,024 numbers.
    rule:
        Its `start`, `spread` and `start_most` are the 10, the 6 and the 85.
    steps:
        Of the run; None is a run of more than 6.
    """
    top, lowest = schedule.level(schedule.t_max), schedule.level(schedule.t_min).ratio
    kind = Prediction.of(prediction).type
    ratio = _drowned(size_of_data(data_range), sample_shape, rule if steps is None else rule.of(steps))
    if ratio <= lowest:
        raise ValueError(
            f"data_range is {data_range:g}; noise at the schedule's lowest level, σ/α = {lowest:g}, drowns such data"
        )
    if kind not in ("epsilon", "score") or ratio >= top.ratio:
        return top
    level = schedule.level_at(ratio)
    same = math.isclose(math.hypot(*level[1:]), math.hypot(*top[1:]), rel_tol=1e-6)
    return level if same else top


def size_of_data(data_range: Any) -> float:
    """`data_range` as a float. TypeError or ValueError unless it is a number above 0."""
    return real("data_range", data_range, "a number above 0", lambda number: 0 < number < math.inf)


def _drowned(data_range: float, sample_shape: tuple[int, ...] | None, rule: Rule) -> float:
    """The σ/α at which the data drown in noise: see `default_start`."""
    if not isinstance(sample_shape, tuple | None):
        raise TypeError(f"sample_shape is {shown(sample_shape)}; it must be a tuple of whole numbers, x.shape[1:] say")
    numbers = [whole("sample_shape", n, least=0, most=math.inf) for n in sample_shape or ()]
    return rule.of_range(data_range).start_ratio(COUNT if sample_shape is None else math.prod(numbers))


def _restarted(grid: Grid, restarts: Sequence[Restart]) -> Grid:
    """The grid with its restarts."""
    schedule, levels = grid.schedule, list(grid.levels)
    # Those of one level one after the other, and the lowest level first: what is inserted does not move the others.
    places: dict[int, list[Level]] = {}
    inner = [i for i, level in enumerate(levels) if i and level.sigma]
    for restart in restarts:
        low, high = _trained(schedule, (restart.low, restart.high), "a restart")
        if not inner:
            raise TooShortError("a run of one step has no level from which to restart; pass more steps")
        near = min(inner, key=lambda i: abs(math.log(levels[i].ratio / low.ratio)))
        if not levels[near].ratio < high.ratio < math.inf:
            raise TooShortError(
                f"a restart up to t = {restart.high:g} begins at t = {levels[near].t:g}, the level nearest to low = "
                f"{restart.low:g}; high must lie above it, and below pure noise; or pass more steps"
            )
        powers = np.linspace(high.ratio ** (1 / 7), levels[near].ratio ** (1 / 7), restart.steps + 1)[1:-1]
        times = [schedule.level_at(float(ratio)).t for ratio in powers**7]
        times = [round(t) for t in times] if grid.integral else times
        way = [high, *(schedule.level(t) for t in dict.fromkeys(times)), levels[near]]
        way = way[:1] + [b for a, b in pairwise(way) if b.ratio < a.ratio]
        places.setdefault(near, []).extend(way * restart.times)
    for place in sorted(places, reverse=True):
        levels[place + 1 : place + 1] = places[place]
    return replace(grid, levels=tuple(levels))


def _spaced(schedule: Schedule, steps: int, spacing: str | Spacing, end: Level) -> NDArray[Any]:
    """The times of a spacing, which fall."""
    if isinstance(spacing, str):
        make = SPACINGS[choice("spacing", spacing, SPACINGS)]
    else:
        make = function("spacing", spacing, "spacing(schedule, steps, end), or one of " + ", ".join(SPACINGS))
    times = _finite("spacing", make(schedule, steps, end))
    if np.any(np.diff(times) >= 0):
        raise ValueError(f"spacing must give times that fall strictly, not {_abridged(times)}")
    return times


def _own(schedule: Schedule, timesteps: Any, end: Level) -> NDArray[Any]:
    """The caller's own times, which fall to the end, or rise to it."""
    times = _finite("timesteps", timesteps)
    _trained(schedule, times.tolist(), "timesteps")
    course = np.append(times, [] if times[-1] == end.t else end.t)
    if not (np.all(np.diff(course) < 0) or np.all(np.diff(course) > 0)):
        raise ValueError(
            f"timesteps must fall strictly down to the end at t = {end.t:g} (or rise strictly up to a stop "
            f"above them), not {_abridged(times)}"
        )
    return times


def _trained(schedule: Schedule, times: Sequence[float], name: str) -> list[Level]:
    """The levels at times where steps begin. ValueError at the clean level; `name` is for errors."""
    levels = schedule.levels(times, f"a time of {name}")
    for t, level in zip(times, levels, strict=True):
        if level.sigma == 0:
            raise ValueError(
                f"a step cannot begin at t = {t:g}, the clean level, which no network has seen; begin at t = "
                f"{schedule.t_min:g}, and to end at the clean level leave it out of the times and pass final='clean'"
            )
    return levels


def _finite(name: str, values: Any) -> NDArray[Any]:
    times = reals(name, values)
    if times.ndim != 1 or times.size == 0 or not np.isfinite(times).all():
        raise ValueError(f"{name} must give a non-empty 1-D sequence of finite times, not {_abridged(times)}")
    return times.astype(np.int64) if times.dtype.kind == "u" else times  # unsigned differences are never negative


def _abridged(times: NDArray[Any]) -> str:
    return np.array2string(np.asarray(times), threshold=8, edgeitems=3, separator=", ")
