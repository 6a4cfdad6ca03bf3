"""A fine run of a few samples: what plans are fitted to."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.advice import advise_on_first_answer, advise_on_noise, advise_on_pilot, advise_on_samples
from pndm_solvers.arguments import boolean, check_options, function, location, whole
from pndm_solvers.arrays import check_state, library
from pndm_solvers.condition import Condition, checked_condition
from pndm_solvers.files import write_whole
from pndm_solvers.fit.fitted import Fit, fitted
from pndm_solvers.fit.runs import Part, Runner, as_prediction, numbers
from pndm_solvers.grid import GridOptions
from pndm_solvers.latents import first_state, mean_of
from pndm_solvers.methods import PLMSSolver
from pndm_solvers.observers import Step
from pndm_solvers.older import Unpack
from pndm_solvers.plan import Plan, State
from pndm_solvers.prediction import Prediction
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Float64, Level
from pndm_solvers.schedules import KINDS, NoiseSchedule

__all__ = ["LEVELS", "Pilot"]

FORMAT = "pndm_solvers.pilot/1"
LEVELS = 192  # of the fine run
# Of the fine run. Above 2 the step to σ = 0, of a length that no number of levels shortens, amplifies what a network
# errs by: on the digits an order of 4 is off by 1e-3 however fine the run.
FINE_ORDER = 2
SAME = 0.2  # two answers of one network differ by less; in half precision they do differ
LEAST = 8  # samples of a pilot
JUDGES = 8  # samples that tell the error of the fine run
ARRAYS = ("ends", "kept", "states", "slopes")
COORDINATES = 4096  # of a sample's numbers, at most, that a pilot keeps along its way
HELD_OUT = 2  # every other sample judges what is fitted to the others

Float32 = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Pilot:
    """A few samples of a network along a fine run, to which plans of any budget are fitted.

    Attributes
    ----------
    schedule:
        The network's.
    starts:
        The samples before their first call, in parts of as many as the network takes at once.
    ends:
        Where the fine run leads them, `(B, D)`, D the numbers of a sample.
    error:
        The estimated error of the ends: the median of the root mean squares of a few samples, from a run with half as
        many calls.
    options:
        Those of `Solver.plan`, with which the fine run was made.
    data_mean:
        The mean around which it began, or None.
    """

    schedule: NoiseSchedule
    starts: tuple[State, ...] = field(repr=False)
    ends: Float64 = field(repr=False)
    error: float
    options: GridOptions = field(repr=False)
    # The numbers of a sample that are kept along the way; and at each level `(levels, B, kept)` the states as
    # x/√(α² + σ²), with the derivative by the angle arctan σ/α, which is v. Both are finite at every level.
    kept: NDArray[np.intp] = field(repr=False)
    states: Float32 = field(repr=False)
    slopes: Float32 = field(repr=False)
    data_mean: Float64 | None = field(default=None, repr=False)

    @staticmethod
    def record(
        model: Model,
        schedule: NoiseSchedule,
        x_T: Any,  # noqa: N803 — the field's name for it
        *,
        condition: Condition | None = None,
        data_mean: Any = None,
        levels: int = LEVELS,
        batch_size: int | None = None,
        progress: bool = False,
        **options: Unpack[GridOptions],
    ) -> Pilot:
        """Runs the network finely on the samples `x_T`, with `levels` calls each.

        Parameters
        ----------
        model, condition:
            As for `Plan.run`. torch records no gradients.
        schedule:
            What the network was trained with.
        x_T:
            Pure noise `(B, …)`, as for `Solver.sample`: some 64 samples, half of which are held out to judge; some
            hundred where a sample has only a few numbers. A plan that begins elsewhere, at `start=`, needs states of
            that level.
        data_mean:
            As for `Solver.sample`.
        levels:
            The model calls of the fine run.
        batch_size:
            How many samples the network takes at once; by default all.
        progress:
            Whether to show a bar (tqdm).
        options:
            Those of `Solver.plan` without a length: `prediction`, `start`, `stop`, `final`, `data_range` and
            `spacing`. With a spacing of whole times the network gets whole times alone, from the fitted plans too.

        Raises
        ------
        TypeError, ValueError:
            As `Plan.run` and `Solver.plan`; for fewer than 8 samples.
        FloatingPointError:
            Where the fine run does not end at finite numbers.
        """
        from tqdm.auto import tqdm

        function("model", model, "model(x, t)")
        check_options("record", options, GridOptions.__annotations__)
        check_state("x_T", x_T)
        if options.get("timesteps") is not None:
            raise ValueError("timesteps fix the length of a run; pass spacing=, start= and stop= instead")
        if (count := x_T.shape[0]) < LEAST:
            raise ValueError(f"x_T has {count} samples; a pilot needs {LEAST} at least, and some 64 are better")
        prediction = Prediction.of(options.get("prediction", "epsilon"))
        grid: GridOptions = {"sample_shape": tuple(x_T.shape[1:]), **options, "prediction": prediction}
        solver = PLMSSolver(schedule, order=FINE_ORDER)
        plan = solver.plan(max_model_calls=whole("levels", levels, least=8), **grid)
        if options.get("start") in (None, "top"):
            advise_on_noise(x_T, schedule.level(schedule.t_max))
        x = first_state(x_T, plan.levels[0], data_mean, options)
        mean = None if data_mean is None else mean_of(data_mean)
        given = checked_condition(condition, x)
        batch = count if batch_size is None else whole("batch_size", batch_size)
        size = int(np.prod(x.shape[1:]))
        kept = np.sort(np.random.default_rng(0).choice(size, min(size, COORDINATES), replace=False))
        starts, ends, ways = [], [], []
        total = plan.model_calls * -(-count // batch)
        bar = tqdm(
            total=total, desc=f"pilot of {count} samples", unit="call", disable=not boolean("progress", progress)
        )
        with library(x).unrecorded(), bar:
            for rows in (slice(first, min(first + batch, count)) for first in range(0, count, batch)):
                mine: Any = {"condition": {name: value[rows, ...] for name, value in given.items()}}
                starts.append(plan.start(x[rows, ...], prediction=prediction, **mine))
                way = _Way(kept, plan, rows.stop - rows.start)
                watching = [way, lambda step: bar.update()]
                end = plan.run(model, x[rows, ...], prediction=prediction, callback=watching, **mine)
                ends.append(numbers(end))
                ways.append(way.ended(ends[-1]))
            judges = min(JUDGES, count)
            half = solver.plan(max_model_calls=plan.model_calls // 2, **grid)
            few: Any = {"condition": {name: value[:judges, ...] for name, value in given.items()}}
            again = numbers(half.run(model, x[:judges, ...], prediction=prediction, **few))
        all_ends = np.concatenate(ends)
        change = np.sqrt(((again - all_ends[:judges]) ** 2).mean(1))
        error = float(np.median(change)) / (2**FINE_ORDER - 1)
        states, slopes = (np.concatenate(parts, 1) for parts in zip(*ways, strict=True))
        advise_on_pilot(float(np.sqrt(np.mean(all_ends**2))), error, prediction.type, options.get("data_range", 1.0))
        advise_on_first_answer(states[0], slopes[0], plan.levels[0], prediction.type)
        if data_mean is None and options.get("start") is None:
            advise_on_samples(library(x).from_numpy(all_ends.reshape(x.shape), x), plan, schedule, None)
        return Pilot(schedule, tuple(starts), all_ends, error, grid, kept, states, slopes, mean)

    def fit(self, model: Model, max_model_calls: int, *, progress: bool = False, note: str = "") -> Fit:
        """A plan of at most so many model calls, fitted to the pilot's network, `model`: see `fit_plan`.

        Raises ValueError for a model that answers otherwise than the pilot's.
        """
        return fitted(self, model, max_model_calls, progress=progress, note=note)

    @property
    def plan(self) -> Plan:
        """The fine run's plan."""
        return self.starts[0].plan

    def parts(self) -> tuple[list[Part], list[Part]]:
        """The samples that plans are fitted to, and those held out to judge."""
        fitted, held_out, first = [], [], 0
        for start in self.starts:
            rows = np.arange(first, first + start.states[0].shape[0])
            whole_part, judges = Part(start, rows, self.ends[rows]), rows % HELD_OUT == HELD_OUT - 1
            for parts, chosen in ((fitted, ~judges), (held_out, judges)):
                if chosen.any():
                    parts.append(whole_part.taken(np.flatnonzero(chosen)))
            first = rows[-1] + 1
        return fitted, held_out

    def check_network(self, runner: Runner, part: Part) -> None:
        """ValueError where the network answers otherwise at the first level than it did in the fine run."""
        row, start = self.plan.rows[0], part.start
        v = as_prediction("v_prediction", row, start.states[0], runner.answer(start), self.kept)
        then = self.slopes[0, part.rows]
        change = v / np.hypot(row.alpha, row.sigma) - then
        if not np.sqrt(np.mean(change**2)) <= SAME * np.sqrt(np.mean(then**2)):
            raise ValueError(
                "the model answers otherwise than the one that the pilot was recorded with; pass that one, with the "
                "same guidance, or record a pilot of this one"
            )

    def at(self, level: Level, rows: NDArray[np.intp]) -> Float64:
        """The states of some samples at any level of the run, `(b, kept)`: Hermite's cubic in arctan σ/α."""
        angles, angle = _angles(self.plan.levels), _angles([level])[0]
        direction = np.sign(angles[-1] - angles[0])
        k = int(np.searchsorted(direction * angles, direction * angle).clip(1, len(angles) - 1))
        step = angles[k] - angles[k - 1]
        s = (angle - angles[k - 1]) / step
        (a, b), (u, v) = (x[k - 1 : k + 1, rows].astype(np.float64) for x in (self.states, self.slopes))
        state = (1 + 2 * s) * (1 - s) ** 2 * a + s**2 * (3 - 2 * s) * b + s * (1 - s) * step * ((1 - s) * u - s * v)
        return state * np.hypot(level.alpha, level.sigma)

    # ---------------------------------------------------------------- the file

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the pilot to a file, .npz: what `load` reads, without the network.

        Raises ValueError for a schedule or a spacing of the caller's own, which no file can hold.
        """
        path, kind = location("path", path), type(self.schedule).__name__
        if kind not in KINDS or not isinstance(self.options.get("spacing", ""), str):
            raise ValueError("a file holds schedules and spacings of this library alone, not functions of your own")
        options = {**self.options, "prediction": vars(self.starts[0].prediction)}
        kept: Any = self.schedule  # a dataclass, since it is one of the kinds
        facts = {"format": FORMAT, "schedule": [kind, asdict(kept)], "options": options, "error": self.error}
        arrays: dict[str, Any] = {name: getattr(self, name) for name in ARRAYS}
        arrays |= {} if self.data_mean is None else {"data_mean": self.data_mean}
        arrays |= {f"start{i}": np.frombuffer(_bytes(start), np.uint8) for i, start in enumerate(self.starts)}
        write_whole(path, lambda file: np.savez(file, facts=np.array(json.dumps(facts)), **arrays))

    @staticmethod
    def load(path: str | os.PathLike[str], device: Any = None, like: Any = None) -> Pilot:
        """The pilot that `save` wrote; `device` and `like` are those of `State.load`. ValueError for any other file."""
        from zipfile import BadZipFile, ZipFile

        path = location("path", path)
        try:
            raw = BytesIO(path.read_bytes())
            ZipFile(raw).close()  # of any other file NumPy would speak as of a pickle
            with np.load(raw, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                if facts["format"] != FORMAT:
                    raise ValueError(f"format is {facts['format']!r}; this version reads {FORMAT!r}")
                arrays = {name: file[name] for name in ARRAYS}
                mean = file.get("data_mean")
                count = sum(name.startswith("start") for name in file.files)
                starts = [_state(file[f"start{i}"].tobytes(), device, like) for i in range(count)]
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"{str(path)!r} cannot be loaded as a pilot; Pilot.save writes such files ({error or repr(error)})"
            ) from error
        kind, fields = facts["schedule"]
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
        options = facts["options"]
        options["prediction"] = Prediction(**options["prediction"])
        options["sample_shape"] = tuple(options["sample_shape"])
        return Pilot(
            KINDS[kind](**fields), tuple(starts), options=options, error=facts["error"], data_mean=mean, **arrays
        )


def _bytes(state: State) -> bytes:
    """The file of a state."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        state.save(path := location("path", os.path.join(folder, "state")))
        return path.read_bytes()


