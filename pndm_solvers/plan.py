"""A plan is a table that runs: on the caller's arrays, in the library's loop or in the caller's own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pndm_solvers import checkpoint as files
from pndm_solvers.advice import advise_on_size, note_on_call
from pndm_solvers.arguments import boolean, check_options, function, location
from pndm_solvers.array_library import ArrayLibrary
from pndm_solvers.arrays import check_state, check_together, is_array, library
from pndm_solvers.checkpoint import CheckpointFile
from pndm_solvers.condition import Condition, checked_condition
from pndm_solvers.in_place import Script, run_in_place
from pndm_solvers.latents import converted
from pndm_solvers.noise import NoiseSource
from pndm_solvers.observers import Callback, CheckFinite, Observer, Progress, Step, Trajectory, callbacks
from pndm_solvers.older import Self, Unpack
from pndm_solvers.prediction import Prediction
from pndm_solvers.run_options import Model, StartOptions
from pndm_solvers.table import Row, Table
from pndm_solvers.transition import Transition, check_trajectory, replay

__all__ = ["Plan", "State"]


@dataclass(frozen=True, eq=False, repr=False)
class Plan(Table):
    """A sampler as a table, which runs. Its attributes, cost, printing and JSON are those of `Table`."""

    # What runs work out once for all: the plan on registers, and the predictions that determine what each row combines.
    scripts: dict[Any, Script] = field(init=False, default_factory=dict)
    determined: set[str] = field(init=False, default_factory=set)

    @classmethod
    def of(cls, table: Table) -> Self:
        """The plan with the rows of a table."""
        return cls(table.rows, table.end, table.integer_times, table.name, table.fitted)

    def start(
        self,
        x: Any,
        *,
        prediction: str | Prediction = "epsilon",
        condition: Condition | None = None,
        seed: int | Sequence[int] | None = None,
        generator: Any = None,
        noise: Literal["independent", "brownian"] = "independent",
        state_dtype: Any = None,
    ) -> State:
        """The state before the first model call, for a loop of the caller's own.

        `x` is `(B, …)`, floating. The state holds the condition: call `model(state.x, state.t, **state.condition)`.
        See `run` for the other arguments.
        """
        check_state("the state x", x)
        ours = library(x)
        try:
            check_state("it", own := ours.wide(x) if state_dtype is None else ours.cast(x, state_dtype))
        except Exception as error:  # each array library's own, for an unknown dtype
            wrong = f"state_dtype is {state_dtype!r}; it must be a floating dtype of x's library, as x.dtype is"
            raise TypeError(wrong) from error
        prediction = Prediction.of(prediction)
        if self.fitted is not None:
            self.fitted.check_prediction(prediction.type)
        if ours.is_compiling() or prediction.type not in self.determined:
            prediction.check((row.level, row.space) for row in self.rows)
            if not ours.is_compiling():  # what a compiled function has read must not change
                self.determined.add(prediction.type)
        advise_on_size(x, self.levels[0])
        source = NoiseSource.of(seed, generator, noise)
        source.check(x)
        given = {name: ours.copy(value) for name, value in checked_condition(condition, x).items()}
        return State(self, 0, {0: ours.copy(x) if own is x else own}, {}, prediction, source, x.dtype, ours, given)

    def advance(self, state: State, answer: Any, *, to: Any = None) -> State:
        """The state after one row, given the network's `answer` at `(state.x, state.t)`, of x's shape.

        `state` itself is not changed, so any number of runs may go on from it. In a row with noise, a state `to` takes
        the place of a draw. Raises ValueError for a state of another plan, one that is done, an answer of another
        shape, and `to` in a row without noise; TypeError for an answer of another kind.
        """
        self._check(state, answer, noisy=to is not None)
        if to is not None:
            check_together("to", to, "the state", state.states[state.row])
        return state.combined(state.converted(answer), to)

    def transition(self, state: State, answer: Any) -> Transition:
        """The normal distribution from which the next row draws, given the network's `answer`. Raises as `advance`."""
        self._check(state, answer, noisy=True)
        return Transition(state.row, state.mean(state.converted(answer)), self.rows[state.row].noise)

    def replay(
        self, model: Model, trajectory: Sequence[Any], **options: Unpack[StartOptions]
    ) -> Iterator[tuple[Transition, Any]]:
        """Each transition of a run that is given, in the order of the rows, with the state to which it led.

        `trajectory` is what `run(…, trajectory=True)` returned; `options` are those of `start`. The network is called
        once a row. States of rows without noise are computed anew, so they hold its gradients too. ValueError for a
        plan without noise, for one with noise in a Runge–Kutta stage, and for a trajectory of another length.
        """
        check_options("replay", options, StartOptions.__annotations__)
        check_trajectory(self, trajectory)
        return replay(self.start(trajectory[0], **options), function("model", model, "model(x, t)"), trajectory[1:])

    def log_prob(self, model: Model, trajectory: Sequence[Any], **options: Unpack[StartOptions]) -> Any:
        """The log-probability of each transition of a run that is given: `(rows with noise, B)`, see `replay`.

        It holds the gradients of the network's weights where the library records them.
        """
        values = [transition.log_prob(x)[None] for transition, x in self.replay(model, trajectory, **options)]
        return library(values[0]).concatenate(values)

    def _check(self, state: State, answer: Any, *, noisy: bool = False) -> None:
        if not isinstance(state, State):
            raise TypeError(f"state is a {type(state).__name__}; it must be what plan.start(x) or plan.advance gave")
        if state.plan is not self and state.plan != self:
            raise ValueError(f"the state is of {state.plan!r}, not of {self!r}; advance it with its own plan")
        if state.done:
            raise ValueError("the run is done; its sample is state.x")
        if noisy and not self.rows[state.row].noise:
            raise ValueError(f"row {state.row} of {self!r} draws no noise, so its state has no distribution")
        state.check_answer(answer)

    def run(
        self,
        model: Model,
        x: Any,
        *,
        callback: Callback | Sequence[Callback] | None = None,
        progress: bool = False,
        trajectory: bool = False,
        check_finite: bool | None = False,
        checkpoint: str | os.PathLike[str] | None = None,
        **options: Unpack[StartOptions],
    ) -> Any:
        """The sample, from the state `x` at the plan's first level.

        Parameters
        ----------
        model:
            Any callable `model(x, t)`: x `(B, …)`, t 1-D `(B,)` on x's library and device, integer where every time of
            the plan is whole; the answer has x's shape. A run owns its arrays: a model may write into its x, and later
            into its answer. torch records a run for gradients unless it is in `torch.no_grad()`.
        x:
            `(B, …)`, floating, NumPy, torch or of the array API; the result has its dtype and device. It is copied. On
            a variance-exploding schedule `run` warns of an x that is far smaller than the noise of its level.
        callback:
            Called after each model call with a `Step`; `step.x0` is the preview x̂_0. A list holds several; an
            `Observer` has hooks for other moments.
        progress:
            Whether to show a bar (tqdm).
        trajectory:
            Whether to return, in place of the sample, the list of all points of the solution from `x` to the sample.
        check_finite:
            True checks each answer and state, and waits for the device each time; False checks x and the sample, and
            None nothing. While a function is compiled or mapped (jax.jit, torch.compile, vmap) no numbers can be read:
            False is None there, and True an error.
        checkpoint:
            A file to which the run is written before the first and after each model call (see `State.save`; it waits
            for the device each time). Where the file exists, the run goes on from it to the same bits, given the same
            model; `callback` receives only the calls that are still made. A finished run's file gives the sample. The
            file stays. A state that is not finite is not written, unless check_finite is None. A file cannot hold
            gradients: call `run` in `torch.no_grad()`.
        prediction:
            What the answer means: "epsilon", "sample", "v_prediction", "score", "flow", or a `Prediction`.
        condition:
            Arrays that follow the batch, by the model's keywords, `{"label": y}` say: `model(x, t, label=y)`. Each
            is `(B, …)`, of any dtype, on x's library and device. They are copied once, when the run starts.
        seed, generator, noise:
            Where a stochastic plan's noise comes from: see `NoiseSource`. With `noise="brownian"` runs of one seed
            follow one path, whatever their number of steps.
        state_dtype:
            The dtype of states between rows, of x's library. By default x's own, but float32 where that
            has fewer bits, so that only x and the answers are rounded; x's own halves the memory.

        Raises
        ------
        TypeError:
            For a state that is no floating array, and an answer or a condition of another kind.
        ValueError:
            For an answer of another shape or device, a condition of another length, or a prediction that cannot be used
            at one of the plan's levels; for a checkpoint of another run, a damaged one, one of a stochastic plan
            without `seed`, one of a run that torch records, or one together with `trajectory`.
        FloatingPointError:
            For a sample that is not finite, and for a checkpoint that holds such numbers: see `check_finite`.
        OSError:
            For a checkpoint that cannot be read or written. `run` writes a new one before the first model call already.
        """
        function("model", model, "model(x, t)")
        check_options("run", options, StartOptions.__annotations__)
        points = Trajectory() if boolean("trajectory", trajectory) else None
        observers: list[Observer] = [] if check_finite is None else [CheckFinite(boolean("check_finite", check_finite))]
        if checkpoint is not None:
            if points:
                raise ValueError("pass checkpoint= or trajectory=, not both: a checkpoint does not hold earlier points")
            observers.append(CheckpointFile(location("checkpoint", checkpoint), finite=check_finite is not None))
        observers += [points] if points else []
        observers += (watching := callbacks(callback))
        observers += [Progress()] if boolean("progress", progress) else []

        state, begun = self.start(x, **options), []
        try:
            for observer in observers:
                state = observer.begin(state)
                begun.append(observer)
                if not isinstance(state, State):
                    raise TypeError(f"begin of the callback {observer!r} returned {state!r}; it must return a State")
            if unseen := not any(observer.needs_steps for observer in observers):
                state = run_in_place(model, state, [observer.passed for observer in observers])
            while not state.done:
                state = _row(model, state, observers, shown=bool(watching))
            # The array of a last state that nobody saw is the caller's.
            sample = state.library.cast(state.states[state.row], state.dtype) if unseen else state.x
            for observer in observers:
                observer.finished(sample)
        except Exception as error:
            if isinstance(state, State) and not state.done:
                note_on_call(error, state.x, state.t, integer=self.integer_times)
            raise
        finally:
            for observer in begun:
                observer.end()
        return points.points if points else sample


