"""Running a plan: one row at a time, on the caller's arrays."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pndm_solvers.arguments import boolean, function, location, warn
from pndm_solvers.arrays import combine, elsewhere, is_array, library
from pndm_solvers.noise import NoiseSource
from pndm_solvers.prediction import Prediction, convert, weights
from pndm_solvers.schedule import Level

if TYPE_CHECKING:
    from pndm_solvers.plan import Plan, Row

__all__ = ["Model", "State", "Step", "advance", "run", "start"]

Model = Callable[[Any, Any], Any]

# A deviation of noise that no schedule but a variance-exploding one has, and by how much a state may fall short of it.
LOUD = 3.0


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
        What the network's answers mean, and where the noise comes from. With `seed=` a state
        determines all that follows; a generator moves on with each draw, whoever draws.
    dtype:
        Of `x`: what the network is asked in, and what the sample comes back in. `states` may be wider.
    """

    plan: Plan
    row: int
    states: Mapping[int, Any]
    answers: Mapping[int, Any]
    prediction: Prediction
    noise: NoiseSource
    dtype: Any

    def __repr__(self) -> str:
        where = "done" if self.done else f"row {self.row} of {self.plan.model_calls}, t = {self.plan.times[self.row]:g}"
        return f"<State of {self.plan.name}, {where}, x {tuple(self.states[self.row].shape)}>"

    @property
    def done(self) -> bool:
        """Whether the last row has been run, so that `x` is the sample."""
        return self.row == self.plan.model_calls

    @property
    def x(self) -> Any:
        """Where the network is to be asked next, `(B, …)`; when done, the sample. A copy, to be written on at will."""
        x = self.states[self.row]
        return library(x).copy(x, self.dtype)

    @property
    def t(self) -> Any:
        """When, 1-D `(B,)` on x's library and device. Raises ValueError when done."""
        if self.done:
            raise ValueError("the run is done; its sample is state.x")
        x = self.states[self.row]
        return library(x).times(x, self.plan.rows[self.row].t, self.dtype, integer=self.plan.integer_times)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the state to one safetensors file, whole or not at all; a file that is there is replaced.

        The file holds every array in its own dtype, the plan, the prediction, the seed, and a digest of all.
        `docs/checkpoints.md` is its specification.

        Raises ValueError for a dtype that the format lacks; for a state for which torch records gradients, which the
        file could not keep; and where noise is yet to be drawn from a generator, which may have moved on since: with
        `seed=` it can be saved. OSError for a path that cannot be written, TypeError for what is no path.
        """
        from pndm_solvers import checkpoint

        checkpoint.save(self, location("path", path))

    @staticmethod
    def load(path: str | os.PathLike[str], device: Any = None, like: Any = None) -> State:
        """The state that `save` wrote, to the last bit; nothing in the file is executed.

        Parameters
        ----------
        path:
            The file.
        device:
            Where the arrays shall lie, as their library names it: by default like's device, or the library's own.
        like:
            Any array of the library that they shall be of. NumPy and torch need none, every other library does.

        Raises
        ------
        ValueError:
            For a file that `save` did not write, that was cut short or altered, or of another version, and for
            arrays of a library or dtype that is not at hand.
        OSError:
            For a file that cannot be read.
        TypeError:
            For what is no path, or no array.
        """
        from pndm_solvers import checkpoint

        return checkpoint.load(location("path", path), device, like)


@dataclass(frozen=True)
class Step:
    """What a callback is told after a model call.

    Attributes
    ----------
    row, t:
        Which row was run, and the time at which the network was asked.
    x:
        The state at which it was asked.
    answer:
        What the row combines: ε, or x̂_0 where α = 0. Like `x` a copy, to be written on at will.
    state:
        The run after this row.
    """

    row: int
    t: float
    x: Any = field(repr=False)
    answer: Any = field(repr=False)
    state: State = field(repr=False)

    @property
    def x0(self) -> Any:
        """The preview x̂_0 = (x − σ·ε)/α: the picture that the network sees in x, computed when asked for."""
        row = self.state.plan.rows[self.row]
        return Prediction(row.wanted).convert("sample", self.x, self.answer, row.alpha, row.sigma)


def check_state(x: Any) -> None:
    """TypeError or ValueError unless `x` is a floating array `(B, …)`."""
    if not is_array(x):
        raise TypeError(f"a state must be a dense array of NumPy, torch, JAX or CuPy, not a {type(x).__name__}")
    if not library(x).is_floating(x):
        raise TypeError(f"the state is of dtype {x.dtype}; convert it to a floating one, images to about [-1, 1]")
    if x.ndim < 1:
        raise ValueError("the state must be (B, …) with the batch first, not a scalar")


def _warn_of_size(x: Any, here: Row | Level) -> None:
    """Warns of a state `x` at the level `here` that is far smaller than its noise alone would be.

    So is noise of deviation 1, and a picture without noise, on a variance-exploding schedule. Elsewhere the two are
    not told apart, and nothing is looked at, for which a device would be waited for. A state of zeros is no mistake.
    """
    ours = library(x)
    if here.sigma <= LOUD or math.prod(x.shape) < 32 or not ours.has_numbers(x):
        return
    size = ours.namespace(x).mean(ours.wide(x) ** 2) ** 0.5
    try:
        small = bool((size > 0) & (size < min(here.sigma / LOUD, 1e38)))  # which float32 holds
    except Exception:  # each library's own, for numbers that cannot be looked at, as within jax.grad's backward pass
        return
    if small:
        warn(
            f"the state x has a root mean square of {float(size):.2g}, but begins at t = {here.t:g}, "
            f"where its noise alone has σ = {here.sigma:g}; multiply noise by σ there, and pass a picture through "
            f"schedule.add_noise"
        )


def check_answer(x: Any, t: float, answer: Any) -> None:
    """ValueError unless the network's `answer` is an array of the state's kind, shape and device, and floating."""
    if not is_array(answer) or library(answer) is not library(x):
        fault = f"a {type(answer).__name__}"
    elif answer.shape != x.shape:
        fault = f"shape {tuple(answer.shape)}"
    elif not library(x).is_floating(answer):
        fault = f"numbers of dtype {answer.dtype}"
    elif type(answer) is not type(x) and library(x).name(answer) != library(x).name(x):
        fault = f"a {type(answer).__name__}"
    elif elsewhere(answer, x):
        fault = f"numbers on the device {library(x).device(answer)}, the state being on {library(x).device(x)},"
    else:
        return
    raise ValueError(
        f"the model answered {fault} at t = {t:g} for a state of shape {tuple(x.shape)}; it must answer floating "
        f"numbers of that shape, in the same kind of array (with diffusers' networks: model(x, t).sample)"
    )


def check_levels(plan: Plan, prediction: Prediction) -> None:
    """ValueError unless what the network predicts tells at each of the plan's levels what its row combines."""
    for row in plan.rows:
        try:
            weights(prediction, row.wanted, row.alpha, row.sigma)
        except ValueError as error:
            raise ValueError(f"at t = {row.t:g}: {error}") from error