def _state(file: bytes, device: Any, like: Any) -> State:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        (path := location("path", os.path.join(folder, "state"))).write_bytes(file)
        return State.load(path, device, like)


class _Way:
    """Collects the kept numbers of each state and of its slope, into memory that is taken once."""

    def __init__(self, kept: NDArray[np.intp], plan: Plan, samples: int) -> None:
        self.kept, self.levels = kept, plan.levels
        self.states, self.slopes = np.empty((2, len(plan.levels), samples, len(kept)), np.float32)

    def __call__(self, step: Step) -> None:
        row = step.before.plan.rows[step.row]
        size = np.hypot(row.alpha, row.sigma)
        self.states[step.row] = numbers(step.x, self.kept) / size
        self.slopes[step.row] = as_prediction("v_prediction", row, step.x, step.answer, self.kept) / size

    def ended(self, end: Float64) -> tuple[Float32, Float32]:
        """All of them, and those of the end. No answer belongs to it: there the last step goes on as a parabola."""
        self.states[-1] = end[:, self.kept] / np.hypot(*self.levels[-1][1:])
        *_, before, there = _angles(self.levels)
        self.slopes[-1] = 2 * (self.states[-1] - self.states[-2]) / (there - before) - self.slopes[-2]
        return self.states, self.slopes


def _angles(levels: Any) -> Float64:
    return np.array([np.arctan2(level.sigma, level.alpha) for level in levels])
