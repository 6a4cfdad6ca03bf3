"""What solvers are measured on: a network, starts, and the points to which the probability-flow ODE carries them."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pndm_solvers.analytic import Distribution
from pndm_solvers.arguments import boolean, choice, function, location, whole
from pndm_solvers.arrays import check_state, library
from pndm_solvers.condition import Condition, checked_condition
from pndm_solvers.distances import Target
from pndm_solvers.files import write_whole
from pndm_solvers.flow import ExactFlow, FineRun, Flow, Reference
from pndm_solvers.grid import size_of_data
from pndm_solvers.latents import around, first_state
from pndm_solvers.noise import initial_noise
from pndm_solvers.observers import Callback
from pndm_solvers.plan import Plan
from pndm_solvers.prediction import Prediction
from pndm_solvers.run_options import Model
from pndm_solvers.schedule import Level
from pndm_solvers.schedules import NoiseSchedule

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Problem"]

Float64 = NDArray[np.float64]

OTHER_SEEDS = 1000  # of the starts with which samples are compared in distribution


@dataclass(frozen=True, eq=False)
class Problem:
    """A network, starts, and the flow that a solver should follow: what `compare` and `observed_order` measure on.

    `Problem.of` makes one of any network, `Problem.exact` of a distribution.

    Attributes
    ----------
    name, schedule:
        The problem's name, and the schedule of its times.
    model, prediction, condition:
        A function `model(x, t, **condition)`, the kind of its prediction, and the arrays that it receives as keywords.
    x:
        The starts `(B, …)`: pure noise at the schedule's highest level.
    flow:
        How the end points are found.
    data:
        Points `(K, …)` of the distribution that the samples should have, or None.
    saved:
        The .npz file that keeps the references, or None.
    data_mean, data_range:
        Where the data lie, and how large they are, as for `Solver.sample`.
    """

    name: str
    schedule: NoiseSchedule
    model: Model = field(repr=False)
    prediction: Prediction
    x: Any = field(repr=False)
    flow: Flow = field(repr=False)
    condition: Condition | None = field(default=None, repr=False)
    data: Any = field(default=None, repr=False)
    saved: Path | None = None
    data_mean: Any = None
    data_range: float = 1.0
    _kept: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self._read()

    @staticmethod
    def of(
        model: Model,
        schedule: NoiseSchedule,
        x_T: Any,  # noqa: N803 — the field's name for it
        *,
        prediction: str | Prediction = "epsilon",
        condition: Condition | None = None,
        data: Any = None,
        name: str = "own network",
        calls: int = 512,
        saved: str | os.PathLike[str] | None = None,
        progress: bool = True,
        data_mean: Any = None,
        data_range: float = 1.0,
    ) -> Problem:
        """Any network as a problem. Nothing is run yet: a fine run is made when a measurement first needs one.

        The fine run is `PLMSSolver(schedule, order=2)` on the quadratic grid. It is made with `calls` model
        calls and with half as many; the difference gives the error of the finer one, which is printed and kept.

        Parameters
        ----------
        model, prediction, condition:
            As for `Plan.run`. torch records no gradients.
        schedule:
            What the network was trained with.
        x_T:
            The starts `(B, …)`: pure noise at the schedule's highest level, N(0, α² + σ²). A paired error needs some
            32, a distance of distributions several hundred.
        data:
            Points `(K, …)` of the data, or None. Then samples are compared in distribution to other fine runs.
        name:
            For tables, plots and messages.
        calls:
            The model calls of the finer run, at least 8.
        saved:
            A file, reference.npz say. References are read from it where it holds them, and written to it. The file
            knows the starts, schedule, prediction and condition by their digest, but not the network: use one
            for each network.
        progress:
            Whether to show bars and to print the errors of fine runs, on stderr. `reference()` holds them too.
        data_mean, data_range:
            As for `Solver.sample`: where the data lie, if far from 0, and how large they are, if not about 1.

        Raises
        ------
        TypeError, ValueError:
            For a model that cannot be called, an `x_T` that is no floating array, and `saved` of another problem.
        """
        function("model", model, "model(x, t)")
        check_state("x_T", x_T)
        if not isinstance(schedule, NoiseSchedule):
            raise TypeError(
                f"schedule is a {type(schedule).__name__}; make a NoiseSchedule, NoiseSchedule.linear() say"
            )
        checked_condition(condition, x_T)
        if data is not None:
            check_state("data", data)
            if tuple(data.shape[1:]) != tuple(x_T.shape[1:]):
                raise ValueError(
                    f"data are of shape {tuple(data.shape)} and x_T of {tuple(x_T.shape)}; beyond the batch they must "
                    f"be alike"
                )
        flow = FineRun(whole("calls", calls, least=8), boolean("progress", progress))
        path = None if saved is None else location("saved", saved).absolute()
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"saved is {str(saved)!r}, but there is no folder {str(path.parent)!r}; make it first")
        if data_mean is not None:
            around(data_mean, x_T, schedule.level(schedule.t_max))  # refuses what does not fit
        parts = name, schedule, model, Prediction.of(prediction), x_T, flow, condition, data, path
        return Problem(*parts, data_mean, size_of_data(data_range))

    @staticmethod
    def exact(
        distribution: Distribution, schedule: NoiseSchedule, starts: int = 64, seed: int = 1, name: str = ""
    ) -> Problem:
        """A distribution as a problem, in float64 on NumPy arrays, with the exact flow and 4,096 draws as its data.

        The starts are N(0, α² + σ²) at the schedule's highest level. The first ones do not depend on their number.
        """
        top = schedule.level(schedule.t_max)
        data = distribution.sample(4096, seed=0)
        x = math.hypot(top.alpha, top.sigma) * initial_noise((starts, data.shape[1]), seed)
        prediction = "epsilon" if top.alpha else "v_prediction"  # in pure noise ε carries no information
        model = distribution.model(schedule, prediction)
        name = name or type(distribution).__name__
        return Problem(name, schedule, model, Prediction(prediction), x, ExactFlow(distribution), data=data)

    def run(
        self, plan: Plan, x: Any, *, seed: int = 0, callback: Callback | None = None, progress: bool = False
    ) -> Any:
        """The samples of a plan from the states `x` at its first level. They may be infinite or NaN."""
        with library(x).unrecorded():
            return plan.run(
                self.model,
                x,
                prediction=self.prediction,
                condition=self.condition,
                seed=seed,
                callback=callback,
                progress=progress,
                check_finite=None,
            )

    @property
    def grid_options(self) -> dict[str, Any]:
        """What `Solver.plan` needs to know of the network and its samples."""
        shape = tuple(self.x.shape[1:])
        return {"prediction": self.prediction, "sample_shape": shape, "data_range": self.data_range}

    def starts(self, t: float | None = None, *, seed: int | None = None) -> Any:
        """The starts at the time `t`, as a user would begin there: noise of deviation √(α² + σ²), around `data_mean`.

        By default `t` is the schedule's highest. With a `seed` they are other starts, of x's shape and kind.
        """
        top = self.schedule.level(self.schedule.t_max)
        level = top if t is None else self.schedule.level(t)
        size, whole_size = (math.hypot(at.alpha, at.sigma) for at in (level, top))
        if seed is not None:
            noise = size * initial_noise(tuple(self.x.shape), seed, like=self.x)
        else:
            noise = self.x if math.isclose(size, whole_size, rel_tol=1e-9) else self.x * (size / whole_size)
        return first_state(noise, level, self.data_mean, self.grid_options)

    def reference(self, start: float | None = None, stop: float | None = None, *, final: str = "clean") -> Reference:
        """Where the flow leads, from the starts at `start`, the highest level by default.

        `stop` and `final` are those of `Solver.plan`. Each reference is made once and kept, and where the problem has
        `saved`, in its file too.
        """
        schedule = self.schedule
        here = schedule.level(schedule.t_max if start is None else start, "start")
        there = self._end(stop, final)
        key = f"{here.t!r} to {there.t!r}"
        if key not in self._kept:
            self._kept[key] = self.flow(self, self.starts(here.t), here, there)
            self._write()
        return self._kept[key]

    def draws(self, final: str = "clean") -> Any:
        """The end points of the flow from other starts than `x`, as many, under the same condition."""
        return self._draws(2, self._end(None, final))

    def target(self, final: str = "clean") -> Target:
        """The points to which samples are compared in distribution, at most as many as there are starts.

        They are data where the problem has them and `final` is "clean", else samples of a fine run of other starts.
        """
        end = self._end(None, final)
        key = f"target at {end.t!r}"
        if key not in self._kept:
            points = self.data
            if points is None or final != "clean":
                points = self._draws(1, end)
            elif len(points) > len(self.x):
                points = points[np.random.default_rng(0).choice(len(points), len(self.x), replace=False)]
            self._kept[key] = Target(_numbers(points))
        return self._kept[key]

    def floor(self, final: str = "clean", splits: int = 20) -> float:
        """SW² of two sets from one distribution, of the sizes that are compared: what perfect samples have in the mean.

        The mean over random splits of the data, where the target is data, else of the samples of two fine runs of other
        starts. Data and not fine runs, since the flow of a network may be far from its data: that is to be seen.
        """
        end = self._end(None, final)
        key = f"floor at {end.t!r}"
        if key not in self._kept:
            if self.data is not None and final == "clean":
                pool = _numbers(self.data)
            else:
                pool = np.concatenate([_numbers(self._draws(number, end)) for number in (1, 2)])
            count, size = len(self.x), len(self.target(final).points)
            # Where the pool holds less than both sets, smaller ones stand for them: SW² goes as 1/n + 1/m.
            share = min(1.0, len(pool) / (count + size))
            n, m = max(int(share * count), 1), max(int(share * size), 1)
            orders = (np.random.default_rng(split).permutation(len(pool)) for split in range(splits))
            distances = [Target(pool[order[:m]]).sliced_wasserstein(pool[order[-n:]]) for order in orders]
            self._kept[key] = float(np.mean(distances)) * (1 / count + 1 / size) / (1 / n + 1 / m)
        return self._kept[key]

    def _draws(self, number: int, end: Level) -> Any:
        key = f"draws {number} at {end.t!r}"
        if key not in self._kept:
            self._kept[key] = self.flow.draws(self, self.x, OTHER_SEEDS + number, end)
            self._write()
        return self._kept[key]

    def _end(self, stop: float | None, final: str) -> Level:
        if stop is not None:
            return self.schedule.level(stop, "stop")
        choice("final", final, ("clean", "first"))
        return self.schedule.clean if final == "clean" else self.schedule.level(self.schedule.t_min)

    # ---------------------------------------------------------------- the file

    def _facts(self) -> dict[str, str]:
        """What the references depend on, the network apart."""
        times = np.linspace(self.schedule.t_min, self.schedule.t_max, 101)
        levels = np.round([self.schedule.alpha(times), self.schedule.sigma(times)], 12)

        def digest(value: Any) -> str:
            from hashlib import sha256

            return sha256(library(value).to_bytes(value).tobytes()).hexdigest()[:16]

        return {
            "starts": f"{tuple(self.x.shape)} of {self.x.dtype}, {digest(self.x)}",
            "schedule": digest(levels),
            "prediction": repr(self.prediction),
            "condition": ", ".join(f"{name} {digest(value)}" for name, value in (self.condition or {}).items()),
            "calls": str(getattr(self.flow, "calls", None)),
            **({} if self.data_mean is None else {"data_mean": digest(np.asarray(self.data_mean, np.float64))}),
        }

    def _read(self) -> None:
        if self.saved is None or not self.saved.exists():
            return
        from zipfile import BadZipFile

        try:
            with np.load(self.saved, allow_pickle=False) as file:
                facts = json.loads(str(file["facts"]))
                arrays = {key: file[key] for key in facts["entries"]}
                theirs = facts["problem"]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ValueError(
                f"saved is {str(self.saved)!r}, which is no whole file of references; pass another path"
            ) from error
        own = self._facts()
        different = [name for name, value in own.items() if theirs.get(name) != value]
        if different:
            raise ValueError(
                f"saved is {str(self.saved)!r}, which holds references of another problem: it differs in "
                f"{', '.join(different)}; pass another path, or delete the file. Starts are the same in the next "
                f"process only if they are drawn from a seed of their own"
            )
        for key, (start, *figures) in facts["entries"].items():
            ends = library(self.x).from_numpy(arrays[key], like=self.x)
            self._kept[key] = ends if start is None else Reference(self.starts(start), ends, *figures)

    def _write(self) -> None:
        if self.saved is None:
            return
        entries: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for key, value in self._kept.items():
            if isinstance(value, Reference):
                start = float(key.split(" to ")[0])
                figures = value.error, value.last_step, value.calls
                entries[key], arrays[key] = (start, *figures), _numbers(value.ends)
            elif key.startswith("draws"):
                entries[key], arrays[key] = (None,), _numbers(value)
        facts = json.dumps({"problem": self._facts(), "entries": entries})
        write_whole(self.saved, lambda file: np.savez(file, facts=np.array(facts), **arrays))


def _numbers(x: Any) -> Float64:
    return library(x).numbers(x)