def start(
    plan: Plan,
    x: Any,
    *,
    prediction: str | Prediction,
    seed: int | Sequence[int] | None,
    generator: Any,
    state_dtype: Any,
) -> State:
    """See `Plan.start`."""
    check_state(x)
    ours = library(x)
    try:
        # NumPy would take the dtype of what has one, and a list for that of a record.
        if isinstance(state_dtype, (list, tuple)) or (
            hasattr(state_dtype, "dtype") and not isinstance(state_dtype, type)
        ):
            raise TypeError(state_dtype)
        own = ours.wide(x) if state_dtype is None else ours.cast(x, state_dtype)
        own = ours.copy(x) if own is x else own
        check_state(own)
    except Exception as error:  # each array library has errors of its own for what is no dtype
        raise TypeError(
            f"state_dtype is {state_dtype!r}; it must be a floating dtype of x's library, as x.dtype is"
        ) from error
    prediction = Prediction(prediction) if isinstance(prediction, str) else prediction
    if not isinstance(prediction, Prediction):
        raise TypeError(f"prediction is {prediction!r}; it is a name such as 'epsilon', or a Prediction")
    check_levels(plan, prediction)
    _warn_of_size(x, plan.rows[0] if plan.rows else plan.end)
    noise = NoiseSource.of(seed, generator)
    noise.check(x)
    return State(plan, 0, {0: own}, {}, prediction, noise, x.dtype)


def advance(state: State, answer: Any) -> State:
    """See `Plan.advance`."""
    if state.done:
        raise ValueError("the run is done; its sample is state.x")
    check_answer(state.states[state.row], state.plan.rows[state.row].t, answer)
    return combine_row(state, _combinable(state, answer))


def _combinable(state: State, answer: Any) -> Any:
    """The network's answer, which was checked, as what the row combines."""
    row, x = state.plan.rows[state.row], state.states[state.row]
    used = convert(state.prediction, row.wanted, x, answer, row.alpha, row.sigma)
    if used is answer and state.row not in state.plan.last_uses[state.row][1]:
        return library(answer).copy(answer)  # later rows need it, and a network may write into its memory again
    return used