def _row(model: Model, state: State, observers: list[Observer], *, shown: bool) -> State:
    """One model call and the state that is made after it; `shown` says that callbacks may keep the answer."""
    answer = model(state.x, state.t, **state.condition)
    state.check_answer(answer)
    for observer in observers:
        observer.answered(state, answer)
    answer = state.converted(answer, own=shown)  # under the same name, so that the raw answer is freed
    after = state.combined(answer)
    for observer in observers:
        observer(Step(state, answer, after))
    return after


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """A run between two rows: a plain value, never changed, from which any number of runs may go on.

    It can be copied and pickled, unless its noise comes from a generator that cannot.

    Attributes
    ----------
    plan:
        What is being run.
    row:
        The next row; equal to `plan.model_calls` when done.
    states, answers:
        The arrays that this or a later row needs, by number: the run's own, not to be written into.
    prediction, noise:
        What the network's answers mean, and where the noise comes from. With `seed=` a state determines all that
        follows. With a generator it does not, since any caller's draw moves that on.
    dtype:
        The dtype of `x`, which the network receives and the sample has. `states` may have a wider one.
    library:
        The array library of the states, looked up once a run.
    condition:
        The arrays that the model receives as keywords, by name.
    """

    plan: Plan
    row: int
    states: Mapping[int, Any]
    answers: Mapping[int, Any]
    prediction: Prediction
    noise: NoiseSource
    dtype: Any
    library: ArrayLibrary
    condition: Condition = field(default_factory=dict)

    def __repr__(self) -> str:
        where = "done" if self.done else f"row {self.row} of {self.plan.model_calls}, t = {self.plan.times[self.row]:g}"
        return f"<State of {self.plan.name}, {where}, x {tuple(self.states[self.row].shape)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "library"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, library=library(state["states"][state["row"]]))

    @property
    def done(self) -> bool:
        """Whether the last row has been run, so that `x` is the sample."""
        return self.row == self.plan.model_calls

    @property
    def x(self) -> Any:
        """The state at which the network is called next, `(B, …)`; when done, the sample. A writable copy."""
        return self.library.copy(self.states[self.row], self.dtype)

    @property
    def t(self) -> Any:
        """The time of the next call, 1-D `(B,)`, of x's library and on its device. Raises ValueError when done."""
        if self.done:
            raise ValueError("the run is done; its sample is state.x")
        return self.library.times(self.states[self.row], self._row.t, self.dtype, integer=self.plan.integer_times)

    @property
    def _row(self) -> Row:
        return self.plan.rows[self.row]

    def check_answer(self, answer: Any) -> None:
        """TypeError or ValueError unless `answer` is a floating array of the state's library, shape and device."""
        try:
            if not self.library.alike(answer, self.states[self.row]):
                check_together("the model's answer", answer, "the state", self.states[self.row])
        except (TypeError, ValueError) as error:
            hint = "" if is_array(answer) else " (with diffusers' networks: model(x, t).sample)"
            raise type(error)(f"at t = {self._row.t:g}, {error}{hint}") from error

    def converted(self, answer: Any, *, own: bool = False) -> Any:
        """The network's `answer`, which was checked, as what the row combines: its `space`, mostly ε."""
        x, row = self.states[self.row], self._row
        used = converted(self.library, self.prediction, row.space, x, answer, row.level)
        if used is answer and (own or self.row not in self.plan.last_uses[self.row][1]):
            return self.library.copy(answer)  # later rows need it, and a network may write into its memory again
        return used

    def terms(self, answer: Any, *, noise: bool = True) -> list[tuple[Any, float]]:
        """The arrays that this row adds, with their weights, and its noise. `answer` is as in `combined`."""
        k, row = self.row, self._row
        own = [(answer if j == k else self.answers[j], w) for j, w in row.answers]
        drawn = [(self.drawn(k, self.states[k]), row.noise)] if noise and row.noise else []
        return [(self.states[i], w) for i, w in row.states] + own + drawn

    def mean(self, answer: Any, *, noise: bool = False) -> Any:
        """The state that this row makes, without its noise or with it. `answer` is as in `combined`."""
        arrays, weights = zip(*self.terms(answer, noise=noise), strict=True)
        # The run's dtype is named: a step up to α = 0 combines answers alone, and their dtype is the network's.
        return self.library.combine(arrays, weights, self.states[self.row].dtype)

    def drawn(self, row: int, like: Any) -> Any:
        """The noise of a row, like `like`."""
        return self.noise.draw(row, like, self.plan.spans[row] if self.noise.kind == "brownian" else None)

    def combined(self, answer: Any, to: Any = None) -> State:
        """The state after this row, or `to` as that state. `answer` is what the row combines; neither is checked."""
        x = self.states[self.row]
        return self.followed(answer, self.mean(answer, noise=True) if to is None else self.library.copy(to, x.dtype))

    def followed(self, answer: Any, made: Any) -> State:
        """The run after this row, which combined `answer` and made the state `made`."""
        k, states, answers = self.row, dict(self.states), dict(self.answers)
        states[k + 1], answers[k] = made, answer
        for arrays, dead in zip((states, answers), self.plan.last_uses[k], strict=True):
            for number in dead:
                del arrays[number]
        return self.at(k + 1, states, answers)

    def at(self, row: int, states: Mapping[int, Any], answers: Mapping[int, Any]) -> State:
        """The run before another row, with these arrays."""
        after = object.__new__(State)  # without the fields one by one, which would take as long as a sum
        vars(after).update(vars(self), row=row, states=states, answers=answers)
        return after

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state to one safetensors file, whole or not at all; a file that is there is replaced.

        The file holds every array in its own dtype, the condition's too, the plan, the prediction, the seed, and a
        digest of all. `docs/reference/checkpoint-format.md` is its specification.

        Raises ValueError for a dtype that the format lacks, and for a state for which torch records gradients: a file
        cannot hold them. Raises ValueError too where a generator still has noise to draw: a file cannot hold its
        position, but it can hold a `seed=`. OSError where the path cannot be written, TypeError for no path.
        """
        files.save(self, location("path", path))

    @staticmethod
    def load(path: str | os.PathLike[str], device: Any = None, like: Any = None) -> State:
        """The state that `save` wrote, to the last bit; nothing in the file is executed.

        Parameters
        ----------
        path:
            The file.
        device:
            The device of the arrays, as their library names it: by default like's device, or the library's own.
        like:
            Any array of the library in which to make them. NumPy's and torch's files need none, all others do.

        Raises
        ------
        ValueError:
            For a file that `save` did not write, that was cut short or altered, or of another version, and for
            arrays of a library or dtype that is not at hand.
        OSError:
            For a file that cannot be read.
        TypeError:
            For anything else than a path, or than an array.
        """
        saved = files.load(location("path", path), device, like)
        parts = saved.row, saved.states, saved.answers, saved.prediction, saved.noise, saved.dtype
        return State(Plan.of(saved.table), *parts, library(saved.states[saved.row]), saved.condition)