def combine_row(state: State, answer: Any) -> State:
    """The state after one row, given what the row combines: `answer` is kept as it is, and not checked."""
    k = state.row
    row = state.plan.rows[k]
    states, answers = dict(state.states), {**state.answers, k: answer}
    terms = [(states[i], w) for i, w in row.states] + [(answers[j], w) for j, w in row.answers]
    if row.noise:
        terms.append((state.noise.draw(k, like=states[k]), row.noise))
    arrays, factors = zip(*terms, strict=True)
    # A step up to α = 0 has no state among its terms, and the network's dtype is not the run's.
    states[k + 1] = combine(arrays, factors, dtype=states[k].dtype)
    dead_states, dead_answers = state.plan.last_uses[k]
    return replace(
        state,
        row=k + 1,
        states={i: x for i, x in states.items() if i not in dead_states},
        answers={j: e for j, e in answers.items() if j not in dead_answers},
    )


def run(
    plan: Plan,
    model: Model,
    x: Any,
    *,
    callback: Callable[[Step], None] | None,
    progress: bool,
    trajectory: bool,
    check_finite: bool | None,
    checkpoint: str | os.PathLike[str] | None,
    **options: Any,
) -> Any:
    """See `Plan.run`."""
    state, keep = start(plan, x, **options), None
    function("model", model, "model(x, t)")
    if callback is not None:
        function("callback", callback, "callback(step)")
        if isinstance(callback, type):
            raise TypeError(f"callback is the class {callback.__name__}; pass an object, as {callback.__name__}()")
    boolean("progress", progress)
    boolean("trajectory", trajectory)
    boolean("check_finite", check_finite, or_none=True)
    if check_finite and not library(x).has_numbers(x):
        raise ValueError("check_finite is True, but x has no numbers that can be looked at: compiled, mapped or meta")
    if check_finite is not None and not library(x).is_finite(x):
        raise FloatingPointError("the state x is not finite as it is handed in; check_finite=None runs it all the same")
    if checkpoint is not None:
        if trajectory:
            raise ValueError("pass checkpoint= or trajectory=, not both: a checkpoint does not hold the points passed")
        from pndm_solvers.checkpoint import resume

        # Wherever the working directory is by the next write.
        state, keep = resume(state, location("checkpoint", checkpoint).absolute())
        if check_finite is not None and state.row and not _is_finite(state):
            raise FloatingPointError(
                f"checkpoint {os.fspath(checkpoint)!r} holds numbers that are not finite, at row {state.row}; delete "
                f"the file to begin anew, or pass check_finite=None to go on with them"
            )
    points = [state.x] if trajectory else []
    with _bar(state, progress) as bar:
        while not state.done:
            before, answer = state, model(state.x, state.t)
            check_answer(before.states[before.row], plan.rows[before.row].t, answer)
            if check_finite:  # before it is clipped, which makes of infinity what it likes
                _check_finite(answer, before, "what the network answered")
            answer = _combinable(before, answer)
            state = combine_row(before, answer)
            if check_finite:
                _check_finite(state.states[state.row], before, "the state made")
            if keep is not None and (check_finite is None or _is_finite(state)):
                keep(state)
            if trajectory and not plan.rows[before.row].stage:
                points.append(state.x)
            if callback is not None:
                shown = library(answer).copy(answer)
                callback(Step(before.row, plan.rows[before.row].t, before.x, shown, state))
                del shown
            del before, answer  # so that nothing outlives its last use
            bar.update()
    sample = state.x
    if check_finite is not None:
        _check_finite(sample, state, "the sample")
    return points if trajectory else sample


def _is_finite(state: State) -> bool:
    return all(library(x).is_finite(x) for x in (*state.states.values(), *state.answers.values()))


def _check_finite(x: Any, state: State, what: str) -> None:
    if not library(x).is_finite(x):
        where = "" if state.done else f" at row {state.row}, t = {state.plan.rows[state.row].t:g},"
        raise FloatingPointError(
            f"{what}{where} is not finite; with check_finite=True a run stops at the row where that begins. Mostly it "
            f"is the network that overflows, in half precision say, or is asked at times that it was not trained for"
        )


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self) -> None:
        pass


def _bar(state: State, show: bool) -> Any:
    if not show:
        return _NoBar()
    from tqdm.auto import tqdm

    return tqdm(total=state.plan.model_calls, initial=state.row, unit="call", desc=state.plan.name)
